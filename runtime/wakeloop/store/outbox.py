"""The statements of the outbox: messages, and the attempts to get them through a channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import DeliveryStatus
from wakeloop.status import DELIVERY_TRANSITIONS
from wakeloop.store.records import NewMessage
from wakeloop.store.schema import deliveries, messages, opt_outs

REDISPATCH_SECONDS = 10
REDISPATCH_DOUBLINGS = 5


def put(
    connection: Connection, session_id: int | None, new: Sequence[NewMessage], codes: Mapping[UUID, str | None], *,
    now: datetime,
) -> None:  # fmt: skip
    """Record messages to be sent, each with its first delivery, due now.

    A question whose request has to be told apart from others carries its code."""
    for one in new:
        code = codes.get(one.request_id) if one.request_id is not None else None
        text = f"{one.text}\n(Reply {code} and your answer.)" if code else one.text
        connection.execute(
            sa.insert(messages).values(
                id=one.id, session_id=session_id, run_id=one.run_id, request_id=one.request_id, inbound=False,
                contact=one.contact, channel=one.channel, via=one.via, subject=one.subject, text=text, at=now,
            )
        )  # fmt: skip
        add_delivery(connection, one.id, one.id, one.contact, one.channel, one.address, now=now)


def add_delivery(
    connection: Connection,
    id: UUID,
    message_id: UUID,
    contact: str,
    channel: str,
    address: str,
    *,
    now: datetime,
) -> None:
    """Record that a message is to be sent through a channel, due now."""
    connection.execute(
        sa.insert(deliveries).values(
            id=id, message_id=message_id, contact=contact, channel=channel, address=address,
            status=str(DeliveryStatus.PENDING), due_at=now, created_at=now, updated_at=now,
        )
    )  # fmt: skip


def claim_due(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Mark up to `limit` deliveries that are due as dispatched. Two callers never get the same one.

    What is due: one to be sent or tried again, one whose sender's lease ran out, or an earlier dispatch that no worker
    took up."""
    due = (
        sa.select(deliveries.c.id, deliveries.c.dispatches)
        .where(deliveries.c.due_at <= now)
        .order_by(deliveries.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(due).all()
    for row in rows:
        wait = REDISPATCH_SECONDS * 2 ** min(row.dispatches, REDISPATCH_DOUBLINGS)
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id == row.id)
            .values(due_at=now + timedelta(seconds=wait), dispatches=deliveries.c.dispatches + 1, owner=None)
        )
    return [row.id for row in rows]


def next_due(connection: Connection, *, after: datetime) -> datetime | None:
    """When the next delivery is due, of those that are not due yet."""
    return connection.execute(
        sa.select(deliveries.c.due_at)
        .where(deliveries.c.due_at > after)
        .order_by(deliveries.c.due_at)
        .limit(1)
    ).scalar()


def recover(connection: Connection, *, now: datetime) -> None:
    """Make due now whatever a sender had claimed or a broker was handed: see `turns.recover`."""
    connection.execute(
        sa.update(deliveries)
        .where(sa.or_(deliveries.c.owner.is_not(None), deliveries.c.dispatches > 0))
        .values(due_at=now, dispatches=0, owner=None)
    )


def claim(
    connection: Connection, ids: Collection[UUID], *, owner: str, now: datetime, until: datetime
) -> list[sa.Row[Any]]:
    """Take those of these deliveries that are still to be made and nobody else is making, until `until`.

    Gives each with its message as it was *before*: status `sending` or `unknown` means that an earlier sender did not
    get to record what came of it, from `claimed_at` on."""
    open_statuses = [str(DeliveryStatus.PENDING), str(DeliveryStatus.SENDING), str(DeliveryStatus.UNKNOWN)]
    statement = (
        sa.select(
            deliveries, messages.c.text, messages.c.subject, messages.c.via, messages.c.session_id,
            messages.c.request_id, messages.c.run_id,
        )
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(
            deliveries.c.id.in_(sorted(ids)),
            deliveries.c.status.in_(open_statuses),
            deliveries.c.owner.is_(None),
            sa.or_(deliveries.c.dispatches > 0, deliveries.c.due_at <= now),
        )
        .order_by(deliveries.c.id)
        .with_for_update(of=deliveries, skip_locked=True)
    )  # fmt: skip
    rows = connection.execute(statement).all()
    for row in rows:
        values: dict[str, Any] = {
            "owner": owner, "status": str(DeliveryStatus.SENDING), "due_at": until, "dispatches": 0, "updated_at": now,
            "tries": deliveries.c.tries + 1,
        }  # fmt: skip
        if row.status == DeliveryStatus.PENDING:
            values["claimed_at"] = now
        connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(**values))
    return list(rows)


