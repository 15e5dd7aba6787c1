"""Counts how runs get on, and tells it on the log, once that is committed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any
from uuid import UUID

from wakeloop import meters
from wakeloop.engine.journal import Kind
from wakeloop.logs import tell as tell_line
from wakeloop.open_run import RunError
from wakeloop.status import RunStatus
from wakeloop.store.records import SessionCommit

log = logging.getLogger("wakeloop.runs")
_ENDS = {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.STUCK, RunStatus.CANCELLED}


def tell(
    commit: SessionCommit, within: Callable[[UUID], AbstractContextManager[None]] = lambda _: nullcontext()
) -> None:
    """Count and log what a commit did to each of its session's runs: started, steps done, what it waits for, how it ended.

    within: makes the span of a run the current one, which log lines tell."""
    _count(commit)
    if not log.isEnabledFor(logging.INFO):
        return
    for id, values in _changed(commit):
        with within(id):
            _tell_run(commit, id, values)


def _tell_run(commit: SessionCommit, id: UUID, values: dict[str, Any]) -> None:
    session = commit.session
    place = {"agent": session.agent, "session": session.name, "run": id.hex[-8:], "turn": session.token}
    if values.get("started_at") is not None:
        tell_line(log, logging.INFO, "run started", place)
    for record in commit.records.get(id, ()):
        if record.kind is Kind.STEP:
            outcome = "step done" if record.ok else "step failed"
            tell_line(log, logging.INFO, outcome, {**place, "step": record.name})
    if values.get("waits") is not None:
        tell_line(log, logging.INFO, "run waits", {**place, **_until(values.get("wake_at"))})
    match values.get("status"):
        case RunStatus.COMPLETED | RunStatus.CANCELLED as ended:
            tell_line(log, logging.INFO, f"run {ended}", place)
        case RunStatus.FAILED:
            error = RunError.model_validate_json(values["failure"])
            tell_line(log, logging.ERROR, "run failed", {**place, "reason": error.failure.name})


def _count(commit: SessionCommit) -> None:
    for values in commit.runs.values():
        _count_run(commit, values.get("status"), values.get("skipped"), values.get("skip_count"))
    for row in commit.new_runs:
        _count_run(commit, row.status, row.skipped, row.skip_count)


def _count_run(commit: SessionCommit, status: str | None, skipped: str | None, count: int | None) -> None:
    if status in _ENDS:
        meters.series(meters.RUNS_ENDED, commit.session.agent, str(status)).inc()
    if skipped is not None:
        meters.SKIPS.labels(commit.session.agent, skipped).inc(count or 1)


def _changed(commit: SessionCommit) -> Iterator[tuple[UUID, dict[str, Any]]]:
    for row in commit.new_runs:
        facts = ("started_at", "status", "waits", "wake_at", "failure", "skipped", "skip_count")
        yield row.id, {name: getattr(row, name) for name in facts}
    yield from commit.runs.items()
    told = commit.runs.keys() | {row.id for row in commit.new_runs}
    yield from ((id, {}) for id in commit.records if id not in told)


def _until(at: datetime | None) -> dict[str, str]:
    return {} if at is None else {"until": at.astimezone().isoformat(sep=" ", timespec="seconds")}
