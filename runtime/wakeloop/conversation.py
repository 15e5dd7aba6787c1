"""What runs read of their session's conversation: which entries, from the store, as they see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy.engine import Connection

from wakeloop.engine.journal import Kind, Record
from wakeloop.engine.values import JSON_CODEC
from wakeloop.entries import Entry
from wakeloop.events import Message
from wakeloop.store import conversation
from wakeloop.store.erasure import MARKER


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An operation of a run that reads: the newest entries (`last`), those of some positions (`first`, `to`), or only
    from where to where there are any."""

    run: UUID
    op: int
    match: Mapping[str, Any]

    def span(self, oldest: int, newest: int) -> tuple[int, int]:
        """The first and the last position that it is about, both included."""
        first = self.match.get("first", newest - self.match.get("last", newest) + 1)
        last = min(self.match.get("to", newest), newest)
        first = max(first, oldest)
        return (first, last) if first <= last else (last + 1, last)


@dataclass(kw_only=True)
class Found:
    """What was read for the runs of a session: for their operations the positions, and entries by their positions."""

    spans: dict[tuple[UUID, int], tuple[int, int]] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)


def load(
    connection: Connection, wanted: Mapping[int, Sequence[Wanted]], journals: Mapping[int, Mapping[UUID, list[Record]]]
) -> dict[int, Found]:  # fmt: skip
    """By session: what these operations read, and what these journals say was read and has to be read again."""
    found = {session: Found() for session, some in wanted.items() if some}
    positions: dict[int, list[tuple[int, int]]] = {}
    for session, (oldest, newest) in conversation.bounds(connection, found).items():
        for one in wanted[session]:
            span = found[session].spans[one.run, one.op] = one.span(oldest, newest)
            if one.match:
                positions.setdefault(session, []).append(span)
    for session, of_runs in journals.items():
        spans = [
            _span(record)
            for lines in of_runs.values()
            for record in lines
            if record.kind is Kind.CONVERSATION
        ]
        if spans:
            positions.setdefault(session, []).extend(spans)
    ranges = [(session, *span) for session, spans in positions.items() for span in _merged(spans)]
    for row in conversation.ranges(connection, ranges):
        found.setdefault(row.session_id, Found()).entries[row.seq] = entry_of(row)
    return found


def _span(record: Record) -> tuple[int, int]:
    first, last = from_json(record.value or "[1,0]")
    return first, last


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same positions in as few spans as there can be, each once."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(span for span in spans if span[0] <= span[1]):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def entry_of(row: Any) -> Entry:
    """A row of `store.conversation.ranges` as an entry. A message that was deleted by age has left a marker."""
    facts: dict[str, Any] = {"seq": row.seq, "role": row.role, "at": row.at}
    if row.content is not None:
        request = None if row.source is None else str(row.source)
        return Entry(**facts, content=JSON_CODEC.load(row.content), contact=row.contact, request=request)
    if row.message_id is None:
        return Entry(**facts, content=MARKER)
    message = message_of(row, "message_")
    return Entry(**facts, content=message.text, contact=row.message_contact, message=message)


def message_of(row: Any, prefix: str = "") -> Message:
    """A row of the messages table as a Message. prefix: what its columns' names begin with."""
    attachments, contact, inbound = (
        getattr(row, f"{prefix}{name}") for name in ("attachments", "contact", "inbound")
    )
    return Message.model_validate(
        {
            "id": str(getattr(row, f"{prefix}id")),
            "text": getattr(row, f"{prefix}text"),
            "from_": contact if inbound else None,
            "to": None if inbound else contact,
            "channel": getattr(row, f"{prefix}channel"),
            "at": getattr(row, f"{prefix}at"),
            "subject": getattr(row, f"{prefix}subject"),
            "attachments": JSON_CODEC.load(attachments) if attachments else (),
        }
    )
