"""The statements of the audit record: every attempt to decide a request, in the order in which they came."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert
from wakeloop.store.schema import audit

_APPEND = Insert(
    audit, ("request_id", "at", "contact", "act", "result", "channel", "auth", "digest", "comment")
)
_LIST = sa.select(audit).where(audit.c.request_id == sa.bindparam("request")).order_by(audit.c.id)


def append(
    connection: Connection, request_id: UUID, *, at: datetime, act: str, result: str, contact: str | None = None,
    channel: str | None = None, auth: str | None = None, digest: str | None = None, comment: str | None = None,
) -> None:  # fmt: skip
    """Add a line. The database itself refuses to change or remove one."""
    row = {
        "request_id": request_id, "at": at, "contact": contact, "act": act, "result": result, "channel": channel,
        "auth": auth, "digest": digest, "comment": comment,
    }  # fmt: skip
    _APPEND(connection, [row])


def of_request(connection: Connection, request_id: UUID) -> list[sa.Row[Any]]:
    """What happened to a request, oldest first."""
    return list(connection.execute(_LIST, {"request": request_id}))
