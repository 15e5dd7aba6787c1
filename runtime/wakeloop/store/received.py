"""The statements of what people sent: recorded once per provider's id, with its raw payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert, Row, Update
from wakeloop.store.direct import Direct
from wakeloop.store.schema import OPEN_RUNS, messages, received, receivers, runs, sessions

_RECORD = Insert(
    received,
    ("channel", "provider_id", "address", "contact", "raw", "outcome", "at", "thread", "reply_to"),
    new=("channel", "provider_id"),
    returning=("id",),
)
_RECORD_ALL = Insert(
    received,
    (
        "channel", "provider_id", "address", "contact", "raw", "outcome", "at", "thread", "reply_to",
        "message_id",
    ),
    new=("channel", "provider_id"),
    returning=("id", "channel", "provider_id"),
)  # fmt: skip
_SET_OUTCOMES = Update(received, "id", ("outcome",))
_SET_OUTCOME = (
    sa.update(received)
    .where(received.c.id == sa.bindparam("item"))
    .values(outcome=sa.bindparam("new_outcome"), message_id=sa.bindparam("new_message", type_=sa.Uuid()))
)
_ADD_MESSAGE = Insert(
    messages,
    (
        "id",
        "session_id",
        "request_id",
        "inbound",
        "contact",
        "channel",
        "subject",
        "text",
        "attachments",
        "at",
    ),
)


def _waiting(condition: sa.ColumnElement[bool]) -> Any:
    return (
        sa.select(sessions.c.id, sessions.c.agent, sessions.c.key, receivers.c.contact)
        .join(receivers, receivers.c.session_id == sessions.c.id)
        .join(runs, runs.c.id == receivers.c.run_id)
        .where(condition, receivers.c.signal.is_(None), OPEN_RUNS)
    )


_WAITING_FOR = sa.union(
    _waiting(receivers.c.contact == sa.bindparam("contact")), _waiting(receivers.c.contact.is_(None))
)
_SESSION = Direct(
    sa.select(sessions.c.id, sessions.c.agent, sessions.c.key).where(sessions.c.id == sa.bindparam("session"))
)
_MESSAGE = sa.select(messages).where(messages.c.id == sa.bindparam("message"))
_ATTACHED = sa.select(messages.c.attachments).where(
    messages.c.session_id == sa.bindparam("session"), messages.c.inbound, messages.c.attachments.is_not(None)
)


def record(
    connection: Connection, *, channel: str, provider_id: str, address: str, contact: str | None, raw: str,
    now: datetime, thread: str | None = None, reply_to: str | None = None,
) -> int | None:  # fmt: skip
    """Record an inbound message by its provider's id; None if it was recorded before. thread, reply_to: in the provider's
    ids, the thread that it stands in and the message that it answers."""
    row = {
        "channel": channel, "provider_id": provider_id, "address": address, "contact": contact, "raw": raw,
        "outcome": "", "at": now, "thread": thread, "reply_to": reply_to,
    }  # fmt: skip
    return next((back.id for back in _RECORD(connection, [row])), None)


def record_all(connection: Connection, rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    """Record inbound messages with what became of each, rows of all columns; those that were not recorded before, by
    channel and provider's id."""
    # In one order everywhere: two transactions with the same messages wait for each other's unique keys.
    ordered = sorted(rows, key=lambda row: (row["channel"], row["provider_id"]))
    return {(row.channel, row.provider_id): row.id for row in _RECORD_ALL(connection, ordered)}


def set_outcome(connection: Connection, id: int, outcome: str, message_id: UUID | None) -> None:
    """Note what became of an inbound message."""
    connection.execute(_SET_OUTCOME, {"item": id, "new_outcome": outcome, "new_message": message_id})


def set_outcomes(connection: Connection, outcomes: Mapping[int, str]) -> None:
    """The same for several, of which the rest is noted already."""
    _SET_OUTCOMES(connection, [{"id": id, "outcome": outcome} for id, outcome in sorted(outcomes.items())])


def add_message(
    connection: Connection, *, id: UUID, session_id: int | None, request_id: UUID | None, contact: str | None,
    channel: str, text: str, attachments: str | None, now: datetime, subject: str | None = None,
) -> None:  # fmt: skip
    """Put what a person said into the conversation of a session, or of none."""
    row = {
        "id": id, "session_id": session_id, "request_id": request_id, "inbound": True, "contact": contact,
        "channel": channel, "subject": subject, "text": text, "attachments": attachments, "at": now,
    }  # fmt: skip
    _ADD_MESSAGE(connection, [row])


def add_messages(connection: Connection, rows: Sequence[Row]) -> None:
    """Put what people said into the conversations of sessions: rows of all columns."""
    _ADD_MESSAGE(connection, rows)


def waiting_for(connection: Connection, contact: str) -> list[sa.Row[Any]]:
    """The sessions with an open run that waits for a message of this contact, or of anyone."""
    return list(connection.execute(_WAITING_FOR, {"contact": contact}))


def session(connection: Connection, id: int) -> Any:
    """A session's agent and key."""
    return _SESSION.first(connection, {"session": id})


def message(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One message."""
    return connection.execute(_MESSAGE, {"message": id}).first()


def attached(connection: Connection, session_id: int) -> list[str]:
    """What came with the messages of a session: the attachments of each, as JSON."""
    return [row.attachments for row in connection.execute(_ATTACHED, {"session": session_id})]
