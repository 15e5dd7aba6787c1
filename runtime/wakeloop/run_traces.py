"""The spans of runs: one for each run that a turn works on, from what woke it until it waits again.

A run's row carries the trace in which it began and, once something else has woken it, behind that the trace in which it
goes on. So a worker that takes the run over from one that died goes on in the same trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from wakeloop import tracing
from wakeloop.open_run import OpenRun, RunError
from wakeloop.status import RunStatus
from wakeloop.store.records import SessionRow

TIMER = "timer"
TAKEOVER = "takeover"
START = "start"


def begin(run: OpenRun, session: SessionRow, cause: str | None, by: str) -> None:
    """A run goes on in this turn. cause: the carried context of what woke it, if that belongs to a trace. by: what it was.

    The span is a child of its cause, and has a link to the trace in which the run began, if that is another. What no trace
    led to begins one of its own."""
    tracer = tracing.tracer
    if tracer is None:
        return
    end(run)
    began, last = _parts(run.row.trace)
    if by == TAKEOVER:
        cause = last
    links = [began] if began is not None and _trace_of(began) != _trace_of(cause) else []
    facts = {
        "messaging.system": "wakeloop",
        "messaging.operation.name": "turn",
        "messaging.operation.type": "process",
        "messaging.destination.name": session.agent,
        "wakeloop.agent": session.agent,
        "wakeloop.session": session.key,
        "wakeloop.run": str(run.id),
        "wakeloop.turn": session.token,
        "wakeloop.woken_by": by,
    }
    run.span = tracer.start(
        f"turn {session.agent}", "consumer", facts, parent=cause, links=links, is_root=cause is None
    )
    here = cause if cause is not None else run.span.carried
    if began is None:
        run.set(trace=here)
    elif here != last:
        run.set(trace=f"{began}{tracing.BEHIND_ANOTHER}{here}")


def working(run: OpenRun, session: SessionRow) -> AbstractContextManager[None]:
    """Let a run's span be the current one for what it does within; begin one if it has none, because its time has come."""
    if run.span is None:
        begin(run, session, None, TIMER)
    assert run.span is not None
    return run.span.current()


def end(run: OpenRun, status: RunStatus | None = None) -> None:
    """A run waits again, is over, or is not worked on here any more. status: how it stands, if not as its row says."""
    span, run.span = run.span, None
    if span is None:
        return
    status = status or run.row.status
    span.note({"wakeloop.status": str(status)})
    if status in (RunStatus.FAILED, RunStatus.STUCK) and run.row.failure is not None:
        failure = RunError.model_validate_json(run.row.failure).failure
        plain = failure.module in ("", "builtins")
        span.fail(failure.name if plain else f"{failure.module}.{failure.name}")
    span.end()


def end_all(runs: Iterable[OpenRun], status: RunStatus | None = None) -> None:
    """The same for each of these."""
    for run in runs:
        end(run, status)


def _parts(stored: str | None) -> tuple[str | None, str | None]:
    """Where a run began, and where it goes on."""
    parts = (stored or "").split(tracing.BEHIND_ANOTHER)
    return parts[0] or None, parts[-1] or None


def _trace_of(carried: str | None) -> str | None:
    """The id of a carried context's trace."""
    return None if carried is None else carried.split("-", 2)[1]
