"""What people and programs look at: read-only views of sessions, runs, messages and requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.schema import deliveries, inbox, messages, received, requests, runs, schedules, sessions

_RUN = (*runs.columns, sessions.c.agent, sessions.c.key)


def list_runs(
    connection: Connection, *, agent: str | None = None, session: int | None = None,
    statuses: Sequence[str] | None = None, limit: int | None = None,
) -> list[sa.Row[Any]]:  # fmt: skip
    """Runs with their sessions' agents and keys, newest first."""
    statement = sa.select(*_RUN).join(sessions, sessions.c.id == runs.c.session_id).order_by(runs.c.id.desc())
    if agent is not None:
        statement = statement.where(sessions.c.agent == agent)
    if session is not None:
        statement = statement.where(runs.c.session_id == session)
    if statuses is not None:
        statement = statement.where(runs.c.status.in_(list(statuses)))
    if limit is not None:
        statement = statement.limit(limit)
    return list(connection.execute(statement))


def find_run(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One run with its session's agent and key."""
    statement = sa.select(*_RUN).join(sessions, sessions.c.id == runs.c.session_id).where(runs.c.id == id)
    return connection.execute(statement).first()


def find_runs(connection: Connection, fragment: str) -> list[UUID]:
    """The ids of runs that begin or end with this fragment, at most three of them."""
    digits = fragment.replace("-", "").lower()
    text = sa.func.replace(sa.cast(runs.c.id, sa.Text), "-", "")
    statement = sa.select(runs.c.id).where(sa.or_(text.like(f"{digits}%"), text.like(f"%{digits}"))).limit(3)
    return list(connection.execute(statement).scalars())


def list_sessions(connection: Connection, *, agent: str | None = None) -> list[sa.Row[Any]]:
    """Sessions with how many of their runs are open, by agent and key."""
    open_runs = (
        sa.select(sa.func.count())
        .select_from(runs)
        .where(runs.c.session_id == sessions.c.id, sa.text("runs.status IN ('queued', 'running', 'waiting')"))
        .scalar_subquery()
        .label("open_runs")
    )
    statement = sa.select(*sessions.columns, open_runs).order_by(sessions.c.agent, sessions.c.key)
    if agent is not None:
        statement = statement.where(sessions.c.agent == agent)
    return list(connection.execute(statement))


def find_session(connection: Connection, agent: str, key: str) -> sa.Row[Any] | None:
    """One session."""
    return connection.execute(
        sa.select(sessions).where(sessions.c.agent == agent, sessions.c.key == key)
    ).first()


def conversation(connection: Connection, session: int) -> list[sa.Row[Any]]:
    """The messages of a session, oldest first."""
    statement = (
        sa.select(messages).where(messages.c.session_id == session).order_by(messages.c.at, messages.c.id)
    )
    return list(connection.execute(statement))


def sent(connection: Connection, contact: str | None = None) -> list[sa.Row[Any]]:
    """Messages that a provider took over, with when it did, oldest first."""
    statement = (
        sa.select(*messages.columns, deliveries.c.status, deliveries.c.updated_at, deliveries.c.address)
        .join(
            deliveries,
            sa.and_(deliveries.c.message_id == messages.c.id, deliveries.c.channel == messages.c.channel),
        )
        .where(deliveries.c.status.in_(["sent", "delivered"]))
        .order_by(messages.c.at, messages.c.id)
    )
    if contact is not None:
        statement = statement.where(messages.c.contact == contact)
    return list(connection.execute(statement))


def list_messages(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """The newest messages in and out, each with how its latest delivery stands, newest first."""
    statement = (
        sa.select(*messages.columns, deliveries.c.status, deliveries.c.error)
        .outerjoin(
            deliveries,
            sa.and_(deliveries.c.message_id == messages.c.id, deliveries.c.channel == messages.c.channel),
        )
        .order_by(messages.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(statement))


def failed_deliveries(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """Messages that reached nobody, newest first."""
    statement = (
        sa.select(*messages.columns, deliveries.c.status, deliveries.c.error)
        .join(
            deliveries,
            sa.and_(deliveries.c.message_id == messages.c.id, deliveries.c.channel == messages.c.channel),
        )
        .where(deliveries.c.status.in_(["failed", "unknown"]))
        .order_by(messages.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(statement))


def list_received(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """What people sent, with what became of it, newest first."""
    return list(connection.execute(sa.select(received).order_by(received.c.id.desc()).limit(limit)))


def unrouted(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """What people sent that no agent got: of unknown senders, and of contacts whom nobody waits for. Newest first."""
    statement = (
        sa.select(received, messages.c.text)
        .join(messages, messages.c.id == received.c.message_id)
        .where(
            sa.or_(received.c.contact.is_(None), received.c.outcome.like("nobody takes it%")),
            received.c.outcome.not_like("an opt-%"),
        )
        .order_by(received.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(statement))


def list_requests(
    connection: Connection, *, status: str | None = None, run: UUID | None = None, limit: int | None = None
) -> list[sa.Row[Any]]:
    """Requests with their sessions' agents and keys, oldest first."""
    statement = (
        sa.select(*requests.columns, sessions.c.agent, sessions.c.key)
        .join(sessions, sessions.c.id == requests.c.session_id)
        .order_by(requests.c.created_at, requests.c.id)
    )
    if status is not None:
        statement = statement.where(requests.c.status == status)
    if run is not None:
        statement = statement.where(requests.c.run_id == run)
    if limit is not None:
        statement = statement.limit(limit)
    return list(connection.execute(statement))


def list_schedules(connection: Connection, *, limit: int | None = None) -> list[sa.Row[Any]]:
    """Live schedules with their sessions' keys, soonest first."""
    statement = (
        sa.select(*schedules.columns, sessions.c.key)
        .join(sessions, sessions.c.id == schedules.c.session_id)
        .where(schedules.c.nominal.is_not(None))
        .order_by(schedules.c.nominal, schedules.c.id)
    )
    if limit is not None:
        statement = statement.limit(limit)
    return list(connection.execute(statement))


def pending_inbox(connection: Connection, session: int) -> list[sa.Row[Any]]:
    """What a session has not consumed."""
    statement = (
        sa.select(inbox)
        .where(inbox.c.session_id == session, sa.text("consumed_at IS NULL"))
        .order_by(inbox.c.id)
    )
    return list(connection.execute(statement))


def count_rows(connection: Connection) -> int:
    """How many runs and messages there are."""
    counts = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in (runs, messages)]
    return int(connection.execute(sa.select(counts[0] + counts[1])).scalar_one())


def last_channel(connection: Connection, contact: str) -> str | None:
    """The channel on which a contact was last written to."""
    statement = (
        sa.select(messages.c.channel)
        .where(messages.c.contact == contact, messages.c.inbound.is_(False))
        .order_by(messages.c.id.desc())
        .limit(1)
    )
    return connection.execute(statement).scalar()
