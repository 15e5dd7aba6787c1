"""The statements of the outbox: messages, and the attempts to get them through a channel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import DeliveryStatus
from wakeloop.status import DELIVERY_TRANSITIONS
from wakeloop.store.batches import Insert, Taking, among
from wakeloop.store.leases import redispatch_at, redispatch_times
from wakeloop.store.records import NewMessage
from wakeloop.store.schema import BUNDLED_DELIVERY, Instant, deliveries, messages, opt_outs

_NOW = sa.bindparam("now", type_=Instant())
_WORKER = sa.bindparam("worker", type_=sa.Text())

_INSERT_MESSAGES = Insert(
    messages,
    (
        "id", "session_id", "run_id", "request_id", "inbound", "contact", "channel", "via", "subject", "text", "at",
        "urgent", "interactive", "attachments",
    ),
)  # fmt: skip
_INSERT_DELIVERIES = Insert(
    deliveries,
    (
        "id",
        "message_id",
        "contact",
        "channel",
        "address",
        "status",
        "due_at",
        "created_at",
        "updated_at",
        "held",
        "trace",
    ),
)
_CLAIM_DUE = Taking(
    deliveries,
    sa.select(deliveries.c.id)
    .where(deliveries.c.due_at <= _NOW)
    .order_by(deliveries.c.due_at)
    .limit(sa.bindparam("most", type_=sa.Integer())),
    {"due_at": redispatch_at(deliveries), "dispatches": deliveries.c.dispatches + 1, "owner": None},
    returning=(deliveries.c.id,),
    skip_locked=True,
)
_RECOVER = Taking(
    deliveries,
    sa.select(deliveries.c.id)
    .where(sa.or_(deliveries.c.owner.is_not(None), deliveries.c.dispatches > 0))
    .order_by(deliveries.c.id),
    {"due_at": _NOW, "dispatches": 0, "owner": None},
)
_others = deliveries.alias("others")
_PROVIDER_ID = sa.bindparam("new_provider_id", type_=sa.Text())
_IS_KNOWN = sa.exists().where(
    _others.c.channel == deliveries.c.channel, _others.c.provider_id == _PROVIDER_ID
)
_RECORD = (
    sa.update(deliveries)
    .where(deliveries.c.id == sa.bindparam("delivery"), deliveries.c.owner == _WORKER)
    .values(
        status=sa.bindparam("new_status", type_=sa.Text()),
        due_at=sa.bindparam("again", type_=Instant()),
        owner=None,
        updated_at=_NOW,
        error=sa.bindparam("new_error", type_=sa.Text()),
        provider_id=sa.case(
            (sa.or_(_PROVIDER_ID.is_(None), _IS_KNOWN), deliveries.c.provider_id), else_=_PROVIDER_ID
        ),
    )
)
# The others of a bundle have no sender and no provider's id of their own: they are what their leading delivery is.
_FOLLOW = (
    sa.update(deliveries)
    .where(
        deliveries.c.bundle == sa.bindparam("leader", type_=sa.Uuid()),
        deliveries.c.id != sa.bindparam("leader", type_=sa.Uuid()),
        BUNDLED_DELIVERY,
    )
    .values(
        status=sa.bindparam("new_status", type_=sa.Text()),
        error=sa.bindparam("new_error", type_=sa.Text()),
        updated_at=_NOW,
    )
)
_TOGETHER_WITH = (
    sa.select(_others.c.message_id)
    .join(deliveries, deliveries.c.id == _others.c.bundle)
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(messages.c.id == sa.bindparam("message"), deliveries.c.channel == messages.c.channel)
    .order_by(_others.c.message_id)
)
_OF_PROVIDER = sa.and_(
    deliveries.c.channel == sa.bindparam("channel"), deliveries.c.provider_id == sa.bindparam("provider_id")
)
_LOCK_REPORTED = sa.select(deliveries).where(_OF_PROVIDER).with_for_update(key_share=True)
_UPDATE_STATUS = (
    sa.update(deliveries)
    .where(deliveries.c.id == sa.bindparam("delivery"))
    .values(
        status=sa.bindparam("new_status"), error=sa.bindparam("new_error"), updated_at=_NOW, due_at=None, owner=None
    )
)  # fmt: skip
_MESSAGE_OF: Any = (
    sa.select(messages.c.id, messages.c.session_id, messages.c.request_id)
    .join(deliveries, deliveries.c.message_id == messages.c.id)
    .where(_OF_PROVIDER)
)
_LAST_MESSAGE: Any = (
    sa.select(messages.c.id, messages.c.request_id)
    .where(
        messages.c.contact == sa.bindparam("person"), messages.c.channel == sa.bindparam("of_channel"),
        messages.c.inbound.is_(False), messages.c.interactive.is_(False),
    )
    .order_by(messages.c.id.desc())
    .limit(sa.literal_column("1"))
)  # fmt: skip
_ATTACHED = sa.select(messages.c.id, messages.c.attachments).where(
    among(messages.c.id, "ids"), messages.c.attachments.is_not(None)
)
_IS_RECORDED = sa.select(deliveries.c.id).where(_OF_PROVIDER)
_PROVIDER_IDS = (
    sa.select(deliveries.c.provider_id)
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(
        messages.c.contact == sa.bindparam("contact"), deliveries.c.channel == sa.bindparam("channel"),
        deliveries.c.updated_at >= sa.bindparam("since", type_=Instant()), deliveries.c.provider_id.is_not(None),
    )
)  # fmt: skip
_TRIED_CHANNELS = sa.select(deliveries.c.channel).where(deliveries.c.message_id == sa.bindparam("message"))
_SET_CHANNEL = (
    sa.update(messages)
    .where(messages.c.id == sa.bindparam("message"))
    .values(channel=sa.bindparam("new_channel"))
)
_OF_ADDRESS = sa.and_(
    opt_outs.c.channel == sa.bindparam("of_channel"), opt_outs.c.address == sa.bindparam("of_address")
)
_OPTED_OUT = sa.select(opt_outs.c.at).where(_OF_ADDRESS)
_OPT_IN = sa.delete(opt_outs).where(_OF_ADDRESS)
_OPT_OUT = Insert(opt_outs, ("channel", "address", "at"), new=("channel", "address"))


def put(connection: Connection, session_id: int | None, new: Sequence[NewMessage], *, now: datetime) -> None:
    """Record messages of one session, or of none, to be sent: see `put_all`."""
    put_all(connection, [(session_id, one) for one in new], now=now)


def put_all(connection: Connection, new: Sequence[tuple[int | None, NewMessage]], *, now: datetime) -> None:
    """Record messages of sessions to be sent, each with its first delivery, due now."""
    said = [
        {
            "id": one.id, "session_id": session_id, "run_id": one.run_id, "request_id": one.request_id,
            "inbound": False, "contact": one.contact, "channel": one.channel, "via": one.via,
            "subject": one.subject, "text": one.text, "at": now, "urgent": one.urgent,
            "interactive": one.interactive, "attachments": one.attachments,
        }
        for session_id, one in new
    ]  # fmt: skip
    _INSERT_MESSAGES(connection, said)
    _INSERT_DELIVERIES(
        connection,
        [
            _delivery(one.id, one.id, one.contact, one.channel, one.address, now, trace=one.trace)
            for _, one in new
        ],
    )


def add_delivery(
    connection: Connection, id: UUID, message_id: UUID, contact: str, channel: str, address: str, *, now: datetime,
    held: str | None = None, trace: str | None = None,
) -> None:  # fmt: skip
    """Record that a message is to be sent through a channel, due now. held: it was put off, for this reason, to go with
    others."""
    _INSERT_DELIVERIES(connection, [_delivery(id, message_id, contact, channel, address, now, held, trace)])


def _delivery(
    id: UUID,
    message_id: UUID,
    contact: str,
    channel: str,
    address: str,
    now: datetime,
    held: str | None = None,
    trace: str | None = None,
) -> dict[str, Any]:
    return {
        "id": id, "message_id": message_id, "contact": contact, "channel": channel, "address": address,
        "status": str(DeliveryStatus.PENDING), "due_at": now, "created_at": now, "updated_at": now,
        "held": held, "trace": trace,
    }  # fmt: skip


def claim_due(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Mark up to `limit` deliveries that are due as dispatched. Two callers never get the same one.

    What is due: one to be sent or tried again, one whose sender's lease ran out, or an earlier dispatch that no worker
    took up."""
    rows = _CLAIM_DUE(connection, {"now": now, "most": limit, **redispatch_times(now)})
    return sorted(row.id for row in rows)


