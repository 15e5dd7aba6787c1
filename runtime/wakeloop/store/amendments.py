"""The statements of amendments: what is to stand in place of messages about requests that have ended."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import DeliveryStatus
from wakeloop.store.batches import Insert, Taking, among
from wakeloop.store.schema import Instant, amendments, deliveries, messages

REDISPATCH_SECONDS = 60
"""After so long one that was handed over is due again. To amend a message twice does no harm."""

_NOW = sa.bindparam("now", type_=Instant())
_ADD = amendments.insert().from_select(
    ["delivery_id", "text", "due_at"],
    sa.select(
        deliveries.c.id,
        messages.c.text + sa.bindparam("line", type_=sa.Text()),
        sa.case((deliveries.c.provider_id.is_not(None), _NOW), else_=sa.null()),
    )
    .select_from(messages)
    .join(deliveries, deliveries.c.message_id == messages.c.id)
    .where(
        messages.c.request_id == sa.bindparam("request", type_=sa.Uuid()),
        messages.c.inbound.is_(False), messages.c.interactive.is_(False),
        among(deliveries.c.channel, "channels"),
        deliveries.c.status != sa.literal_column(f"'{DeliveryStatus.FAILED}'"),
    ),
)  # fmt: skip
_EXPECT = Insert(amendments, ("delivery_id", "text"), new=("delivery_id",))
_ARRIVE = (
    sa.update(amendments)
    .where(amendments.c.delivery_id == sa.bindparam("delivery", type_=sa.Uuid()))
    .values(due_at=_NOW)
)
_CLAIM_DUE = Taking(
    amendments,
    sa.select(amendments.c.delivery_id)
    .where(amendments.c.due_at <= _NOW)
    .order_by(amendments.c.due_at)
    .limit(sa.bindparam("most", type_=sa.Integer())),
    {"due_at": sa.bindparam("again", type_=Instant())},
    returning=(amendments.c.delivery_id,),
    skip_locked=True,
    key="delivery_id",
)
_TAKE = Taking(
    amendments,
    sa.select(amendments.c.delivery_id)
    .where(among(amendments.c.delivery_id, "ids"), amendments.c.due_at.is_not(None))
    .order_by(amendments.c.delivery_id),
    {"due_at": sa.bindparam("until", type_=Instant()), "tries": amendments.c.tries + 1},
    returning=(amendments.c.delivery_id,),
    skip_locked=True,
    key="delivery_id",
)
_TAKEN: Any = (
    sa.select(
        amendments.c.delivery_id, amendments.c.text, amendments.c.tries, deliveries.c.channel, deliveries.c.contact,
        deliveries.c.address, deliveries.c.provider_id, messages.c.text.label("said"), messages.c.subject,
    )
    .select_from(amendments)
    .join(deliveries, deliveries.c.id == amendments.c.delivery_id)
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(among(amendments.c.delivery_id, "ids"))
    .order_by(amendments.c.delivery_id)
)  # fmt: skip
_RECORD = (
    sa.update(amendments)
    .where(amendments.c.delivery_id == sa.bindparam("delivery", type_=sa.Uuid()))
    .values(due_at=sa.bindparam("new_due", type_=Instant()))
)


def add(
    connection: Connection, request_id: UUID, line: str, channels: Collection[str], *, now: datetime
) -> None:
    """Have every message about a request say this line besides, as far as it went out through one of these channels, or
    is going to: that one is due once it has (see `arrive`).

    The request must be locked, here and by whoever notes that a message went out: else one of them is missed."""
    if channels:
        parameters = {"request": request_id, "line": f"\n{line}", "channels": sorted(channels), "now": now}
        connection.execute(_ADD, parameters)


def expect(connection: Connection, delivery_id: UUID, text: str) -> None:
    """Have a delivery that is still to be made show this text once it has gone out."""
    _EXPECT(connection, [{"delivery_id": delivery_id, "text": text}])


def arrive(connection: Connection, delivery_id: UUID, *, now: datetime) -> None:
    """A delivery went out: if it is to be amended, that is due now."""
    connection.execute(_ARRIVE, {"delivery": delivery_id, "now": now})


def claim_due(connection: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Mark up to `limit` amendments that are due as handed over; the ids of their deliveries. What is lost on its way is
    due again after a while."""
    parameters = {"now": now, "most": limit, "again": now + timedelta(seconds=REDISPATCH_SECONDS)}
    return sorted(row.delivery_id for row in _CLAIM_DUE(connection, parameters))


def take(connection: Connection, ids: Collection[UUID], *, until: datetime) -> list[sa.Row[Any]]:
    """Those amendments of these deliveries that are to be made, each with its delivery; they are due again at `until`,
    unless `record` says otherwise."""
    if not ids:
        return []
    taken = [row.delivery_id for row in _TAKE(connection, {"ids": sorted(ids), "until": until})]
    return list(connection.execute(_TAKEN, {"ids": sorted(taken)})) if taken else []


def record(connection: Connection, delivery_id: UUID, *, due_at: datetime | None) -> None:
    """Note what came of an amendment: it is done, or given up, or to be tried again at `due_at`."""
    connection.execute(_RECORD, {"delivery": delivery_id, "new_due": due_at})
