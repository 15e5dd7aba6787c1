"""A store with sessions in it, over every database that wakeloop keeps one in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.engine import Connection
from tests.servers import Postgres

from wakeloop.asking import RequestSpec, Settled
from wakeloop.clock import VirtualClock
from wakeloop.store import inbox, leases, requests, turns
from wakeloop.store.database import Database
from wakeloop.store.records import (
    Committed,
    NewRequest,
    NewRun,
    RunRow,
    SessionCommit,
    SessionRow,
    Settlement,
    TakenUp,
)

NOW = datetime(2026, 11, 2, 14, 0, 0, 123456, tzinfo=UTC)
LEASE = timedelta(seconds=15)


def claim(
    connection: Connection, ids: Collection[int], *, owner: str, now: datetime, until: datetime
) -> list[SessionRow]:
    """Take these sessions up; those that were to be had."""
    return list(turns.take_up(connection, ids, (), owner=owner, now=now, until=until).claimed)


def look(connection: Connection, *ids: int) -> TakenUp:
    """What these sessions hold, whoever has them."""
    return turns.take_up(connection, (), ids, owner="", now=NOW, until=NOW)


class Store:
    """A database with the schema, on a clock of the test's own; shorthands for what a worker does."""

    def __init__(self, url: str) -> None:
        self.clock = VirtualClock(NOW)
        self.database = Database(url, clock=self.clock)
        self.database.upgrade()

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def pass_time(self, seconds: float) -> None:
        self.clock.move(self.now + timedelta(seconds=seconds))

    def id(self) -> UUID:
        return self.clock.new_id()

    def sessions(self, *keys: str, agent: str = "standup") -> list[int]:
        """The ids of these sessions, made if they are not there."""
        with self.database.begin() as connection:
            known = inbox.ensure_sessions(connection, [(agent, key) for key in keys], now=self.now)
        return [known[agent, key] for key in keys]

    def queue(self, *keys: str, agent: str = "standup", **facts: Any) -> list[UUID]:
        """Queue a run in each of these sessions, which makes them due."""
        self.sessions(*keys, agent=agent)
        new = [NewRun(id=self.id(), agent=agent, key=key, event="{}", **facts) for key in keys]
        with self.database.begin() as connection:
            known = inbox.ensure_sessions(connection, [(agent, key) for key in keys], now=self.now)
            inbox.touch(connection, inbox.queue_runs(connection, new, known, now=self.now), now=self.now)
        return [run.id for run in new]

    def claim(self, *ids: int, owner: str = "worker 1") -> list[SessionRow]:
        with self.database.begin() as connection:
            return claim(connection, ids, owner=owner, now=self.now, until=self.now + LEASE)

    def claim_due(self, *agents: str, limit: int = 100) -> list[int]:
        with self.database.begin() as connection:
            found = leases.claim_due(connection, now=self.now, agents=agents or ("standup",), limit=limit)
        return [id for id, _, _ in found]

    def held(self, key: str, owner: str = "worker 1") -> SessionRow:
        """A session with a queued run, claimed."""
        self.queue(key)
        [row] = self.claim(*self.sessions(key), owner=owner)
        return row

    def commit(self, *commits: SessionCommit) -> list[Committed]:
        with self.database.begin() as connection:
            return turns.commit(connection, commits, now=self.now)

    def open(self, session: int | None = None, run: UUID | None = None, **facts: Any) -> UUID:
        """A request of a session, or of a program outside, that was just made."""
        new = question(self, run, **facts)
        with self.database.begin() as connection:
            assert requests.open_requests(connection, [(session, new)], now=self.now) == {new.id}
        return new.id

    def ask(self, id: UUID, *contacts: str) -> dict[str, bool]:
        """Ask these people a request, as the desk does: whether it is each one's only open request."""
        with self.database.begin() as connection:
            requests.lock_contacts(connection, contacts)
            return requests.add_recipients(connection, id, dict.fromkeys(contacts), now=self.now)

    def settle(self, *settlements: Settlement) -> None:
        with self.database.begin() as connection:
            requests.settle(connection, settlements, now=self.now)

    def codes(self, id: UUID) -> dict[str, str]:
        """The code that each person knows a request by."""
        with self.database.read() as connection:
            return {row.contact: row.code for row in requests.recipients_of(connection, id)}

    def session(self, id: int) -> Any:
        return self.rows("SELECT * FROM sessions WHERE id = :id", id=id)[0]

    def rows(self, sql: str, **parameters: Any) -> list[Any]:
        import sqlalchemy as sa

        with self.database.read() as connection:
            return list(connection.execute(sa.text(sql), parameters))


def change(session: SessionRow, **facts: Any) -> SessionCommit:
    """A commit that keeps the session, unless told otherwise."""
    return SessionCommit(session=session, lease_until=NOW + timedelta(minutes=5), **facts)


def release(session: SessionRow, **facts: Any) -> SessionCommit:
    """A commit that lets the session go."""
    return change(session, release=True, **facts)


def after(session: SessionRow, result: Committed) -> SessionRow:
    """The session as its holder knows it after a commit."""
    return replace(session, version=result.version)


def running(store: Store, session: SessionRow, **facts: Any) -> RunRow:
    """A run of a session, to be inserted."""
    from wakeloop.status import RunStatus

    return RunRow(
        id=store.id(),
        session_id=session.id,
        status=RunStatus.RUNNING,
        event="{}",
        created_at=store.now,
        **facts,
    )


def question(store: Store, run: UUID | None = None, **facts: Any) -> NewRequest:
    """A question of a run, or of a program outside, to be recorded."""
    spec = RequestSpec(kind="question", to=("alice",), text="Ship it?")
    return requests.new_request(spec, id=store.id(), now=store.now, run_id=run, **facts)


def settlement(store: Store, id: UUID, status: str = "answered", by: str | None = None) -> Settlement:
    """The end of a request."""
    outcome = Settled(status=status, text="yes" if by else "", by=by, at=store.now)
    return Settlement(id=id, status=status, outcome=outcome.model_dump_json())


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Do these in threads that start together; what each gave, or the exception that it raised."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(place: int, work: Callable[[], Any]) -> None:
        barrier.wait(30)
        try:
            results[place] = work()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    return results


def raised(results: Sequence[Any]) -> list[BaseException]:
    return [result for result in results if isinstance(result, BaseException)]


def make_stores(request: pytest.FixtureRequest, folder: Any) -> Iterator[Store]:
    """The store of a test, by the fixture's parameter."""
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.new_database()
    else:
        url = "sqlite://" if request.param == "memory" else f"sqlite:///{folder / 'store.db'}"
    store = Store(url)
    yield store
    store.database.close()


EVERY_STORE = ["file", "memory", "postgres"]
