"""Crons: many schedules on every minute; how late their ticks are, and what a minute costs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from tests.servers import Program

from bench.fleet import processes
from bench.fleet.marks import FOLDER, Marks
from bench.fleet.ours import WORKERS, Ours, wait
from bench.fleet.sleepers import lateness
from bench.lab import PEERS, Lab, environment

EVERY_MINUTE = "* * * * *"
SET_UP_SECONDS = 1800.0
MINUTE = 60.0
PATIENCE_SECONDS = 240.0
REST_SECONDS = 5.0
"""An idle stretch shorter than this tells nothing."""


def ours(lab: Lab, *, count: int, workers: int = WORKERS) -> dict[str, float]:
    """wakeloop: `count` sessions of one agent, each of which has given itself `cron("* * * * *")` by `ctx.schedule.set`, on
    Celery workers that claim them; there is no scheduler process. What is measured: see `minute`; the handler notes the time
    in its first line."""
    with (
        lab.database(sqlite=False) as url,
        Ours(lab.folder(), url, lab.redis) as side,
        side.workers(workers) as programs,
    ):
        side.start("ticker", ((str(number), EVERY_MINUTE) for number in range(count)))
        side.wait(
            lambda: int(side.query("SELECT count(*) FROM schedules")) == count, SET_UP_SECONDS, every=0.5
        )
        return minute(side.marks, [program.pid for program in programs], count, names=("tick",))


def beat(lab: Lab, *, count: int, redbeat: bool) -> dict[str, float]:
    """Celery beat, with its own scheduler or redbeat's: `count` entries with `crontab()`, one beat process, and one worker
    with Celery's defaults (prefork, a child for each CPU) that executes a task which notes the time. What is measured: see
    `minute`; sent_… is when beat had published the message."""
    lab.redis.flushall()
    folder = lab.folder()
    marks = Marks(folder / "marks")
    env = environment(**{FOLDER: str(marks.folder), "BENCH_BROKER": lab.redis.url})
    celery = [PEERS, "-m", "celery", "-A", "bench.fleet.beat_app"]
    scheduler = (
        ["--scheduler", "redbeat.RedBeatScheduler"] if redbeat else ["--schedule", folder / "schedule"]
    )
    with (
        Program([*celery, "worker", "--loglevel=WARNING"], env=env, cwd=folder) as worker,
        Program([*celery, "beat", *scheduler], env=env | {"BENCH_CRONS": str(count)}, cwd=folder) as beat,
    ):
        # Once a whole set has been sent and received it is up to speed.
        wait(lambda: marks.count("tick") >= count, SET_UP_SECONDS)
        return minute(marks, [worker.pid, beat.pid], count, names=("tick", "sent"))


def minute(marks: Marks, pids: Sequence[int], count: int, *, names: Sequence[str]) -> dict[str, float]:
    """The figures of one minute, the next whole one that begins.

    late_p50, late_p99, late_max: seconds from its begin to when the handler (the task) of each schedule ran; sent_…: to when
    its message was out, if that is noted. minute_cpu: CPU seconds of all processes but the servers in that minute;
    idle_cpu: what they would be without ticks, from the share of a CPU that is taken between the last tick and the minute's
    end (none if there is no such time)."""
    begin = (time.time() + 3.0) // MINUTE * MINUTE + MINUTE
    time.sleep(begin - time.time() - 0.5)
    noted = {name: marks.count(name) for name in names}
    spent = processes.cpu(pids)
    with contextlib.suppress(TimeoutError):
        _await_all(marks, noted, count, begin)
    done = time.time()
    figures: dict[str, float] = {}
    end = begin + MINUTE - 1.0
    if done < end - REST_SECONDS - 1.0:
        time.sleep(1.0)
        rested, resting = time.time(), processes.cpu(pids)
        time.sleep(end - time.time())
        figures["idle_cpu"] = (processes.cpu(pids) - resting) / (time.time() - rested) * MINUTE
    if time.time() < end:
        time.sleep(end - time.time())
    if time.time() < begin + MINUTE:
        figures["minute_cpu"] = processes.cpu(pids) - spent
    for name in names:
        first = marks.first(name, after=noted[name])
        if len(first) < count:
            raise RuntimeError(f"{len(first)} of {count} came within {PATIENCE_SECONDS:.0f} s")
        late = lateness(at - begin for at in first.values())
        if min(first.values()) < begin:
            raise RuntimeError("a tick of the minute before came late: the figures would be wrong")
        figures |= (
            late if name == "tick" else {key.replace("late", name): value for key, value in late.items()}
        )
    return figures


def _await_all(marks: Marks, noted: dict[str, int], count: int, begin: float) -> None:
    while any(marks.count(name) - before < count for name, before in noted.items()):
        if time.time() > begin + PATIENCE_SECONDS:
            raise TimeoutError
        time.sleep(0.05)
