"""Migrations on real databases: equal to the tables in code, repeatable, and refused where they do not fit."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from tests.conformance.store_kit import at_once, look, raised
from tests.servers import Postgres, free_port

from wakeloop.asking import RequestSpec, Settled
from wakeloop.clock import VirtualClock
from wakeloop.decisions import Actor, Decisions
from wakeloop.desk import Desk
from wakeloop.errors import ConfigurationError, SchemaMismatch
from wakeloop.links import Links
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.status import OPEN_RUN, PARKED_RUN, RunStatus
from wakeloop.store import due, exports, inbox, measures, migration, queries, requests
from wakeloop.store.database import Database
from wakeloop.store.records import NewRun, Post
from wakeloop.store.schema import Instant, metadata
from wakeloop.world import World

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


def test_no_index_of_runs_names_what_changes_while_a_run_is_open() -> None:
    """Where PostgreSQL finds room on a row's page, a run that starts, sleeps and wakes is written without its indexes."""
    runs = metadata.tables["runs"]
    changing = {"status", "started_at", "applied", "waits", "wake_at", "cancelling"}

    named = {
        str(index.name): {column.name for column in index.columns}
        | set(str(index.dialect_options["postgresql"]["where"]).split())
        for index in runs.indexes
    }

    assert {name: words & changing for name, words in named.items() if words & changing} == {}
    assert {"ended_at", "failure"} <= set().union(*named.values())


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


def test_what_is_known_without_alembic_is_what_alembic_knows(make_database: MakeDatabase) -> None:
    """The names of the files are the revisions, one after the other; the store's own is read as Alembic reads it."""
    database = make_database()
    found = []
    for prepare in (lambda: None, database.upgrade):
        prepare()
        with database.read() as connection:
            alembics = MigrationContext.configure(connection).get_current_revision()
            found.append((database.revision(connection), alembics))

    assert found == [(None, None), (migration.head(), migration.head())]
    assert migration.revisions() == tuple(
        script.revision for script in reversed([*migration._scripts().walk_revisions()])
    )


def test_several_processes_may_upgrade_at_once(make_database: MakeDatabase) -> None:
    """Workers that start together on an empty database all find it upgraded, once."""
    databases = [make_database() for _ in range(4)]

    results = at_once(*(database.upgrade for database in databases))

    assert raised(results) == []
    for database in databases:
        database.check_schema()


def test_a_new_sqlite_file_that_another_writes_to_is_waited_for(tmp_path: Path) -> None:
    """Who turns WAL on while another writes to the file waits for it, where SQLite itself would refuse at once."""
    path = tmp_path / "store.db"
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE found (id INTEGER)")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO found VALUES (1)")
        done = threading.Timer(0.3, writer.commit)
        done.start()

        Database(f"sqlite:///{path}").upgrade()

        done.join()
    Database(f"sqlite:///{path}").check_schema()


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


# ---------------------------------------------------------------------- what was there before

LONG_AGO = datetime(2026, 10, 1, 9, 30, tzinfo=UTC)
NOW = datetime(2026, 11, 2, 14, 0, 0, 123456, tzinfo=UTC)
OLD_REQUESTS = sa.table(
    "requests", sa.column("id", sa.Uuid()), sa.column("session_id", sa.BigInteger()), sa.column("run_id", sa.Uuid()),
    sa.column("kind", sa.Text()), sa.column("contact", sa.Text()), sa.column("code", sa.Text()),
    sa.column("text", sa.Text()), sa.column("options", sa.Text()), sa.column("status", sa.Text()),
    sa.column("created_at", Instant()), sa.column("expires_at", Instant()), sa.column("settled_at", Instant()),
    sa.column("answer", sa.Text()), sa.column("by", sa.Text()),
)  # fmt: skip
ANSWERED, WITH_END, WITHOUT_END, EXPIRED, CANCELLED = (UUID(int=number) for number in range(1, 6))
RUN = UUID(int=77)


def upgrade_to(database: Database, revision: str) -> None:
    """Bring a store to an earlier schema, as a version of wakeloop did that knew no later one."""
    scripts = migration._scripts()

    def steps(present: Any, context: Any) -> Any:
        return scripts._upgrade_revs(revision, present)

    with (
        database.begin() as connection,
        EnvironmentContext(migration._config(), scripts, fn=steps) as environment,
    ):
        environment.configure(connection=connection, transactional_ddl=True)
        with environment.begin_transaction():
            environment.run_migrations()


