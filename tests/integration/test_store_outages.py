"""The store while its database is away, busy or broken."""

from __future__ import annotations

import itertools
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tests.conformance.store_kit import EVERY_STORE, Store, after, change, claim, look, make_stores, running
from tests.servers import Postgres

from wakeloop import Context, agent, cron, step
from wakeloop.clock import OffsetClock
from wakeloop.engine.journal import Kind, Record
from wakeloop.store import inbox, turns
from wakeloop.store.database import Database, is_outage
from wakeloop.store.records import NewRun, Post, SessionCommit
from wakeloop.testing import Simulation


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def error_of(work: Callable[[], Any]) -> DBAPIError:
    with pytest.raises(DBAPIError) as caught:
        work()
    return caught.value


# ---------------------------------------------------------------------- what is an outage


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM nowhere",
        "SELECT nothing FROM sessions",
        "SELEC 1",
        "INSERT INTO sessions (id) VALUES (1)",
    ],
)
def test_a_mistake_in_the_program_is_no_outage(store: Store, sql: str) -> None:
    """A missing table or column, bad SQL or a broken rule is raised at once, not tried again for seconds."""
    tries = []

    def work() -> None:
        tries.append(1)
        with store.database.begin() as connection:
            connection.execute(sa.text(sql))

    error = error_of(lambda: store.database.retrying(work, seconds=30))

    assert not is_outage(error)
    assert len(tries) == 1


def test_a_value_that_no_database_keeps_is_no_outage(store: Store) -> None:
    """A NUL in a text, which PostgreSQL refuses, is the value's fault."""
    if not store.database.is_postgres:
        return
    row = store.held("a")

    error = error_of(lambda: store.commit(change(row, state="a\x00b")))

    assert not is_outage(error)


def test_a_busy_sqlite_file_is_an_outage(tmp_path: Path) -> None:
    """A file that another process has locked is waited for, and tried again."""
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.upgrade()
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    def work() -> None:
        with database.begin() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 50")

    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    assert is_outage(error_of(work))
    threading.Timer(0.3, lambda: other.execute("ROLLBACK")).start()
    database.retrying(work, seconds=10)
    other.close()
    database.close()


def test_a_pool_without_a_free_connection_is_an_outage(tmp_path: Path) -> None:
    """The same may succeed as soon as others of the process give one back."""
    database = Database(f"sqlite:///{tmp_path / 'store.db'}", pool_size=1)
    database.engine.pool._timeout = 0.1  # type: ignore[attr-defined] # of a QueuePool
    held = [database.engine.connect() for _ in range(2)]

    def work() -> None:
        with database.begin():
            pass

    with pytest.raises(PoolTimeout) as caught:
        work()
    assert is_outage(caught.value)
    threading.Timer(0.3, held[0].close).start()
    database.retrying(work, seconds=10)
    held[1].close()
    database.close()


def test_a_full_disk_is_an_outage(tmp_path: Path) -> None:
    """A full disk may have room again: what could not be written is tried again."""
    database = Database(f"sqlite:///{tmp_path / 'store.db'}")
    database.upgrade()

    def fill() -> None:
        with database.begin() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.execute(
                sa.text("INSERT INTO opt_outs (channel, address, at) VALUES ('sms', :text, 0)"),
                {"text": "x" * 100_000},
            )

    error = error_of(fill)

    assert "full" in str(error)
    assert is_outage(error)
    database.close()


@pytest.mark.parametrize(
    ("kind", "outage"),
    [
        (psycopg.errors.DeadlockDetected, True),
        (psycopg.errors.SerializationFailure, True),
        (psycopg.errors.AdminShutdown, True),
        (psycopg.errors.CannotConnectNow, True),
        (psycopg.errors.TooManyConnections, True),
        (psycopg.errors.DiskFull, True),
        (psycopg.errors.ReadOnlySqlTransaction, True),
        (psycopg.errors.LockNotAvailable, True),
        (psycopg.OperationalError, True),
        (psycopg.errors.UndefinedTable, False),
        (psycopg.errors.UniqueViolation, False),
        (psycopg.errors.NumericValueOutOfRange, False),
    ],
)
def test_errors_of_postgresql_are_told_apart(kind: type[psycopg.Error], outage: bool) -> None:
    """What may pass is an outage; what will never succeed is not."""
    error = DBAPIError.instance("SELECT 1", None, kind("no"), psycopg.Error)

    assert is_outage(error) is outage


