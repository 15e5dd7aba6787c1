"""The statements of files that came with messages, whose bytes are kept here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert
from wakeloop.store.schema import files

_ADD = Insert(files, ("id", "message_id", "name", "content_type", "data", "created_at"))
_ID = files.c.id == sa.bindparam("file")
_FACTS: Any = sa.select(
    files.c.message_id, files.c.name, files.c.content_type, sa.func.length(files.c.data).label("size")
).where(_ID)  # fmt: skip
_DATA = sa.select(files.c.data).where(_ID)


def add(
    connection: Connection, message_id: UUID, kept: Sequence[tuple[UUID, str, str, bytes]], *, now: datetime
) -> None:
    """Keep the files of a message: each with its id, name, content type and bytes."""
    rows = [
        {"id": id, "message_id": message_id, "name": name, "content_type": kind, "data": data, "created_at": now}
        for id, name, kind, data in kept
    ]  # fmt: skip
    _ADD(connection, rows)


def facts(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """What a file is called, of what kind and how large (`size`, bytes) it is."""
    return connection.execute(_FACTS, {"file": id}).first()


def data(connection: Connection, id: UUID) -> bytes:
    """The bytes of a file that is there."""
    return bytes(connection.execute(_DATA, {"file": id}).scalar_one())
