"""A Celery worker in a thread of this process, on a broker outside of it: `wakeloop dev` with Redis."""

from __future__ import annotations

import threading
from typing import Any

from celery.worker import WorkController, state

from wakeloop.celery_app import App

READY_POLL_SECONDS = 0.1


class ThreadWorker:
    """Takes messages in a thread. One per process, since Celery keeps a worker's wish to stop in a global.

    It touches neither signal handlers nor logging."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start, and return when messages are being taken. Raises SystemExit if it cannot; by then it has said why."""
        self._app.set_default()  # as the celery command does: its pool's threads look for their app there
        controller = _Controller(
            app=self._app, pool_cls="threads", without_gossip=True, without_heartbeat=False
        )
        self._thread = threading.Thread(target=controller.start, name="wakeloop-worker", daemon=True)
        self._thread.start()
        while not controller.ready.wait(READY_POLL_SECONDS):
            if not self._thread.is_alive():
                raise SystemExit(1)

    def stop(self) -> None:
        """Stop taking messages, stop the host, and return when every task has ended. Harmless if not running."""
        if self._thread is None:
            return
        state.should_stop = 0
        self._thread.join()
        state.should_stop = None
        self._thread = None


class _Controller(WorkController):  # type: ignore[misc] # Celery has no types
    def on_before_init(self, **options: Any) -> None:
        self.ready = threading.Event()

    def on_consumer_ready(self, consumer: Any) -> None:
        self.ready.set()
