"""DBOS as its documentation has it, with the workflows that are measured."""

from __future__ import annotations

import sqlite3
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig


@DBOS.step()
async def increment(number: int) -> int:
    return number + 1


@DBOS.workflow()
async def count(steps: int) -> int:
    number = 0
    for _ in range(steps):
        number = await increment(number)
    return number


def launch(url: str, **options: Any) -> None:
    """Start DBOS in this process on a database of its own. SQLite gets WAL, which DBOS leaves to the file; its commits are
    synchronous=FULL, SQLite's default, as ours are."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    config: DBOSConfig = {"name": "bench", "system_database_url": url, "log_level": "WARNING", **options}  # type: ignore[typeddict-item]
    DBOS(config=config)
    DBOS.launch()


def table(url: str) -> str:
    return "workflow_status" if url.startswith("sqlite") else "dbos.workflow_status"


class Watch:
    """Looks at the workflows as everybody can read them: committed."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        self._open = sa.text(
            f"SELECT 1 FROM {table(url)} WHERE status IN ('PENDING', 'ENQUEUED', 'DELAYED') LIMIT 1"
        )
        self._over = sa.text(f"SELECT count(*) FROM {table(url)} WHERE status = 'SUCCESS'")

    def any_open(self) -> bool:
        with self._engine.connect() as connection:
            return connection.execute(self._open).scalar() is not None

    def completed(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(self._over).scalar_one())
