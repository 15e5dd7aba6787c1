"""A session as JSON lines: everything that the store holds about it, one row to a line."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Generator
from typing import Any

from pydantic_core import from_json, to_json

from wakeloop.errors import NotFound
from wakeloop.store import exports
from wakeloop.store.database import Database
from wakeloop.store.inbox import find_session
from wakeloop.store.migration import head

VERSION = 1
"""Of the form. It grows when a line of an older one could be misread; new kinds of lines and new columns may come any time."""

JSON_COLUMNS = frozenset(
    {
        ("session", "state"), ("schedule", "spec"), ("run", "event"), ("run", "waits"), ("run", "result"), ("run", "failure"),
        ("journal", "value"), ("inbox", "body"), ("entry", "content"), ("request", "spec"), ("request", "args"), ("request", "outcome"),
        ("request", "state"), ("recipient", "draft"), ("message", "attachments"), ("received", "raw"), ("grant", "limits"),
    }
)  # fmt: skip
"""Columns that hold JSON as text: given as what it says, or as the text if it is none."""


def export_session(database: Database, name: str, *, with_files: bool = True) -> Generator[bytes, None, None]:
    """The lines of a session that is named `agent/key`, each with its line end, of one moment however long they are read.

    The first says `{"wakeloop": "export", "version": 1, …}`, each other has a `kind` and the columns of its row; the last
    counts them, so that one that is cut short is seen. with_files: a file's bytes too, in base64.

    Raises NotFound if there is no such session, before the first line."""
    agent, _, key = name.partition("/")
    with database.snapshot() as connection:
        session = find_session(connection, agent, key or "default")
        if session is None:
            raise NotFound(f"there is no session {agent}/{key or 'default'}; `wakeloop sessions` lists them")
        yield _line(
            {
                "wakeloop": "export", "version": VERSION, "session": f"{agent}/{key or 'default'}", "schema": head(),
                "at": database.now(), "files": with_files,
            }
        )  # fmt: skip
        count = 0
        for kind, row in exports.rows_of(connection, session):
            data = _row(kind, row)
            if kind == "file" and with_files:
                data["data"] = b64encode(exports.data_of(connection, row.id)).decode()
            yield _line(data)
            count += 1
        for row in exports.grants_of(connection, session):
            yield _line(_row("grant", row))
            count += 1
        yield _line({"kind": "end", "lines": count})


def _row(kind: str, row: Any) -> dict[str, Any]:
    # A column may be called kind as well: what kind of line it is stands first, and the row's own kind is `type`.
    columns = {("type" if name == "kind" else name): value for name, value in row._mapping.items()}
    return {"kind": kind} | {name: _value(kind, name, value) for name, value in columns.items()}


def _value(kind: str, name: str, value: Any) -> Any:
    if value is None or (kind, name) not in JSON_COLUMNS:
        return value
    try:
        return from_json(value)
    except ValueError:
        return value


def _line(data: dict[str, Any]) -> bytes:
    return to_json(data) + b"\n"
