"""What is kept and what is not: workers delete by age, a session is exported, a person is forgotten."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.servers import Postgres, poll
from typer.testing import CliRunner

from wakeloop import Context, agent, on_message, step
from wakeloop.cli import app
from wakeloop.clock import VirtualClock
from wakeloop.errors import NotFound
from wakeloop.exporting import export_session
from wakeloop.forgetting import Forgetting
from wakeloop.retention import REPEATS_DAYS, Policy, Retention
from wakeloop.settings import Settings
from wakeloop.store import exports, schema
from wakeloop.store.database import Database
from wakeloop.store.erasure import MARKER
from wakeloop.testing import Simulation
from wakeloop.wiring import Runtime

START = "2026-11-02T08:00:00Z"
PEOPLE = {"alice": {"sms": "+15555550100"}, "bob": {"sms": "+15555550101"}}
SECRET = "the purple elephant"


@step
async def shout(text: str) -> str:
    return text.upper()


@agent(name="asker")
async def asker(ctx: Context[None]) -> str:
    """Asks alice, does something with what she says, and may sleep on it."""
    answer = await ctx.ask("alice", "What is it, dear Alice?")
    loud = await shout(answer.text)
    await ctx.send("bob", "Alice has answered.")
    if getattr(ctx.event, "input", None) == "sleep":
        await ctx.sleep(timedelta(days=60))
    return loud


@agent(on_message(contact="alice"), name="listener")
async def listener(ctx: Context[None]) -> str:
    return ctx.event.text  # type: ignore[union-attr]


AGENTS = [asker, listener]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        return server.new_database()
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def lived(url: str) -> Iterator[tuple[Simulation, Database]]:
    """A store in which alice answered a run that is over, one that sleeps, and wrote of her own accord."""
    with Simulation(AGENTS, contacts=PEOPLE, start=START, store=url) as sim:
        sim.start(asker)
        sim.reply("alice", SECRET)
        sim.start(asker, "sleep", key="asleep")
        sim.reply("alice", f"{SECRET} again")
        sim.reply("alice", f"{SECRET}, by the way")
        sim.advance(timedelta(minutes=5))
        database = Database(url, clock=VirtualClock(sim.now))
        yield sim, database
        database.close()


def dump(database: Database, *, without: tuple[str, ...] = ()) -> str:
    """Everything in the store as text."""
    with database.read() as connection:
        tables = [table for table in schema.metadata.sorted_tables if table.name not in without]
        return "\n".join(
            f"{table.name}: {tuple(row)}" for table in tables for row in connection.execute(sa.select(table))
        )


def count(database: Database, table: str) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one())


# ---------------------------------------------------------------------- by age


def test_what_is_old_is_deleted_and_what_sleeps_goes_on(lived: tuple[Simulation, Database]) -> None:
    """After forty days what is over is gone, and counted before as it was then; the run that slept ends as it would have."""
    sim, database = lived
    sim.advance(timedelta(days=40))
    database.use_clock(VirtualClock(sim.now))
    policy = Policy(runs=timedelta(days=30), messages=timedelta(days=30), raw=timedelta(days=1))

    foreseen = Retention(database=database, policy=policy).prune(dry_run=True)
    assert [run.status for run in sim.runs()] == ["completed", "waiting", "completed"]
    deleted = Retention(database=database, policy=policy, batch=1).prune()

    assert deleted == foreseen
    assert deleted["runs"] == 2 and deleted["requests"] == 1 and deleted["journal"] > 0
    assert deleted["conversation"] == 4
    assert [run.status for run in sim.runs()] == ["waiting"]
    assert sim.session("asker", "asleep").conversation[0].text == "What is it, dear Alice?"
    assert sim.session("asker").conversation == []
    sim.crash()
    sim.advance(timedelta(days=21))
    [run] = sim.runs()
    assert (run.status, run.result) == ("completed", f"{SECRET} again".upper())


def test_nothing_is_deleted_unless_a_setting_says_so(lived: tuple[Simulation, Database]) -> None:
    """Without settings everything is kept."""
    sim, database = lived
    database.use_clock(VirtualClock(sim.now + timedelta(days=4000)))

    assert Policy.of(Settings()) == Policy()
    assert Retention(database=database, policy=Policy()).prune() == {}


def test_the_audit_record_outlives_what_it_is_about(lived: tuple[Simulation, Database]) -> None:
    """Who said what about which call stays, when the request has long gone."""
    _, database = lived
    before = count(database, "audit")
    database.use_clock(VirtualClock(database.now() + timedelta(days=400)))

    Retention(database=database, policy=Policy(runs=timedelta(days=1))).prune()

    assert count(database, "requests") == 1
    assert count(database, "audit") == before > 0


def test_of_two_workers_one_deletes_and_the_next_walk_is_an_hour_later(
    lived: tuple[Simulation, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second worker finds that it is being done, then that it was done of late; a dead one's part is taken over."""
    _, database = lived
    clock = VirtualClock(database.now() + timedelta(days=400))
    database.use_clock(clock)
    policy = Policy(runs=timedelta(days=1))
    first, second, third = (Retention(database=database, policy=policy, batch=1) for _ in range(3))
    monkeypatch.setattr("wakeloop.retention.PAUSE_SECONDS", 0.0)

    first.step()
    second.step()
    assert count(database, "runs") == 2

    clock.move(clock.now() + timedelta(minutes=2))  # the first has died
    for _ in range(20):
        third.step()
    assert count(database, "runs") == 1
    first.step()
    with database.read() as connection:
        [(owner, until)] = connection.execute(sa.select(schema.chores.c.owner, schema.chores.c.until))
    assert owner == third._owner
    assert until - clock.now() == timedelta(hours=1)


