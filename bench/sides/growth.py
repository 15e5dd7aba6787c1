"""A conversation that grows, a message to a wake: bytes stored, and the time of a further wake."""

from __future__ import annotations

import statistics
import threading
from pathlib import Path

from bench.bytes_stored import bytes_of, bytes_stored
from bench.side import Stopwatch, answer
from bench.sides.embedding import any_open, embedded
from bench.texts import message

AGENTS = Path(__file__).parents[1] / "talking"
LOOK_SECONDS = 1.0
TABLE = "conversation"


def work(url: str, lengths: list[int], further: int) -> dict[str, float]:
    """At each length, the bytes beyond those of an empty store, and the milliseconds of each of so many further wakes."""
    figures: dict[str, float] = {}
    changed = threading.Event()
    with embedded(url, agents=AGENTS) as runtime:
        runtime.watch(changed.set)
        empty = bytes_stored(url)
        told = 0

        def tell() -> float:
            nonlocal told
            watch = Stopwatch()
            runtime.intake.start("listener", message(told), key="talk")
            while any_open(runtime.database):
                changed.wait(LOOK_SECONDS)
                changed.clear()
            told += 1
            return watch.seconds

        for length in lengths:
            while told < length:
                tell()
            for name, now, then in zip(("bytes", "disk"), bytes_stored(url), empty, strict=True):
                figures[f"{name}-{length}"] = now - then
            if (own := bytes_of(url, TABLE)) is not None:
                figures[f"own-{length}"] = own
            figures[f"wake-{length}"] = statistics.median(tell() for _ in range(further)) * 1000
    return figures


if __name__ == "__main__":
    answer(work)
