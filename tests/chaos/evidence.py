"""What a campaign leaves behind: marks outside, what providers took, what was said, and all rows of the store."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from tests.chaos.people import Word
from tests.chaos.plan import Plan

from wakeloop.engine.values import JSON_CODEC
from wakeloop.store import schema
from wakeloop.testing.telegram import TelegramMessage
from wakeloop.testing.twilio import StandInMessage

COMPLETED = "completed"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A line of the file of effects. place: its place in it."""

    place: int
    process: str
    at: float
    what: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as the store has it. journal: its rows, in order."""

    id: str
    session: str
    agent: str
    status: str
    event: Mapping[str, Any]
    result: Any
    failure: str | None
    parent: str | None
    schedule: int | None
    nominal: datetime | None
    skipped: str | None
    skip_count: int
    journal: tuple[Any, ...]

    @property
    def results(self) -> list[str]:
        """What its handler saw its steps give."""
        return list(self.result.get("results", [])) if isinstance(self.result, dict) else []


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What is known without the store. taken: the status that each call of the plan was answered with, by its number.
    acknowledged: how often each word was taken. written: what was written on Telegram, by its text. left: of that, what
    was never fetched. steps: of the database's clock, as (from, until, seconds). bombs: processes that a pickle ended.
    leases: what was wrong with the leases that were looked at, of how many looks. told: how often a person told what became
    of a gated function. last_ticks: the last occurrence of each schedule before it was ended."""

    plan: Plan
    taken: Mapping[int, int]
    marks: Sequence[Mapping[str, Any]]
    sms: Sequence[StandInMessage]
    telegram: Sequence[TelegramMessage]
    words: Sequence[Word]
    acknowledged: Mapping[str, int]
    forged: Mapping[int, int] = field(default_factory=dict)
    written: Sequence[str] = ()
    left: int = 0
    steps: Sequence[tuple[float, float, float]] = ()
    bombs: int = 0
    leases: Sequence[str] = ()
    looks: int = 0
    told: int = 0
    last_ticks: Mapping[int, datetime] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All of it. rows: by table."""

    outside: Outside
    rows: Mapping[str, Sequence[Any]]

    @cached_property
    def sessions(self) -> dict[int, Any]:
        """By id."""
        return {row.id: row for row in self.rows["sessions"]}

    def name(self, session: int | None) -> str | None:
        """`agent/key`."""
        row = self.sessions.get(session or 0)
        return None if row is None else f"{row.agent}/{row.key}"

    @cached_property
    def runs(self) -> dict[str, Run]:
        """By id, in the order in which they were made."""
        journals: dict[Any, list[Any]] = defaultdict(list)
        for row in self.rows["journal"]:
            journals[row.run_id].append(row)
        return {str(row.id): self._run(row, journals[row.id]) for row in self.rows["runs"]}

    def _run(self, row: Any, journal: list[Any]) -> Run:
        session = self.sessions[row.session_id]
        return Run(
            id=str(row.id), session=f"{session.agent}/{session.key}", agent=session.agent, status=row.status,
            event=json.loads(row.event), result=JSON_CODEC.load(row.result) if row.result else None,
            failure=row.failure, parent=str(row.parent_id) if row.parent_id else None, schedule=row.schedule_id,
            nominal=row.nominal, skipped=row.skipped, skip_count=row.skip_count or 0,
            journal=tuple(sorted(journal, key=lambda one: one.seq)),
        )  # fmt: skip

    @cached_property
    def completed(self) -> list[Run]:
        """The runs that came to their end."""
        return [run for run in self.runs.values() if run.status == COMPLETED]

    def of(self, agent: str) -> list[Run]:
        """The completed runs of an agent."""
        return [run for run in self.completed if run.agent == agent]

    @cached_property
    def marks(self) -> list[Mark]:
        """In the order in which they were made."""
        return [
            Mark(place=place, process=line["process"], at=line["at"], what=line["what"], facts=line)
            for place, line in enumerate(self.outside.marks)
        ]

    @cached_property
    def steps(self) -> dict[str, dict[str, list[Mark]]]:
        """What steps did, by run and part."""
        found: dict[str, dict[str, list[Mark]]] = defaultdict(lambda: defaultdict(list))
        for mark in self.marks:
            if mark.what == "step":
                found[mark.facts["run"]][mark.facts["part"]].append(mark)
        return found

    @cached_property
    def began(self) -> dict[str, int]:
        """The place in the marks at which each process began."""
        return {mark.process: mark.place for mark in reversed(self.marks) if mark.what == "process"}

    @cached_property
    def texts(self) -> dict[Any, str]:
        """What each message says."""
        return {row.id: row.text for row in self.rows["messages"]}

    @cached_property
    def copies(self) -> Counter[str]:
        """How often each text was sent by Telegram."""
        return Counter(message.text for message in self.outside.telegram)

    def moved(self, begin: float, end: float, *, lag: float) -> float:
        """By how many seconds the database's clock may have been stepped between these two moments, as processes saw it,
        which learn of a step so many seconds later at the most."""
        return sum(
            abs(step) for since, until, step in self.outside.steps if since <= end and begin <= until + lag
        )


def wall(monotonic: float) -> datetime:
    """What the machine's clock showed then."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + monotonic, UTC)


def monotonic(at: datetime) -> float:
    """What the monotonic clock showed then."""
    return time.monotonic() - time.time() + at.timestamp()


TABLES = (
    schema.sessions, schema.runs, schema.journal, schema.inbox, schema.received, schema.messages, schema.deliveries,
    schema.requests, schema.recipients, schema.audit, schema.schedules,
)  # fmt: skip


def gather(connection: Connection, outside: Outside) -> Evidence:
    """Read the store as it is in this transaction."""
    return Evidence(
        outside=outside, rows={table.name: list(connection.execute(sa.select(table))) for table in TABLES}
    )
