"""A session in a worker's hand: what is known of it, and what may happen next. Chooses, and does nothing."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from wakeloop import tracing
from wakeloop.agent import Agent, WhileBusy
from wakeloop.conversation import Found, Wanted
from wakeloop.engine.journal import Kind, Record, load_waits
from wakeloop.engine.operation import Operation
from wakeloop.engine.values import JSON_CODEC
from wakeloop.entries import Entry
from wakeloop.events import ANY_SIGNAL, EVENT, Event, Message, Signal
from wakeloop.open_run import OpenRun, StepJob, StepKey
from wakeloop.status import RunStatus
from wakeloop.store.records import InboxRow, RunRow, SessionRow
from wakeloop.triggers import Schedule, load_schedule

NEVER = datetime.min.replace(tzinfo=UTC)
_IN_TIME = operator.itemgetter(0, 1, 2)


class Start(NamedTuple):
    """A queued run begins; those that are open are cancelled."""

    run: OpenRun
    instead_of: Sequence[OpenRun] = ()


class Skip(NamedTuple):
    """A queued run is left out."""

    run: OpenRun
    reason: str


class Begin(NamedTuple):
    """A message or signal begins a run of its own; those that are open are cancelled."""

    item: InboxRow
    event: Event
    instead_of: Sequence[OpenRun] = ()


class Reject(NamedTuple):
    """A message or signal comes while the session is busy with something else, and is only taken note of."""

    item: InboxRow
    event: Event


class Receive(NamedTuple):
    """A run gets the message or signal that it waits for."""

    item: InboxRow
    run: OpenRun
    op: int
    event: Event


class Answer(NamedTuple):
    """A run gets the answer, or the failure, that it waits for."""

    item: InboxRow
    run: OpenRun
    op: int
    value: str
    ok: bool


class Heed(NamedTuple):
    """A run is cancelled because somebody asked for it."""

    item: InboxRow
    run: OpenRun


class Consume(NamedTuple):
    """Something in the inbox is only taken note of."""

    item: InboxRow


class See(NamedTuple):
    """A run sees what it wanted to read of the conversation, if it is still there."""

    run: OpenRun | None
    key: tuple[UUID, int]


class Wake(NamedTuple):
    """A run is brought into memory."""

    run: OpenRun


class Ring(NamedTuple):
    """A run's timer rings."""

    run: OpenRun
    timer: Operation


Deed = Start | Skip | Begin | Reject | Receive | Answer | Heed | Consume | See | Wake | Ring
Choice = tuple[datetime, int, int, Deed]
"""What may happen: since when, then by which rank and in which place among its like."""


