"""What a handler asked for that changes the store: data, applied in one transaction with the run's journal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from wakeloop.asking import RequestSpec
from wakeloop.events import Message, Signal
from wakeloop.triggers import Schedule


@dataclass(frozen=True, kw_only=True)
class SendMessage:
    """Put a message into the outbox. `via`: the only channel that may be used. `urgent`: in quiet hours too."""

    message: Message
    via: str | None = None
    urgent: bool = False


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """Record a question or an approval, made at `at`, which the desk then puts to people."""

    id: str
    spec: RequestSpec
    at: datetime


@dataclass(frozen=True, kw_only=True)
class CancelRequest:
    """End a request that nobody waits for any more, if it is still open."""

    id: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class SpawnRun:
    """Queue a run of another agent, whose end this run may wait for."""

    id: str
    agent: str
    key: str
    input: str


@dataclass(frozen=True, kw_only=True)
class EmitSignal:
    """Publish a signal to the agents that listen for its type."""

    signal: Signal


@dataclass(frozen=True, kw_only=True)
class SetWakeup:
    """Give this session a schedule of its own."""

    id: str
    schedule: Schedule
    anchor: datetime


@dataclass(frozen=True, kw_only=True)
class CancelWakeup:
    """Take a schedule of this session's own away."""

    id: str


@dataclass(frozen=True, kw_only=True)
class AppendEntry:
    """Put an entry at the end of the session's conversation. `content` is JSON text."""

    role: str
    content: str


Command = (
    SendMessage | OpenRequest | CancelRequest | SpawnRun | EmitSignal | SetWakeup | CancelWakeup | AppendEntry
)


@dataclass(frozen=True, kw_only=True)
class Wakeup:
    """A future wakeup of a session. `next` is when it comes; `own` tells whether the session set it itself."""

    id: str
    schedule: Schedule
    next: datetime | None
    own: bool


def seconds(value: float | timedelta, what: str) -> float:
    """A duration in seconds. Raises TypeError for anything but a number or a timedelta."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{what} is a number of seconds or a timedelta, not {value!r}")


def sendable(text: str) -> str:
    """A text without NUL characters, which no provider sends and PostgreSQL does not keep."""
    return text.replace("\x00", "")
