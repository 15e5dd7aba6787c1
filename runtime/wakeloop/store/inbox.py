"""What arrives for sessions: the statements that record it, once, and make the session due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.status import RunStatus
from wakeloop.store.database import Database
from wakeloop.store.records import NewRun, Post
from wakeloop.store.schema import Instant, inbox, runs, sessions

_CHUNK = 500


def ensure_sessions(
    database: Database, connection: Connection, names: Collection[tuple[str, str]], *, now: datetime
) -> dict[tuple[str, str], int]:
    """The ids of these sessions, by (agent, key); those that are not there yet are made."""
    ordered = sorted(names)
    if not ordered:
        return {}
    found = _find_sessions(connection, ordered)
    missing = [name for name in ordered if name not in found]
    if missing:
        connection.execute(
            database.insert(sessions).on_conflict_do_nothing(index_elements=["agent", "key"]),
            [{"agent": agent, "key": key, "created_at": now} for agent, key in missing],
        )
        found |= _find_sessions(connection, missing)
    return found


def _find_sessions(connection: Connection, names: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for start in range(0, len(names), _CHUNK):
        statement = sa.select(sessions.c.id, sessions.c.agent, sessions.c.key).where(
            sa.tuple_(sessions.c.agent, sessions.c.key).in_(names[start : start + _CHUNK])
        )
        found |= {(row.agent, row.key): row.id for row in connection.execute(statement)}
    return found


def post(
    database: Database, connection: Connection, posts: Sequence[Post], known: dict[tuple[str, str], int], *,
    now: datetime,
) -> set[int]:  # fmt: skip
    """Put these into their sessions' inboxes; the sessions that got something new. What is there already stays."""
    if not posts:
        return set()
    arrived: set[int] = set()
    for one in posts:
        statement = (
            database.insert(inbox)
            .values(
                session_id=known[one.agent, one.key], kind=one.kind, target=one.target, dedupe=one.dedupe,
                body=one.body, arrived_at=now,
            )
            .on_conflict_do_nothing(index_elements=["session_id", "dedupe"])
            .returning(inbox.c.session_id)
        )  # fmt: skip
        arrived.update(connection.execute(statement).scalars())
    return arrived


def queue_runs(
    database: Database, connection: Connection, new: Sequence[NewRun], known: dict[tuple[str, str], int], *,
    now: datetime,
) -> set[int]:  # fmt: skip
    """Queue these runs, or record them as skipped; the sessions that got one to run. What is there already stays."""
    if not new:
        return set()
    rows: list[dict[str, Any]] = [
        {
            "id": run.id, "session_id": known[run.agent, run.key], "event": run.event, "created_at": now,
            "status": str(RunStatus.CANCELLED if run.skipped else RunStatus.QUEUED),
            "schedule_id": run.schedule_id, "nominal": run.nominal, "skipped": run.skipped,
            "skip_count": run.skip_count, "ended_at": now if run.skipped else None,
            "parent_id": run.parent_id, "parent_session_id": run.parent_session_id,
        }
        for run in new
    ]  # fmt: skip
    connection.execute(database.insert(runs).on_conflict_do_nothing(), rows)
    return {known[run.agent, run.key] for run in new if not run.skipped}


def touch(connection: Connection, session_ids: Collection[int], *, now: datetime) -> None:
    """Note that something arrived for these sessions: each is due now, or its holder finds out before it lets go."""
    if session_ids:
        free = sa.and_(
            sessions.c.owner.is_(None), sa.or_(sessions.c.due_at.is_(None), sessions.c.due_at > now)
        )
        connection.execute(
            sa.update(sessions)
            .where(sessions.c.id.in_(sorted(session_ids)))
            .values(
                arrivals=sessions.c.arrivals + 1,
                due_at=sa.case((free, sa.literal(now, Instant())), else_=sessions.c.due_at),
            )
        )


def find_session(connection: Connection, agent: str, key: str) -> int | None:
    """The id of a session, if it is there."""
    return connection.execute(
        sa.select(sessions.c.id).where(sessions.c.agent == agent, sessions.c.key == key)
    ).scalar()