def test_trying_again_ends_in_time_and_when_told_to(store: Store) -> None:
    """Trying again ends after its seconds, or as soon as it is told to stop."""
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY

    def work() -> None:
        raise OperationalError("SELECT 1", None, busy)

    started = time.monotonic()
    error_of(lambda: store.database.retrying(work, seconds=0.4))
    assert 0.1 < time.monotonic() - started < 2
    error_of(lambda: store.database.retrying(work, seconds=60, stop=lambda: True))
    assert time.monotonic() - started < 3


def test_an_outage_in_the_middle_of_a_transaction_undoes_it(store: Store) -> None:
    """An exception within a transaction undoes all of it, and the next one begins clean."""
    row = store.held("a")

    def die() -> None:
        with store.database.begin() as connection:
            turns.commit(connection, [change(row, state='"half"')], now=store.now)
            raise RuntimeError("died here")

    with pytest.raises(RuntimeError):
        die()

    assert store.session(row.id).state is None
    assert not store.commit(change(row, state='"whole"'))[0].fenced


# ---------------------------------------------------------------------- one bad session


def test_a_poisoned_session_fails_its_transaction_and_not_the_others_when_tried_alone(store: Store) -> None:
    """A row that a key refuses undoes its whole batch; each session tried alone, only the poisoned one fails."""
    good, bad = store.held("good"), store.held("bad")
    run = running(store, good)
    store.commit(change(good, new_runs=[run]))
    with store.database.read() as connection:
        fresh = look(connection, good.id, bad.id).known
    commits = [
        change(fresh[good.id], state='"fine"'),
        change(fresh[bad.id], state='"poisoned"', new_runs=[run]),
    ]

    assert not is_outage(error_of(lambda: store.commit(*commits)))
    assert store.session(good.id).state is None
    assert not store.commit(commits[0])[0].fenced
    error_of(lambda: store.commit(commits[1]))

    assert store.session(good.id).state == '"fine"'
    assert store.session(bad.id).state is None


@agent(cron("0 9 * * *"))
async def healthy(ctx: Context[None]) -> None:
    await ctx.send("alice", "fine")


@agent(cron("0 9 * * *"))
async def poisoned(ctx: Context[None]) -> None:
    await step(lambda: None, name="PostgreSQL takes no \x00 in a text")()


def test_a_poisoned_session_does_not_stop_those_it_is_committed_with(postgres_server: Postgres) -> None:
    """A session that the database refuses is tried alone: the others of its batch go on, its own run is parked."""
    contacts = {"alice": {"sms": "+15555550100"}}
    with Simulation(
        [healthy, poisoned],
        contacts=contacts,
        start="2026-11-02T08:59:00Z",
        store=postgres_server.new_database(),
    ) as simulation:
        simulation.advance(timedelta(minutes=1))

        assert [message.text for message in simulation.outbox()] == ["fine"]
        assert [run.status for run in simulation.runs(healthy)] == ["completed"]
        assert [run.status for run in simulation.runs(poisoned)] == ["stuck"]
        assert "the database refused" in str(simulation.runs(poisoned)[0].error)


# ---------------------------------------------------------------------- the clock


def test_the_database_clock_is_never_ahead(postgres_server: Postgres) -> None:
    """The clock that is followed is behind the server's by the network's delay at most, and never ahead of it."""
    database = Database(postgres_server.new_database())

    for _ in range(20):
        mine = database.now()
        with database.read() as connection:
            theirs = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        assert timedelta(0) <= theirs - mine < timedelta(seconds=2)
    database.close()


def test_a_wrong_clock_of_this_machine_moves_nothing(postgres_server: Postgres) -> None:
    """A worker goes by the server's clock, whatever its own says."""
    database = Database(postgres_server.new_database())
    clock = database._follow
    assert isinstance(clock, OffsetClock)
    clock.learn(datetime(2031, 1, 1, tzinfo=UTC))

    assert abs(database.now() - datetime.now(UTC)) < timedelta(minutes=1)
    database.close()


