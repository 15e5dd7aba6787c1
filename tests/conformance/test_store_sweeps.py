"""Whoever works on due requests: which they get, and in which order they lock. One contract, every store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.conformance.store_kit import (
    EVERY_STORE,
    NOW,
    Store,
    after,
    at_once,
    change,
    make_stores,
    question,
    raised,
    running,
    settlement,
)
from tests.servers import Postgres

from wakeloop.store import due, requests


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Store]:
    """A store on PostgreSQL: elsewhere there is one writer, and nobody whose locks one could run into."""
    store = Store(postgres_server.new_database())
    yield store
    store.database.close()


def find(store: Store, id: UUID) -> Any:
    with store.database.read() as connection:
        return requests.find(connection, id)


def settle_told(store: Store, id: UUID, by: str) -> bool:
    end = settlement(store, id, by=by)
    with store.database.begin() as connection:
        return requests.settle_told(connection, id, end.status, end.outcome, now=store.now)


def is_open(store: Store, id: UUID) -> dict[str, bool]:
    """Whether a request is still open for each of those whom it was asked."""
    with store.database.read() as connection:
        return {row.contact: row.open for row in requests.recipients_of(connection, id)}


# ---------------------------------------------------------------------- what is due


def test_looking_tells_of_requests(store: Store) -> None:
    """A look tells that a request is due, when the next will be, and nothing of those that are over."""
    id = store.open()
    later = NOW + timedelta(hours=1)
    with store.database.read() as connection:
        now_due = due.look(connection, now=store.now)
    with store.database.begin() as connection:
        requests.move(connection, id, due_at=later, asked_at=NOW, reminders=0, escalations=0)
        to_come = due.look(connection, now=store.now)
        then_due = due.look(connection, now=later)
    settle_told(store, id, "alice")
    with store.database.read() as connection:
        over = due.look(connection, now=later)

    assert (now_due.requests, now_due.is_empty, now_due.next) == (True, False, None)
    assert (to_come.requests, to_come.is_empty, to_come.next) == (False, True, later)
    assert (then_due.requests, then_due.next) == (True, None)
    assert (over.is_empty, over.next) == (True, None)


def test_the_longest_due_requests_come_first(store: Store) -> None:
    """Looking gives what is due, the longest due first and no more than is wanted; what is to come is left."""
    ids = []
    for _ in range(3):
        ids.append(store.open())
        store.pass_time(1)
    with store.database.begin() as connection:
        requests.move(connection, ids[0], due_at=store.now, asked_at=NOW, reminders=0, escalations=0)
        later = store.now + timedelta(microseconds=1)
        requests.move(connection, store_open(store, connection), due_at=later, asked_at=NOW, reminders=0, escalations=0)  # fmt: skip

    with store.database.read() as connection:
        found = [row.id for row in requests.look_due(connection, now=store.now, limit=10)]
        fewer = [row.id for row in requests.look_due(connection, now=store.now, limit=2)]

    assert found == [ids[1], ids[2], ids[0]]
    assert fewer == [ids[1], ids[2]]


def store_open(store: Store, connection: Any) -> UUID:
    """A request that is made in a transaction that is under way."""
    new = question(store)
    requests.open_requests(connection, [(None, new)], now=store.now)
    return new.id


def test_only_what_is_due_still_is_locked(store: Store) -> None:
    """Of requests that were due when looked at, those that are not any more are not given out, settled or not."""
    [session] = store.sessions("a")
    moved, over, told, left = store.open(session), store.open(session), store.open(), store.open()
    with store.database.read() as connection:
        looked = requests.look_due(connection, now=store.now, limit=10)
    with store.database.begin() as connection:
        later = NOW + timedelta(microseconds=1)
        requests.move(connection, moved, due_at=later, asked_at=NOW, reminders=0, escalations=0)
    store.settle(settlement(store, over))
    settle_told(store, told, "alice")

    with store.database.begin() as connection:
        sessions = {row.session_id for row in looked if row.session_id is not None}
        ids = {row.id for row in looked}
        rows = requests.lock_due(connection, ids, sessions, now=store.now)
        assert requests.lock_due(connection, [], [], now=store.now) == []

    assert ids == {moved, over, told, left}
    # What is settled is due for its end to be told; what was told is not.
    assert [(row.id, row.status) for row in rows] == sorted([(over, "answered"), (left, "open")])


def test_sweeps_at_once_share_no_request(store: Store) -> None:
    """Desks that sweep at once get each due request one time, of sessions and of programs."""
    sessions = store.sessions(*"abc")
    ids = {store.open(session) for session in (*sessions, None) for _ in range(5)}

    def sweep() -> list[UUID]:
        with store.database.begin() as connection:
            looked = requests.look_due(connection, now=store.now, limit=7)
            of = {row.session_id for row in looked if row.session_id is not None}
            rows = requests.lock_due(connection, {row.id for row in looked}, of, now=store.now)
            for row in rows:
                requests.move(connection, row.id, due_at=None, asked_at=NOW, reminders=0, escalations=0)
        return [row.id for row in rows]

    results = at_once(*[lambda: [id for _ in range(5) for id in sweep()]] * 4)

    assert raised(results) == []
    got = [id for found in results for id in found]
    while more := sweep():
        got += more
    assert len(got) == len(set(got))
    assert set(got) == ids


def test_what_another_has_in_hand_is_skipped(postgres: Store) -> None:
    """A sweep leaves out what another transaction has locked, and does not wait for it."""
    held, free = postgres.open(), postgres.open()

    with postgres.database.begin() as deciding, postgres.database.begin() as sweeping:
        assert requests.lock(deciding, held) is not None
        sweeping.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        rows = requests.lock_due(sweeping, [held, free], [], now=postgres.now)

    assert [row.id for row in rows] == [free]


# ---------------------------------------------------------------------- the order of locks


def test_a_request_is_locked_after_its_session(postgres: Store) -> None:
    """Whoever has the session has its requests: another who wants to lock one waits for the session, and holds nothing."""
    [session] = postgres.sessions("a")
    id = postgres.open(session)
    lock_session = sa.text("SELECT id FROM sessions WHERE id = :id FOR NO KEY UPDATE")
    lock_request = sa.text("SELECT id FROM requests WHERE id = :id FOR UPDATE NOWAIT")
    statuses: list[str] = []

    def decide() -> None:
        with postgres.database.begin() as connection:
            row = requests.lock(connection, id)
            assert row is not None
            statuses.append(row.status)

    deciding = threading.Thread(target=decide, daemon=True)
    with postgres.database.begin() as turn:
        turn.execute(lock_session, {"id": session}).all()
        deciding.start()
        deadline = time.monotonic() + 30
        while not postgres.rows("SELECT pid FROM pg_locks WHERE NOT granted"):
            assert time.monotonic() < deadline, "nobody waits"
            time.sleep(0.01)

        turn.execute(lock_request, {"id": id}).all()  # would be refused if the other had it
        end = settlement(postgres, id, by="alice")
        requests.settle(turn, [end], now=postgres.now)
    deciding.join(30)

    # What the lock gives is what the turn left.
    assert statuses == ["answered"]


def test_turns_and_decisions_of_one_request_never_block(store: Store) -> None:
    """A turn that settles a request and a person who decides it, many times at once: no deadlock, and one of them wins."""
    row = store.held("a")
    won = {"turn": 0, "person": 0}
    for number in range(40):
        run = running(store, row)
        asked = [question(store, run.id) for _ in range(2)]
        [result] = store.commit(change(row, new_runs=[run], requests=asked))
        row = after(row, result)
        for one in asked:
            store.ask(one.id, "alice", "bob")
        id = asked[number % 2].id
        ends: dict[str, Any] = (
            {"settlements": [settlement(store, one.id, "cancelled") for one in asked]}
            if number % 3
            else {"closed_runs": [run.id]}
        )

        def decide(id: UUID = id) -> bool:
            with store.database.begin() as connection:
                found = requests.lock(connection, id)
                assert found is not None
                if found.status != "open":
                    return False
                requests.set_vote(connection, id, "bob", "d1")
                end = settlement(store, id, by="bob")
                return requests.settle_told(connection, id, end.status, end.outcome, now=store.now)

        def turn(row: Any = row, ends: dict[str, Any] = ends) -> Any:
            return store.commit(change(row, **ends))

        def sweep(ids: tuple[UUID, ...] = (asked[0].id, asked[1].id), session: int = row.id) -> int:
            with store.database.begin() as connection:
                found = requests.lock_due(connection, ids, [session], now=store.now)
                requests.lock_contacts(connection, ["bob", "alice"])
                for one in found:
                    requests.note_told(connection, [(one.id, "bob")])
            return len(found)

        results = at_once(turn, decide, sweep)

        assert raised(results) == []
        [[committed], decided, _] = results
        assert not committed.fenced
        row = after(row, committed)
        settled = find(store, id)
        assert settled.status == ("answered" if decided else "cancelled")
        assert is_open(store, id) == {"alice": False, "bob": False}
        won["person" if decided else "turn"] += 1
    assert sum(won.values()) == 40
