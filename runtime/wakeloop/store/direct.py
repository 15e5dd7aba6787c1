"""Statements that are run often: on PostgreSQL psycopg is handed them itself, with all that is to be known of them found out once."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

import psycopg
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError

from wakeloop.store.schema import Instant

_CURSOR = "wakeloop cursor"
_CAN_PIPELINE = psycopg.Pipeline.is_supported()

LONE = "wakeloop_lone"
"""Of what compiles a statement, the option that names the lists of which one value is given."""


class Direct:
    """A statement, compiled at its first use; its parameters are given as to SQLAlchemy, and its rows are named tuples.

    SQLAlchemy finds out anew at each execution what it has to convert, and takes twice as long over that as psycopg takes
    over the statement. On SQLite, which is quick, it is left to it; so it is where somebody listens to statements. Errors are
    SQLAlchemy's either way."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._ready: _Ready | None = None

    def __call__(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """Execute it; the rows, none if it has none to give."""
        if connection.dialect.name != "postgresql":
            result = connection.execute(self._statement, parameters)
            return list(result) if result.returns_rows else []
        return self.ready(connection.dialect)(connection, parameters)

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """Execute it; the first row, None if there is none."""
        return next(iter(self(connection, parameters)), None)

    def ready(self, dialect: Dialect) -> _Ready:
        """As it is handed to psycopg."""
        if self._ready is None:
            self._ready = _Ready(self._statement, dialect)
        return self._ready


class Statement(Protocol):
    """What is executed at once, or together with others."""

    def __call__(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """Execute it; its rows."""
        ...

    def ready(self, dialect: Dialect) -> _Ready:
        """As psycopg is handed it."""
        ...


Call = tuple[Statement, Mapping[str, Any]]
"""A statement with its parameters."""


def together(connection: Connection, calls: Sequence[Call]) -> list[list[Any]]:
    """Execute these statements one after the other; the rows of each. PostgreSQL is asked for all of them before its first
    answer, so that they are one round trip; each sees what was committed before its own begin, as it does alone. Where no
    transaction was begun, they are one."""
    is_left = connection.dialect.name != "postgresql" or connection.dispatch.before_cursor_execute
    if is_left or not _CAN_PIPELINE or len(calls) < 2:
        return [call(connection, parameters) for call, parameters in calls]
    ready = [call.ready(connection.dialect) for call, _ in calls]
    given = [one.given(parameters) for one, (_, parameters) in zip(ready, calls, strict=True)]
    driver = _driver(connection)
    cursors = []
    try:
        with _raising(connection, driver, given[0][0], {}), driver.pipeline():
            for text, values in given:
                cursors.append(driver.cursor())
                cursors[-1].execute(text, values)
    except DBAPIError:
        if driver.autocommit:
            # psycopg takes for prepared what PostgreSQL passed over after the mistake; only a rollback makes it forget that.
            connection.invalidate()
        raise
    return [one.rows(cursor) for one, cursor in zip(ready, cursors, strict=True)]


class _Ready:
    """A statement for PostgreSQL, with a text of its own for each choice of its lists of which only one value is given:
    what stands for one value is planned once, and a list each time."""

    def __init__(self, statement: Any, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        if compiled.post_compile_params or compiled.literal_execute_params:
            raise ValueError(f"the text of this statement depends on its values: {compiled}")
        self._compile: Callable[[frozenset[str]], str] = lambda lone: str(
            statement.compile(dialect=dialect, compile_kwargs={LONE: lone})
        )
        self._texts = {frozenset[str](): str(compiled)}
        self._lists = [
            name for name, bind in compiled.binds.items() if getattr(bind.type, "is_choice", False)
        ]
        self._writers: dict[str, Callable[[Any], Any]] = {}
        self._fixed: dict[str, Any] = {}
        for bind, name in compiled.bind_names.items():
            write = _writer(bind.type, dialect)
            if not bind.required:
                self._fixed[name] = bind.value if write is None else write(bind.value)
            elif write is not None:
                self._writers[name] = write
        columns = list(statement.exported_columns)
        self._has_rows = bool(columns)
        row: Any = namedtuple("Row", [column.key for column in columns])  # type: ignore[misc] # of a statement
        self._make: Callable[[Any], Any] = row._make
        readers = [_reader(column.type, dialect) for column in columns]
        self._readers = [(place, read) for place, read in enumerate(readers) if read is not None]

    def __call__(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        text, values = self.given(parameters)
        if connection.dispatch.before_cursor_execute:
            result = connection.exec_driver_sql(text, values)
            return self._rows([tuple(row) for row in result]) if self._has_rows else []
        driver = _driver(connection)
        cursor = connection.info.get(_CURSOR)
        if cursor is None:
            cursor = connection.info[_CURSOR] = driver.cursor()
        with _raising(connection, driver, text, values):
            cursor.execute(text, values)
            return self.rows(cursor)

    def given(self, parameters: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The text and the parameters as psycopg is to get them."""
        lone = frozenset([name for name in self._lists if len(parameters[name]) == 1])
        text = self._texts.get(lone)
        if text is None:
            text = self._texts[lone] = self._compile(lone)
        values = {**self._fixed, **parameters}
        for name, write in self._writers.items():
            values[name] = write(values[name])
        return text, values

    def rows(self, cursor: Any) -> list[Any]:
        """What a cursor got for it."""
        return self._rows(cursor.fetchall()) if self._has_rows else []

    def _rows(self, rows: list[Any]) -> list[Any]:
        if self._readers and rows:
            rows = [list(row) for row in rows]
            for place, read in self._readers:
                for row in rows:
                    if row[place] is not None:
                        row[place] = read(row[place])
        return [self._make(row) for row in rows]


def _driver(connection: Connection) -> Any:
    """psycopg's connection, in the transaction that SQLAlchemy would begin with a statement."""
    driver: Any = connection.connection.driver_connection
    if not driver.autocommit and not connection.in_transaction():
        connection.begin()
    return driver


@contextmanager
def _raising(connection: Connection, driver: Any, text: str, values: Any) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        if driver.closed:
            # SQLAlchemy finds that, too, and lets go of all connections of the pool that are as old.
            connection.exec_driver_sql(text, values)
        raise DBAPIError.instance(text, values, error, psycopg.Error, dialect=connection.dialect) from error


def _writer(type_: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    if isinstance(type_, Instant):  # which psycopg writes as it is
        return None
    writer: Callable[[Any], Any] | None = type_.dialect_impl(dialect).bind_processor(dialect)
    return writer


def _reader(type_: Any, dialect: Dialect) -> Callable[[Any], Any] | None:
    if isinstance(type_, Instant):
        return _utc
    reader: Callable[[Any], Any] | None = type_.dialect_impl(dialect).result_processor(dialect, None)
    return reader


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
