"""The connection to SQLite or PostgreSQL: every difference between the two that is not a column type is here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from wakeloop.clock import Clock, OffsetClock, SystemClock
from wakeloop.errors import ConfigurationError, SchemaMismatch

T = TypeVar("T")

LEARN_TIME_SECONDS = 5.0
BUSY_TIMEOUT_SECONDS = 30


class Database:
    """One store. Its `clock` is the database's: nothing that is due is judged by a worker's own.

    SQLite: WAL, `synchronous=FULL` (a commit survives a power failure), one writer at a time (BEGIN IMMEDIATE).
    PostgreSQL: psycopg 3, READ COMMITTED, rows locked in the order of their ids.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, pool_size: int = 10) -> None:
        """Raises ConfigurationError for a URL that names no database wakeloop works with. Connects to nothing yet."""
        self.url = _read_url(url)
        self.is_postgres = self.url.get_backend_name() == "postgresql"
        self._learned = -LEARN_TIME_SECONDS
        self._follow: OffsetClock | None = None
        if clock is None and self.is_postgres:
            clock = self._follow = OffsetClock()
        self._clock: Clock = clock or SystemClock()
        self.engine = self._make_engine(pool_size)

    def _make_engine(self, pool_size: int) -> Engine:
        if self.is_postgres:
            return sa.create_engine(
                self.url, pool_size=pool_size, max_overflow=pool_size, pool_timeout=30, pool_recycle=3600,
                connect_args={"connect_timeout": 10, "application_name": "wakeloop"},
            )  # fmt: skip
        options: dict[str, Any] = {
            "connect_args": {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
        }
        if self.url.database in (None, "", ":memory:"):
            options["poolclass"] = StaticPool
        else:
            Path(str(self.url.database)).expanduser().parent.mkdir(parents=True, exist_ok=True)
            options |= {"pool_size": pool_size, "max_overflow": pool_size}
        engine = sa.create_engine(self.url, **options)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    @property
    def clock(self) -> Clock:
        """The database's clock, as last learned. On PostgreSQL it is learned again every few seconds of use."""
        if self._follow is not None and time.monotonic() - self._learned > LEARN_TIME_SECONDS:
            with self.engine.connect() as connection:
                self._follow.learn(connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one())
            self._learned = time.monotonic()
        return self._clock

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
            yield connection

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A reading transaction, which waits for no writer."""
        with self.engine.connect() as connection:
            reading = connection.execution_options(wakeloop_read=True)
            with reading.begin():
                yield reading

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
            except DBAPIError as error:
                if not is_outage(error) or time.monotonic() + wait > deadline or stop():
                    raise
            time.sleep(wait)
            wait = min(wait * 2, 1.0)

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that can say what to do on a conflict."""
        return postgresql.insert(table) if self.is_postgres else sqlite.insert(table)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()

    # ------------------------------------------------------------------ schema

    def upgrade(self) -> None:
        """Bring the schema to this version's. Raises SchemaMismatch if it is newer than the code."""
        try:
            with self.engine.begin() as connection:
                self._refuse_newer(connection)
                config = _alembic()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise self.explain(error) from error

    def check_schema(self) -> None:
        """Raises SchemaMismatch unless the schema is exactly this version's, ConfigurationError if the database
        cannot be used at all."""
        try:
            with self.read() as connection:
                self._refuse_newer(connection)
                if self.revision(connection) != head():
                    raise SchemaMismatch(
                        f"the schema of {self.name} is at {self.revision(connection) or 'nothing yet'}, this version of "
                        f"wakeloop needs {head()}: run `wakeloop db upgrade`"
                    )
        except DBAPIError as error:
            raise self.explain(error) from error

    def revision(self, connection: Connection) -> str | None:
        """The schema's revision, or None if it has none."""
        return MigrationContext.configure(connection).get_current_revision()

    def _refuse_newer(self, connection: Connection) -> None:
        present = self.revision(connection)
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        if present is not None and present not in known:
            raise SchemaMismatch(
                f"the schema of {self.name} is at {present}, which is newer than this version of wakeloop knows "
                f"({head()}): upgrade wakeloop, or restore the database from before"
            )

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
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, OperationalError)


def head() -> str:
    """The schema revision that this version of the code works with."""
    revision = ScriptDirectory.from_config(_alembic()).get_current_head()
    assert revision is not None
    return revision


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _read_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "WAKELOOP_DATABASE_URL is no database URL; write sqlite:///path/to/file.db or "
            "postgresql://user:password@host/name"
        ) from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        return url.set(drivername="sqlite")
    raise ConfigurationError(
        f"wakeloop keeps its store in SQLite or PostgreSQL, not in {url.get_backend_name()}: set WAKELOOP_DATABASE_URL"
    )


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the "begin" event below opens transactions, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("wakeloop_read", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
