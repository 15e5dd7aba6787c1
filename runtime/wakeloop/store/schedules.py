"""The statements of schedules: which there are, which are due, and where each stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.database import Database
from wakeloop.store.schema import schedules, sessions


def of_sessions(connection: Connection, session_ids: Collection[int]) -> list[sa.Row[Any]]:
    """The live schedules of these sessions, soonest first."""
    if not session_ids:
        return []
    statement = (
        sa.select(schedules)
        .where(schedules.c.session_id.in_(sorted(session_ids)), schedules.c.nominal.is_not(None))
        .order_by(schedules.c.nominal, schedules.c.id)
    )
    return list(connection.execute(statement))


def defined(connection: Connection, session_id: int) -> list[sa.Row[Any]]:
    """All schedules of a session that stand in its agent's code, ended ones too."""
    statement = sa.select(schedules).where(schedules.c.session_id == session_id, schedules.c.own.is_(False))
    return list(connection.execute(statement))


def add(database: Database, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add these schedules, those that are not there yet."""
    if rows:
        connection.execute(
            database.insert(schedules).on_conflict_do_nothing(index_elements=["session_id", "ref"]),
            [dict(row) for row in rows],
        )


def end(connection: Connection, ids: Collection[int]) -> None:
    """End these schedules: they stay on record, and fire no more."""
    if ids:
        connection.execute(
            sa.update(schedules).where(schedules.c.id.in_(sorted(ids))).values(nominal=None, due_at=None)
        )


def claim_due(
    connection: Connection, *, now: datetime, agents: Collection[str], limit: int
) -> list[sa.Row[Any]]:
    """Up to `limit` schedules that are due, each with its session's key, locked until the transaction ends."""
    statement = (
        sa.select(schedules, sessions.c.key)
        .join(sessions, sessions.c.id == schedules.c.session_id)
        .where(schedules.c.due_at <= now, schedules.c.agent.in_(sorted(agents)))
        .order_by(schedules.c.due_at)
        .limit(limit)
        .with_for_update(of=schedules, skip_locked=True)
    )
    return list(connection.execute(statement))


def move(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Set the next occurrence of schedules: rows of `id`, `nominal` and `due_at`."""
    if rows:
        connection.execute(
            sa.update(schedules)
            .where(schedules.c.id == sa.bindparam("b_id"))
            .values(nominal=sa.bindparam("b_nominal"), due_at=sa.bindparam("b_due_at")),
            [{"b_id": row["id"], "b_nominal": row["nominal"], "b_due_at": row["due_at"]} for row in rows],
        )


def next_due(connection: Connection, *, after: datetime) -> datetime | None:
    """When the next schedule is due, of those that are not due yet."""
    return connection.execute(
        sa.select(schedules.c.due_at).where(schedules.c.due_at > after).order_by(schedules.c.due_at).limit(1)
    ).scalar()