def test_time_goes_on_while_the_server_is_away() -> None:
    """While the server is away the clock goes on from its last lesson; before the first, nobody knows the time."""
    with Postgres() as server:
        database = Database(server.new_database())
        known = database.now()
        server.stop()
        database._learned -= 60

        assert known <= database.now() <= known + timedelta(seconds=30)

        stranger = Database(database.url.render_as_string(hide_password=False))
        with pytest.raises(DBAPIError):
            stranger.now()
        server.start()
        database._learned -= 60
        assert database.retrying(database.now, seconds=20) > known
        assert stranger.retrying(stranger.now, seconds=20) > known
        database.close()
        stranger.close()


# ---------------------------------------------------------------------- the server restarts


def test_commits_survive_restarts_of_the_server() -> None:
    """Threads commit while the server is restarted, killed and stopped: nothing is lost, and nothing is doubled."""
    with Postgres() as server:
        url = server.new_database()
        setup = Database(url)
        setup.upgrade()
        over = threading.Event()
        done: dict[int, int] = {}
        troubles: list[BaseException] = []

        def work(worker: int) -> None:
            database = Database(url)
            owner = f"worker {worker}"
            try:

                def begin() -> Any:
                    with database.begin() as connection:
                        now = database.now()
                        known = inbox.ensure_sessions(connection, [("standup", owner)], now=now)
                        run = NewRun(id=first, agent="standup", key=owner, event="{}")
                        inbox.touch(connection, inbox.queue_runs(connection, [run], known, now=now), now=now)
                        rows = claim(
                            connection, known.values(), owner=owner, now=now, until=now + timedelta(hours=1)
                        )
                        return (
                            rows[0] if rows else next(iter(look(connection, *known.values()).known.values()))
                        )

                first = database._clock.new_id()
                session = database.retrying(begin, seconds=60)
                for number in itertools.count(1):
                    commit = SessionCommit(
                        session=session, lease_until=datetime.now(UTC) + timedelta(hours=1), state=f"{number}",
                        records={first: [Record(seq=number, op=number, kind=Kind.STEP, name="count", at=datetime.now(UTC))]},
                        posts=[Post(agent="other", key="all", kind="signal", dedupe=f"{worker}:{number}")],
                    )  # fmt: skip

                    def attempt(commit: SessionCommit = commit) -> Any:
                        with database.begin() as connection:
                            return turns.commit(connection, [commit], now=database.now())[0]

                    result = database.retrying(attempt, seconds=60)
                    assert not result.fenced, f"{owner} was fenced at {number}"
                    session = after(session, result)
                    done[worker] = number
                    if over.is_set():
                        return
            except BaseException as error:
                troubles.append(error)
            finally:
                database.close()

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
        for thread in threads:
            thread.start()
        chance = random.Random(0)
        for end in (server.stop, server.kill, server.stop, server.kill):
            time.sleep(0.5 + chance.random() / 2)
            end()
            time.sleep(chance.random() / 2)
            server.start()
        time.sleep(0.5)
        over.set()
        for thread in threads:
            thread.join(90)

        assert troubles == []
        assert not any(thread.is_alive() for thread in threads)

        def reconnect() -> None:
            with setup.read() as connection:
                connection.execute(sa.text("SELECT 1"))

        setup.retrying(reconnect, seconds=20)
        with setup.read() as connection:
            for worker, count in done.items():
                state = connection.execute(
                    sa.text("SELECT state FROM sessions WHERE key = :key"), {"key": f"worker {worker}"}
                ).scalar_one()
                assert state == f"{count}"
            total = sum(done.values())
            lines = connection.execute(sa.text("SELECT count(*) FROM journal")).scalar_one()
            posts = connection.execute(sa.text("SELECT count(*) FROM inbox")).scalar_one()
            arrivals = connection.execute(
                sa.text("SELECT arrivals FROM sessions WHERE agent = 'other'")
            ).scalar_one()
        # What made a session is not counted there: it is due from its beginning, and nobody held it before.
        assert (lines, posts, arrivals) == (total, total, total - 1)
        assert min(done.values()) > 5
        setup.close()
