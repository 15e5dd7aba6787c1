"""The statements by which a sender takes deliveries: what waits for a person, what they got lately, what goes together."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import DeliveryStatus
from wakeloop.store.batches import Listed, Update, among, is_postgres
from wakeloop.store.schema import (
    BUNDLED_DELIVERY,
    INBOUND_MESSAGE,
    WAITING_DELIVERY,
    Instant,
    deliveries,
    messages,
    opt_outs,
)

_NOW = sa.bindparam("now", type_=Instant())
_SINCE = sa.bindparam("since", type_=Instant())
_LOCK_SPACE = 0x77616B65
_LOCKS = 256
"""People share this many locks, so that a large batch does not fill the server's table of locks."""


def _literals(*statuses: DeliveryStatus) -> list[sa.ColumnElement[str]]:
    return [sa.literal_column(f"'{status}'") for status in statuses]


_TO_BE_MADE = _literals(DeliveryStatus.PENDING, DeliveryStatus.SENDING, DeliveryStatus.UNKNOWN)
_IS_DUE = sa.or_(deliveries.c.dispatches > 0, deliveries.c.due_at <= _NOW)
_IS_FREE = sa.and_(deliveries.c.status.in_(_TO_BE_MADE), deliveries.c.owner.is_(None))

_locks = sa.func.unnest(sa.bindparam("locks", type_=Listed(sa.Integer()))).column_valued("number")
_LOCK = sa.select(sa.func.pg_advisory_xact_lock(sa.literal_column(str(_LOCK_SPACE)), _locks))
_PEOPLE = sa.select(deliveries.c.contact).where(among(deliveries.c.id, "ids"), _IS_FREE, _IS_DUE).distinct()
_WAITING = (
    sa.select(
        deliveries, messages.c.text, messages.c.subject, messages.c.via, messages.c.session_id, messages.c.request_id,
        messages.c.run_id, messages.c.urgent, messages.c.interactive, messages.c.at,
        messages.c.attachments.is_not(None).label("has_attachments"),
        opt_outs.c.at.is_not(None).label("opted_out"), _IS_DUE.label("is_due"),
    )
    .join(messages, messages.c.id == deliveries.c.message_id)
    .outerjoin(
        opt_outs, sa.and_(opt_outs.c.channel == deliveries.c.channel, opt_outs.c.address == deliveries.c.address)
    )
    .where(
        among(deliveries.c.contact, "contacts"), WAITING_DELIVERY, _IS_FREE,
        sa.or_(_IS_DUE, deliveries.c.held.is_not(None)),
    )
    .order_by(deliveries.c.id)
    .with_for_update(of=deliveries, skip_locked=True, key_share=True)
)  # fmt: skip
_RECENT: Any = (
    sa.select(
        deliveries.c.contact, deliveries.c.channel, deliveries.c.address, deliveries.c.claimed_at,
        deliveries.c.message_id, messages.c.request_id, messages.c.urgent, messages.c.interactive,
    )
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(
        among(deliveries.c.contact, "contacts"), deliveries.c.claimed_at > _SINCE,
        sa.or_(deliveries.c.bundle.is_(None), deliveries.c.bundle == deliveries.c.id),
        sa.or_(
            deliveries.c.status.in_(_literals(DeliveryStatus.SENDING, DeliveryStatus.UNKNOWN)),
            deliveries.c.status.in_(_literals(DeliveryStatus.SENT, DeliveryStatus.DELIVERED)),
            deliveries.c.provider_id.is_not(None),
        ),
    )
)  # fmt: skip
_HEARD: Any = sa.select(messages.c.contact, messages.c.channel, messages.c.at, messages.c.id).where(
    among(messages.c.contact, "contacts"), messages.c.at > _SINCE, INBOUND_MESSAGE
)
_HOLD = Update(deliveries, "id", ("due_at", "held"), also={"dispatches": 0})
_JOIN = Update(deliveries, "id", ("bundle",))
_LEAVE_TO_LEADER = (
    sa.update(deliveries)
    .where(among(deliveries.c.id, "ids"))
    .values(
        due_at=None, dispatches=0, held=None, claimed_at=_NOW, updated_at=_NOW, status=str(DeliveryStatus.SENDING),
        tries=deliveries.c.tries + 1,
    )
)  # fmt: skip
_TAKE = (
    sa.update(deliveries)
    .where(among(deliveries.c.id, "ids"))
    .values(
        owner=sa.bindparam("worker", type_=sa.Text()), due_at=sa.bindparam("until", type_=Instant()), dispatches=0,
        held=None, updated_at=_NOW, tries=deliveries.c.tries + 1, status=str(DeliveryStatus.SENDING),
        claimed_at=sa.case(
            (deliveries.c.status == sa.literal_column(f"'{DeliveryStatus.PENDING}'"), _NOW),
            else_=deliveries.c.claimed_at,
        ),
    )
)  # fmt: skip
_MEMBERS = (
    sa.select(
        deliveries.c.bundle, deliveries.c.id, deliveries.c.message_id, deliveries.c.trace, messages.c.text
    )
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(among(deliveries.c.bundle, "ids"), BUNDLED_DELIVERY)
    .order_by(messages.c.at, messages.c.id)
)


