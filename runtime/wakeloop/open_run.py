"""A run that a worker has taken up with its session: its row, its execution, and what is to be written of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from wakeloop.engine.execution import Execution
from wakeloop.engine.failures import Failure, describe
from wakeloop.engine.journal import Kind, Record, Wait, dump_waits
from wakeloop.engine.operation import Operation
from wakeloop.engine.rewinding import Rewind
from wakeloop.engine.values import JSON_CODEC
from wakeloop.errors import WakeloopError
from wakeloop.status import RunStatus
from wakeloop.steps import Step
from wakeloop.store.records import Receiver, RunRow, SessionCommit, SessionRow
from wakeloop.tracing import Span

StepKey = tuple[int, int, UUID, int]
"""Names an attempt at a step: session, the session's fencing token, run, operation."""


class RunError(BaseModel):
    """Why a run is parked: the failure, where a retry takes up again, and the session's state when it failed: what the
    run did to it since there is taken back by the retry, if nobody has changed it after that."""

    failure: Failure
    rewind: Rewind | None = None
    state: str | None = None


@dataclass(frozen=True, kw_only=True)
class StepJob:
    """A call of a step that is to be carried out now. `key` names it in what comes back. span: the run's."""

    key: StepKey
    agent: str
    step: Step[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    attempt: int
    span: Span | None = None


@dataclass(kw_only=True)
class OpenRun:
    """A run of the held session that is not over.

    values: the columns of its row that changed. records: what its journal gained. running: steps under way, or chosen
    to be, by operation; chosen: those of them that begin with the next commit. span: of its work in this turn, if there
    are traces. since: when it was queued, or was to be."""

    row: RunRow
    is_new: bool = False
    execution: Execution | None = None
    waits: tuple[Wait, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    running: dict[int, Operation] = field(default_factory=dict)
    chosen: list[Operation] = field(default_factory=list)
    span: Span | None = None
    since: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.row.wake_at if self.is_coming and self.row.wake_at else self.row.created_at

    @property
    def id(self) -> UUID:
        return self.row.id

    @property
    def is_started(self) -> bool:
        return self.row.status is not RunStatus.QUEUED

    @property
    def is_coming(self) -> bool:
        """Whether it was queued ahead of its time, and that has not struck yet."""
        return self.row.status is RunStatus.QUEUED and self.row.wake_at is not None

    @property
    def is_blocked(self) -> bool:
        """Whether something is recorded for it that it must see first, once that is committed."""
        return self.execution is not None and self.execution.has_undelivered

    @property
    def current_waits(self) -> tuple[Wait, ...]:
        """What it waits for now."""
        return self.execution.waits() if self.execution is not None else self.waits

    def set(self, **values: Any) -> None:
        """Change columns of its row."""
        row = self.row
        for name, value in values.items():
            if getattr(row, name) != value:
                setattr(row, name, value)
                if not self.is_new:
                    self.values[name] = value

    # ------------------------------------------------------------------ its steps

    def is_busy(self, now: datetime) -> bool:
        """Whether something is under way, or can be begun, so that its session must be held."""
        return bool(
            self.is_blocked or self.running or (self.execution and self.execution.steps_to_start(now))
        )

    def choose(self, operation: Operation, *, now: datetime) -> bool:
        """Let an attempt at a step begin with the next commit; whether that has to be noted in the journal first."""
        execution, call = self.execution, operation.call
        assert execution is not None and call is not None
        call.running = True
        self.running[operation.no] = operation
        self.chosen.append(operation)
        operation.due = None
        if call.step.options.idempotent:
            return False
        call.started += 1
        execution.note(Kind.STARTED, operation, at=now)
        return True

    def jobs(self, session: SessionRow) -> Iterator[StepJob]:
        """The attempts to begin now that everything before them is committed."""
        chosen, self.chosen = self.chosen, []
        for operation in chosen:
            call = operation.call
            if call is not None and operation.no in self.running:
                yield StepJob(
                    key=(session.id, session.token, self.id, operation.no), agent=session.agent, step=call.step,
                    args=call.args, kwargs=call.kwargs, attempt=call.attempts + 1, span=self.span,
                )  # fmt: skip

    def attempt_ended(
        self, op: int, *, now: datetime, value: Any = None, error: BaseException | None = None, chance: float
    ) -> bool:
        """Record how an attempt at a step ended; whether anybody still waits for it. chance: spreads the next attempt, 0
        to 1."""
        execution = self.execution
        if execution is None or op not in self.running:
            return False
        operation = self.running.pop(op)
        call = operation.call
        assert call is not None
        if op not in execution.pending:
            return False
        call.running = False
        if error is None:
            try:
                text = call.codec.dump(value, f"the result of step {operation.name}")
                execution.record_completion(op, at=now, value=text)
            except WakeloopError as refusal:
                execution.record_completion(op, at=now, ok=False, value=describe(refusal).model_dump_json())
            return True
        call.attempts += 1
        options = call.step.options
        if call.attempts <= options.retries and options.backoff.wants(error):
            wait = options.backoff.wait_seconds(call.attempts, chance)
            again = now + timedelta(seconds=wait)
            operation.due = again
            facts = {"error": describe(error).title, "attempt": call.attempts, "again": again.isoformat()}
            execution.note(Kind.ATTEMPT, operation, at=now, ok=False, value=JSON_CODEC.dump(facts, "attempt"))
        else:
            execution.record_completion(op, at=now, ok=False, value=describe(error).model_dump_json())
        return True

    def abandoned(self) -> Iterator[int]:
        """The steps under way that its handler waits for no more; they are forgotten."""
        for op in list(self.running) if self.running else ():
            if self.execution is None or op not in self.execution.pending:
                del self.running[op]
                yield op

    # ------------------------------------------------------------------ what is to be written

    @property
    def next_due(self) -> datetime | None:
        """When its next timer or attempt is due."""
        return self.execution.next_due() if self.execution is not None else self.row.wake_at

    def rest(self, commit: SessionCommit) -> None:
        """Note in its row what it waits for, if its session is let go with this commit, and who is waited for."""
        execution = self.execution
        if execution is None:
            return
        waits = execution.waits()
        if commit.release:
            self.set(status=RunStatus.WAITING, waits=dump_waits(waits), wake_at=execution.next_due())
        else:
            self.set(status=RunStatus.RUNNING, waits=None, wake_at=None)
        if receivers(waits) != receivers(self.waits):
            commit.receivers[self.id] = receivers(waits)
        self.waits = waits

    def write(self, commit: SessionCommit) -> None:
        """Put what changed of it into a commit."""
        if self.is_new:
            commit.new_runs.append(self.row)
            self.is_new = False
        elif self.values:
            commit.runs[self.id] = dict(self.values)
        self.values.clear()
        if self.records:
            commit.records[self.id], self.records = self.records, []


def receivers(waits: tuple[Wait, ...]) -> list[Receiver]:
    """Those of these that a message or a signal ends."""
    return [
        Receiver(op=wait.op, contact=wait.match.get("from"), signal=wait.match.get("signal"))
        for wait in waits
        if wait.kind is Kind.RECEIVE and wait.match is not None
    ]
