"""The statements by which an operator sets a parked run right."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.engine.journal import Record
from wakeloop.status import RunStatus
from wakeloop.store.records import SessionCommit
from wakeloop.store.schema import inbox, journal, runs, sessions
from wakeloop.tracing import BEHIND_ANOTHER, carried

_CHUNK = 500


def lock(connection: Connection, session_id: int) -> sa.Row[Any]:
    """The session, locked against every other change until the transaction ends."""
    return connection.execute(sa.select(sessions).where(sessions.c.id == session_id).with_for_update()).one()


def close(connection: Connection, run_id: UUID, *, now: datetime) -> None:
    """Cancel a parked run."""
    connection.execute(
        sa.update(runs)
        .where(runs.c.id == run_id)
        .values(status=str(RunStatus.CANCELLED), ended_at=now, waits=None, wake_at=None)
    )


def take_back(connection: Connection, run_id: UUID, positions: Sequence[int]) -> None:
    """Take these lines out of a run's journal."""
    for start in range(0, len(positions), _CHUNK):
        chunk = positions[start : start + _CHUNK]
        connection.execute(sa.delete(journal).where(journal.c.run_id == run_id, journal.c.seq.in_(chunk)))


def append(connection: Connection, run_id: UUID, record: Record) -> None:
    """Add a line to a run's journal."""
    connection.execute(
        sa.insert(journal).values(
            run_id=run_id, seq=record.seq, op=record.op, kind=str(record.kind), name=record.name, ok=record.ok,
            value=record.value, at=record.at,
        )
    )  # fmt: skip


def set_state(connection: Connection, session_id: int, state: str | None) -> None:
    """Put a session's state back."""
    connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(state=state))


def reopen(connection: Connection, run_id: UUID, *, waits: str | None, applied: int) -> None:
    """Let a parked run go on: `running`, for whoever takes its session up next, in the current trace."""
    cause = carried()
    connection.execute(
        sa.update(runs)
        .where(runs.c.id == run_id)
        .values(
            status=str(RunStatus.RUNNING),
            waits=waits,
            applied=applied,
            failure=None,
            ended_at=None,
            cancelling=False,
            trace=runs.c.trace
            if cause is None
            else sa.func.coalesce(runs.c.trace, "") + BEHIND_ANOTHER + cause,
        )
    )


def park(connection: Connection, refused: SessionCommit, failure: str, *, now: datetime) -> None:
    """Park the runs of a commit that the database refused, and let their session go; nothing else of it is written.

    A run that it would have begun is recorded as parked with its event, which is consumed."""
    session = lock(connection, refused.session.id)
    if session.token != refused.session.token:
        return
    values = {"status": str(RunStatus.STUCK), "failure": failure, "ended_at": now}
    touched = sorted(refused.runs.keys() | refused.records.keys())
    connection.execute(sa.update(runs).where(runs.c.id.in_(touched)).values(**values))
    for run in refused.new_runs:
        facts = {"id": run.id, "session_id": run.session_id, "event": run.event, "created_at": run.created_at}
        connection.execute(sa.insert(runs).values(**facts, started_at=now, **values))
    if refused.new_runs:
        untargeted = inbox.c.id.in_(refused.consumed), inbox.c.target.is_(None)
        connection.execute(sa.update(inbox).where(*untargeted).values(consumed_at=now, body=None))
    connection.execute(
        sa.update(sessions)
        .where(sessions.c.id == session.id)
        .values(owner=None, due_at=now, token=session.token + 1)
    )
