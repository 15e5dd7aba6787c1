"""The audit record: lines are added, and the database itself lets nobody change one. One contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from tests.conformance.store_kit import EVERY_STORE, NOW, Store, at_once, make_stores, raised

from wakeloop.store import audit


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def append(store: Store, id: UUID, act: str, result: str = "counted", **facts: Any) -> None:
    with store.database.begin() as connection:
        audit.append(connection, id, at=store.now, act=act, result=result, **facts)


def lines(store: Store, id: UUID) -> list[Any]:
    with store.database.read() as connection:
        return audit.of_request(connection, id)


def test_what_happened_to_a_request_is_told_in_order(store: Store) -> None:
    """The lines of a request come in the order in which they were added, with all that was said, and no other's."""
    id, other = store.id(), store.id()
    append(store, id, "ask", "queued", contact="alice", channel="sms")
    append(store, other, "expire", "expired")
    store.pass_time(60)
    append(store, id, "approve", contact="alice", channel="sms", auth="provider's signature", digest="d1", comment="fine")  # fmt: skip
    append(store, id, "deny", "late: approved", contact="bob")

    found = lines(store, id)

    assert [tuple(row)[2:] for row in found] == [
        (NOW, "alice", "ask", "queued", "sms", None, None, None),
        (NOW + timedelta(seconds=60), "alice", "approve", "counted", "sms", "provider's signature", "d1", "fine"),
        (NOW + timedelta(seconds=60), "bob", "deny", "late: approved", None, None, None, None),
    ]  # fmt: skip
    assert [row.act for row in lines(store, other)] == ["expire"]
    assert lines(store, store.id()) == []


def test_every_attempt_is_on_record_however_many_come_at_once(store: Store) -> None:
    """Lines that are added at once are all there, each once."""
    id = store.id()

    def work(name: str) -> None:
        for number in range(10):
            append(store, id, f"{name}:{number}")

    results = at_once(*[lambda name=name: work(name) for name in "abc"])

    assert raised(results) == []
    acts = [row.act for row in lines(store, id)]
    assert sorted(acts) == sorted(f"{name}:{n}" for name in "abc" for n in range(10))
    for name in "abc":
        assert [act for act in acts if act.startswith(name)] == [f"{name}:{n}" for n in range(10)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET result = 'counted', contact = 'mallory'",
        "UPDATE audit SET comment = 'x' WHERE act = 'deny'",
        "UPDATE audit SET id = id + 100",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE act = 'deny'",
        (
            "INSERT INTO audit (id, request_id, at, act, result) SELECT id, request_id, at, act, 'counted' FROM audit "
            "WHERE act = 'deny' ON CONFLICT (id) DO UPDATE SET result = 'counted'"
        ),
    ],
    ids=["update", "update one", "renumber", "delete", "delete one", "upsert"],
)
def test_the_database_refuses_to_change_the_record(store: Store, statement: str) -> None:
    """Whoever changes or removes a line, even by hand, is refused by the database, and the line stays as it was."""
    id = store.id()
    append(store, id, "approve", contact="alice")
    append(store, id, "deny", "refused: not asked", contact="mallory")
    before = [tuple(row) for row in lines(store, id)]

    with pytest.raises(DBAPIError, match="audit is append-only"), store.database.begin() as connection:
        connection.execute(sa.text(statement))

    assert [tuple(row) for row in lines(store, id)] == before
    append(store, id, "expire", "expired")
    assert len(lines(store, id)) == 3


def test_the_record_can_be_neither_emptied_nor_overwritten(store: Store) -> None:
    """The ways around row triggers that each database has are closed, too."""
    id = store.id()
    append(store, id, "approve", contact="alice")
    way_around = (
        "TRUNCATE audit"
        if store.database.is_postgres
        else "INSERT OR REPLACE INTO audit (id, request_id, at, act, result) SELECT id, request_id, at, act, 'late' FROM audit"
    )

    with pytest.raises(DBAPIError, match="audit is append-only"), store.database.begin() as connection:
        connection.execute(sa.text(way_around))

    assert [row.result for row in lines(store, id)] == ["counted"]
