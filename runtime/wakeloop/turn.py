"""One session while a worker holds it: what happens next, and what that changes. Touches no database."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from wakeloop import calendar, in_hand, meters, run_traces, tracing
from wakeloop.agent import Agent
from wakeloop.changes import Changes
from wakeloop.engine import commands as cmd
from wakeloop.engine.execution import Execution
from wakeloop.engine.failures import describe
from wakeloop.engine.journal import Kind
from wakeloop.engine.operation import Operation, RunFacts
from wakeloop.errors import WakeloopError
from wakeloop.events import Event, begin_tick, dump_event, load_event
from wakeloop.in_hand import NEVER, Deed, SessionInHand
from wakeloop.logs import get_logger
from wakeloop.open_run import OpenRun, RunError, StepKey
from wakeloop.status import RunStatus
from wakeloop.store.records import InboxRow, RunRow, SessionCommit, SessionRow
from wakeloop.surroundings import Surroundings
from wakeloop.triggers import MISFIRE_GRACE
from wakeloop.world import World

log = get_logger("wakeloop.turn")

TAKEOVERS_BEFORE_PARKING = 5


class Turn(SessionInHand):
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
        soon: datetime = NEVER,
    ) -> None:
        """`parked`: of the runs that the inbox has something for, those that are parked; it is kept for a retry. soon: a
        run whose wait is over by then is brought into memory at once, and the session held until it may go on."""
        super().__init__(
            agent=agent,
            session=session,
            runs=runs,
            inbox=inbox,
            schedules=schedules,
            parked=parked,
            soon=soon,
        )
        self.world = world
        self.state = session.state
        self.failures: list[str] = []
        self.is_committing = False
        self._can_deliver = False
        self._changes = Changes(self.world, self.session)

    # ------------------------------------------------------------------ what comes in

    def reload(
        self, runs: Sequence[RunRow], inbox: Sequence[InboxRow], schedules: Sequence[Any], parked: Set[UUID]
    ) -> None:
        """Take note of what arrived: queued runs, inbox, schedules. What is in memory already stays as it is."""
        consumed = set(self._changes.commit.consumed)
        self._note(runs, (item for item in inbox if item.id not in consumed), schedules, parked)

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

    def park_all(self, now: datetime, reason: str) -> None:
        """Park every run that was running, or if none was, every one that was to begin: going on with them keeps
        killing the worker."""
        self._now = now
        self._strike()
        runs = [run for run in self._runs.values() if run.row.status is RunStatus.RUNNING]
        for run in runs or [run for run in self._runs.values() if not run.is_started and not run.is_coming]:
            self._park(run, WakeloopError(reason))

    # ------------------------------------------------------------------ going on

    def advance(self, now: datetime) -> None:
        """Do everything that can be done now, in the order of the times at which it became due."""
        self._now = now
        self._strike()
        while True:
            if self._can_deliver and self._deliver_recorded():
                continue
            deed = self._next()
            if deed is None:
                break
            self._do(deed)
        self._can_deliver = False
        if not self._journals and not self._read.spans:
            self._read.entries.clear()
        self._note_starts()

    @property
    def is_dirty(self) -> bool:
        """Whether there is something to commit before anything else may happen."""
        return self._changes.is_dirty

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

    # ------------------------------------------------------------------ doing it

    def _do(self, deed: Deed) -> None:
        match deed:
            case in_hand.Start(run=run, instead_of=others):
                self._cancel(others)
                self._start(run)
            case in_hand.Skip(run=run, reason=reason):
                self._skip(run, reason)
            case in_hand.Begin(item=item, event=event, instead_of=others):
                self._cancel(others)
                self._begin(item, event)
            case in_hand.Reject(item=item, event=event):
                log.info("rejected while busy", **self._place, kind=event.kind)
                self._consume(item)
            case in_hand.Receive(item=item, run=run, op=op, event=event):
                self._take(item, run, op, dump_event(event))
            case in_hand.Answer(item=item, run=run, op=op, value=value, ok=ok):
                self._take(item, run, op, value, ok=ok)
            case in_hand.Heed(item=item, run=run):
                self._heed(item, run)
            case in_hand.Consume(item=item):
                self._consume(item)
            case in_hand.See(run=run_or_none, key=key):
                self._see(run_or_none, key)
            case in_hand.Wake(run=run):
                self._wake(run)
            case in_hand.Ring(run=run, timer=timer):
                self._ring(run, timer)

    def _deliver_recorded(self) -> bool:
        for run in list(self._runs.values()):
            execution = run.execution
            if execution is not None and execution.has_undelivered:
                self._guarded(run, lambda execution=execution: execution.deliver_next(self.state))
                return True
        return False

    def _begin(self, item: InboxRow, event: Event) -> None:
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

    def _strike(self) -> None:
        """Let it be queued like any other what was queued ahead of its time, when that has come."""
        for run in [run for run in self._runs.values() if run.is_coming]:
            due = run.row.wake_at
            if due is None or due > self._now:
                continue
            meters.lateness("schedule", due, self._now)
            run.set(wake_at=None, event=begin_tick(run.row.event, self._now))
            self._changes.commit.struck.append(run.id)
            self._changes.is_dirty = True
            if self._now - due > MISFIRE_GRACE:
                schedule = self._schedule(run.row.schedule_id)
                reason = calendar.outdated(schedule, due, self._now) if schedule is not None else None
                if reason is not None:
                    self._skip(run, reason)

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

    def _heed(self, item: InboxRow, run: OpenRun) -> None:
        """Cancel a run because somebody asked for it."""
        if run.is_started and not self._wake(run, item):
            return  # its journal comes first
        self._consume(item)
        if run.execution is not None and run.execution.cancelling and run.id in self._runs:
            self._end(run, RunStatus.CANCELLED)  # asked again: its cleanup does not come to an end
        elif run.id in self._runs:
            self._cancel([run])

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
        self._has_readers = self._has_readers or execution.reads
        for command in commands:
            self._changes.apply(run.id, command)
            if isinstance(command, cmd.CancelWakeup):
                self._withdraw(command.id)
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

    def _withdraw(self, ref: str) -> None:
        """Cancel what a wakeup that is no more had queued ahead of its time."""
        ids = {row.id for row in self._schedules if row.ref == ref}
        for run in [run for run in self._runs.values() if run.is_coming and run.row.schedule_id in ids]:
            self._end(run, RunStatus.CANCELLED)

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

    def wakeups(self) -> tuple[cmd.Wakeup, ...]:
        """The session's coming wakeups."""
        coming = {
            run.row.schedule_id: run.row.nominal
            for run in sorted(self._runs.values(), key=lambda run: run.since, reverse=True)
            if run.is_coming and run.row.schedule_id is not None and run.row.nominal is not None
        }
        return self._changes.wakeups(self._schedules, coming)