def lock_people(connection: Connection, ids: Collection[UUID], *, now: datetime) -> list[str]:
    """The contacts of those of these deliveries that are still to be made, and that nobody is making.

    Until the transaction's end no other sender takes, or puts off, anything that is for them."""
    if not ids:
        return []
    contacts = sorted(connection.execute(_PEOPLE, {"ids": sorted(ids), "now": now}).scalars())
    if contacts and is_postgres(connection):  # SQLite has one writer
        locks = sorted({zlib.crc32(contact.encode()) % _LOCKS for contact in contacts})
        connection.execute(_LOCK, {"locks": locks}).all()
    return contacts


def waiting(connection: Connection, contacts: Collection[str], *, now: datetime) -> list[sa.Row[Any]]:
    """All deliveries to these contacts that are to be made and that nobody is making, each with its message: those that
    are due (`is_due`), and those that are put off (`held`).

    Status `sending` or `unknown` means that an earlier sender did not get to record what came of it, from `claimed_at`
    on. `opted_out`: the person asked not to be written to. Of a bundle there is its leading delivery alone."""
    if not contacts:
        return []
    return list(connection.execute(_WAITING, {"contacts": sorted(contacts), "now": now}))


def recent(connection: Connection, contacts: Collection[str], *, since: datetime) -> list[sa.Row[Any]]:
    """What providers took over for these contacts, or may be taking over, begun after `since`. A bundle counts once."""
    return list(connection.execute(_RECENT, {"contacts": sorted(contacts), "since": since}))


def heard(connection: Connection, contacts: Collection[str], *, since: datetime) -> list[sa.Row[Any]]:
    """What these contacts wrote after `since`."""
    return list(connection.execute(_HEARD, {"contacts": sorted(contacts), "since": since}))


def hold(connection: Connection, holds: Sequence[tuple[UUID, datetime, str]]) -> None:
    """Put deliveries off, each until a time and for a reason."""
    _HOLD(connection, [{"id": id, "due_at": until, "held": why} for id, until, why in sorted(holds)])


def bundle(connection: Connection, bundles: Sequence[Sequence[UUID]], *, now: datetime) -> None:
    """Record that these deliveries go together, for good: the first of each leads, and the others are what it is."""
    rows = [{"id": id, "bundle": ids[0]} for ids in bundles for id in ids]
    _JOIN(connection, sorted(rows, key=lambda row: row["id"]))
    others = sorted(id for ids in bundles for id in ids[1:])
    if others:
        connection.execute(_LEAVE_TO_LEADER, {"ids": others, "now": now})


def take(connection: Connection, until: Mapping[UUID, datetime], *, owner: str, now: datetime) -> None:
    """Claim these deliveries for a sender, each until a time."""
    for end in sorted(set(until.values())):
        ids = sorted(id for id, one in until.items() if one == end)
        connection.execute(_TAKE, {"ids": ids, "worker": owner, "now": now, "until": end})


def members(connection: Connection, leaders: Collection[UUID]) -> dict[UUID, list[Any]]:
    """What goes together, in order, by the leading delivery."""
    found: dict[UUID, list[Any]] = {leader: [] for leader in leaders}
    if found:
        for row in connection.execute(_MEMBERS, {"ids": sorted(leaders)}):
            found[row.bundle].append(row)
    return found
