"""A Celery app with many entries on `* * * * *`, for `celery beat` with its own scheduler or with redbeat's, and a worker."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.schedules import crontab
from celery.signals import after_task_publish

from bench.fleet.marks import mark

TASK = "bench.tick"

app: Any = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_ignore_result=True,
    timezone="UTC",
    redbeat_redis_url=os.environ["BENCH_BROKER"],
    broker_connection_retry_on_startup=True,
)
if "BENCH_CRONS" in os.environ:
    app.conf.beat_schedule = {
        f"tick-{number}": {"task": TASK, "schedule": crontab(), "args": (number,)}
        for number in range(int(os.environ["BENCH_CRONS"]))
    }


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def tick(number: int) -> None:
    """Note that it runs."""
    mark("tick", number)


@after_task_publish.connect(sender=TASK)  # type: ignore[untyped-decorator]
def sent(body: Any = None, **_: Any) -> None:
    """Note that it was sent."""
    mark("sent", body[0][0])
