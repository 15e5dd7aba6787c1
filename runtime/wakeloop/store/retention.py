"""The statements of retention: what is old enough to go, batch by batch, and its deletion."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import DeliveryStatus
from wakeloop.status import RequestStatus, RunStatus
from wakeloop.store import conversation
from wakeloop.store.batches import among
from wakeloop.store.schema import (
    KEPT_RAW,
    OPEN_RUNS,
    OVER_REQUEST,
    OVER_RUNS,
    PARKED_RUNS,
    PENDING_EVENTS,
    Instant,
    amendments,
    deliveries,
    files,
    inbox,
    journal,
    messages,
    received,
    receivers,
    recipients,
    requests,
    runs,
    schedules,
)


class Kind(StrEnum):
    """What is deleted by its own age; what belongs to it goes with it."""

    RUNS = "runs"
    REQUESTS = "requests"
    INBOX = "inbox"
    ENTRIES = "entries"
    MESSAGES = "messages"
    RECEIVED = "received"
    RAW = "raw"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A batch of a walk: the ids of what may go, and what the next batch begins after; None if the walk is over."""

    ids: list[Any]
    after: Any


_MOST = sa.bindparam("most", type_=sa.Integer())
_BEFORE = sa.bindparam("before", type_=Instant())
_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECONDS_BITS = 80
"""So many bits of an id of version 7 stand below its time."""


def _literal(value: str) -> sa.ColumnClause[str]:
    return sa.literal_column(f"'{value}'")


def _none(outer: sa.Table, *conditions: Any) -> sa.ColumnElement[bool]:
    """That there is no such row beside one of `outer`, looked up row by row: for a NOT EXISTS PostgreSQL may read all of
    a large table."""
    found: Any = sa.select(sa.literal_column("1")).where(*conditions).limit(sa.literal_column("1"))
    is_none: sa.ColumnElement[bool] = found.correlate(outer).scalar_subquery().is_(None)
    return is_none


# ---------------------------------------------------------------------- what may go


def _walk(at: sa.Column[Any], id: sa.Column[Any], condition: sa.TextClause) -> Any:
    """A walk by an index on (at, id): what is over since before a time, the oldest first."""
    begin = sa.tuple_(sa.bindparam("after_at", type_=Instant()), sa.bindparam("after_id", type_=id.type))
    return (
        sa.select(at.label("at"), id)
        .where(condition, at < _BEFORE, sa.tuple_(at, id) > begin)
        .order_by(at, id)
        .limit(_MOST)
    )


_RUNS_OVER = _walk(runs.c.ended_at, runs.c.id, OVER_RUNS)
_REQUESTS_OVER = _walk(requests.c.settled_at, requests.c.id, OVER_REQUEST)


def _by_id(id: sa.Column[Any], *more: Any) -> Any:
    """A walk in the order of the ids, which is that in which they were made."""
    after = sa.bindparam("after", type_=id.type)
    return sa.select(id, *more).where(id > after).order_by(id).limit(_MOST)


_INBOX = _by_id(inbox.c.id, inbox.c.arrived_at, inbox.c.consumed_at)
_RECEIVED = _by_id(received.c.id, received.c.at, received.c.message_id)
_MESSAGES = _by_id(messages.c.id).where(messages.c.id < sa.bindparam("end", type_=sa.Uuid()))
_RAW = _walk(received.c.at, received.c.id, KEPT_RAW)

