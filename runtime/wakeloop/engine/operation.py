"""What an execution is given, asks for and comes to: a run's facts, its operations, and how its handler ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from wakeloop.asking import RequestSpec
from wakeloop.engine.commands import Wakeup
from wakeloop.engine.failures import Failure
from wakeloop.engine.journal import Kind, title
from wakeloop.engine.rewinding import Rewind
from wakeloop.engine.values import JSON_CODEC, Codec
from wakeloop.entries import Entry
from wakeloop.errors import WakeloopError
from wakeloop.events import Event
from wakeloop.people import Card
from wakeloop.steps import Step


class Surroundings(Protocol):
    """What a live handler may ask about the world; the answers are journaled."""

    def new_id(self) -> UUID: ...

    def check_contact(self, contact: str, via: str | None) -> str:
        """The channel on which the contact is reached first. Raises NotFound if there is no such contact, or it has
        no address on `via`."""
        ...

    def check_request(self, spec: RequestSpec) -> None:
        """Raises NotFound if somebody whom it names is not there or cannot be reached, and NotPossible if those who are
        asked may not decide about it, or are too few to."""
        ...

    def contacts(self) -> tuple[Card, ...]:
        """What may be known of the people, as of now."""
        ...

    def check_agent(self, name: str) -> None:
        """Raises NotFound if there is no such agent."""
        ...

    def wakeups(self) -> tuple[Wakeup, ...]:
        """The session's coming wakeups, as of now."""
        ...

    def entries(self, first: int, last: int) -> tuple[Entry, ...]:
        """Of the session's conversation the entries at these positions, both included, that a read operation which has
        just completed is about."""
        ...

    def reading(self) -> Step[..., bytes]:
        """The step that gives the bytes of an attachment."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run is: fixed when it starts, the same in every replay."""

    id: str
    session: str
    key: str
    event: Event
    started_at: datetime


@dataclass(kw_only=True, eq=False)
class Operation:
    """Something that the handler asked for and has not received yet."""

    no: int
    kind: Kind
    name: str
    future: asyncio.Future[Any] | None = None
    timer: asyncio.TimerHandle | None = None
    due: datetime | None = None
    match: dict[str, Any] | None = None
    call: StepCall | None = None
    codec: Codec = JSON_CODEC

    @property
    def title(self) -> str:
        return title(self.no, self.kind, self.name)


@dataclass(kw_only=True, eq=False)
class StepCall:
    """One call of a step: what to run, and how far its attempts have come.

    attempts: how many have failed. started: how many were noted as begun (only if not idempotent). running: an
    attempt is under way in this process."""

    step: Step[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    codec: Codec
    attempts: int = 0
    started: int = 0
    running: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a handler ended. `rewind`: where a retry of one that failed takes up again."""

    status: str
    result: str | None = None
    failure: Failure | None = None
    rewind: Rewind | None = None


class UnknownOutcome(WakeloopError):
    """A step that may not be repeated was under way when its worker died. Facts: `op`, `step`."""

    op: int
    step: str