def test_a_running_worker_deletes_while_it_is_idle(
    lived: tuple[Simulation, Database], tmp_path: Path
) -> None:
    """The thread that looks for what is due does it by itself, when nothing is; what it deleted is gone within seconds."""
    _, database = lived
    old = database.now() - timedelta(days=3)
    with database.begin() as connection:
        connection.execute(
            sa.update(schema.runs).where(schema.runs.c.ended_at.is_not(None)).values(ended_at=old)
        )
    (tmp_path / "agents").mkdir()
    settings = Settings(database_url=str(database.url.render_as_string(hide_password=False)), agents_dir=tmp_path / "agents", retention_days=1)  # fmt: skip

    class Nothing:
        def turns(self, messages: Any) -> None: ...

        def deliveries(self, ids: Any) -> None: ...

    runtime = Runtime(settings)
    runtime.start(Nothing())
    try:
        for _ in poll(20):
            if count(database, "runs") == 1:
                break
        assert count(database, "runs") == 1
    finally:
        runtime.stop(grace=0)


# ---------------------------------------------------------------------- export


def lines_of(database: Database, name: str, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in export_session(database, name, **options)]


def test_an_export_holds_everything_about_a_session_and_nothing_of_others(
    lived: tuple[Simulation, Database],
) -> None:
    """Every kind of line that there is something of, JSON as JSON, and a last line that counts them."""
    database = lived[1]

    head, *lines, end = lines_of(database, "asker/default")

    assert (head["wakeloop"], head["version"], head["session"]) == ("export", 1, "asker/default")
    assert end == {"kind": "end", "lines": len(lines)}
    kinds = {line["kind"] for line in lines}
    assert kinds == {"session", "run", "journal", "inbox", "entry", "request", "recipient", "audit", "message", "delivery", "received"}  # fmt: skip
    [run] = [line for line in lines if line["kind"] == "run"]
    assert (run["status"], run["event"]["kind"], run["result"]) == ("completed", "call", SECRET.upper())
    [request] = [line for line in lines if line["kind"] == "request"]
    assert (request["type"], request["outcome"]["text"]) == ("question", SECRET)
    said = [(line["role"], line["content"]) for line in lines if line["kind"] == "entry"]
    assert said == [("agent", "What is it, dear Alice?"), ("contact", SECRET), ("agent", None)]
    texts = [line["text"] for line in lines if line["kind"] == "message"]
    assert texts == ["What is it, dear Alice?", SECRET, "Alice has answered."]
    assert f"{SECRET} again" not in json.dumps(lines)
    assert [
        line["text"] for line in lines_of(database, "listener/alice")[1:] if line["kind"] == "message"
    ] == [f"{SECRET}, by the way"]


