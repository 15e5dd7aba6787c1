"""The statements of what people sent: recorded once per provider's id, with its raw payload."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.database import Database
from wakeloop.store.schema import messages, received, receivers, requests, runs, sessions


def record(
    database: Database, connection: Connection, *, channel: str, provider_id: str, address: str, contact: str | None,
    raw: str, now: datetime,
) -> int | None:  # fmt: skip
    """Record an inbound message by its provider's id; None if it was recorded before."""
    statement = (
        database.insert(received)
        .values(
            channel=channel,
            provider_id=provider_id,
            address=address,
            contact=contact,
            raw=raw,
            outcome="",
            at=now,
        )
        .on_conflict_do_nothing(index_elements=["channel", "provider_id"])
        .returning(received.c.id)
    )
    return connection.execute(statement).scalar()


def set_outcome(connection: Connection, id: int, outcome: str, message_id: UUID | None) -> None:
    """Note what became of an inbound message."""
    connection.execute(
        sa.update(received).where(received.c.id == id).values(outcome=outcome, message_id=message_id)
    )


def add_message(
    connection: Connection, *, id: UUID, session_id: int | None, request_id: UUID | None, contact: str | None,
    channel: str, text: str, attachments: str | None, now: datetime,
) -> None:  # fmt: skip
    """Put what a person said into the conversation of a session, or of none."""
    connection.execute(
        sa.insert(messages).values(
            id=id, session_id=session_id, request_id=request_id, inbound=True, contact=contact, channel=channel,
            text=text, attachments=attachments, at=now,
        )
    )  # fmt: skip


def waiting_for(connection: Connection, contact: str) -> list[sa.Row[Any]]:
    """The sessions with an open run that waits for a message of this contact, or of anyone."""
    statement = (
        sa.select(sessions.c.id, sessions.c.agent, sessions.c.key, receivers.c.contact)
        .join(receivers, receivers.c.session_id == sessions.c.id)
        .join(runs, runs.c.id == receivers.c.run_id)
        .where(
            sa.or_(receivers.c.contact == contact, receivers.c.contact.is_(None)), runs.c.status == "waiting"
        )
        .distinct()
    )
    return list(connection.execute(statement))


def session_of_request(connection: Connection, request_id: UUID) -> sa.Row[Any] | None:
    """The session that asked."""
    statement = (
        sa.select(sessions.c.id, sessions.c.agent, sessions.c.key)
        .join(requests, requests.c.session_id == sessions.c.id)
        .where(requests.c.id == request_id)
    )
    return connection.execute(statement).first()


def message(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One message."""
    return connection.execute(sa.select(messages).where(messages.c.id == id)).first()
