"""The statements of ticks that are queued before their time: what expects them, and what takes them back."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.status import RunStatus
from wakeloop.store.batches import Update, among
from wakeloop.store.schema import ENDED_RUNS, OPEN_RUNS, Instant, runs, schedules, sessions

_SESSION = sa.bindparam("session", type_=sessions.c.id.type)
_LOCK = (
    sa.select(sessions.c.id)
    .where(among(sessions.c.id, "ids"))
    .order_by(sessions.c.id)
    .with_for_update(key_share=True)
)


def _sooner(new: sa.ColumnElement[datetime]) -> sa.ColumnElement[datetime]:
    is_later = sa.or_(sessions.c.due_at.is_(None), sessions.c.due_at > new)
    return sa.case((sa.and_(sessions.c.owner.is_(None), is_later), new), else_=sessions.c.due_at)


_EXPECT = Update(
    sessions, "id", ("due_at",), express={"due_at": _sooner}, also={"arrivals": sessions.c.arrivals + 1}
)
_IS_QUEUED = sa.and_(
    runs.c.session_id == _SESSION,
    OPEN_RUNS,
    runs.c.status == sa.literal_column(f"'{RunStatus.QUEUED}'"),
    runs.c.wake_at.is_not(None),
    runs.c.schedule_id.in_(
        sa.select(schedules.c.id).where(schedules.c.session_id == _SESSION, among(schedules.c.ref, "refs"))
    ),
)
_QUEUED = sa.select(runs.c.id).where(_IS_QUEUED).limit(sa.literal_column("1"))
# Without its time, so that the occurrence is free again: another deploy may bring the schedule back before it.
_WITHDRAW = (
    sa.update(runs)
    .where(_IS_QUEUED)
    .values(
        status=str(RunStatus.CANCELLED), ended_at=sa.bindparam("now", type_=Instant()), wake_at=sa.null(),
        nominal=sa.null(),
    )
)  # fmt: skip
_WITHDRAWN = sa.select(runs.c.id).where(among(runs.c.id, "ids"), ENDED_RUNS)


def expect(connection: Connection, dues: Iterable[tuple[int, datetime]]) -> None:
    """Note that something was queued for these sessions that is due then: each is due by then, or its holder finds out
    before it lets go."""
    first: dict[int, datetime] = {}
    for id, due in dues:
        first[id] = min(due, first.get(id, due))
    if first:
        connection.execute(_LOCK, {"ids": sorted(first)}).all()
        _EXPECT(connection, [{"id": id, "due_at": due} for id, due in sorted(first.items())])


def has_queued(connection: Connection, session_id: int, refs: Collection[str]) -> bool:
    """Whether these schedules of a session have queued something ahead of its time that nobody has begun."""
    if not refs:
        return False
    return connection.execute(_QUEUED, {"session": session_id, "refs": sorted(refs)}).first() is not None


def withdraw(connection: Connection, session_id: int, refs: Collection[str], *, now: datetime) -> None:
    """Cancel what these schedules of a session have queued ahead of its time and nobody has begun. The caller has locked the
    schedules, so that they queue no more, and then the session; whoever holds it learns of it by what arrived."""
    connection.execute(_WITHDRAW, {"session": session_id, "refs": sorted(refs), "now": now})


def withdrawn(connection: Connection, run_ids: Collection[UUID]) -> set[UUID]:
    """Those of these runs, which were open, that are no more."""
    if not run_ids:
        return set()
    return set(connection.execute(_WITHDRAWN, {"ids": sorted(run_ids)}).scalars())