def test_an_export_has_a_sessions_schedules_files_and_grants(lived: tuple[Simulation, Database]) -> None:
    """Files come with their bytes, in base64, or without if so wished; every kind is exported where it is there."""
    database = lived[1]
    with database.begin() as connection:
        [message] = connection.execute(sa.select(schema.messages.c.id).where(schema.messages.c.text == f"{SECRET}, by the way")).scalars()  # fmt: skip
        [(run, session)] = connection.execute(sa.select(schema.runs.c.id, schema.runs.c.session_id).where(schema.runs.c.event.contains("by the way")))  # fmt: skip
        now = database.now()
        connection.execute(schema.files.insert().values(id=message, message_id=message, name="a", content_type="text/plain", data=b"\x00abc", created_at=now))  # fmt: skip
        connection.execute(schema.schedules.insert().values(session_id=session, agent="listener", ref="r", own=True, spec="{}", anchor=now, nominal=now))  # fmt: skip
        connection.execute(schema.requests.insert().values(id=run, session_id=session, run_id=run, kind="approval", status="approved", spec="{}", created_at=now))  # fmt: skip
        connection.execute(schema.grants.insert().values(id=run, action="pay", origin="agent listener", contact="alice", limits="{}", request_id=run, created_at=now, expires_at=now))  # fmt: skip
        connection.execute(schema.deliveries.insert().values(id=message, message_id=message, contact="alice", channel="x", address="a", status="sent", created_at=now, updated_at=now))  # fmt: skip
        connection.execute(schema.amendments.insert().values(delivery_id=message, text="Approved."))
        connection.execute(schema.recipients.insert().values(request_id=run, contact="alice", code="A3", open=False, added_at=now, code_told=True))  # fmt: skip
        connection.execute(schema.audit.insert().values(request_id=run, at=now, act="approve", result="counted"))  # fmt: skip
        connection.execute(schema.journal.insert().values(run_id=run, seq=99, op=1, kind="step", name="x", ok=True, at=now))  # fmt: skip

    whole = {line["kind"]: line for line in lines_of(database, "listener/alice")[1:]}
    without = {line["kind"]: line for line in lines_of(database, "listener/alice", with_files=False)[1:]}

    assert whole.keys() == without.keys() == {*exports.KINDS, "end"}
    assert b64decode(whole["file"]["data"]) == b"\x00abc"
    assert "data" not in without["file"]


def test_an_export_is_of_one_moment(lived: tuple[Simulation, Database]) -> None:
    """What is said while it is being read is not in it."""
    sim, database = lived
    lines = export_session(database, "listener/alice")
    next(lines)
    next(lines)
    sim.reply("alice", "something new")

    read = b"".join(lines).decode()

    assert f"{SECRET}, by the way" in read
    assert "something new" not in read
    assert "something new" in b"".join(export_session(database, "listener/alice")).decode()


def test_a_session_that_is_not_there_is_told(lived: tuple[Simulation, Database]) -> None:
    """Nothing is written before that is known."""
    with pytest.raises(NotFound, match="no session asker/nobody"):
        next(export_session(lived[1], "asker/nobody"))


# ---------------------------------------------------------------------- forgetting


def test_a_person_is_forgotten_as_far_as_nothing_open_needs_them(lived: tuple[Simulation, Database]) -> None:
    """Their words, addresses and what came of it give way to a marker; the run that sleeps keeps its own and goes on, and
    when it has ended the workers erase that, too."""
    sim, database = lived
    with database.begin() as connection:
        now = database.now()
        connection.execute(schema.opt_outs.insert().values(channel="sms", address="+15555550100", at=now))
        connection.execute(schema.verifications.insert().values(channel="sms", address="+15555550100", salt="s", sent_at=now, expires_at=now))  # fmt: skip
    before = dump(database)

    foreseen = Forgetting(database).forget("alice", dry_run=True)
    assert dump(database) == before
    done = Forgetting(database).forget("alice")

    assert (done.erased, done.waiting) == (foreseen.erased, foreseen.waiting)
    messages = done.waiting["messages"]
    assert +done.waiting == {"runs": 1, "requests": 1, "messages": messages, "entries": 2}
    assert done.comments == 2
    asleep = dump(database, without=("audit", "opt_outs"))
    assert SECRET in asleep and f"{SECRET} again" in asleep
    assert SECRET not in asleep.replace(f"{SECRET} again", "").replace(f"{SECRET} AGAIN", "")
    assert [run.status for run in sim.runs()] == ["completed", "waiting", "completed"]
    assert [run.result for run in sim.runs()] == [MARKER, None, MARKER]
    assert sim.runs()[2].event.text == MARKER  # type: ignore[union-attr]
    assert sim.session("listener", "alice").conversation[0].text == MARKER
    with database.read() as connection:
        assert [row.address for row in connection.execute(sa.select(schema.opt_outs))] == ["+15555550100"]
        assert connection.execute(sa.select(schema.verifications)).all() == []

    sim.crash()
    sim.advance(timedelta(days=61))
    assert sim.runs()[1].result == f"{SECRET} again".upper()
    database.use_clock(VirtualClock(sim.now))
    worker = Retention(database=database, policy=Policy())
    for _ in range(40):
        worker.step()
        worker._rest_until = 0.0

    left = dump(database, without=("audit", "opt_outs"))
    assert SECRET not in left and SECRET.upper() not in left
    assert "dear Alice" not in left
    assert "+15555550100" not in left
    assert "Alice has answered." in left  # what was said to bob
    assert Forgetting(database).unfinished() == []