class SessionInHand:
    """The open runs of a held session, what has come for it, and what that allows at a time."""

    def __init__(
        self,
        *,
        agent: Agent,
        session: SessionRow,
        runs: Sequence[RunRow],
        inbox: Sequence[InboxRow],
        schedules: Sequence[Any],
        parked: Set[UUID],
        soon: datetime,
    ) -> None:
        self.agent = agent
        self.session = session
        self.wanted: set[UUID] = set()
        self._journals: dict[UUID, list[Record]] = {}
        self._runs: dict[UUID, OpenRun] = {}
        self._ended: list[OpenRun] = []
        self._inbox: dict[int, InboxRow] = {}
        self._schedules: list[Any] = []
        self._read = Found()
        self._has_readers = False  # of the conversation
        self._now = NEVER
        self._note(runs, inbox, schedules, parked)
        coming = (row.wake_at for row in runs if row.wake_at is not None and row.wake_at <= soon)
        self._held_until = max(coming, default=NEVER)

    # ------------------------------------------------------------------ what is known

    def _note(
        self, runs: Sequence[RunRow], inbox: Iterable[InboxRow], schedules: Sequence[Any], parked: Set[UUID]
    ) -> None:
        for row in runs:
            if row.id not in self._runs and not any(row.id == ended.id for ended in self._ended):
                waits = load_waits(row.waits) if row.waits else ()
                self._runs[row.id] = OpenRun(row=row, waits=waits)
        there = {row.id for row in runs}
        for run in [run for run in self._runs.values() if run.is_coming and run.id not in there]:
            del self._runs[run.id]  # its schedule was ended, and it with that
        self._inbox = {item.id: item for item in inbox}
        self._schedules = list(schedules)
        self._parked = set(parked)

    def add_journals(self, journals: dict[UUID, list[Record]]) -> None:
        """The journals that were wanted."""
        self._journals |= journals
        self.wanted -= journals.keys()

    def needs_journals(self, now: datetime) -> set[UUID]:
        """The runs that will surely be looked into."""
        by = max(now, self._held_until)
        targets = {item.target for item in self._inbox.values()}
        arrived = any(item.kind in ("message", "signal") for item in self._inbox.values())
        return {
            run.id
            for run in self._runs.values()
            if run.execution is None
            and run.is_started
            and run.id not in self._journals
            and (
                run.row.status is RunStatus.RUNNING
                or (run.row.wake_at is not None and run.row.wake_at <= by)
                or run.id in targets
                or (arrived and any(wait.kind is Kind.RECEIVE for wait in run.waits))
            )
        }

    def reads(self) -> list[Wanted]:
        """What its runs want to read of the session's conversation."""
        if not self._has_readers:
            return []
        return [
            Wanted(run=run.id, op=operation.no, match=operation.match or {})
            for run in self._runs.values()
            if run.execution is not None and run.execution.reads
            for operation in run.execution.pending.values()
            if operation.kind is Kind.CONVERSATION and (run.id, operation.no) not in self._read.spans
        ]

    def add_entries(self, found: Found) -> None:
        """What was read for it, and for the journals that were wanted."""
        self._read.spans |= found.spans
        self._read.entries |= found.entries

    def entries(self, first: int, last: int) -> tuple[Entry, ...]:
        """Those of these entries that were read."""
        return tuple(self._read.entries[seq] for seq in range(first, last + 1) if seq in self._read.entries)

    @property
    def wants_more(self) -> bool:
        """Whether it cannot go on without something from the store."""
        return bool(self.wanted or self.reads())

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way, or will be in a moment, so that the session may be let go."""
        return (
            not self.wants_more
            and not self._read.spans
            and not any(run.is_busy(self._now) for run in self._runs.values())
            and not self._is_held
        )

    @property
    def _is_held(self) -> bool:
        """Whether it was taken up for a time that is still to come."""
        due = self.next_due() if self._now < self._held_until else None
        return due is not None and due <= self._held_until

    def next_due(self) -> datetime | None:
        """When the next timer or attempt of any of its runs is due."""
        dues = [due for run in self._runs.values() if (due := run.next_due) is not None]
        return min(dues, default=None)

    def jobs(self) -> list[StepJob]:
        """The steps to start now that everything before them is committed."""
        return [job for run in self._runs.values() for job in run.jobs(self.session)]

    def within(self, run_id: UUID) -> AbstractContextManager[None]:
        """Let the span of a run, if it has one, be the current one for what is done within."""
        runs = (run for run in [*self._runs.values(), *self._ended] if run.id == run_id)
        span = next((run.span for run in runs), None) if tracing.tracer is not None else None
        return nullcontext() if span is None else span.current()

    def abandoned(self) -> list[StepKey]:
        """Keys of steps under way that no handler waits for any more."""
        runs = [*self._runs.values(), *self._ended]
        return [(self.session.id, self.session.token, run.id, op) for run in runs for op in run.abandoned()]

    @property
    def _place(self) -> dict[str, Any]:
        """What log lines say of where they come from."""
        return {"agent": self.agent.name, "session": self.session.name, "turn": self.session.token}

    # ------------------------------------------------------------------ what may happen next

    def _next(self) -> Deed | None:
        """What became possible first of all that may happen now."""
        choice = min(self._choices(), key=_IN_TIME, default=None)
        return None if choice is None else choice[3]

    def _choices(self) -> Iterator[Choice]:
        by = max(self._now, self._held_until)
        for item in self._inbox.values():
            deed = self._deed_for(item)
            if deed is not None:
                yield item.arrived_at, 0, item.id, deed
        for key in self._read.spans:
            known = self._runs.get(key[0])
            if known is None or not self._must_wait(known):
                yield NEVER, -1, 0, See(known, key)
        for order, run in enumerate(self._runs.values(), start=1):
            if self._must_wait(run):
                continue
            if run.row.status is RunStatus.RUNNING and run.execution is None:
                yield run.since, -1, order, Wake(run)
            elif run.is_coming:
                continue
            elif run.row.status is RunStatus.QUEUED:
                start = self._start_of(run)
                if start is not None:
                    yield run.since, 1, order, start
            elif run.execution is not None:
                for timer in run.execution.due_timers(self._now)[:1]:
                    assert timer.due is not None
                    yield timer.due, 2, order, Ring(run, timer)
            elif run.row.wake_at is not None and run.row.wake_at <= by:
                yield run.row.wake_at, 2, order, Wake(run)

    def _must_wait(self, run: OpenRun) -> bool:
        return run.is_blocked or run.id in self.wanted

    def _start_of(self, run: OpenRun) -> Start | Skip | None:
        """What to do with a queued run now, or None if it has to stay queued."""
        if run.row.schedule_id is None:
            return Start(run)
        others = [
            other
            for other in self._runs.values()
            if other.row.schedule_id == run.row.schedule_id and other is not run
        ]
        open_others = [other for other in others if other.is_started]
        schedule = self._schedule(run.row.schedule_id) if open_others else None
        overlap = schedule.overlap if schedule is not None else "allow"
        if overlap == "allow":
            return Start(run)
        if overlap == "skip":
            return Skip(run, "overlap")
        if overlap == "buffer_one":
            nominal = run.row.nominal or NEVER
            earlier = any((other.row.nominal or NEVER) < nominal for other in others if not other.is_started)
            return Skip(run, "overlap") if earlier else None
        if overlap == "buffer_all":
            return None
        return Start(run, instead_of=open_others)

    def _schedule(self, id: int | None) -> Schedule | None:
        """The schedule with this id, if it has not ended."""
        return next((load_schedule(row.spec) for row in self._schedules if row.id == id), None)

    def _deed_for(self, item: InboxRow) -> Deed | None:
        """What to do with something in the inbox now, or None if it has to stay there."""
        if item.target is not None:
            run = self._runs.get(item.target)
            if run is None:
                return None if item.target in self._parked else Consume(item)
            return None if self._must_wait(run) else self._deed_for_run(item, run)
        event = EVENT.validate_json(item.body or "{}")
        found = self._receiver(self._runs.values(), event)
        if found is None:
            return self._unexpected(item, event)
        run, op = found
        return None if self._must_wait(run) else Receive(item, run, op, event)

    def _deed_for_run(self, item: InboxRow, run: OpenRun) -> Deed | None:
        """What to do with something that is for one run."""
        if item.kind == "cancel":
            return Heed(item, run)
        if item.kind in ("message", "signal"):
            event = EVENT.validate_json(item.body or "{}")
            found = self._receiver([run], event)
            return None if found is None else Receive(item, run, found[1], event)
        facts = JSON_CODEC.load(item.body or "{}")
        kind, name = (Kind.CHILD, "run") if item.kind == "child" else (Kind.REPLY, "request")
        for wait in run.current_waits:
            if wait.kind is kind and wait.match is not None and wait.match.get(name) == facts[name]:
                ok = "failure" not in facts
                body = JSON_CODEC.dump(facts["value"] if ok else facts["failure"], "what came for a run")
                return Answer(item, run, wait.op, body, ok)
        # A child's end is kept until the handler awaits it; a reply to a question that is settled comes too late.
        return None if kind is Kind.CHILD or not run.is_started else Consume(item)

    def _receiver(self, runs: Iterable[OpenRun], event: Event) -> tuple[OpenRun, int] | None:
        for run in runs:
            for wait in run.current_waits:
                if wait.kind is Kind.RECEIVE and wait.match is not None and _fits(wait.match, event):
                    return run, wait.op
        return None

    def _unexpected(self, item: InboxRow, event: Event) -> Deed | None:
        """What a message or signal does that no run waits for."""
        triggers: Any = (
            self.agent.message_triggers if isinstance(event, Message) else self.agent.signal_triggers
        )
        open_runs = [run for run in self._runs.values() if not run.is_coming]
        if not any(trigger.fits(event) for trigger in triggers):
            # It came for a wait that is over. An open run may still ask for it; if there is none, it only stays in
            # the conversation.
            return None if open_runs else Consume(item)
        if open_runs and self.agent.while_busy is WhileBusy.ENQUEUE:
            return None
        if open_runs and self.agent.while_busy is WhileBusy.REJECT:
            return Reject(item, event)
        interrupted = open_runs if self.agent.while_busy is WhileBusy.INTERRUPT else ()
        return Begin(item, event, instead_of=interrupted)


def _fits(match: dict[str, Any], event: Event) -> bool:
    if isinstance(event, Message):
        return match["type"] == "message" and match.get("from") in (None, event.from_)
    if isinstance(event, Signal):
        return match["type"] == "signal" and match.get("signal") in (ANY_SIGNAL, event.type)
    return False