def record(
    connection: Connection, id: UUID, *, owner: str, status: DeliveryStatus, now: datetime,
    due_at: datetime | None = None, provider_id: str | None = None, error: str | None = None,
) -> bool:  # fmt: skip
    """Record what came of an attempt; False, and nothing written, if the delivery has been taken over since."""
    values: dict[str, Any] = {
        "status": str(status), "due_at": due_at, "owner": None, "updated_at": now, "error": error,
    }  # fmt: skip
    if provider_id is not None:
        values["provider_id"] = provider_id
    result = connection.execute(
        sa.update(deliveries).where(deliveries.c.id == id, deliveries.c.owner == owner).values(**values)
    )
    return result.rowcount == 1


def update_status(
    connection: Connection,
    channel: str,
    provider_id: str,
    status: DeliveryStatus,
    error: str | None,
    *,
    now: datetime,
) -> sa.Row[Any] | None:
    """Apply a provider's report if it is news: reports come late and out of order, and a delivery only goes forward.

    Gives the delivery if it changed."""
    row = connection.execute(
        sa.select(deliveries)
        .where(deliveries.c.channel == channel, deliveries.c.provider_id == provider_id)
        .with_for_update()
    ).first()
    if row is None or status not in DELIVERY_TRANSITIONS[DeliveryStatus(row.status)]:
        return None
    connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id == row.id)
        .values(status=str(status), error=error, updated_at=now, due_at=None)
    )
    return row


def is_recorded(connection: Connection, channel: str, provider_id: str) -> bool:
    """Whether a delivery with this provider's id is known."""
    return (
        connection.execute(
            sa.select(deliveries.c.id).where(
                deliveries.c.channel == channel, deliveries.c.provider_id == provider_id
            )
        ).first()
        is not None
    )


def provider_ids(connection: Connection, channel: str, contact: str, since: datetime) -> frozenset[str]:
    """The provider's ids of what a contact was sent through a channel since a time."""
    statement = (
        sa.select(deliveries.c.provider_id)
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(
            messages.c.contact == contact, deliveries.c.channel == channel, deliveries.c.updated_at >= since,
            deliveries.c.provider_id.is_not(None),
        )
    )  # fmt: skip
    return frozenset(connection.execute(statement).scalars())


def tried_channels(connection: Connection, message_id: UUID) -> set[str]:
    """The channels through which a message was tried."""
    return set(
        connection.execute(
            sa.select(deliveries.c.channel).where(deliveries.c.message_id == message_id)
        ).scalars()
    )


def set_channel(connection: Connection, message_id: UUID, channel: str) -> None:
    """Note the channel that a message is now tried on."""
    connection.execute(sa.update(messages).where(messages.c.id == message_id).values(channel=channel))


def opted_out(connection: Connection, channel: str, address: str) -> bool:
    """Whether the person behind an address asked not to be written to."""
    return (
        connection.execute(
            sa.select(opt_outs.c.at).where(opt_outs.c.channel == channel, opt_outs.c.address == address)
        ).first()
        is not None
    )


def set_opt_out(connection: Connection, channel: str, address: str, out: bool, *, now: datetime) -> None:
    """Record that a person asked not to be written to, or to be written to again."""
    connection.execute(
        sa.delete(opt_outs).where(opt_outs.c.channel == channel, opt_outs.c.address == address)
    )
    if out:
        connection.execute(sa.insert(opt_outs).values(channel=channel, address=address, at=now))
