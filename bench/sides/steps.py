"""What a step costs with its store: runs of many steps, one run at a time."""

from __future__ import annotations

import statistics
import time

from bench.side import Stopwatch, answer
from bench.sides.embedding import any_open, embedded
from wakeloop.wiring import Runtime


def one(runtime: Runtime, steps: int, key: str) -> float:
    """The seconds of a run, from its start to its committed end."""
    watch = Stopwatch()
    runtime.intake.start("count", steps, key=key)
    while any_open(runtime.database):
        time.sleep(max(0.001, watch.seconds / 50))  # often enough, and not in the way of what is measured
    return watch.seconds


def work(url: str, sizes: list[int], steps: int) -> dict[str, float]:
    """Of each size the milliseconds of a run, and the microseconds of a step of the largest beyond those of the smallest."""
    figures = {}
    with embedded(url) as runtime:
        for number in range(3):
            one(runtime, 3, f"warm-{number}")
        for size in sizes:
            taken = [one(runtime, size, f"{size}-{number}") for number in range(max(3, steps // size))]
            figures[f"run-{size}"] = statistics.median(taken) * 1000
    few, many = sizes[0], sizes[-1]
    figures["step"] = (figures[f"run-{many}"] - figures[f"run-{few}"]) * 1000 / (many - few)
    return figures


if __name__ == "__main__":
    answer(work)
