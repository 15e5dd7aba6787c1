"""How many bytes a database's tables and indexes take, for both sides in the same way."""

from __future__ import annotations

import contextlib
import sqlite3

import psycopg

TABLES = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


def dsn(url: str) -> str:
    """The URL as libpq wants it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def bytes_stored(url: str) -> tuple[int, int]:
    """Tables with their indexes and large values: packed, as a dump that was just restored would take, and on the disk before
    that, with what updates left behind. They are packed afterwards."""
    if url.startswith("sqlite"):
        file = url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=60)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            on_disk = _pages(connection)
            connection.execute("VACUUM")
            return _pages(connection), on_disk
    with psycopg.connect(dsn(url), autocommit=True) as session:
        on_disk = _one(session)
        session.execute("VACUUM FULL")
        return _one(session), on_disk


def bytes_of(url: str, table: str) -> int | None:
    """One table with its indexes and large values; None if this SQLite cannot tell (it lacks dbstat)."""
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=60)) as connection:
            statement = "SELECT sum(pgsize) FROM dbstat WHERE name IN (SELECT name FROM sqlite_schema WHERE tbl_name = ?)"
            with contextlib.suppress(sqlite3.OperationalError):
                [[size]] = connection.execute(statement, (table,))
                return int(size)
            return None
    with psycopg.connect(dsn(url), autocommit=True) as session:
        row = session.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
        assert row is not None
        return int(row[0])


def _pages(connection: sqlite3.Connection) -> int:
    [[count]] = connection.execute("PRAGMA page_count")
    [[size]] = connection.execute("PRAGMA page_size")
    return int(count) * int(size)


def _one(session: psycopg.Connection) -> int:
    row = session.execute(TABLES).fetchone()
    assert row is not None
    return int(row[0])