def recover(connection: Connection, *, now: datetime) -> None:
    """Make due now whatever a sender had claimed or a broker was handed: see `leases.recover`."""
    _RECOVER(connection, {"now": now})


def record(
    connection: Connection, id: UUID, *, owner: str, status: DeliveryStatus, now: datetime,
    due_at: datetime | None = None, provider_id: str | None = None, error: str | None = None,
) -> bool:  # fmt: skip
    """Record what came of an attempt, for all that went together; False, and nothing written, if the delivery has been
    taken over since.

    A provider's id that another delivery has already is left out: that one's reports go there."""
    parameters = {
        "delivery": id, "worker": owner, "new_status": str(status), "again": due_at, "now": now, "new_error": error,
        "new_provider_id": provider_id,
    }  # fmt: skip
    if connection.execute(_RECORD, parameters).rowcount != 1:
        return False
    connection.execute(_FOLLOW, {"leader": id, "new_status": str(status), "new_error": error, "now": now})
    return True


def update_status(
    connection: Connection, channel: str, provider_id: str, status: DeliveryStatus, error: str | None, *, now: datetime
) -> sa.Row[Any] | None:  # fmt: skip
    """Apply a provider's report, to all that went together, if it is news: reports come late and out of order, and a
    delivery only goes forward.

    Gives the delivery as it was, if it changed."""
    row = connection.execute(_LOCK_REPORTED, {"channel": channel, "provider_id": provider_id}).first()
    if row is None or status not in DELIVERY_TRANSITIONS[DeliveryStatus(row.status)]:
        return None
    parameters = {"delivery": row.id, "new_status": str(status), "new_error": error, "now": now}
    connection.execute(_UPDATE_STATUS, parameters)
    connection.execute(_FOLLOW, {"leader": row.id, "new_status": str(status), "new_error": error, "now": now})
    return row


