"""The schema's version: brings a database to that of this code, and refuses one that does not fit.

Every process asks for the version as it starts; only one that changes the schema imports Alembic, which takes longer than
the asking.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.errors import SchemaMismatch

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_UPGRADE_LOCK = 0x77616B656C6F6F70
_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection, name: str) -> None:
    """Bring the schema to this version's, in the connection's transaction. Of several callers at once one does it.

    Raises SchemaMismatch if it is newer than the code; `name` is what the message calls the database."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    present = _known_revision(connection, name)
    if present == head():
        return
    if present is None and connection.dialect.name == "sqlite" and _made:
        for statement in _made:
            connection.exec_driver_sql(statement)
        return
    _migrate(connection)
    if present is None and connection.dialect.name == "sqlite":
        _remember(connection)


def check(connection: Connection, name: str) -> None:
    """Raises SchemaMismatch unless the schema is exactly this version's."""
    present = _known_revision(connection, name)
    if present != head():
        raise SchemaMismatch(
            f"the schema of {name} is at {present or 'nothing yet'}, this version of wakeloop needs {head()}: "
            "run `wakeloop db upgrade`"
        )


def revision(connection: Connection) -> str | None:
    """The schema's revision, or None if it has none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return found


def head() -> str:
    """The schema revision that this version of the code works with."""
    return revisions()[-1]


@functools.cache
def revisions() -> tuple[str, ...]:
    """Every revision that this version of the code knows, oldest first: the files of the migrations begin with them."""
    return tuple(sorted(file.name.partition("_")[0] for file in _MIGRATIONS.glob("versions/[0-9]*.py")))


def _known_revision(connection: Connection, name: str) -> str | None:
    present = revision(connection)
    if present is not None and present not in revisions():
        raise SchemaMismatch(
            f"the schema of {name} is at {present}, which is newer than this version of wakeloop knows ({head()}): "
            "upgrade wakeloop, or restore the database from before"
        )
    return present


def _migrate(connection: Connection) -> None:
    from alembic.runtime.environment import EnvironmentContext

    scripts = _scripts()

    def steps(present: Any, context: Any) -> Any:
        return scripts._upgrade_revs("head", present)

    with EnvironmentContext(_config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        with environment.begin_transaction():
            environment.run_migrations()


# What the migrations made of an empty SQLite database, from their first run in this process: every Simulation makes one.
_made: list[str] = []


def _remember(connection: Connection) -> None:
    made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
    _made[:] = [*made.scalars(), f"INSERT INTO alembic_version (version_num) VALUES ('{head()}')"]


@functools.cache
def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


@functools.cache
def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())