def questions_of_0001(session: int) -> list[dict[str, Any]]:
    """Questions as the first schema kept them: each of one person, and what it came to in columns."""
    common = {
        "session_id": session, "run_id": RUN, "kind": "question", "contact": "alice", "text": "Ship it?",
        "options": None, "created_at": LONG_AGO, "expires_at": None, "settled_at": None, "answer": None, "by": None,
    }  # fmt: skip
    return [
        common | {"id": ANSWERED, "code": "A3", "status": "answered", "settled_at": LONG_AGO + timedelta(hours=1), "answer": "yes, “now” 👍", "by": "alice", "expires_at": NOW},
        common | {"id": WITH_END, "code": "A3", "status": "open", "expires_at": NOW + timedelta(minutes=5)},
        common | {"id": WITHOUT_END, "code": "C4", "status": "open", "text": "Which one?\n“Say”", "options": '["red", "blü"]'},
        common | {"id": EXPIRED, "contact": "bob", "code": "A3", "status": "expired", "settled_at": NOW, "expires_at": NOW},
        common | {"id": CANCELLED, "contact": "bob", "code": "A3", "status": "cancelled", "settled_at": NOW},
    ]  # fmt: skip


@pytest.fixture
def upgraded(make_database: MakeDatabase) -> Database:
    """A store that was made by the first version, with questions in it, and brought to this one's schema."""
    database = make_database()
    database.use_clock(VirtualClock(NOW))
    upgrade_to(database, "0001")
    with database.begin() as connection:
        assert database.revision(connection) == "0001"
        [session] = inbox.ensure_sessions(connection, [("standup", "a")], now=LONG_AGO).values()
        connection.execute(sa.insert(OLD_REQUESTS), questions_of_0001(session))
    database.upgrade()
    return database


def test_questions_of_the_first_schema_are_kept(upgraded: Database) -> None:
    """An upgrade keeps every question: what was asked of whom, under which code, and how it ended."""
    upgraded.check_schema()
    with upgraded.read() as connection:
        rows = {row.id: row for row in connection.execute(sa.select(metadata.tables["requests"]))}
        people = {id: requests.recipients_of(connection, id) for id in rows}

    [session] = {row.session_id for row in rows.values()}
    for old in questions_of_0001(session):
        row, [person] = rows[old["id"]], people[old["id"]]
        is_open = old["status"] == "open"
        facts = (
            row.session_id,
            row.run_id,
            row.kind,
            row.status,
            row.created_at,
            row.expires_at,
            row.settled_at,
        )
        assert facts == tuple(old[name] for name in ("session_id", "run_id", "kind", "status", "created_at", "expires_at", "settled_at"))  # fmt: skip
        assert (person.contact, person.code, person.open) == (old["contact"], old["code"], is_open)
        assert (person.added_at, person.code_told, person.unreachable) == (LONG_AGO, True, False)
        assert (person.vote, person.draft, person.via) == (None, None, None)
        spec = RequestSpec.model_validate_json(row.spec)
        assert (spec.kind, spec.to, spec.text) == ("question", (old["contact"],), old["text"])
        assert spec.options == tuple(json.loads(old["options"] or "[]"))
        # Those that are open were asked, and have nothing to come but their end.
        assert (row.asked_at, row.due_at) == (LONG_AGO, old["expires_at"] if is_open else None)
        assert (row.outcome is None) == is_open
        if not is_open:
            settled = Settled.model_validate_json(row.outcome)
            assert (settled.status, settled.by, settled.at) == (old["status"], old["by"], old["settled_at"])
            assert (settled.text, settled.value) == (old["answer"] or "", old["answer"])
    assert len(rows) == 5


def offices(database: Database) -> tuple[Desk, Decisions]:
    """Whatever asks people and takes their answers, on this store."""
    people = People({name: {"console": name} for name in ("alice", "bob")})
    world = World(registry=Registry([]), people=people, ids=VirtualClock(NOW, seed="ids"))
    links = Links(keys=lambda: ("key",), base_url=None, now=database.now)
    desk = Desk(world=world, links=links)
    return desk, Decisions(world=world, desk=desk, links=links)


