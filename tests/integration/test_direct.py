"""Statements that psycopg is handed itself are what they are through SQLAlchemy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError
from tests.conformance.store_kit import EVERY_STORE, NOW, Store, make_stores
from tests.servers import Postgres

from wakeloop.store.batches import Insert, among
from wakeloop.store.database import Database, is_outage
from wakeloop.store.direct import Direct, together
from wakeloop.store.schema import runs, sessions

OF_SESSIONS = Direct(sa.select(runs).where(among(runs.c.session_id, "ids")).order_by(runs.c.id))
COUNT = Direct(sa.select(sa.func.count().label("many")).select_from(sessions))
MAKE = Insert(sessions, ("agent", "key", "created_at", "due_at"))
PREPARED_AFTER = 5
"""A statement that psycopg has executed so often is prepared the next time."""
WRONG = Direct(
    sa.select(sa.literal_column("1 / (SELECT count(*) FROM sessions WHERE key = 'none')").label("one"))
)


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def row(key: str) -> dict[str, Any]:
    return {"agent": "standup", "key": key, "created_at": NOW, "due_at": None}


def test_rows_are_the_same_either_way(store: Store) -> None:
    """Times are in UTC and ids are UUIDs, through SQLAlchemy, which a listener asks for, and without it."""
    ids = store.sessions("a", "b")
    queued = store.queue("a", nominal=datetime(2026, 11, 2, 9, 30, 0, 1, tzinfo=UTC), schedule_id=7)
    with store.database.begin() as connection:
        found = OF_SESSIONS(connection, {"ids": ids})
        (again,) = together(connection, [(OF_SESSIONS, {"ids": ids})])
        sa.event.listen(connection, "before_cursor_execute", lambda *event: None)
        through = OF_SESSIONS(connection, {"ids": ids})
        first, none = OF_SESSIONS.first(connection, {"ids": ids}), OF_SESSIONS.first(connection, {"ids": []})

    assert [tuple(one) for one in found] == [tuple(one) for one in through] == [tuple(one) for one in again]
    assert [one.id for one in found] == sorted(queued)
    assert isinstance(first.id, UUID)
    assert (first.nominal.tzinfo, first.cancelling, first.ended_at) == (UTC, False, None)
    assert none is None


def test_what_goes_together_is_done_in_order(store: Store) -> None:
    """Each statement sees what those before it did, and gets its own rows."""
    ids = store.sessions("a")
    store.queue("a")
    with store.database.begin() as connection:
        before, found, after = together(connection, [(COUNT, {}), (OF_SESSIONS, {"ids": ids}), (COUNT, {})])

    assert (before[0].many, after[0].many) == (1, 1)
    assert [one.session_id for one in found] == ids


def test_a_mistake_among_several_undoes_all(postgres_server: Postgres) -> None:
    """It is told as SQLAlchemy tells it, is no outage, and the connection is of use afterwards."""
    database = Database(postgres_server.new_database())
    database.upgrade()

    def work() -> None:
        with database.begin() as connection:
            MAKE(connection, [row("a")])
            together(connection, [(COUNT, {}), (WRONG, {}), (COUNT, {})])

    with pytest.raises(DBAPIError, match="division by zero") as caught:
        work()
    with database.begin() as connection:
        [(count,)] = COUNT(connection, {})
    database.close()

    assert count == 0
    assert not is_outage(caught.value)
    assert not isinstance(caught.value, ProgrammingError)


def test_what_was_passed_over_after_a_mistake_is_not_taken_for_prepared(postgres_server: Postgres) -> None:
    """Where no rollback follows the mistake, either: psycopg was about to prepare the statement after it."""
    database = Database(postgres_server.new_database(), pool_size=1)
    database.upgrade()

    def ask(*statements: Direct) -> list[list[Any]]:
        with database.lone() as connection:
            return together(connection, [(statement, {}) for statement in statements])

    for _ in range(PREPARED_AFTER):
        ask(COUNT)
    with pytest.raises(DBAPIError, match="division by zero"):
        ask(WRONG, COUNT)
    [[row]] = ask(COUNT)
    database.close()

    assert row.many == 0


@pytest.mark.parametrize("ask", [lambda c: COUNT(c, {}), lambda c: together(c, [(COUNT, {}), (COUNT, {})])], ids=["one", "several"])  # fmt: skip
def test_a_lost_connection_is_an_outage_and_ends_those_that_are_as_old(
    postgres_server: Postgres, ask: Callable[[Any], Any]
) -> None:
    """So the next attempt gets a new one, however many of the pool were lost with it."""
    database = Database(postgres_server.new_database())
    database.upgrade()
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(pytest.raises(DBAPIError))
        one, other, third = (stack.enter_context(database.begin()) for _ in range(3))
        for connection in (one, other):
            pid = connection.connection.driver_connection.info.backend_pid
            third.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        ask(one)
    tries = []

    def work() -> Any:
        tries.append(1)
        with database.begin() as connection:
            return ask(connection)

    database.retrying(work, seconds=0.0)
    database.close()

    assert is_outage(caught.value)
    assert tries == [1]


def test_what_is_given_for_one_row_is_planned_once(postgres_server: Postgres) -> None:
    """Nor does it matter to what is found whether it is given alone."""
    store = Store(postgres_server.new_database())
    ids = store.sessions(*(f"k{number}" for number in range(20)))
    queued = [store.queue(f"k{number}")[0] for number in range(20)]
    with store.database.begin() as connection:
        alone = [OF_SESSIONS(connection, {"ids": [id]}) for id in ids]
        beside = [OF_SESSIONS(connection, {"ids": [id, 0]}) for id in ids]
        for number in range(20):
            MAKE(connection, [row(f"n{number}")])
        found = connection.execute(sa.text("SELECT statement, generic_plans FROM pg_prepared_statements"))
        kept = {statement: plans > 0 for statement, plans in found}
    store.database.close()

    assert [one.id for (one,) in alone] == [one.id for (one,) in beside] == queued
    (lone,) = (is_kept for text, is_kept in kept.items() if "session_id = ($1::BIGINT[])[1]" in text)
    (made,) = (is_kept for text, is_kept in kept.items() if text.startswith("INSERT INTO sessions"))
    assert (lone, made) == (True, True)


def test_a_statement_whose_text_depends_on_its_values_is_refused(postgres_server: Postgres) -> None:
    """It could not be compiled once."""
    database = Database(postgres_server.new_database())
    database.upgrade()
    several = Direct(sa.select(sessions.c.id).where(sessions.c.id.in_([1, 2])))
    with database.begin() as connection, pytest.raises(ValueError, match="depends on its values"):
        several(connection, {})
    database.close()
