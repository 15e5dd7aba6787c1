"""Statements over many rows, built once: their text is the same however many there are.

A list goes to PostgreSQL as one array, so that a statement is one round trip and stays prepared; what is given for one row has
a text of its own, whose plan it keeps. To SQLite a list goes as JSON for a choice of rows, and row by row (`executemany`) for
what is written."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from wakeloop.store.direct import LONE, Direct
from wakeloop.store.schema import Instant

Row = Mapping[str, Any]
_POSTGRES: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # SQLAlchemy's own has no types


class _Written(UserDefinedType[str]):
    """An array of PostgreSQL that is written already when it gets here. The parameter itself is of this type: a cast of a
    text would be done again for each row that it is compared with."""

    render_bind_cast = True
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        self.item = item

    def get_col_spec(self, **options: Any) -> str:
        kind: str = self.item.compile(_POSTGRES)
        return f"{kind}[]"


class Listed(TypeDecorator[Any]):
    """A list of values of one type as one parameter, in writing: as an array of PostgreSQL, or as JSON for SQLite.

    psycopg would write an array too, ten times as slowly: it asks each value anew how it is to be written."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any], *, is_choice: bool = False) -> None:
        """Args: is_choice: it is what `among` looks in."""
        super().__init__()
        self.item = item
        self.is_choice = is_choice

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return _Written(self.item) if dialect.name == "postgresql" else sa.Text()

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        if dialect.name == "postgresql":
            write = _WRITERS[self.item.__class__]
            return "{" + ",".join(["NULL" if one is None else write(one) for one in value]) + "}"
        return json.dumps([one.hex if isinstance(one, UUID) else one for one in value], ensure_ascii=False)


def _quoted(text: str) -> str:
    """A text as an element of an array (PostgreSQL 8.15.6): in quotes, with a backslash before those and backslashes."""
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _instant(at: datetime) -> str:
    return f'"{at.isoformat()}"'


def _id(id: UUID) -> str:
    """As PostgreSQL takes it too (8.12), and Python writes it in a third of the time."""
    return id.hex


def _bytes(data: bytes) -> str:
    return f'"\\\\x{data.hex()}"'


_WRITERS: Mapping[type, Callable[[Any], str]] = {
    sa.BigInteger: str, sa.Integer: str, sa.SmallInteger: str, sa.Boolean: str, sa.Uuid: _id, sa.Text: _quoted,
    Instant: _instant, sa.LargeBinary: _bytes,
}  # fmt: skip


class among(FunctionElement[bool]):
    """Whether a column is one of the values of the list parameter of this name."""

    type = sa.Boolean()
    inherit_cache = True
    name = "among"

    def __init__(self, column: sa.Column[Any], name: str) -> None:
        super().__init__(column, sa.bindparam(name, type_=Listed(column.type, is_choice=True)))
        self.list = name

    def self_group(self, against: Any = None) -> Any:
        # Where there are no booleans SQLAlchemy would compare it with 1, and no index would be used.
        return self