def test_an_open_question_of_the_first_schema_can_be_answered(upgraded: Database) -> None:
    """A question that was open when the store was upgraded takes its answer, and the run that waits for it is told."""
    _, decisions = offices(upgraded)
    actor = Actor(contact="alice", channel="console", auth="test")

    with upgraded.begin() as connection:
        codes = {row.id: row.code for row in requests.open_of_contact(connection, "alice")}
        attempt = decisions.reply(connection, WITH_END, actor, "tomorrow", now=NOW)
        late = decisions.reply(connection, ANSWERED, actor, "no", now=NOW)
        row = requests.find(connection, WITH_END)
        arrived = connection.execute(sa.text("SELECT kind, target, dedupe FROM inbox")).all()
        left = [one.id for one in requests.open_of_contact(connection, "alice")]
        found = due.look(connection, now=NOW)

    assert codes == {WITH_END: "A3", WITHOUT_END: "C4"}
    assert (attempt.accepted, attempt.status) == (True, "answered")
    assert (late.accepted, late.status) == (False, "answered")
    assert row is not None
    settled = Settled.model_validate_json(row.outcome)
    assert (settled.text, settled.value, settled.by, settled.at) == ("tomorrow", "tomorrow", "alice", NOW)
    assert [(one.kind, UUID(str(one.target)), one.dedupe) for one in arrived] == [("reply", RUN, f"settled:{WITH_END}")]  # fmt: skip
    assert left == [WITHOUT_END]
    assert not found.requests


def test_an_open_question_of_the_first_schema_expires(upgraded: Database) -> None:
    """A question that was open when the store was upgraded expires at its time, and one without stays open."""
    desk, _ = offices(upgraded)
    end = NOW + timedelta(minutes=5)

    with upgraded.begin() as connection:
        coming = due.look(connection, now=NOW).next
        before = desk.sweep(connection, now=end - timedelta(microseconds=1))
        after = desk.sweep(connection, now=end)
        again = desk.sweep(connection, now=end + timedelta(days=1000))
        statuses = {id: requests.find(connection, id) for id in (WITH_END, WITHOUT_END)}
        [item] = connection.execute(sa.text("SELECT kind, dedupe FROM inbox")).all()
        people = requests.recipients_of(connection, WITH_END)

    assert coming == end
    assert (before, after, again) == (0, 1, 0)
    assert {id: row.status for id, row in statuses.items() if row} == {
        WITH_END: "expired",
        WITHOUT_END: "open",
    }
    assert (item.kind, item.dedupe) == ("reply", f"settled:{WITH_END}")
    assert [person.open for person in people] == [False]


def test_what_the_fifth_schema_held_is_found_by_the_narrower_indexes(make_database: MakeDatabase) -> None:
    """Runs of every status are found as before, an occurrence is still queued once, and what was consumed is still
    refused, though its body is gone."""
    database = make_database()
    database.use_clock(VirtualClock(NOW))
    upgrade_to(database, "0005")
    runs, items = metadata.tables["runs"], metadata.tables["inbox"]
    ids = {status: UUID(int=number) for number, status in enumerate(RunStatus, start=1)}
    with database.begin() as connection:
        [session] = inbox.ensure_sessions(connection, [("standup", "a")], now=LONG_AGO).values()
        for status, id in ids.items():
            connection.execute(
                sa.insert(runs).values(
                    id=id, session_id=session, status=status, event="{}", created_at=LONG_AGO, schedule_id=1,
                    nominal=LONG_AGO + timedelta(minutes=id.int), ended_at=None if status in OPEN_RUN else LONG_AGO,
                    failure="{}" if status in PARKED_RUN else None,
                )
            )  # fmt: skip
        common = {"session_id": session, "kind": "signal", "arrived_at": LONG_AGO}
        connection.execute(sa.insert(items).values(**common, dedupe="old", body="{}", consumed_at=LONG_AGO))
        connection.execute(sa.insert(items).values(**common, dedupe="new", body="{}"))

    database.upgrade()

    known = {("standup", "a"): session}
    again = NewRun(id=UUID(int=99), agent="standup", key="a", event="{}", schedule_id=1, nominal=LONG_AGO + timedelta(minutes=1))  # fmt: skip
    posts = [Post(agent="standup", key="a", kind="signal", dedupe=name, body="{}") for name in ("old", "new")]
    with database.begin() as connection:
        listed = {
            status: [row.id for row in queries.list_runs(connection, statuses=[status])]
            for status in RunStatus
        }
        loaded = {row.id for row in look(connection, session).runs}
        exported = {row.id for kind, row in exports.rows_of(connection, session) if kind == "run"}
        parked = {row.status: row.number for row in measures.parked_runs(connection)}
        queued = inbox.queue_runs(connection, [again], known, now=NOW)
        posted = inbox.post(connection, posts, known, now=NOW)
        bodies = {row.dedupe: row.body for row in connection.execute(sa.select(items))}

    assert listed == {status: [id] for status, id in ids.items()}
    assert loaded == {ids[status] for status in OPEN_RUN}
    assert exported == set(ids.values())
    assert parked == dict.fromkeys(PARKED_RUN, 1)
    assert (queued, posted) == (set(), set())
    assert bodies == {"old": None, "new": "{}"}
