"""The connection to SQLite or PostgreSQL: every difference between the two that is not a column type is here."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from wakeloop.clock import Clock, OffsetClock, SystemClock
from wakeloop.errors import ConfigurationError
from wakeloop.store import keys, migration

T = TypeVar("T")

LEARN_TIME_SECONDS = 5.0
BUSY_TIMEOUT_SECONDS = 30
_NEVER = float("-inf")

_SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL,
    }
)  # fmt: skip
_POSTGRES_OUTAGES = frozenset({"08", "40", "53", "57", "58"})
"""Classes of SQLSTATE: connection, rollback (deadlock), resources (disk full, connections), shutdown, system."""
_POSTGRES_BUSY = frozenset({"25006", "55P03"})
"""Read-only, as a server is that is about to be replaced; a lock that was not to be had in time."""


class Database:
    """One store. Its `clock` is the database's: nothing that is due is judged by a worker's own.

    SQLite: WAL, `synchronous=FULL` (a commit survives a power failure), one writer at a time (BEGIN IMMEDIATE).
    PostgreSQL: psycopg 3, READ COMMITTED, rows locked in the order of their ids.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, pool_size: int = 10) -> None:
        """Raises ConfigurationError for a URL that names no database wakeloop works with. Connects to nothing yet."""
        self.url, self._driver = _read_url(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        self._learned = _NEVER
        self._follow: OffsetClock | None = None
        if clock is None and self.is_postgres:
            clock = self._follow = OffsetClock()
        self._clock: Clock = clock or SystemClock()
        self.engine = self._make_engine(pool_size)
        # The pool is the same. SQLite's driver is left as it is: it commits a statement by itself unless one was begun.
        self._lone = (
            self.engine.execution_options(isolation_level="AUTOCOMMIT") if self.is_postgres else self.engine
        )

    def _make_engine(self, pool_size: int) -> Engine:
        if self.is_postgres:
            return sa.create_engine(
                self.url, pool_size=pool_size, max_overflow=pool_size, pool_timeout=30, pool_recycle=3600,
                connect_args={"connect_timeout": 10, "application_name": "wakeloop", **self._driver},
            )  # fmt: skip
        options: dict[str, Any] = {
            "connect_args": {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
        }
        if self.url.database in (None, "", ":memory:"):
            # The database is its one connection, which threads have to take turns with.
            options |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
        else:
            Path(str(self.url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
            options |= {"pool_size": pool_size, "max_overflow": pool_size}
        engine = sa.create_engine(self.url, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        return engine

    @property
    def clock(self) -> Clock:
        """The database's clock, as last learned. On PostgreSQL it is learned again every few seconds of use, and after
        every new connection; while the server is away, time goes on from the last lesson."""
        if self._follow is not None and time.monotonic() - self._learned > LEARN_TIME_SECONDS:
            self._learn(self._follow)
        return self._clock

    def _learn(self, clock: OffsetClock) -> None:
        never = self._learned == _NEVER
        self._learned = time.monotonic()  # before the question, so that other threads do not ask it too
        try:
            with self.engine.connect() as connection:
                clock.learn(connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one())
        except SQLAlchemyError as error:
            if never or not is_outage(error):
                self._learned = _NEVER
                raise

    def use_clock(self, clock: Clock) -> None:
        """Go by another clock from now on."""
        self._follow = None
        self._clock = clock

    def now(self) -> datetime:
        """The database's time."""
        return self.clock.now()

    @contextlib.contextmanager
    def begin(self) -> Iterator[Connection]:
        """A writing transaction: committed at the end of the block, rolled back by an exception."""
        with self.engine.begin() as connection:
            if not self.is_postgres:
                _begin_sqlite(connection, "BEGIN IMMEDIATE")
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A reading transaction, which waits for no writer."""
        with self.engine.begin() as connection:
            if not self.is_postgres:
                _begin_sqlite(connection, "BEGIN")
            yield connection

    @contextlib.contextmanager
    def lone(self) -> Iterator[Connection]:
        """For statements each of which is a transaction by itself: nothing is begun, and no commit is waited for beside
        the statement's own."""
        with self._lone.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def brief(self) -> Iterator[Connection]:
        """For statements that write together (`store.direct.together`), and others that read what these have made the caller's.
        On PostgreSQL those are a transaction by themselves, in one round trip with its commit; on SQLite all are one."""
        with self.lone() if self.is_postgres else self.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A reading transaction all of whose statements see the store as it was at the first."""
        with self.read() as connection:
            if self.is_postgres:
                connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            yield connection

    def retrying(
        self, work: Callable[[], T], *, seconds: float, stop: Callable[[], bool] = lambda: False
    ) -> T:
        """Do `work` again as long as the database cannot be reached, for at most `seconds`.

        `work` must be a whole transaction that is right to repeat: after a lost connection nobody knows whether it
        was committed."""
        deadline = time.monotonic() + seconds
        wait = 0.05
        while True:
            try:
                return work()
            except SQLAlchemyError as error:
                if not is_outage(error) or time.monotonic() + wait > deadline or stop():
                    raise
            time.sleep(wait)
            wait = min(wait * 2, 1.0)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()

    # ------------------------------------------------------------------ schema

    def upgrade(self) -> None:
        """Bring the schema to this version's, and keep a key to sign links with. Raises SchemaMismatch if it is newer than
        the code, ConfigurationError if the database cannot be used at all."""
        try:
            now = self.now()
            with self.begin() as connection:
                migration.upgrade(connection, self.name)
                # Now, as links are made within transactions, beside which SQLite has no other.
                for name in keys.NAMES:
                    keys.ensure_key(connection, name, now=now)
        except DBAPIError as error:
            raise self.explain(error) from error

    def check_schema(self) -> None:
        """Raises SchemaMismatch unless the schema is exactly this version's, ConfigurationError if the database
        cannot be used at all."""
        try:
            with self.read() as connection:
                migration.check(connection, self.name)
        except DBAPIError as error:
            raise self.explain(error) from error

    def revision(self, connection: Connection) -> str | None:
        """The schema's revision, or None if it has none."""
        return migration.revision(connection)

    @property
    def name(self) -> str:
        """The database's address without its password."""
        return self.url.render_as_string(hide_password=True)

    def explain(self, error: SQLAlchemyError) -> ConfigurationError:
        """A driver's error as one line that says what to do."""
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()
        return ConfigurationError(
            f"the database {self.name} cannot be used: {cause[0] if cause else type(error).__name__}; "
            "check WAKELOOP_DATABASE_URL and that the server runs"
        )


def is_outage(error: SQLAlchemyError) -> bool:
    """Whether an error means that the database was away or busy, so that the same may succeed later."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, PoolTimeout)
    if error.connection_invalidated:
        return True
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        # The driver calls a missing table and a full disk by one class; the low byte is the primary result code.
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _SQLITE_OUTAGES
    if isinstance(cause, psycopg.Error):
        state = cause.sqlstate
        if state is None:
            return isinstance(cause, psycopg.OperationalError)  # from the client itself: no connection
        return state[:2] in _POSTGRES_OUTAGES or state in _POSTGRES_BUSY
    return isinstance(error, OperationalError)


def _read_url(text: str) -> tuple[URL, dict[str, Any]]:
    """The URL, and what the driver is told beside it: psycopg wants a number or None for `prepare_threshold`."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "WAKELOOP_DATABASE_URL is no database URL; write sqlite:///path/to/file.db or "
            "postgresql://user:password@host/name"
        ) from None
    if url.get_backend_name() == "postgresql":
        threshold = url.query.get("prepare_threshold")
        url = url.difference_update_query(["prepare_threshold"]).set(drivername="postgresql+psycopg")
        if threshold is None:
            return url, {}
        if threshold == "none":
            return url, {"prepare_threshold": None}
        if isinstance(threshold, str) and threshold.isdecimal():
            return url, {"prepare_threshold": int(threshold)}
        raise ConfigurationError("prepare_threshold in WAKELOOP_DATABASE_URL must be a number, or none")
    if url.get_backend_name() == "sqlite":
        return url.set(drivername="sqlite"), {}
    raise ConfigurationError(
        f"wakeloop keeps its store in SQLite or PostgreSQL, not in {url.get_backend_name()}: set WAKELOOP_DATABASE_URL"
    )


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by Database, not by the driver
    cursor = connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Turn WAL on, waiting for whoever writes to the file or does the same: for this lock SQLite does not wait as
    `timeout` says, but refuses at once."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))
        else:
            return


def _begin_sqlite(connection: Connection, statement: str) -> None:
    # Straight to the driver: a listener on the engine would slow down every statement.
    driver: Any = connection.connection.dbapi_connection
    try:
        driver.execute(statement)
    except sqlite3.OperationalError as error:
        raise OperationalError(statement, None, error) from error
