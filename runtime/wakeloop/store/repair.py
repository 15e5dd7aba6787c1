"""The statements by which an operator sets a parked run right."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.engine.journal import Record
from wakeloop.status import RunStatus
from wakeloop.store.schema import journal, runs, sessions


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


def truncate(connection: Connection, run_id: UUID, seq: int) -> None:
    """Take back what a run's journal holds after a position, and the state it noted for what came next."""
    connection.execute(sa.delete(journal).where(journal.c.run_id == run_id, journal.c.seq > seq))


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
    """Let a parked run go on: `running`, for whoever takes its session up next."""
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
        )
    )