def test_forgetting_leaves_others_words_alone(lived: tuple[Simulation, Database]) -> None:
    """Of a request that two people were asked only the words of the one go."""
    sim, database = lived
    with database.begin() as connection:
        [id] = connection.execute(sa.select(schema.requests.c.id).where(schema.requests.c.outcome.contains("again"))).scalars()  # fmt: skip
        now = database.now()
        connection.execute(schema.recipients.insert().values(request_id=id, contact="bob", code="A3", open=False, added_at=now, code_told=True))  # fmt: skip
    sim.advance(timedelta(days=61))
    database.use_clock(VirtualClock(sim.now))

    Forgetting(database).forget("bob")
    assert f"{SECRET} again" in dump(database, without=("audit", "journal", "messages", "runs", "received"))
    Forgetting(database).forget("alice")
    with database.read() as connection:
        [(spec, outcome)] = connection.execute(sa.select(schema.requests.c.spec, schema.requests.c.outcome).where(schema.requests.c.id == id))  # fmt: skip

    assert "dear Alice" in spec  # bob was asked as well
    assert json.loads(outcome)["text"] == MARKER
    assert json.loads(outcome)["by"] == "alice"


def test_what_a_person_says_after_they_were_forgotten_is_kept(lived: tuple[Simulation, Database]) -> None:
    """An erasure is about what was known when it was asked for: workers do not go on erasing."""
    sim, database = lived
    Forgetting(database).forget("alice")
    sim.advance(timedelta(minutes=1))
    sim.reply("alice", "hello again")
    sim.advance(timedelta(days=61))
    database.use_clock(VirtualClock(sim.now))
    worker = Retention(database=database, policy=Policy())
    for _ in range(40):
        worker.step()
        worker._rest_until = 0.0

    assert sim.runs()[-1].result == "hello again"
    assert sim.session("listener", "alice").conversation[-1].text == "hello again"
    assert Forgetting(database).unfinished() == []


# ---------------------------------------------------------------------- by command


@pytest.fixture
def project(lived: tuple[Simulation, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    database = lived[1]
    (tmp_path / "agents").mkdir()
    (tmp_path / "wakeloop.toml").write_text(
        f'database_url = "{database.url.render_as_string(hide_password=False)}"\nretention_days = 1\n'
        '[contacts.alice]\nsms = "+15555550100"\n'
    )
    monkeypatch.chdir(tmp_path)
    return database


def wakeloop(*words: str, input: str | None = None) -> Any:
    return CliRunner().invoke(app, list(words), input=input)


def test_the_commands_count_first_and_ask_before_they_erase(project: Database, tmp_path: Path) -> None:
    """`--dry-run` changes nothing, `forget` asks, `--yes` does not; an export does not overwrite a file."""
    with project.begin() as connection:
        old = project.now() - timedelta(days=400)
        connection.execute(
            sa.update(schema.runs).where(schema.runs.c.ended_at.is_not(None)).values(ended_at=old)
        )
    before = dump(project)

    dry = json.loads(wakeloop("db", "prune", "--dry-run", "--json").stdout)
    assert dry["deleted"]["runs"] == 2
    counted = wakeloop("forget", "alice", "--dry-run")
    assert "would be erased" in counted.stdout and "1 requests, 1 runs; workers erase" in counted.stdout
    refused = wakeloop("forget", "alice", input="n\n")
    assert refused.exit_code == 1
    assert dump(project) == before

    assert wakeloop("export", "asker", "-o", "a.jsonl").exit_code == 0
    shown = wakeloop("export", "asker/default")
    assert (tmp_path / "a.jsonl").read_text().splitlines()[1:] == shown.stdout.splitlines()[1:]
    again = wakeloop("export", "asker", "-o", "a.jsonl")
    assert again.exit_code == 1 and "there already" in again.stderr

    done = json.loads(wakeloop("forget", "alice", "--yes", "--json").stdout)
    assert done["erased"]["runs"] == 2 and done["waiting"]["runs"] == 1 and done["in_settings"]
    shown = wakeloop("runs", "show", str(next(line for line in shown.stdout.splitlines() if '"kind":"run"' in line)).split('"id":"')[1][:36])  # fmt: skip
    assert shown.exit_code == 0 and MARKER in shown.stdout and SECRET not in shown.stdout

    pruned = json.loads(wakeloop("db", "prune", "--json").stdout)
    assert pruned["deleted"] == dry["deleted"]
    assert "nothing deleted" in wakeloop("db", "prune").stdout


def test_a_repetition_is_known_for_longer_than_any_channel_looks_back() -> None:
    """The mailbox that is looked at again when its ids are new goes back the furthest."""
    from wakeloop_channels.email_imap import Pace

    assert Pace().again_days < REPEATS_DAYS
