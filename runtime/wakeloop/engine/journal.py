"""The journal: the ordered record of everything that a run asked for and received."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, TypeAdapter


class Kind(StrEnum):
    """What an operation is. Three families: delivered ones suspend the handler until something happens; done ones
    are finished where they are issued; marks are notes of the engine's own."""

    TIMER = "timer"
    STEP = "step"
    RECEIVE = "receive"
    REPLY = "reply"
    CHILD = "child"
    CANCEL = "cancel"
    CONVERSATION = "conversation"

    SEND = "send"
    ASK = "ask"
    APPROVE = "approve"
    GATE = "gate"
    SETTLE = "settle"
    SPAWN = "spawn"
    EMIT = "emit"
    SCHEDULE = "schedule"
    CONTACTS = "contacts"

    ATTEMPT = "attempt"
    STARTED = "started"
    PATCH = "patch"
    STATE = "state"
    FAILED = "failed"

    __hash__ = (
        str.__hash__
    )  # an enum's own is several times as slow, and each record is looked up in sets of these


DELIVERED = frozenset(
    {Kind.TIMER, Kind.STEP, Kind.RECEIVE, Kind.REPLY, Kind.CHILD, Kind.CANCEL, Kind.CONVERSATION}
)
DONE = frozenset(
    {
        Kind.SEND,
        Kind.ASK,
        Kind.APPROVE,
        Kind.GATE,
        Kind.SETTLE,
        Kind.SPAWN,
        Kind.EMIT,
        Kind.SCHEDULE,
        Kind.CONTACTS,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One line of a journal.

    seq: position in the journal, from 1. op: number of the operation, from 1, in the order in which the handler
    issued them (0: none). ok: whether `value` is a result, or a described failure. value: JSON text. at: when it was
    delivered; the handler's time from then on.

    What follows a delivered record, until the handler is quiet again, is a *stretch*; the first one, before any, follows
    seq 0. A mark of kind `state` has a stretch's number for a name and holds the session's state that it began with, if
    that is not what the run itself had left.
    """

    seq: int
    op: int
    kind: Kind
    name: str
    ok: bool = True
    value: str | None = None
    at: datetime

    @property
    def title(self) -> str:
        return title(self.op, self.kind, self.name)


def title(op: int, kind: str, name: str) -> str:
    """How an operation is named to people: "operation 3, step fetch"."""
    return f"operation {op}, {kind} {name}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """An operation that a suspended run waits for. `due` is a timer's time, or a step's next attempt.

    match: what fits it: `{"from": contact or None, "type": "message" or a signal's type or "*"}` for receive,
    `{"request": id}` for reply, `{"run": id}` for child, `{"last": count}` or `{"first": position, "to": position}` for
    conversation (which is read before the run is suspended)."""

    op: int
    kind: Kind
    name: str = ""
    due: AwareDatetime | None = None
    match: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        return title(self.op, self.kind, self.name)


_WAITS: TypeAdapter[tuple[Wait, ...]] = TypeAdapter(tuple[Wait, ...])


def dump_waits(waits: tuple[Wait, ...]) -> str:
    """The waits as JSON text."""
    return _WAITS.dump_json(waits, exclude_defaults=True).decode()


def load_waits(text: str) -> tuple[Wait, ...]:
    """The waits that `dump_waits` wrote."""
    return _WAITS.validate_json(text)
