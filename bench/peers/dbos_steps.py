"""What a step costs with its store: workflows of many steps, one at a time."""

from __future__ import annotations

import asyncio
import statistics

from dbos import DBOS

from bench.peers.dbos_app import count, launch
from bench.side import Stopwatch, answer


async def one(steps: int) -> float:
    """The seconds of a workflow, from its start to its end, which is committed before the result is told."""
    watch = Stopwatch()
    handle = await DBOS.start_workflow_async(count, steps)
    await handle.get_result()
    return watch.seconds


async def all_of(sizes: list[int], steps: int) -> dict[str, float]:
    figures = {}
    for _ in range(3):
        await one(3)
    for size in sizes:
        taken = [await one(size) for _ in range(max(3, steps // size))]
        figures[f"run-{size}"] = statistics.median(taken) * 1000
    few, many = sizes[0], sizes[-1]
    figures["step"] = (figures[f"run-{many}"] - figures[f"run-{few}"]) * 1000 / (many - few)
    return figures


def work(url: str, sizes: list[int], steps: int) -> dict[str, float]:
    """See bench.sides.steps."""
    launch(url)
    return asyncio.run(all_of(sizes, steps))


if __name__ == "__main__":
    answer(work)
