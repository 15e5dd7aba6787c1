"""Migrations on real databases: equal to the tables in code, repeatable, and refused where they do not fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.conformance.store_kit import at_once, raised
from tests.servers import Postgres, free_port

from wakeloop.errors import ConfigurationError, SchemaMismatch
from wakeloop.store import migration
from wakeloop.store.database import Database
from wakeloop.store.schema import metadata

MakeDatabase = Callable[[], Database]


@pytest.fixture(params=["sqlite", "postgres"])
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeDatabase]:
    """Makes connections to one empty database."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.new_database()
    else:
        url = f"sqlite:///{tmp_path / 'store.db'}"
    made: list[Database] = []

    def make() -> Database:
        made.append(Database(url))
        return made[-1]

    yield make
    for database in made:
        database.close()


def _options(index: Any) -> list[tuple[str, str]]:
    return sorted((name, str(value)) for name, value in index.get("dialect_options", {}).items())


def describe(connection: sa.Connection) -> dict[str, object]:
    """Columns, defaults, keys and indexes as the database itself tells them."""
    inspector = sa.inspect(connection)
    found: dict[str, object] = {}
    for table in metadata.tables:
        columns = [
            (one["name"], str(one["type"]), one["nullable"], one["default"])
            for one in inspector.get_columns(table)
        ]
        indexes = [
            (one["name"], one["column_names"], bool(one["unique"]), _options(one))
            for one in inspector.get_indexes(table)
        ]
        unique = [(one["name"], one["column_names"]) for one in inspector.get_unique_constraints(table)]
        foreign = [
            (one["name"], one["constrained_columns"], one["referred_table"])
            for one in inspector.get_foreign_keys(table)
        ]
        key = inspector.get_pk_constraint(table)
        found[table] = (columns, sorted(indexes), sorted(unique), sorted(foreign), key["name"], key["constrained_columns"])  # fmt: skip
    return found


def test_the_migrations_make_the_tables_of_the_code(make_database: MakeDatabase) -> None:
    """What the migrations make is what the code says: tables, types, defaults, keys, indexes and their conditions."""
    database = make_database()
    database.upgrade()

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        migrated = describe(connection)
        metadata.drop_all(connection)
        metadata.create_all(connection)
        created = describe(connection)
        connection.rollback()

    assert migrated == created


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(make_database: MakeDatabase) -> None:
    """Upgrading twice is upgrading once; rows stay."""
    database = make_database()
    database.upgrade()
    with database.begin() as connection:
        connection.execute(sa.text("INSERT INTO opt_outs (channel, address, at) SELECT 'sms', '+1', created_at FROM (SELECT min(at) AS created_at FROM messages) AS m WHERE created_at IS NOT NULL"))  # fmt: skip
        before = describe(connection)

    started = time.perf_counter()
    database.upgrade()
    took = time.perf_counter() - started

    with database.read() as connection:
        assert describe(connection) == before
    database.check_schema()
    assert took < 1.0


def test_an_empty_database_is_told_to_be_upgraded(make_database: MakeDatabase) -> None:
    """An empty database is refused with the command that makes its schema."""
    with pytest.raises(SchemaMismatch, match=r"nothing yet.*needs 0\d+: run `wakeloop db upgrade`"):
        make_database().check_schema()


def test_a_newer_schema_is_refused(make_database: MakeDatabase) -> None:
    """A schema that is newer than the code is refused, saying so, by upgrading and by working alike; nothing changes."""
    database = make_database()
    database.upgrade()
    with database.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    for use in (database.upgrade, database.check_schema):
        with pytest.raises(SchemaMismatch, match="is at 9999, which is newer than this version of wakeloop"):
            use()

    with database.read() as connection:
        assert database.revision(connection) == "9999"


def test_several_processes_may_upgrade_at_once(make_database: MakeDatabase) -> None:
    """Workers that start together on an empty database all find it upgraded, once."""
    databases = [make_database() for _ in range(4)]

    results = at_once(*(database.upgrade for database in databases))

    assert raised(results) == []
    for database in databases:
        database.check_schema()


def test_a_second_store_of_a_process_is_made_as_the_first(tmp_path: Path) -> None:
    """The short cut for empty SQLite databases makes exactly what the migrations make."""
    migration._made.clear()
    found = []
    for name in ("first", "second"):
        database = Database(f"sqlite:///{tmp_path / name}.db")
        database.upgrade()
        with database.read() as connection:
            found.append((describe(connection), database.revision(connection)))
        database.close()

    assert found[0] == found[1]
    assert migration._made


def test_an_unreachable_server_is_one_line_without_the_password() -> None:
    """A server that does not answer is one clear line that names the database and hides its password."""
    database = Database(f"postgresql://bob:sesame@127.0.0.1:{free_port()}/store?connect_timeout=2")

    for use in (database.upgrade, database.check_schema):
        with pytest.raises(ConfigurationError) as caught:
            use()
        text = str(caught.value)
        assert "sesame" not in text and "\n" not in text
        assert "postgresql+psycopg://bob:***@127.0.0.1" in text
        assert "check WAKELOOP_DATABASE_URL" in text
    database.close()


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    """A file that is no database, and a folder in its place, are refused in one line."""
    (tmp_path / "notes.txt").write_text("no database " * 1000)
    (tmp_path / "folder").mkdir()

    for name in ("notes.txt", "folder"):
        database = Database(f"sqlite:///{tmp_path / name}")
        with pytest.raises(ConfigurationError, match="cannot be used"):
            database.upgrade()
        database.close()


@pytest.mark.parametrize("url", ["mysql://localhost/x", "nonsense", ""])
def test_a_database_of_another_kind_is_refused(url: str) -> None:
    """A URL of another kind of database is refused before anything is connected to."""
    with pytest.raises(ConfigurationError, match="WAKELOOP_DATABASE_URL"):
        Database(url)
