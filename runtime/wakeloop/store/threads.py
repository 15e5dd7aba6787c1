"""The statements of threads: what was said before a delivery, to and by the same address, in the provider's ids."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import among
from wakeloop.store.schema import deliveries, messages, received, runs

LATEST = 200
"""So many messages of an exchange are looked at, and its first."""

_new = messages.alias("new_message")
_said = messages.alias("said")
_sent = deliveries.alias("sent")
_BY_ADDRESS = sa.and_(received.c.channel == deliveries.c.channel, received.c.address == deliveries.c.address)
# The message's index leads to its one row; that of the address, which SQLite would choose, to all that ever came from there.
_BY_MESSAGE = sa.and_(
    received.c.message_id == _said.c.id,
    sa.func.coalesce(received.c.channel, "") == deliveries.c.channel,
    sa.func.coalesce(received.c.address, "") == deliveries.c.address,
)
_NONE = sa.cast(sa.null(), sa.Text())


def _ours(condition: sa.ColumnElement[bool]) -> Any:
    return (
        sa.select(
            deliveries.c.id.label("delivery"), _sent.c.provider_id, _sent.c.claimed_at.label("at"),
            _said.c.subject, _said.c.text, sa.literal_column("1").label("is_ours"), _NONE.label("thread"),
            _NONE.label("reply_to"),
        )
        .select_from(deliveries)
        .join(_new, _new.c.id == deliveries.c.message_id)
        .join(_said, condition)
        .join(
            _sent,
            sa.and_(
                _sent.c.message_id == _said.c.id, _sent.c.channel == deliveries.c.channel,
                _sent.c.address == deliveries.c.address,
            ),
        )
        .where(
            among(deliveries.c.id, "ids"), _said.c.id != _new.c.id, _said.c.contact == _new.c.contact,
            _sent.c.provider_id.is_not(None),
        )
    )  # fmt: skip


def _theirs(condition: sa.ColumnElement[bool], *, since_run: bool = False) -> Any:
    source = sa.join(deliveries, _new, _new.c.id == deliveries.c.message_id)
    if since_run:
        source = source.join(runs, runs.c.id == _new.c.run_id)
    source = source.join(_said, condition).join(received, _BY_MESSAGE)
    return (
        sa.select(
            deliveries.c.id.label("delivery"), received.c.provider_id, received.c.at, _said.c.subject, _said.c.text,
            sa.literal_column("0").label("is_ours"), received.c.thread, received.c.reply_to,
        )
        .select_from(source)
        .where(among(deliveries.c.id, "ids"), _said.c.contact == _new.c.contact, sa.text("said.inbound"))
    )  # fmt: skip


_all = sa.union(
    _ours(_said.c.run_id == _new.c.run_id),
    _ours(_said.c.request_id == _new.c.request_id),
    _theirs(_said.c.request_id == _new.c.request_id),
    _theirs(
        sa.and_(
            _said.c.contact == _new.c.contact, _said.c.session_id == _new.c.session_id, _said.c.at >= runs.c.created_at
        ),
        since_run=True,
    ),
).subquery("exchange")  # fmt: skip
_ORDER = (_all.c.at, _all.c.provider_id)
_ranked = sa.select(
    *_all.columns,
    sa.func.row_number().over(partition_by=_all.c.delivery, order_by=_ORDER).label("first"),
    sa.func.row_number()
    .over(partition_by=_all.c.delivery, order_by=[column.desc() for column in _ORDER])
    .label("last"),
).subquery("ranked")
_FIRST_TEXT = sa.case((_ranked.c.first == 1, _ranked.c.text)).label("text")
_SAID: Any = sa.select(*[one for one in _ranked.columns if one.key != "text"], _FIRST_TEXT).where(
    sa.or_(_ranked.c.first == 1, _ranked.c.last <= LATEST)
)

_WOKEN_BY: Any = sa.select(runs.c.id, runs.c.event).where(
    among(runs.c.id, "ids"), runs.c.event.like('{"kind":"message"%')
)
_RECEIVED: Any = (
    sa.select(
        received.c.message_id, received.c.channel, received.c.address, received.c.provider_id, received.c.at,
        received.c.thread, received.c.reply_to, messages.c.subject, messages.c.text,
    )
    .select_from(received)
    .join(messages, messages.c.id == received.c.message_id)
    .where(among(received.c.message_id, "ids"))
)  # fmt: skip
_last = (
    sa.select(received.c.id)
    .where(_BY_ADDRESS)
    .order_by(received.c.at.desc())
    .limit(sa.literal_column("1"))
    .correlate(deliveries)
    .scalar_subquery()
)
_heard = received.alias("heard")
_HEARD: Any = (
    sa.select(
        deliveries.c.id.label("delivery"),
        _heard.c.at,
        _heard.c.provider_id,
        _heard.c.thread,
        _heard.c.reply_to,
        messages.c.subject,
        messages.c.text,
    )
    .select_from(deliveries)
    .join(_heard, _heard.c.id == _last)
    .outerjoin(messages, messages.c.id == _heard.c.message_id)
    .where(among(deliveries.c.id, "ids"))
)


def said(connection: Connection, ids: Collection[UUID]) -> list[sa.Row[Any]]:
    """For each of these deliveries, what was said on its channel, to and by its address, in the same run, about the same
    request, and by its contact to the run's session since the run was made. `at` is when it went out, or came; `text` only
    that of the first."""
    return list(connection.execute(_SAID, {"ids": sorted(ids)})) if ids else []


def woken_by(connection: Connection, run_ids: Collection[UUID]) -> dict[UUID, str]:
    """Of these runs those that a person's message woke, with the event."""
    if not run_ids:
        return {}
    return {row.id: row.event for row in connection.execute(_WOKEN_BY, {"ids": sorted(run_ids)})}


def received_as(connection: Connection, message_ids: Collection[UUID]) -> dict[UUID, sa.Row[Any]]:
    """These messages of people, as their providers told them."""
    if not message_ids:
        return {}
    return {row.message_id: row for row in connection.execute(_RECEIVED, {"ids": sorted(message_ids)})}


def last_heard(connection: Connection, ids: Collection[UUID]) -> dict[UUID, sa.Row[Any]]:
    """For each of these deliveries the last that came from its address on its channel, if anything ever did."""
    if not ids:
        return {}
    return {row.delivery: row for row in connection.execute(_HEARD, {"ids": sorted(ids)})}
