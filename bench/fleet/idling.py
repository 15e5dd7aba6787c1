"""A worker that has nothing to do, with none, some and very many asleep in the store."""

from __future__ import annotations

from bench.fleet import processes
from bench.fleet.ours import Ours
from bench.fleet.sleepers import idle
from bench.lab import Lab
from bench.sleepers import fill, put_to_sleep

IDLE_SECONDS = 20.0
STEPS = 3


def ours(lab: Lab, *, counts: tuple[int, ...]) -> dict[str, float]:
    """One Celery worker, started anew on a store with so many asleep; the first has done STEPS steps, and
    the database itself makes copies of it. rss-…: its resident memory in bytes, after it has done a few runs; cpu-…: the
    percentage of a CPU that it takes."""
    figures = {}
    for count in counts:
        with lab.database(sqlite=False) as url, Ours(lab.folder(), url, lab.redis) as side:
            if count:
                put_to_sleep(side.runtime.database, 1, STEPS)
                fill(side.runtime.database, 1, count)
                side.vacuum_analyze()
            with side.workers(1) as (worker,):
                figures[f"cpu-{count}"] = 100 * idle([worker.pid], IDLE_SECONDS)
                figures[f"rss-{count}"] = processes.rss(worker.pid)
    return figures
