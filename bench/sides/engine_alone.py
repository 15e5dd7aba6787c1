"""What a journaled operation costs the engine itself, live and in replay: no store, no threads, no broker."""

from __future__ import annotations

import gc
import statistics
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from bench.agents.trivial import count
from bench.side import Stopwatch, answer
from wakeloop.engine.execution import Execution
from wakeloop.engine.journal import Record
from wakeloop.engine.operation import RunFacts
from wakeloop.events import Call

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def execution(operations: int, journal: list[Record]) -> Execution:
    facts = RunFacts(
        id=str(UUID(int=1)),
        session="count/default",
        key="default",
        event=Call(input=operations),
        started_at=BEGIN,
    )
    surroundings: Any = None  # this handler asks it for nothing
    applied = journal[-1].seq if journal else -1
    return Execution(
        agent=count, facts=facts, journal=journal, applied=applied, waits=None, surroundings=surroundings
    )


def live(operations: int) -> tuple[float, list[Record]]:
    """The seconds from the handler's begin to its end, and the journal."""
    journal: list[Record] = []
    watch = Stopwatch()
    run = execution(operations, [])
    run.begin(None)
    for number in range(1, operations + 1):
        run.deliver(number, at=BEGIN, value=str(number))
        journal += run.take()[0]
    seconds = watch.cpu
    assert run.outcome is not None and run.outcome.status == "completed", run.outcome
    run.close()
    return seconds, journal


def replayed(operations: int, journal: list[Record]) -> float:
    """The seconds in which a run is brought back to its last step but one, and does that one."""
    watch = Stopwatch()
    run = execution(operations, journal[:-1])
    run.begin(None)
    run.deliver(operations, at=BEGIN, value=str(operations))
    seconds = watch.cpu
    assert run.outcome is not None and run.outcome.status == "completed", run.outcome
    run.close()
    return seconds


def work(sizes: list[int], operations: int) -> dict[str, float]:
    """Microseconds of CPU per operation for each journal size, medians of as many runs as make `operations`."""
    figures = {}
    live(100)
    for size in sizes:
        times = max(3, operations // size)
        alive, back = [], []
        gc.collect()
        for _ in range(times):
            seconds, journal = live(size)
            alive.append(seconds / size * 1e6)
            back.append(replayed(size, journal) / size * 1e6)
        figures[f"live-{size}"] = statistics.median(alive)
        figures[f"replay-{size}"] = statistics.median(back)
    figures["growth"] = figures[f"replay-{sizes[-1]}"] / figures[f"replay-{sizes[-2]}"]
    return figures


if __name__ == "__main__":
    answer(work)
