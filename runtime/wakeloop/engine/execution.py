"""One run in memory: its handler on a deterministic loop, driven by its journal and by what happens next."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError

from wakeloop.agent import Agent
from wakeloop.engine.commands import Command
from wakeloop.engine.context import Context
from wakeloop.engine.failures import Failure, describe, rebuild
from wakeloop.engine.guard import inside_handler
from wakeloop.engine.journal import DELIVERED, DONE, Kind, Record, Wait, title
from wakeloop.engine.loop import DeterministicLoop, Halt
from wakeloop.engine.operation import Operation, Outcome, RunFacts, StepCall, Surroundings, UnknownOutcome
from wakeloop.engine.requesting import gated
from wakeloop.engine.rewinding import Rewind, Stretch, note_origin, rewind_for
from wakeloop.engine.values import JSON_CODEC, Codec, codec_for, result_codec
from wakeloop.errors import NonDeterminismError, WakeloopError
from wakeloop.gates import Gate
from wakeloop.steps import Step, current_run

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
"""When a sleep without an end is over."""

OPERATIONS_BEFORE_REST = 100_000
"""Operations that may be issued before the handler must have come to rest: some never let the loop take its turn."""


class Execution:
    """Replays a run's journal, then goes on live.

    The same journal always leads to the same operations; a difference raises NonDeterminismError. What is new since
    the replay collects in `records` and `commands`, for the caller to commit together and `take`. Completions are
    delivered one at a time, the loop run until it is quiet between two.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        facts: RunFacts,
        journal: list[Record],
        applied: int,
        waits: tuple[Wait, ...] | None,
        surroundings: Surroundings,
    ) -> None:
        """Args: journal: what is recorded, by position. applied: position of the last record whose stretch is
        committed, 0 for the first stretch, -1 if not even that is. waits: what the run waited for when it was
        suspended; None if it was not."""
        self.agent = agent
        self.facts = facts
        self.surroundings = surroundings
        self.pending: dict[int, Operation] = {}
        self.records: list[Record] = []
        self.commands: list[Command] = []
        self.outcome: Outcome | None = None
        self.cancelling = False
        self.reads = False  # of the conversation
        self.patches: dict[str, bool] = {}
        self.waits_at_rest = waits
        self.now = facts.started_at
        self.state: BaseModel | None = None
        self.state_text: str | None = None
        self.state_before: str | None = None
        self.applied = applied
        self.loop = DeterministicLoop(  # type: ignore[abstract]
            self._timer_set, first_task=zlib.crc32(facts.id.encode())
        )
        self.loop.on_timer_cancelled(self._timer_cancelled)
        self._journal = list(journal)
        self._seq = journal[-1].seq if journal else 0
        self._ops = 0
        self._done: dict[int, Record] = {}
        self._steps = _step_history(journal)
        self._replaying = True
        self._trouble: WakeloopError | None = None
        self._timers: dict[int, Operation] = {}
        self._main: asyncio.Task[Any] | None = None
        self._undelivered: list[Record] = []
        self._stretches: list[Stretch] = []
        self._states: dict[int, str | None] = {}
        self._state_codec = codec_for(agent.state) if agent.state is not None else None
        for record in journal:
            if record.kind in DONE:
                self._done[record.op] = record
            elif record.kind is Kind.STATE:
                self._states[int(record.name)] = record.value
            elif record.kind is Kind.PATCH:
                self.patches[record.name] = True

    # ------------------------------------------------------------------ driving

    def begin(self, state: str | None) -> None:
        """Start the handler, replay what is committed, and carry on with what is recorded beyond that.

        `state` is the session's state now. Raises NonDeterminismError if the handler no longer asks for what the
        journal holds, UnknownOutcome if a step that may not be repeated was under way when the run was left."""
        self._replaying = self.applied >= 0
        self._enter_stretch(0, state)
        context = contextvars.Context()
        context.run(current_run.set, self)
        self._main = self.loop.create_task(
            self.agent.handler(Context(self)), name=self.facts.id, context=context
        )
        self._rest()
        for record in self._journal[:]:  # which grows while the handler goes on
            if record.kind in DELIVERED:
                if self._main.done():
                    if not self._replaying:
                        break  # it was recorded with what ended the handler, which did not wait for it
                    self.diverge(record.title, f"the handler's end ({self._ending()})")
                was_live, before = not self._replaying, self.state_before
                self._replaying = record.seq <= self.applied
                self._apply(record, self.state_text if was_live else state)
                if was_live:
                    self.state_before = before  # what it is now goes to the session for all of them together
        if self._done:
            left = next(iter(self._done.values()))
            self.diverge(left.title, f"nothing: {self._resting()}")
        if self.waits_at_rest is not None:
            self._check_waits(self.waits_at_rest)
        self._replaying = False
        self._settle()

    def deliver(
        self, op: int, *, at: datetime, ok: bool = True, value: str | None = None, state: str | None = None
    ) -> None:
        """Record that an operation completed, and let the handler see it."""
        self.record_completion(op, at=at, ok=ok, value=value)
        self.deliver_next(state)

    def record_completion(self, op: int, *, at: datetime, ok: bool = True, value: str | None = None) -> None:
        """Record that an operation completed, without letting the handler see it yet."""
        operation = self.pending[op]
        self._undelivered.append(
            self._record(operation.no, operation.kind, operation.name, ok=ok, value=value, at=at)
        )

    def deliver_next(self, state: str | None) -> bool:
        """Let the handler see the next thing that was recorded; False if there is none. `state` is the session's."""
        if not self._undelivered or self.outcome is not None:
            return False
        self._apply(self._undelivered.pop(0), state)
        self._settle()
        return True

    def cancel(self, *, at: datetime, state: str | None = None) -> None:
        """Raise CancelledError in the handler where it waits. It may still clean up, and wait while it does."""
        self._apply(self._record(0, Kind.CANCEL, "", at=at), state)
        self._settle()

    def note(
        self, kind: Kind, operation: Operation, *, at: datetime, value: str | None = None, ok: bool = True
    ) -> None:
        """Add a mark about an operation, which the handler never sees."""
        self._record(operation.no, kind, operation.name, ok=ok, value=value, at=at)

    def take(self) -> tuple[list[Record], list[Command]]:
        """Everything new since the last call, to be committed in one transaction."""
        records, self.records = self.records, []
        commands, self.commands = self.commands, []
        return records, commands

    def close(self) -> None:
        """Drop the run from memory, wherever it stands. What it held is freed at once: nothing refers in a circle any more,
        for which Python would have to look."""
        with inside_handler(self.facts.id):
            self.loop.discard()
        self.pending.clear()
        self._main = None

    # ------------------------------------------------------------------ what is left to do

    def steps_to_start(self, now: datetime) -> list[Operation]:
        """Calls of steps that are not under way and whose next attempt is due."""
        return [
            operation
            for operation in self.pending.values()
            if operation.call is not None
            and not operation.call.running
            and (operation.due is None or operation.due <= now)
        ]

    def waits(self) -> tuple[Wait, ...]:
        """What the run waits for, in the order in which it was asked."""
        return tuple(
            Wait(op=op.no, kind=op.kind, name=op.name, due=op.due, match=op.match)
            for op in self.pending.values()  # numbered in the order in which they were put there
        )

    def next_due(self) -> datetime | None:
        """When the earliest timer or next attempt is due."""
        return min((op.due for op in self.pending.values() if op.due is not None), default=None)

    def due_timers(self, now: datetime) -> list[Operation]:
        """Timers that are due, earliest first."""
        due = [
            op
            for op in self.pending.values()
            if op.kind is Kind.TIMER and op.due is not None and op.due <= now
        ]
        return sorted(due, key=lambda op: (op.due, op.no))

    @property
    def has_undelivered(self) -> bool:
        """Whether something is recorded that the handler has not seen."""
        return bool(self._undelivered)

    @property
    def state_changed(self) -> bool:
        """Whether the latest stretch changed the session's state, if it was not a replayed one."""
        return self.state_text != self.state_before

    # ------------------------------------------------------------------ what the context and steps call

    async def run_step(self, step: Step[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Issue a call of a step and wait for its result."""
        codec = result_codec(step.function)
        operation = self._issue(Kind.STEP, step.name, codec=codec)
        history = self._steps.get(operation.no)
        call = StepCall(step=step, args=args, kwargs=kwargs, codec=codec)
        if history is not None:
            call.attempts, call.started, operation.due = history
        operation.call = call
        return await self._await(operation)

    async def run_gated(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function that runs only with a person's approval."""
        return await gated(self, gate, args, kwargs)

    async def wait(self, kind: Kind, name: str, match: dict[str, Any], codec: Codec) -> Any:
        """Issue an operation that something outside completes, and wait for it."""
        return await self._await(self._issue(kind, name, match=match, codec=codec))

    async def sleep(self, until: datetime, name: str) -> None:
        """Wait for an instant."""
        operation = self._issue(Kind.TIMER, name, due=until)
        await self._await(operation)

    def perform(
        self,
        kind: Kind,
        name: str,
        effect: Callable[[], tuple[Any, list[Command]]],
        codec: Codec = JSON_CODEC,
    ) -> Any:
        """Do something that is finished where it is issued: its value and commands are recorded in the next commit.

        Not carried out again in a replay, which returns the recorded value or raises the recorded failure."""
        op = self._next_op()
        record = self._done.pop(op, None)
        if record is not None:
            if (record.kind, record.name) != (kind, name):
                self.diverge(record.title, title(op, kind, name))
            if record.ok:
                return codec.load(record.value or "null")
            raise self._rebuilt(record, name)
        if self._replaying:
            self.diverge("nothing there", title(op, kind, name))
        try:
            value, commands = effect()
            text = codec.dump(value, f"{kind} {name}".rstrip())
        except Exception as error:
            failed = self._record(op, kind, name, ok=False, value=describe(error).model_dump_json())
            raise self._rebuilt(failed, name) from error
        self._record(op, kind, name, value=text)
        self.commands.extend(commands)
        return value

    def tell(self, command: Command) -> None:
        """Ask for something that has no value: it goes with the next commit, and is not asked for again in a replay."""
        if self.loop.is_closed():
            raise Halt
        if not self._replaying:
            self.commands.append(command)
            if len(self.commands) > OPERATIONS_BEFORE_REST:
                self._refuse_to_rest()

    def patched(self, name: str) -> bool:
        """Whether the code after a change is to be used: see Context.patched."""
        if name not in self.patches:
            self.patches[name] = not self._replaying
            if self.patches[name]:
                self._record(0, Kind.PATCH, name)
        return self.patches[name]

    # ------------------------------------------------------------------ inside

    def _next_op(self) -> int:
        if self.loop.is_closed():
            raise Halt
        self._ops += 1
        if self._ops > self._stretches[-1].ops + OPERATIONS_BEFORE_REST:
            self._refuse_to_rest()
        return self._ops

    def _refuse_to_rest(self) -> NoReturn:
        self._trouble = self._trouble or WakeloopError(
            f"the handler does not come to rest: it asked for {OPERATIONS_BEFORE_REST:,} things without waiting for "
            "anything; put an `await asyncio.sleep(seconds)` or `await ctx.receive()` in its loop"
        )
        raise Halt

    def _issue(self, kind: Kind, name: str, **details: Any) -> Operation:
        self._next_op()
        operation = Operation(no=self._ops, kind=kind, name=name, future=self.loop.create_future(), **details)
        self.pending[operation.no] = operation
        if kind is Kind.CONVERSATION:
            self.reads = True
        return operation

    async def _await(self, operation: Operation) -> Any:
        assert operation.future is not None
        try:
            return await operation.future
        except asyncio.CancelledError:
            self.pending.pop(operation.no, None)
            raise
        finally:
            operation.future = None  # an exception in it refers to this frame

    def _timer_set(self, handle: asyncio.TimerHandle) -> None:
        self._next_op()
        try:
            due = self.facts.started_at + timedelta(microseconds=round(handle.when() * 1_000_000))
        except OverflowError:
            due = FOREVER if handle.when() > 0 else self.now
        operation = Operation(no=self._ops, kind=Kind.TIMER, name="", timer=handle, due=due)
        self.pending[operation.no] = operation
        self._timers[id(handle)] = operation

    def _timer_cancelled(self, handle: asyncio.TimerHandle) -> None:
        operation = self._timers.pop(id(handle), None)
        if operation is not None:
            self.pending.pop(operation.no, None)

    def _record(
        self,
        op: int,
        kind: Kind,
        name: str,
        *,
        ok: bool = True,
        value: str | None = None,
        at: datetime | None = None,
    ) -> Record:
        self._seq += 1
        record = Record(
            seq=self._seq, op=op, kind=kind, name=name, ok=ok, value=value, at=max(self.now, at or self.now)
        )
        self.records.append(record)
        self._journal.append(record)
        return record

    def _apply(self, record: Record, state: str | None) -> None:
        """Let the handler see one completion, and run it until it is quiet."""
        self.now = record.at
        self.loop.advance((record.at - self.facts.started_at).total_seconds())
        self._enter_stretch(record.seq, state)
        if record.kind is Kind.CANCEL:
            self.cancelling = True
            assert self._main is not None
            self._main.cancel()
            self._rest()
            return
        operation = self.pending.get(record.op)
        if operation is None:
            if record.op <= self._ops:
                return  # it was asked for, and given up before this came
            self.diverge(record.title, f"nothing: {self._resting()}")
        if (operation.kind, operation.name) != (record.kind, record.name):
            self.diverge(record.title, operation.title)
        del self.pending[operation.no]
        if operation.timer is not None:
            self._timers.pop(id(operation.timer), None)
            self.loop.fire(operation.timer)
        elif operation.future is not None and not operation.future.done():
            if record.ok:
                try:
                    operation.future.set_result(operation.codec.load(record.value or "null"))
                except ValidationError as error:
                    self.diverge(
                        record.title,
                        f"{operation.title}, whose type the recorded value does not fit: {error}",
                    )
            else:
                operation.future.set_exception(self._rebuilt(record, operation.name))
        self._rest()

    def _rebuilt(self, record: Record, name: str) -> Exception:
        error = rebuild(Failure.model_validate_json(record.value or "{}"), name, kind=record.kind)
        note_origin(error, record.seq)
        return error

    def _rest(self) -> None:
        with inside_handler(self.facts.id):
            while True:
                try:
                    self.loop.run_until_quiet()
                    break
                except SystemExit:
                    continue  # a task holds it: the run may fail of it, the worker goes on
                except KeyboardInterrupt:
                    if threading.current_thread() is threading.main_thread():
                        raise  # somebody's Ctrl-C
        if self._trouble is not None:
            raise self._trouble
        if self._state_codec is not None:
            self.state_text = self._dump_state()
        if self._replaying:
            self.state_before = self.state_text

    def _settle(self) -> None:
        """Note the handler's end, if it has ended, and refuse steps whose outcome nobody knows."""
        main = self._main
        assert main is not None
        if not main.done():
            for operation in self.pending.values():
                call = operation.call
                if call is not None and not call.running and call.started > call.attempts:
                    raise UnknownOutcome(
                        f"{operation.title} of run {self.facts.id} was under way when its worker died, and is not to be "
                        "repeated (idempotent=False): find out whether it took effect, then tell with `wakeloop retry`",
                        op=operation.no, step=operation.name,
                    )  # fmt: skip
            return
        if main.cancelled():
            error: BaseException | None = (
                None if self.cancelling else WakeloopError("the handler cancelled itself")
            )
        else:
            error = main.exception()
        if main.cancelled() and error is None:
            self.outcome = Outcome(status="cancelled")
        elif error is None:
            try:
                text = result_codec(self.agent.handler).dump(
                    main.result(), f"the result of agent {self.agent.name}"
                )
                self.outcome = Outcome(status="completed", result=text)
            except WakeloopError as refusal:
                self.outcome = Outcome(status="failed", failure=describe(refusal), rewind=self._rewind(None))
        else:
            self.outcome = Outcome(status="failed", failure=describe(error), rewind=self._rewind(error))

    def _rewind(self, error: BaseException | None) -> Rewind:
        return rewind_for(error, self._journal, self._stretches)

    def _check_waits(self, recorded: tuple[Wait, ...]) -> None:
        before = [(wait.op, wait.kind, wait.name) for wait in recorded]
        after = [(op.no, op.kind, op.name) for op in self.pending.values()]
        assert self._main is not None
        if self._main.done():
            self.diverge(_titles(before), f"the handler's end ({self._ending()})")
        if before != after:
            self.diverge(_titles(before), _titles(after) or "nothing")

    def diverge(self, recorded: str, issued: str) -> NoReturn:
        """Stop: the run is parked, for its code does not ask for what is recorded."""
        self.stop(
            NonDeterminismError(
                f"run {self.facts.id} of {self.agent.name} cannot go on: its journal holds {recorded}, its code asks for "
                f"{issued}. Either the code before this point changed while the run was asleep: restore it, or keep both ways "
                "with ctx.patched(...). Or it does not do the same each time: take times, random numbers and what comes from "
                "outside from ctx or a step. Then `wakeloop retry`",
                recorded=recorded, issued=issued,
            )
        )  # fmt: skip

    def stop(self, trouble: WakeloopError) -> NoReturn:
        """Stop: the run is parked with this reason, whatever its handler makes of it."""
        self._trouble = self._trouble or trouble
        raise self._trouble

    def _resting(self) -> str:
        waiting = _titles([(op.no, op.kind, op.name) for op in self.pending.values()])
        return f"it waits for {waiting}" if waiting else "it waits for nothing"

    def _ending(self) -> str:
        assert self._main is not None
        if self._main.cancelled():
            return "cancelled"
        error = self._main.exception()
        return "returned" if error is None else f"raised {type(error).__name__}: {error}"

    # ------------------------------------------------------------------ state

    def _enter_stretch(self, seq: int, state: str | None) -> None:
        """Take over the session's state if others changed it: as recorded, or live from `state`, and record that."""
        if not self._replaying:
            self.applied = seq
        if self._state_codec is None or self.agent.state is None:
            self._stretches.append(Stretch(seq, self._ops, None, False))
            return
        if self._replaying:
            text = self._states.get(seq)
        else:
            if state is None and self.state_text is None:
                state = self._state_codec.dump(self.agent.state(), self._state_name())
            text = state if state != self.state_text else None
            if text is not None:
                self._record(0, Kind.STATE, str(seq), value=text)
        if text is not None:
            self._refresh(text)
        self.state_before = self.state_text
        self._stretches.append(Stretch(seq, self._ops, self.state_text, text is not None))

    def _refresh(self, text: str) -> None:
        """Make the state what others left, in place, so that references which the handler holds see it too."""
        assert self._state_codec is not None and self.agent.state is not None
        try:
            fresh = self._state_codec.load(text)
        except ValidationError as error:
            self.diverge(f"the state {text[:200]}", f"a state that fits {self.agent.state.__name__}: {error}")
        if self.state is not None and type(self.state) is type(fresh):
            for slot in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
                object.__setattr__(self.state, slot, getattr(fresh, slot))
        else:
            self.state = fresh
        self.state_text = text

    def _dump_state(self) -> str:
        assert self._state_codec is not None and self.agent.state is not None
        if not isinstance(self.state, self.agent.state):
            raise WakeloopError(
                f"ctx.state was set to {self.state!r}; it must stay a {self.agent.state.__name__}"
            )
        return self._state_codec.dump(self.state, self._state_name())

    def _state_name(self) -> str:
        return f"the state of session {self.facts.session}"


def _step_history(journal: list[Record]) -> dict[int, tuple[int, int, datetime | None]]:
    history: dict[int, tuple[int, int, datetime | None]] = {}
    for record in journal:
        if record.kind is Kind.STARTED:
            attempts, started, due = history.get(record.op, (0, 0, None))
            history[record.op] = (attempts, started + 1, due)
        elif record.kind is Kind.ATTEMPT:
            attempts, started, due = history.get(record.op, (0, 0, None))
            facts = JSON_CODEC.load(record.value or "{}")
            again = facts.get("again")
            history[record.op] = (
                attempts + 1,
                started,
                datetime.fromisoformat(again).astimezone(UTC) if again else None,
            )
    return history


def _titles(operations: list[tuple[int, Kind, str]]) -> str:
    return "; ".join(title(no, kind, name) for no, kind, name in operations)