_parent = runs.alias("parent")
_is_unsettled = sa.or_(requests.c.status == _literal(RequestStatus.OPEN), requests.c.due_at.is_not(None))
_is_on_its_way = sa.or_(
    deliveries.c.due_at.is_not(None),
    deliveries.c.status.in_([_literal(DeliveryStatus.PENDING), _literal(DeliveryStatus.SENDING)]),
)
_RUNS_TO_GO = (
    sa.select(runs.c.id)
    .where(
        among(runs.c.id, "ids"),
        # Its schedule has gone past its occurrence, which could be fired anew otherwise.
        _none(runs, schedules.c.id == runs.c.schedule_id, schedules.c.nominal <= runs.c.nominal),
        _none(
            runs,
            _parent.c.id == runs.c.parent_id,
            _parent.c.status.not_in([_literal(RunStatus.COMPLETED), _literal(RunStatus.CANCELLED)]),
        ),
        _none(runs, requests.c.run_id == runs.c.id, _is_unsettled),
    )
    .order_by(runs.c.id)
    .with_for_update(of=runs, skip_locked=True)
)
_REQUESTS_TO_GO = (
    sa.select(requests.c.id)
    .where(among(requests.c.id, "ids"), requests.c.due_at.is_(None))
    .order_by(requests.c.id)
    .with_for_update(of=requests, skip_locked=True)
)
_SESSIONS_OF = (
    sa.select(messages.c.session_id)
    .where(among(messages.c.id, "ids"), messages.c.session_id.is_not(None))
    .distinct()
)
_MESSAGES_TO_GO = (
    sa.select(messages.c.id)
    .where(
        among(messages.c.id, "ids"),
        sa.or_(messages.c.session_id.is_(None), among(messages.c.session_id, "sessions")),
        _none(messages, deliveries.c.message_id == messages.c.id, _is_on_its_way),
        _none(
            messages,
            deliveries.c.message_id == messages.c.id,
            amendments.c.delivery_id == deliveries.c.id,
            amendments.c.due_at.is_not(None),
        ),
        _none(messages, requests.c.id == messages.c.request_id, _is_unsettled),
        _none(messages, runs.c.session_id == messages.c.session_id, OPEN_RUNS),
        _none(messages, runs.c.session_id == messages.c.session_id, PARKED_RUNS),
        _none(messages, inbox.c.session_id == messages.c.session_id, PENDING_EVENTS),
    )
    .order_by(messages.c.id)
    .with_for_update(of=messages, skip_locked=True)
)
_WITHOUT_MESSAGE = sa.select(received.c.id).where(
    among(received.c.id, "ids"), _none(received, messages.c.id == received.c.message_id)
)


def find(connection: Connection, kind: Kind, *, before: datetime, after: Any = None, limit: int) -> Found:
    """The next batch of a walk over what is older than `before`: of up to `limit` rows those that may go. Those of runs,
    requests and messages are locked until the transaction ends; what another transaction has in hand is left out.

    Of entries of conversations what is given is not ids but (session, first position, last position).

    Left out are: what is open, parked, waiting or on its way, and what that refers to; a run whose schedule has not gone
    past its occurrence; a message or an entry of a session with an open or parked run, or with something in its inbox."""
    facts: dict[str, Any] = {"most": limit, "before": before}
    if kind in (Kind.RUNS, Kind.REQUESTS):
        at, id = after or (_ALWAYS, UUID(int=0))
        walk, judge = (_RUNS_OVER, _RUNS_TO_GO) if kind is Kind.RUNS else (_REQUESTS_OVER, _REQUESTS_TO_GO)
        rows = list(connection.execute(walk, {**facts, "after_at": at, "after_id": id}))
        last = (rows[-1].at, rows[-1].id) if len(rows) == limit else None
        return Found(ids=_judged(connection, judge, [row.id for row in rows]), after=last)
    if kind is Kind.MESSAGES:
        end = UUID(int=int(before.timestamp() * 1000) << _MILLISECONDS_BITS)
        rows = list(connection.execute(_MESSAGES, {**facts, "after": after or UUID(int=0), "end": end}))
        last = rows[-1].id if len(rows) == limit else None
        return Found(ids=at_rest(connection, [row.id for row in rows]), after=last)
    if kind is Kind.ENTRIES:
        spans, next_one = conversation.find_old(connection, before=before, after=after, limit=limit)
        return Found(ids=spans, after=next_one)
    if kind is Kind.RAW:
        at, id = after or (_ALWAYS, 0)
        rows = list(connection.execute(_RAW, {**facts, "after_at": at, "after_id": id}))
        last = (rows[-1].at, rows[-1].id) if len(rows) == limit else None
        return Found(ids=[row.id for row in rows], after=last)
    if kind is Kind.INBOX:
        rows = list(connection.execute(_INBOX, {**facts, "after": after or 0}))
        ids = [row.id for row in rows if row.consumed_at is not None and row.consumed_at < before]
        is_last = len(rows) < limit or rows[-1].arrived_at >= before
        return Found(ids=ids, after=None if is_last else rows[-1].id)
    rows = list(connection.execute(_RECEIVED, {**facts, "after": after or 0}))
    old = [row.id for row in rows if row.at < before]
    is_last = len(rows) < limit or rows[-1].at >= before
    return Found(ids=_judged(connection, _WITHOUT_MESSAGE, old), after=None if is_last else rows[-1].id)


