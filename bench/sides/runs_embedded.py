"""Runs a second of wakeloop embedded in one process: starts in threads, and everything else beside them."""

from __future__ import annotations

from bench.side import Stopwatch, answer
from bench.sides.embedding import embedded
from bench.sides.starting import at_the_intake, await_all, check, warmed


def work(url: str, runs: int, steps: int, starters: int, warm: int) -> dict[str, float]:
    """Runs a second, from the first start to the last committed end."""
    with embedded(url) as runtime:
        warmed(runtime, steps, warm)
        watch = Stopwatch()
        at_the_intake(runtime, runs, steps, starters)
        started = watch.seconds
        await_all(runtime.database)
        seconds, cpu = watch.seconds, watch.cpu
        check(runtime.database, runs + warm)
    return {"rate": runs / seconds, "cpu": cpu / runs * 1000, "starting": started}


if __name__ == "__main__":
    answer(work)
