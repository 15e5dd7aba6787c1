"""The statements of an export: all rows of a session, table by table, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.schema import (
    amendments,
    audit,
    conversation,
    deliveries,
    files,
    grants,
    inbox,
    journal,
    messages,
    received,
    recipients,
    requests,
    runs,
    schedules,
    sessions,
)

CHUNK = 200
"""So many rows are held at a time."""

_SESSION = sa.bindparam("session", type_=sa.BigInteger())


def _of_runs(table: sa.Table, condition: sa.ColumnElement[bool]) -> Any:
    return sa.select(table).join(runs, condition).where(runs.c.session_id == _SESSION)


def _of_requests(table: sa.Table) -> Any:
    return (
        sa.select(table)
        .join(requests, requests.c.id == table.c.request_id)
        .join(runs, runs.c.id == requests.c.run_id)
        .where(runs.c.session_id == _SESSION)
    )


def _of_messages(table: sa.Table) -> Any:
    return (
        sa.select(table)
        .join(messages, messages.c.id == table.c.message_id)
        .where(messages.c.session_id == _SESSION)
    )


_WITHOUT_DATA = [column for column in files.columns if column is not files.c.data]
_STATEMENTS: dict[str, Any] = {
    "session": sa.select(sessions).where(sessions.c.id == _SESSION),
    "schedule": sa.select(schedules).where(schedules.c.session_id == _SESSION).order_by(schedules.c.id),
    "run": sa.select(runs).where(runs.c.session_id == _SESSION).order_by(runs.c.id),
    "journal": _of_runs(journal, runs.c.id == journal.c.run_id).order_by(journal.c.run_id, journal.c.seq),
    "inbox": sa.select(inbox).where(inbox.c.session_id == _SESSION).order_by(inbox.c.id),
    "entry": sa.select(conversation)
    .where(conversation.c.session_id == _SESSION)
    .order_by(conversation.c.seq),
    "request": _of_runs(requests, runs.c.id == requests.c.run_id).order_by(requests.c.id),
    "recipient": _of_requests(recipients).order_by(recipients.c.request_id, recipients.c.contact),
    "audit": _of_requests(audit).order_by(audit.c.id),
    "message": sa.select(messages).where(messages.c.session_id == _SESSION).order_by(messages.c.id),
    "delivery": _of_messages(deliveries).order_by(deliveries.c.id),
    "amendment": sa.select(amendments)
    .join(deliveries, deliveries.c.id == amendments.c.delivery_id)
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(messages.c.session_id == _SESSION)
    .order_by(amendments.c.delivery_id),
    "received": _of_messages(received).order_by(received.c.id),
    "file": _of_messages(files).with_only_columns(*_WITHOUT_DATA).order_by(files.c.id),
}
_GRANTS = _of_requests(grants).order_by(grants.c.id)
_DATA = sa.select(files.c.data).where(files.c.id == sa.bindparam("file", type_=sa.Uuid()))
KINDS = (*_STATEMENTS, "grant")


def rows_of(connection: Connection, session: int) -> Iterator[tuple[str, sa.Row[Any]]]:
    """Every row that belongs to a session, with what it is (of `KINDS`); of a file all but its bytes. Only a few rows are
    in memory at a time."""
    for kind, statement in _STATEMENTS.items():
        for row in connection.execute(statement.execution_options(yield_per=CHUNK), {"session": session}):
            yield kind, row


def grants_of(connection: Connection, session: int) -> list[sa.Row[Any]]:
    """The approvals in advance that were given with approvals of a session."""
    return list(connection.execute(_GRANTS, {"session": session}))


def data_of(connection: Connection, file: UUID) -> bytes:
    """The bytes of a file that is there."""
    return bytes(connection.execute(_DATA, {"file": file}).scalar_one())
