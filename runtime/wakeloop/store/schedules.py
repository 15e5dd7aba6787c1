"""The statements of schedules: which there are, which are due, and where each stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.status import RunStatus
from wakeloop.store.batches import Insert, Update, among
from wakeloop.store.direct import Call, Direct
from wakeloop.store.schema import OPEN_RUNS, Instant, runs, schedules, sessions

_OF_SESSIONS = Direct(
    sa.select(schedules)
    .where(
        among(schedules.c.session_id, "sessions"),
        sa.or_(
            schedules.c.nominal.is_not(None),
            schedules.c.id.in_(
                sa.select(runs.c.schedule_id).where(
                    among(runs.c.session_id, "sessions"),
                    OPEN_RUNS,
                    runs.c.status == sa.literal_column(f"'{RunStatus.QUEUED}'"),
                    runs.c.wake_at.is_not(None),
                )
            ),
        ),
    )
    .order_by(schedules.c.nominal, schedules.c.id)
)
_DEFINED = sa.select(schedules).where(
    schedules.c.session_id == sa.bindparam("session"), schedules.c.own.is_(False)
)
_ADD = Insert(
    schedules,
    ("session_id", "agent", "ref", "own", "spec", "anchor", "nominal", "due_at"),
    new=("session_id", "ref"),
)
_END = sa.update(schedules).where(among(schedules.c.id, "ids")).values(nominal=None, due_at=None)
_CLAIM_DUE = (
    sa.select(schedules, sessions.c.key)
    .join(sessions, sessions.c.id == schedules.c.session_id)
    .where(schedules.c.due_at <= sa.bindparam("now", type_=Instant()), among(schedules.c.agent, "agents"))
    .order_by(schedules.c.due_at, schedules.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer()))
    .with_for_update(of=schedules, skip_locked=True, key_share=True)
)
_COMING = sa.select(sa.func.count()).select_from(
    sa.select(schedules.c.id)
    .where(
        schedules.c.due_at > sa.bindparam("now", type_=Instant()),
        schedules.c.due_at <= sa.bindparam("soon", type_=Instant()),
        among(schedules.c.agent, "agents"),
    )
    .limit(sa.bindparam("most", type_=sa.Integer()))
    .subquery()
)
_MOVE = Update(schedules, "id", ("nominal", "due_at"))


def of_sessions(session_ids: Collection[int]) -> Call:
    """The statement that gives the live schedules of these sessions, soonest first, and those that ended with an occurrence
    that they had queued ahead of its time."""
    return _OF_SESSIONS, {"sessions": sorted(session_ids)}


def defined(connection: Connection, session_id: int) -> list[sa.Row[Any]]:
    """All schedules of a session that stand in its agent's code, ended ones too."""
    return list(connection.execute(_DEFINED, {"session": session_id}))


def add(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add these schedules, those that are not there yet."""
    _ADD(connection, sorted(rows, key=lambda row: (row["session_id"], row["ref"])))


def end(connection: Connection, ids: Collection[int]) -> None:
    """End these schedules: they stay on record, and fire no more."""
    if ids:
        connection.execute(_END, {"ids": sorted(ids)})


def claim_due(
    connection: Connection, *, now: datetime, agents: Collection[str], limit: int
) -> list[sa.Row[Any]]:
    """Up to `limit` schedules that are due, each with its session's key, locked until the transaction ends.

    Those that another transaction has in hand are left out."""
    parameters = {"now": now, "agents": sorted(agents), "most": limit}
    return list(connection.execute(_CLAIM_DUE, parameters))


def count_coming(
    connection: Connection, *, now: datetime, soon: datetime, agents: Collection[str], limit: int
) -> int:
    """How many schedules are due after `now` and by `soon`; `limit` if there are more."""
    given = {"now": now, "soon": soon, "agents": sorted(agents), "most": limit}
    return int(connection.execute(_COMING, given).scalar_one())


def move(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set the next occurrence of schedules: rows of `id`, `nominal` and `due_at`."""
    _MOVE(connection, sorted(rows, key=lambda row: int(row["id"])))
