"""One session while a worker holds it: what happens next, and what that changes. Touches no database."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from wakeloop import meters, run_traces, tracing
from wakeloop.agent import Agent, WhileBusy
from wakeloop.changes import Changes
from wakeloop.conversation import Found, Wanted
from wakeloop.engine import commands as cmd
from wakeloop.engine.execution import Execution
from wakeloop.engine.failures import describe
from wakeloop.engine.journal import Kind, Record, load_waits
from wakeloop.engine.operation import Operation, RunFacts
from wakeloop.engine.values import JSON_CODEC
from wakeloop.entries import Entry
from wakeloop.errors import WakeloopError
from wakeloop.events import EVENT, Event, Message, Signal, dump_event, load_event
from wakeloop.logs import get_logger
from wakeloop.open_run import OpenRun, RunError, StepJob, StepKey
from wakeloop.status import RunStatus
from wakeloop.store.records import InboxRow, RunRow, SessionCommit, SessionRow
from wakeloop.surroundings import Surroundings
from wakeloop.triggers import Overlap, load_schedule
from wakeloop.world import World

log = get_logger("wakeloop.turn")

TAKEOVERS_BEFORE_PARKING = 5
_NEVER = datetime.min.replace(tzinfo=UTC)
_IN_TIME = operator.itemgetter(0, 1, 2)


class Turn:
    """Drives the open runs of one held session.

    `advance` does all that can be done now; `changes` is what is to be committed for it; `jobs` are the steps to start
    once that is committed. Steps' outcomes come back through `step_done`.
    """

    def __init__(
        self,
        *,
        world: World,
        agent: Agent,
        session: SessionRow,
        runs: Sequence[RunRow],
        inbox: Sequence[InboxRow],
        schedules: Sequence[Any],
        parked: Set[UUID] = frozenset(),
        soon: datetime = _NEVER,
    ) -> None:
        """`parked`: of the runs that the inbox has something for, those that are parked; it is kept for a retry. soon: a
        run whose wait is over by then is brought into memory at once, and the session held until it may go on."""
        self.world = world
        self.agent = agent
        self.session = session
        self.state = session.state
        self.failures: list[str] = []
        self.wanted: set[UUID] = set()
        self._journals: dict[UUID, list[Record]] = {}
        self._runs: dict[UUID, OpenRun] = {}
        self._ended: list[OpenRun] = []
        self._inbox: dict[int, InboxRow] = {}
        self._schedules: list[Any] = []
        self._read = Found()
        self.is_committing = False
        self._can_deliver = False
        self._now = _NEVER
        self._changes = Changes(self.world, self.session)
        self.reload(runs, inbox, schedules, parked)
        coming = (row.wake_at for row in runs if row.wake_at is not None and row.wake_at <= soon)
        self._held_until = max(coming, default=_NEVER)

    # ------------------------------------------------------------------ what comes in

    def reload(
        self, runs: Sequence[RunRow], inbox: Sequence[InboxRow], schedules: Sequence[Any], parked: Set[UUID]
    ) -> None:
        """Take note of what arrived: queued runs, inbox, schedules. What is in memory already stays as it is."""
        for row in runs:
            if row.id not in self._runs and not any(row.id == ended.id for ended in self._ended):
                waits = load_waits(row.waits) if row.waits else ()
                self._runs[row.id] = OpenRun(row=row, waits=waits)
        consumed = set(self._changes.commit.consumed)
        self._inbox = {item.id: item for item in inbox if item.id not in consumed}
        self._schedules = list(schedules)
        self._parked = set(parked)

    def add_journals(self, journals: dict[UUID, list[Record]]) -> None:
        """The journals that were wanted."""
        self._journals |= journals
        self.wanted -= journals.keys()

    def reads(self) -> list[Wanted]:
        """What its runs want to read of the session's conversation."""
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

    def step_done(
        self,
        run_id: UUID,
        op: int,
        *,
        now: datetime,
        value: Any = None,
        error: BaseException | None = None,
        chance: float,
    ) -> None:
        """Record how an attempt at a step ended. The handler sees it after the next commit."""
        run = self._runs.get(run_id)
        if run is not None and run.attempt_ended(op, now=now, value=value, error=error, chance=chance):
            self._changes.is_dirty = True
            self._collect(run)

    def committed(self, session: SessionRow) -> None:
        """What `changes` gave is committed: what was recorded may be seen."""
        self.session = session
        self._changes = Changes(self.world, self.session)
        self._can_deliver = True
        self.is_committing = False
        if tracing.tracer is not None:
            run_traces.end_all(self._ended)
            run_traces.end_all(
                (run for run in self._runs.values() if not run.is_busy(self._now)), RunStatus.WAITING
            )
        self._ended.clear()

    def park_all(self, reason: str) -> None:
        """Park every run that was running, or if none was, every one that was to begin: going on with them keeps
        killing the worker."""
        runs = [run for run in self._runs.values() if run.row.status is RunStatus.RUNNING]
        for run in runs or [run for run in self._runs.values() if not run.is_started]:
            self._park(run, WakeloopError(reason))

    # ------------------------------------------------------------------ going on

    def advance(self, now: datetime) -> None:
        """Do everything that can be done now, in the order of the times at which it became due."""
        self._now = now
        while True:
            if self._can_deliver and self._deliver_recorded():
                continue
            action = min(self._actions(), key=_IN_TIME, default=None)
            if action is None:
                break
            action[3]()
        self._can_deliver = False
        if not self._journals and not self._read.spans:
            self._read.entries.clear()
        self._note_starts()

    @property
    def _place(self) -> dict[str, Any]:
        """What log lines say of where they come from."""
        return {"agent": self.agent.name, "session": self.session.name, "turn": self.session.token}

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to commit before anything else may happen."""
        return self._changes.is_dirty

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

    def changes(self, lease_until: datetime) -> SessionCommit:
        """Everything to commit, and whether the session may be let go with it. What changes next is told after that."""
        commit = self._changes.commit
        commit.session = self.session
        commit.lease_until = lease_until
        commit.release = self.is_quiet
        commit.due_at = self.next_due()
        commit.state = self.state if self.state != self.session.state else None
        for run in self._runs.values():
            run.rest(commit)
            run.write(commit)
        for run in self._ended:
            run.write(commit)
        self.is_committing = True
        return commit

    def close(self) -> list[StepKey]:
        """Drop everything in memory; the keys of the steps that were under way."""
        keys = [
            (self.session.id, self.session.token, run.id, op)
            for run in [*self._runs.values(), *self._ended]
            for op in run.running
        ]
        if tracing.tracer is not None:
            run_traces.end_all([*self._runs.values(), *self._ended])
        for run in self._runs.values():
            if run.execution is not None:
                run.execution.close()
        self._runs.clear()
        self._ended.clear()
        return keys

    # ------------------------------------------------------------------ what may happen next

    def _actions(self) -> Iterator[tuple[datetime, int, int, Any]]:
        order = 0
        by = max(self._now, self._held_until)
        for item in self._inbox.values():
            handle = self._handler_of(item)
            if handle is not None:
                yield (item.arrived_at, 0, item.id, handle)
        for run_id, op in self._read.spans:
            known = self._runs.get(run_id)
            if known is None or not self._must_wait(known):
                yield (_NEVER, -1, 0, lambda run=known, key=(run_id, op): self._see(run, key))
        for run in list(self._runs.values()):
            order += 1
            if self._must_wait(run):
                continue
            if run.row.status is RunStatus.RUNNING and run.execution is None:
                yield (run.row.created_at, -1, order, lambda run=run: self._wake(run))
            elif run.row.status is RunStatus.QUEUED:
                start = self._starter_of(run)
                if start is not None:
                    yield (run.row.created_at, 1, order, start)
            elif run.execution is not None:
                for timer in run.execution.due_timers(self._now)[:1]:
                    assert timer.due is not None
                    yield (timer.due, 2, order, lambda run=run, timer=timer: self._ring(run, timer))
            elif run.row.wake_at is not None and run.row.wake_at <= by:
                yield (run.row.wake_at, 2, order, lambda run=run: self._wake(run))

    def _deliver_recorded(self) -> bool:
        for run in list(self._runs.values()):
            execution = run.execution
            if execution is not None and execution.has_undelivered:
                self._guarded(run, lambda execution=execution: execution.deliver_next(self.state))
                return True
        return False

    def _starter_of(self, run: OpenRun) -> Any:
        """What to do with a queued run now, or None if it has to stay queued."""
        if run.row.schedule_id is not None:
            overlap = self._overlap(run.row.schedule_id)
            others = [
                other
                for other in self._runs.values()
                if other.row.schedule_id == run.row.schedule_id and other is not run
            ]
            open_others = [other for other in others if other.is_started]
            if open_others:
                if overlap == "skip":
                    return lambda: self._skip(run, "overlap")
                if overlap == "buffer_one":
                    nominal = run.row.nominal or _NEVER
                    queued = [other for other in others if not other.is_started]
                    earlier = any((other.row.nominal or _NEVER) < nominal for other in queued)
                    return (lambda: self._skip(run, "overlap")) if earlier else None
                if overlap == "buffer_all":
                    return None
                if overlap == "cancel_other":

                    def replace_others() -> None:
                        self._cancel(open_others)
                        self._start(run)

                    return replace_others
        return lambda: self._start(run)

    def _handler_of(self, item: InboxRow) -> Any:
        """What to do with something in the inbox now, or None if it has to stay there."""
        if item.target is not None:
            run = self._runs.get(item.target)
            if run is None:
                return None if item.target in self._parked else lambda: self._consume(item)
            if self._must_wait(run):
                return None
            return self._handler_for(item, run)
        event = EVENT.validate_json(item.body or "{}")
        found = self._receiver(self._runs.values(), event)
        if found is None:
            return self._unexpected(item, event)
        run, op = found
        return None if self._must_wait(run) else lambda: self._take(item, run, op, dump_event(event))

    def _handler_for(self, item: InboxRow, run: OpenRun) -> Any:
        """What to do with something that is for one run."""
        if item.kind == "cancel":

            def cancel() -> None:
                if run.is_started and not self._wake(run, item):
                    return  # its journal comes first
                self._consume(item)
                if run.execution is not None and run.execution.cancelling and run.id in self._runs:
                    self._end(run, RunStatus.CANCELLED)  # asked again: its cleanup does not come to an end
                elif run.id in self._runs:
                    self._cancel([run])

            return cancel
        if item.kind in ("message", "signal"):
            event = EVENT.validate_json(item.body or "{}")
            found = self._receiver([run], event)
            return None if found is None else lambda: self._take(item, run, found[1], dump_event(event))
        facts = JSON_CODEC.load(item.body or "{}")
        kind, name = (Kind.CHILD, "run") if item.kind == "child" else (Kind.REPLY, "request")
        for wait in run.current_waits:
            if wait.kind is kind and wait.match is not None and wait.match.get(name) == facts[name]:
                ok = "failure" not in facts
                body = JSON_CODEC.dump(facts["value"] if ok else facts["failure"], "what came for a run")
                return lambda: self._take(item, run, wait.op, body, ok=ok)
        # A child's end is kept until the handler awaits it; a reply to a question that is settled comes too late.
        return None if kind is Kind.CHILD or not run.is_started else lambda: self._consume(item)

    def _must_wait(self, run: OpenRun) -> bool:
        return run.is_blocked or run.id in self.wanted

    def _receiver(self, runs: Iterable[OpenRun], event: Event) -> tuple[OpenRun, int] | None:
        for run in runs:
            for wait in run.current_waits:
                if wait.kind is Kind.RECEIVE and wait.match is not None and _fits(wait.match, event):
                    return run, wait.op
        return None

    def _unexpected(self, item: InboxRow, event: Event) -> Any:
        """What a message or signal does that no run waits for."""
        triggers: Any = (
            self.agent.message_triggers if isinstance(event, Message) else self.agent.signal_triggers
        )
        open_runs = list(self._runs.values())
        if not any(trigger.fits(event) for trigger in triggers):
            # It came for a wait that is over. An open run may still ask for it; if there is none, it only stays in
            # the conversation.
            return None if open_runs else lambda: self._consume(item)
        if open_runs and self.agent.while_busy is WhileBusy.ENQUEUE:
            return None
        if open_runs and self.agent.while_busy is WhileBusy.REJECT:
            log.info("rejected while busy", **self._place, kind=event.kind)
            return lambda: self._consume(item)

        def begin() -> None:
            if self.agent.while_busy is WhileBusy.INTERRUPT:
                self._cancel(open_runs)
            row = RunRow(
                id=self.world.ids.new_id(),
                session_id=self.session.id,
                status=RunStatus.QUEUED,
                event=dump_event(event),
                created_at=item.arrived_at,
                trace=item.trace,
            )
            run = self._runs[row.id] = OpenRun(row=row, is_new=True)
            self._consume(item)
            self._start(run)

        return begin

    # ------------------------------------------------------------------ doing it

    def _start(self, run: OpenRun) -> None:
        run.set(status=RunStatus.RUNNING, started_at=self._now)
        self._journals[run.id] = []
        run_traces.begin(run, self.session, run.row.trace, run_traces.START)
        self._wake(run)

    def _wake(self, run: OpenRun, item: InboxRow | None = None) -> bool:
        """Bring a run into memory, because of what came for it, if anything did; False if its journal is not here yet, or
        it cannot go on."""
        if item is not None and (run.execution is not None or run.id in self._journals):
            run_traces.begin(run, self.session, item.trace, item.kind)
        if run.execution is not None:
            return True
        if run.id not in self._journals:
            self.wanted.add(run.id)
            return False
        assert run.row.started_at is not None
        if run.span is None and run.row.status is RunStatus.RUNNING:
            run_traces.begin(run, self.session, None, run_traces.TAKEOVER)
        facts = RunFacts(
            id=str(run.id),
            session=self.session.name,
            key=self.session.key,
            event=load_event(run.row.event),
            started_at=run.row.started_at,
        )
        run.execution = Execution(
            agent=self.agent,
            facts=facts,
            journal=self._journals.pop(run.id),
            applied=run.row.applied,
            waits=run.waits if run.row.waits is not None else None,
            surroundings=Surroundings(self),
        )
        execution = run.execution
        return self._guarded(run, lambda: execution.begin(self.state))

    def _ring(self, run: OpenRun, timer: Operation) -> bool:
        assert timer.due is not None
        meters.lateness("timer", timer.due, self._now)
        return self._deliver(run, timer.no)

    def _deliver(self, run: OpenRun, op: int, value: str | None = None, *, ok: bool = True) -> bool:
        """Complete an operation of a run; False if the run was parked instead."""
        execution = run.execution
        assert execution is not None
        if op not in execution.pending:
            return True  # what it woke to took another way
        return self._guarded(
            run, lambda: execution.deliver(op, at=self._now, ok=ok, value=value, state=self.state)
        )

    def _see(self, run: OpenRun | None, key: tuple[UUID, int]) -> None:
        """Let a run see what it wanted to read, if it still does."""
        first, last = self._read.spans.pop(key)
        if run is not None and run.execution is not None:
            self._deliver(run, key[1], f"[{first},{last}]")

    def _take(self, item: InboxRow, run: OpenRun, op: int, value: str, *, ok: bool = True) -> None:
        """Give a run what came for it. If the run gets parked on it, it is kept for the run's retry."""
        if run.execution is None and run.id not in self._journals:
            self.wanted.add(run.id)
            return
        is_awake, place = self._wake(run, item), len(self._changes.commit.entries)
        if is_awake and self._deliver(run, op, value, ok=ok):
            self._consume(item, place)
        else:
            self._inbox[item.id] = replace(item, target=run.id)
            self._changes.commit.retargeted.append((item.id, run.id))

    def _cancel(self, runs: Sequence[OpenRun]) -> None:
        for run in runs:
            if not run.is_started:
                self._end(run, RunStatus.CANCELLED)
                continue
            run.set(cancelling=True, status=RunStatus.RUNNING)
            self._changes.is_dirty = True
            if run.execution is None:
                self._wake(run)
            else:
                self._raise_cancel(run)

    def _raise_cancel(self, run: OpenRun) -> bool:
        execution = run.execution
        assert execution is not None
        run.set(cancelling=False)
        if execution.cancelling or execution.outcome is not None:
            return True
        return self._guarded(run, lambda: execution.cancel(at=self._now, state=self.state))

    def _skip(self, run: OpenRun, reason: str) -> None:
        log.info("skipped", **self._place, reason=reason, nominal=str(run.row.nominal))
        run.set(skipped=reason, skip_count=1)
        self._end(run, RunStatus.CANCELLED)

    def _consume(self, item: InboxRow, place: int | None = None) -> None:
        """Note that something was taken up: what it says stands at `place` of what this commit adds to the conversation,
        before what came of it; by default at the end."""
        entries = self._changes.commit.entries
        self._changes.hear(item, len(entries) if place is None else place)
        self._inbox.pop(item.id, None)
        self._changes.commit.consumed.append(item.id)
        self._changes.is_dirty = True

    # ------------------------------------------------------------------ what came of it

    def _guarded(self, run: OpenRun, go: Any) -> bool:
        """Let a run go on, and collect what it did; park it if it cannot. False if it was parked."""
        execution = run.execution
        assert execution is not None
        try:
            if tracing.tracer is None:
                go()
                self._collect(run)
            else:
                with run_traces.working(run, self.session):
                    go()
                    self._collect(run)
        except Exception as error:
            execution.take()
            self._park(run, error)
            return False
        return self._raise_cancel(run) if run.row.cancelling else True

    def _collect(self, run: OpenRun) -> None:
        """Take over what a run's latest stretch recorded, asked for and changed."""
        execution = run.execution
        assert execution is not None
        records, commands = execution.take()
        for command in commands:
            self._changes.apply(run.id, command)
        # That it has seen what is recorded goes with the next commit: until then, seeing it again comes to the same.
        if records or commands or run.row.applied < 0:
            self._changes.is_dirty = True
        run.records.extend(records)
        run.set(applied=execution.applied, waits=None)
        if execution.state_changed:
            self.state = execution.state_text
            execution.state_before = execution.state_text
            self._changes.is_dirty = True
        for problem in execution.loop.unhandled:
            log.warning(
                "a task of the handler failed unnoticed",
                **self._place,
                run=str(run.id),
                problem=type(problem.get("exception")).__name__,
            )
        execution.loop.unhandled.clear()
        if execution.outcome is not None:
            outcome = execution.outcome
            if outcome.failure is not None:
                error = RunError(failure=outcome.failure, rewind=outcome.rewind, state=self.state)
                self._end(run, RunStatus(outcome.status), error=error)
            else:
                self._end(run, RunStatus(outcome.status), result=outcome.result)

    def _park(self, run: OpenRun, error: Exception) -> None:
        log.warning("run parked", **self._place, run=str(run.id), error=type(error).__name__)
        log.debug("run parked", **self._place, run=str(run.id), reason=str(error))
        self._end(run, RunStatus.STUCK, error=RunError(failure=describe(error)))

    def _end(
        self, run: OpenRun, status: RunStatus, *, result: str | None = None, error: RunError | None = None
    ) -> None:
        stuck = status is RunStatus.STUCK
        if stuck:
            self._parked.add(run.id)
        facts: dict[str, Any] = {"status": status, "result": result, "ended_at": self._now}
        facts["failure"] = error.model_dump_json(exclude_none=True) if error is not None else None
        if not stuck:
            facts |= {"waits": None, "wake_at": None}
        run.set(**facts)
        self._changes.is_dirty = True
        self._ended.append(run)
        self._runs.pop(run.id, None)
        if any(wait.kind is Kind.RECEIVE for wait in run.waits):
            self._changes.commit.receivers[run.id] = []
        if error is not None:
            self.failures.append(f"{self.session.name}: {error.failure.title}")
        if run.execution is not None:
            run.execution.close()
        if not stuck:
            self._changes.commit.closed_runs.append(run.id)
            self._changes.tell_parent(run.row, status, result, error.failure if error is not None else None)

    # ------------------------------------------------------------------ small things

    def _note_starts(self) -> None:
        """Choose the steps to start; those that may not be repeated are noted in the journal first."""
        for run in self._runs.values():
            execution = run.execution
            if execution is None or run.is_blocked:
                continue
            for operation in execution.steps_to_start(self._now):
                if run.choose(operation, now=self._now):
                    self._collect(run)

    def _overlap(self, schedule_id: int) -> Overlap:
        for row in self._schedules:
            if row.id == schedule_id:
                return load_schedule(row.spec).overlap
        return "allow"

    def wakeups(self) -> tuple[cmd.Wakeup, ...]:
        """The session's coming wakeups."""
        return self._changes.wakeups(self._schedules)


def _fits(match: dict[str, Any], event: Event) -> bool:
    if isinstance(event, Message):
        return match["type"] == "message" and match.get("from") in (None, event.from_)
    if isinstance(event, Signal):
        return match["type"] == "signal" and match.get("signal") in ("*", event.type)
    return False
