"""Runs a second of workers that run already: this process starts them, and sees them end."""

from __future__ import annotations

from pathlib import Path

from bench.side import Stopwatch, answer, cpu_of
from bench.sides.embedding import AGENTS
from bench.sides.starting import at_the_intake, await_all, by_the_client, check, warmed
from wakeloop.celery import celery_app
from wakeloop.celery_app import CeleryDispatcher
from wakeloop.settings import Settings
from wakeloop.wiring import Runtime


def work(
    url: str,
    broker: str,
    runs: int,
    steps: int,
    starters: int,
    warm: int,
    workers: list[int],
    web: str | None,
) -> dict[str, float]:
    """Runs a second, from the first start to the last committed end. workers: their pids. web: the address of the web
    service, if starts are to go through it."""
    settings = Settings(database_url=url, broker_url=broker, agents_dir=Path(AGENTS))
    runtime = Runtime(settings)
    runtime.hand_over(CeleryDispatcher(celery_app(settings, lambda: runtime)))  # as the web service does
    warmed(runtime, steps, warm)
    before = sum(map(cpu_of, workers))
    watch = Stopwatch()
    if web is not None:
        by_the_client(web, runs, steps, starters)
    else:
        at_the_intake(runtime, runs, steps, starters)
    started = watch.seconds
    await_all(runtime.database)
    seconds, own = watch.seconds, watch.cpu
    cpu = own + sum(map(cpu_of, workers)) - before
    check(runtime.database, runs + warm)
    return {
        "rate": runs / seconds,
        "cpu": cpu / runs * 1000,
        "starting": started,
        "starting-cpu": own / runs * 1000,
    }


if __name__ == "__main__":
    answer(work)