@compiles(among, "postgresql")
def _among_array(element: among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    # For a list PostgreSQL makes a new plan at each execution, since it expects more of one that it does not know.
    return (
        f"{column} = ({values})[1]" if element.list in options.get(LONE, ()) else f"{column} = ANY ({values})"
    )


@compiles(among, "sqlite")
def _among_json(element: among, compiler: Any, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"


def is_postgres(connection: Connection) -> bool:
    """Whether this is a connection to PostgreSQL."""
    return connection.dialect.name == "postgresql"


def arrays(table: sa.Table, columns: Sequence[str]) -> Any:
    """Lists, as parameters named `new_` and a column, as one table `new` with a row for each position."""
    lists = (sa.bindparam(f"new_{name}", type_=Listed(table.c[name].type)) for name in columns)
    source = sa.func.unnest(*lists)
    return source.table_valued(*(sa.column(name, table.c[name].type) for name in columns)).render_derived(
        name="new"
    )


class Insert:
    """Adds rows to a table. new: the columns of a unique key; rows that it refuses are left out. An empty one: those
    that any unique key refuses. express: for a column, what is written, from the new row's columns by name."""

    def __init__(
        self,
        table: sa.Table,
        columns: Sequence[str],
        *,
        new: Sequence[str] | None = None,
        returning: Sequence[str] = (),
        express: Mapping[str, Callable[[Mapping[str, Any]], Any]] | None = None,
    ) -> None:
        self._columns = tuple(columns)
        self._returns = bool(returning)
        source = arrays(table, self._columns)
        given = {name: sa.bindparam(name, type_=table.c[name].type) for name in self._columns}
        special = express or {}
        written = {name: make(given) for name, make in special.items()}
        chosen = sa.select(
            *(special[name](source.c) if name in special else source.c[name] for name in self._columns)
        )
        many: Any = postgresql.insert(table).from_select(list(self._columns), chosen)
        lone: Any = postgresql.insert(table).values({**given, **written})
        one: Any = sqlite.insert(table).values({**given, **written})
        if new is not None:
            key = [table.c[name] for name in new] or None
            many, lone, one = (each.on_conflict_do_nothing(index_elements=key) for each in (many, lone, one))
        if returning:
            back = [table.c[name] for name in returning]
            many, lone, one = (each.returning(*back) for each in (many, lone, one))
        self._many, self._lone, self._one = Direct(many), Direct(lone), one
        self._rows = _Rows(one, {name: (name, table.c[name].type) for name in self._columns})

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> list[Any]:
        """Add these rows, each a mapping of all columns; what is to be returned of those that were added."""
        if not rows:
            return []
        if is_postgres(connection):
            if len(rows) == 1:
                return self._lone(connection, rows[0])
            return self._many(connection, _turned(self._columns, rows))
        if not self._returns:
            self._rows(connection, rows)
            return []
        return list(connection.execute(self._one, rows[0] if len(rows) == 1 else list(rows)))


class Update:
    """Changes rows of a table by their primary key. express: for a column, what becomes of it, from the new value."""

    def __init__(
        self, table: sa.Table, key: str, columns: Sequence[str], *,
        express: Mapping[str, Callable[[Any], Any]] | None = None, also: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        express = express or {}
        self._columns = (key, *columns)
        source = arrays(table, self._columns)
        # A parameter of an UPDATE may not be called like a column that it sets.
        new = {name: sa.bindparam(f"new_{name}", type_=table.c[name].type) for name in self._columns}
        plain: Callable[[Any], Any] = lambda value: value  # noqa: E731
        set_one = {name: express.get(name, plain)(new[name]) for name in columns}
        set_many = {name: express.get(name, plain)(source.c[name]) for name in columns}
        self._one = sa.update(table).where(table.c[key] == new[key]).values({**set_one, **(also or {})})
        self._many = Direct(
            sa.update(table).where(table.c[key] == source.c[key]).values({**set_many, **(also or {})})
        )
        self._lone = Direct(self._one)
        self._rows = _Rows(self._one, {f"new_{name}": (name, table.c[name].type) for name in self._columns})

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> None:
        """Change these rows, each a mapping of the key and all columns."""
        if not rows:
            return
        if is_postgres(connection):
            if len(rows) == 1:
                self._lone(connection, {f"new_{name}": rows[0][name] for name in self._columns})
            else:
                self._many(connection, _turned(self._columns, rows))
        else:
            self._rows(connection, rows)


class Taking:
    """Changes the rows that a query chooses by their key, locking them in the query's order so that no two can block each other.

    skip_locked: leave out those that another transaction has in hand."""

    def __init__(
        self, table: sa.Table, chosen: sa.Select[Any], values: Mapping[str, Any], *,
        returning: Sequence[sa.Column[Any]] = (), skip_locked: bool = False, key: str = "id",
    ) -> None:  # fmt: skip
        # Under a CTE with FOR UPDATE PostgreSQL looks at each row again once it has the lock.
        locked = chosen.with_for_update(key_share=True, skip_locked=skip_locked).cte("chosen")
        many: Any = sa.update(table).where(table.c[key] == locked.c[key]).values(values)
        one: Any = sa.update(table).where(table.c[key].in_(chosen.scalar_subquery())).values(values)
        if returning:
            many, one = many.returning(*returning), one.returning(*returning)
        self._many, self._one = Direct(many), Direct(one)

    def __call__(self, connection: Connection, parameters: Row) -> list[Any]:
        """Do it; what is to be returned of the rows that were changed, as they are now."""
        return (self._many if is_postgres(connection) else self._one)(connection, parameters)

    def ready(self, dialect: Dialect) -> Any:
        """See `wakeloop.store.direct.Statement`."""
        return self._many.ready(dialect)


class _Rows:
    """A statement that SQLite's driver is handed with all its rows at once. SQLAlchemy itself takes several times as long
    over the parameters of a row as SQLite does over the row."""

    def __init__(self, statement: Any, keys: Mapping[str, tuple[str, TypeEngine[Any]]]) -> None:
        """Args: keys: for each parameter that differs by row, the key of a row and its type."""
        self._statement = statement
        self._keys = keys
        self._text = ""
        self._makers: list[Callable[[Row], Any]] = []

    def __call__(self, connection: Connection, rows: Sequence[Row]) -> None:
        if not self._text:
            self._compile(connection.dialect)
        makers = self._makers
        connection.exec_driver_sql(self._text, [tuple([make(row) for make in makers]) for row in rows])

    def _compile(self, dialect: Dialect) -> None:
        compiled = self._statement.compile(dialect=dialect)
        fixed = compiled.params
        self._makers = [
            self._maker(*self._keys[name], dialect) if name in self._keys else _always(fixed[name])
            for name in compiled.positiontup
        ]
        self._text = compiled.string

    @staticmethod
    def _maker(key: str, type_: TypeEngine[Any], dialect: Dialect) -> Callable[[Row], Any]:
        process = type_.dialect_impl(dialect).bind_processor(dialect)
        if process is None:
            return operator.itemgetter(key)
        return lambda row: process(row[key])


def _always(value: Any) -> Callable[[Row], Any]:
    return lambda _: value


def _turned(columns: Sequence[str], rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows of columns as columns of rows."""
    return {f"new_{name}": [row[name] for row in rows] for name in columns}