def at_rest(connection: Connection, messages: list[UUID]) -> list[UUID]:
    """Those of these messages that nothing open refers to, as `find` says, locked until the transaction ends with their
    sessions: so no run begins that could read what goes."""
    if not messages:
        return []
    of = list(connection.execute(_SESSIONS_OF, {"ids": messages}).scalars())
    return _judged(connection, _MESSAGES_TO_GO, messages, sessions=conversation.lock_free(connection, of))


def _judged(connection: Connection, judge: Any, ids: list[Any], **facts: Any) -> list[Any]:
    return list(connection.execute(judge, {"ids": ids, **facts}).scalars()) if ids else []


# ---------------------------------------------------------------------- its deletion


class _Rows:
    """The rows of a table that have one of some ids in a column: counted, or deleted and counted."""

    def __init__(self, column: sa.Column[Any], *more: Any) -> None:
        table: Any = column.table
        self.name = str(table.name)
        condition = (among(column, "ids"), *more)
        self._delete = sa.delete(table).where(*condition)
        self._count = sa.select(sa.func.count()).select_from(table).where(*condition)

    def __call__(
        self, connection: Connection, ids: Collection[Any], *, counting: bool, **facts: Any
    ) -> dict[str, int]:
        if not ids:
            return {self.name: 0}
        parameters = {"ids": sorted(ids), **facts}
        if counting:
            return {self.name: connection.execute(self._count, parameters).scalar_one()}
        return {self.name: connection.execute(self._delete, parameters).rowcount}


_JOURNAL_OF = _Rows(journal.c.run_id)
_RECEIVERS_OF = _Rows(receivers.c.run_id)
_RECIPIENTS_OF = _Rows(recipients.c.request_id)
_REQUESTS = _Rows(requests.c.id)
_RUNS = _Rows(runs.c.id)
_INBOX_ROWS = _Rows(inbox.c.id)
_AMENDMENTS_OF = _Rows(amendments.c.delivery_id)
_DELIVERIES = _Rows(deliveries.c.id)
_FILES_OF = _Rows(files.c.message_id)
_RECEIVED_OF = _Rows(received.c.message_id, received.c.at < sa.bindparam("repeats", type_=Instant()))
_MESSAGE_ROWS = _Rows(messages.c.id)
_RECEIVED_ROWS = _Rows(received.c.id)
_REQUESTS_OF_RUNS = sa.select(requests.c.id).where(among(requests.c.run_id, "ids"))
_DELIVERIES_OF = sa.select(deliveries.c.id).where(among(deliveries.c.message_id, "ids"))
_EMPTY_RAW = sa.update(received).where(among(received.c.id, "ids")).values(raw="")


def remove(
    connection: Connection, kind: Kind, ids: Collection[Any], *, repeats: datetime, counting: bool = False
) -> dict[str, int]:
    """Delete these, which `find` gave, with what belongs to them; how many rows of each table. counting: delete nothing.

    repeats: what came in since then is not deleted with its message, as its provider may send it again. Of raw payloads
    only the text is taken away."""
    if not ids:
        return {}
    count = {"counting": counting}
    if kind is Kind.RUNS:
        asked = list(connection.execute(_REQUESTS_OF_RUNS, {"ids": sorted(ids)}).scalars())
        return {
            **_JOURNAL_OF(connection, ids, **count),
            **_RECEIVERS_OF(connection, ids, **count),
            **_RECIPIENTS_OF(connection, asked, **count),
            **_REQUESTS(connection, asked, **count),
            **_RUNS(connection, ids, **count),
        }
    if kind is Kind.REQUESTS:
        return {**_RECIPIENTS_OF(connection, ids, **count), **_REQUESTS(connection, ids, **count)}
    if kind is Kind.ENTRIES:
        return {"conversation": conversation.remove(connection, ids, counting=counting)}
    if kind is Kind.INBOX:
        return _INBOX_ROWS(connection, ids, **count)
    if kind is Kind.MESSAGES:
        sent = list(connection.execute(_DELIVERIES_OF, {"ids": sorted(ids)}).scalars())
        return {
            **_AMENDMENTS_OF(connection, sent, **count),
            **_DELIVERIES(connection, sent, **count),
            **_FILES_OF(connection, ids, **count),
            **_RECEIVED_OF(connection, ids, **count, repeats=repeats),
            **_MESSAGE_ROWS(connection, ids, **count),
        }
    if kind is Kind.RECEIVED:
        return _RECEIVED_ROWS(connection, ids, **count)
    if not counting:
        connection.execute(_EMPTY_RAW, {"ids": sorted(ids)})
    return {"raw payloads": len(ids)}
