"""wakeloop in one process, as `wakeloop dev` has it: store, broker and worker, without the web app."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from wakeloop.celery_app import make_app
from wakeloop.embedded import EmbeddedWorker
from wakeloop.settings import Settings
from wakeloop.store.database import Database
from wakeloop.wiring import Runtime

AGENTS = Path(__file__).parents[1] / "agents"
_OPEN = sa.text("SELECT 1 FROM runs WHERE status IN ('queued', 'running', 'waiting') LIMIT 1")
_OVER = sa.text("SELECT count(*) FROM runs WHERE status = 'completed'")


@contextlib.contextmanager
def embedded(database_url: str, *, agents: Path = AGENTS) -> Iterator[Runtime]:
    """A runtime that works on a store that it has for itself, for the length of a `with` block."""
    settings = Settings(database_url=database_url, broker_url="embedded://bench", agents_dir=agents)
    runtime = Runtime(settings, alone=True)
    runtime.database.upgrade()
    app = make_app(
        settings.broker_url,
        queue=settings.queue,
        concurrency=settings.worker_concurrency,
        host=lambda: runtime,
    )
    worker = EmbeddedWorker(app)
    worker.start()
    try:
        yield runtime
    finally:
        runtime.stop(grace=1.0)
        worker.stop()


def any_open(database: Database) -> bool:
    """Whether some run is not over, as everybody can read it: committed."""
    with database.read() as connection:
        return connection.execute(_OPEN).scalar() is not None


def completed(database: Database) -> int:
    """How many runs have completed."""
    with database.read() as connection:
        return int(connection.execute(_OVER).scalar_one())
