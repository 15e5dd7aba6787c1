"""Starting many runs at once and seeing them end, from one process: in threads at the intake, or through the web service by the
public client."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

from bench.side import Stopwatch
from bench.sides.embedding import any_open, completed
from wakeloop import AsyncClient
from wakeloop.store.database import Database
from wakeloop.wiring import Runtime

LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 600


def at_the_intake(runtime: Runtime, runs: int, steps: int, starters: int, *, first: int = 0) -> None:
    """Start runs in sessions of their own: what the command line and the web service do for each start."""
    numbers = itertools.count(first)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def start() -> None:
        try:
            while True:
                with lock:
                    number = next(numbers)
                if number >= first + runs:
                    return
                runtime.intake.start("count", steps, key=str(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(starters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def by_the_client(url: str, runs: int, steps: int, starters: int) -> None:
    """The same through the web service."""

    async def go() -> None:
        async with AsyncClient(url) as client:
            numbers = iter(range(runs))

            async def start() -> None:
                for number in numbers:
                    await client.start("count", steps, key=str(number))

            async with asyncio.TaskGroup() as group:
                for _ in range(starters):
                    group.create_task(start())

    asyncio.run(go())


def warmed(runtime: Runtime, steps: int, warm: int) -> None:
    """Let everything that is made on first use be made."""
    at_the_intake(runtime, warm, steps, 4, first=1_000_000)
    await_all(runtime.database)


def await_all(database: Database) -> None:
    """Return when every run is over. Raises TimeoutError."""
    watch = Stopwatch()
    while any_open(database):
        if watch.seconds > PATIENCE_SECONDS:
            raise TimeoutError(f"after {PATIENCE_SECONDS} s some runs are not over")
        time.sleep(LOOK_SECONDS)


def check(database: Database, runs: int) -> None:
    """Raises AssertionError unless that many runs have completed, warm ones included."""
    found = completed(database)
    assert found == runs, f"{found} of {runs} runs completed"
