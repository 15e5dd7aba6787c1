"""Celery tasks that do nothing, on an app with the settings that wakeloop makes: run it to send them, give it to a worker to
have them done."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from wakeloop.celery_app import make_app

NOOPS = int(os.environ.get("BENCH_NOOPS", "0"))


class _Nobody:
    """A host without agents."""

    def agents(self) -> dict[str, str | None]:
        return {}

    def start(self, dispatcher: Any) -> None: ...

    def stop(self, *, grace: float = 10.0) -> None: ...


app: Any = make_app(
    os.environ.get("BENCH_BROKER", "redis://localhost"),
    queue="noops",
    concurrency=32,
    host=_Nobody,  # type: ignore[arg-type]
)
_lock = threading.Lock()
_count = 0
_begun = 0.0


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]
def noop() -> None:
    global _count, _begun
    with _lock:
        _begun = _begun or time.perf_counter()
        _count += 1
        if _count == NOOPS:
            Path(os.environ["BENCH_DONE"]).write_text(f"{time.perf_counter() - _begun}\n")


if __name__ == "__main__":
    with app.producer_pool.acquire() as producer:
        for _ in range(NOOPS):
            app.tasks["bench.noop"].apply_async(producer=producer)