def together_with(connection: Connection, message_id: UUID) -> list[UUID]:
    """The messages that a message leads where it was tried last, itself among them; that one alone if it leads none."""
    found = list(connection.execute(_TOGETHER_WITH, {"message": message_id}).scalars())
    return found or [message_id]


def message_of(connection: Connection, channel: str, provider_id: str) -> sa.Row[Any] | None:
    """The message that went out under a provider's id: its session and request."""
    return connection.execute(_MESSAGE_OF, {"channel": channel, "provider_id": provider_id}).first()


def last_message(connection: Connection, contact: str, channel: str) -> sa.Row[Any] | None:
    """What a contact was last written through a channel, unless it was an answer to a message of theirs."""
    return connection.execute(_LAST_MESSAGE, {"person": contact, "of_channel": channel}).first()


def attachments_of(connection: Connection, message_ids: Collection[UUID]) -> dict[UUID, str]:
    """What is attached to these messages, as JSON, as far as anything is."""
    if not message_ids:
        return {}
    return {row.id: row.attachments for row in connection.execute(_ATTACHED, {"ids": sorted(message_ids)})}


def is_recorded(connection: Connection, channel: str, provider_id: str) -> bool:
    """Whether a delivery with this provider's id is known."""
    found = connection.execute(_IS_RECORDED, {"channel": channel, "provider_id": provider_id})
    return found.first() is not None


def provider_ids(connection: Connection, channel: str, contact: str, since: datetime) -> frozenset[str]:
    """The provider's ids of what a contact was sent through a channel since a time."""
    parameters = {"channel": channel, "contact": contact, "since": since}
    return frozenset(connection.execute(_PROVIDER_IDS, parameters).scalars())


def tried_channels(connection: Connection, message_id: UUID) -> set[str]:
    """The channels through which a message was tried."""
    return set(connection.execute(_TRIED_CHANNELS, {"message": message_id}).scalars())


def set_channel(connection: Connection, message_id: UUID, channel: str) -> None:
    """Note the channel that a message is now tried on."""
    connection.execute(_SET_CHANNEL, {"message": message_id, "new_channel": channel})


def opted_out(connection: Connection, channel: str, address: str) -> bool:
    """Whether the person behind an address asked not to be written to."""
    found = connection.execute(_OPTED_OUT, {"of_channel": channel, "of_address": address})
    return found.first() is not None


def set_opt_out(connection: Connection, channel: str, address: str, out: bool, *, now: datetime) -> None:
    """Record that a person asked not to be written to, or to be written to again."""
    if out:
        _OPT_OUT(connection, [{"channel": channel, "address": address, "at": now}])
    else:
        connection.execute(_OPT_IN, {"of_channel": channel, "of_address": address})
