"""A run that a worker has taken up with its session: its row, its execution, and what is to be written of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from wakeloop.engine.execution import Execution
from wakeloop.engine.failures import Failure
from wakeloop.engine.journal import Record, Rewind, Wait
from wakeloop.engine.operation import Operation
from wakeloop.status import RunStatus
from wakeloop.steps import Step
from wakeloop.store.records import RunRow
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
    are traces."""

    row: RunRow
    is_new: bool = False
    execution: Execution | None = None
    waits: tuple[Wait, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    running: dict[int, Operation] = field(default_factory=dict)
    chosen: list[Operation] = field(default_factory=list)
    span: Span | None = None

    @property
    def id(self) -> UUID:
        return self.row.id

    @property
    def is_started(self) -> bool:
        return self.row.status is not RunStatus.QUEUED

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
