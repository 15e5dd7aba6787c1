"""A session's conversation: what goes in and in which order, reading it by range, and replays that read the same again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.integration.engine_kit import ENGINE_POINTS, PEOPLE
from tests.servers import Postgres

from wakeloop import Context, Entry, agent, crashpoints, on_message, on_signal, step
from wakeloop.clock import VirtualClock
from wakeloop.conversation import Wanted
from wakeloop.forgetting import Forgetting
from wakeloop.retention import Policy, Retention
from wakeloop.store import conversation, schema
from wakeloop.store.database import Database
from wakeloop.store.erasure import MARKER
from wakeloop.testing import Simulation
from wakeloop.testing.simulation import SimulatedCrash

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Part(BaseModel):
    kind: str
    args: dict[str, int] = {}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        return server.new_database()
    return f"sqlite:///{tmp_path / 'store.db'}"


def texts(entries: Any) -> list[tuple[str, Any]]:
    return [(one.role, one.content) for one in entries]


def journal(sim: Simulation, kind: str = "conversation") -> list[str]:
    with sim._database.read() as connection:
        lines = sa.select(schema.journal.c.value).where(schema.journal.c.kind == kind)
        return list(
            connection.execute(lines.order_by(schema.journal.c.run_id, schema.journal.c.seq)).scalars()
        )


@step
async def think(prompt: str) -> str:
    return prompt.upper()


# What goes in


@agent(on_message(), name="bot")
async def bot(ctx: Context[None]) -> list[tuple[str, Any]]:
    """Hears, thinks with a model, asks, is answered, tells."""
    heard = await ctx.conversation.last(10)
    ctx.conversation.append("user", heard[-1].text)
    thought = await think(heard[-1].text)
    ctx.conversation.append("assistant", [Part(kind="call", args={"n": 1}).model_dump(), thought])
    await ctx.ask("alice", "Really?")
    await ctx.send("bob", "She agrees.")
    return texts(await ctx.conversation.last(10))


TALK = [
    ("contact", "hello"),
    ("user", "hello"),
    ("assistant", [{"kind": "call", "args": {"n": 1}}, "HELLO"]),
    ("agent", "Really?"),
    ("contact", "yes"),
    ("agent", "She agrees."),
]


def test_it_is_in_the_order_in_which_the_session_said_and_heard_it(url: str) -> None:
    """Messages, questions and answers are in it by themselves, between what was appended; who said what is told; and the
    words of a message are stored once."""
    with Simulation([bot], contacts=PEOPLE, store=url) as sim:
        sim.reply("alice", "hello")
        sim.crash()
        sim.reply("alice", "yes")
        sim.crash()

        said = sim.session("bot", "alice").conversation
        [run] = sim.runs()
        assert (run.status, run.error) == ("completed", None)
        assert run.result == [list(one) for one in TALK] or run.result == TALK
        assert texts(said) == TALK
        assert [one.seq for one in said] == [1, 2, 3, 4, 5, 6]
        assert [one.contact for one in said] == ["alice", None, None, "alice", "alice", "bob"]
        assert said[0].message is not None and said[0].message.from_ == "alice"
        assert said[5].message is not None and said[5].message.to == "bob"
        assert said[3].request == said[4].request == sim.requests(status=None)[0].id
        with sim._database.read() as connection:
            stored = connection.execute(sa.select(schema.conversation.c.content)).scalars().all()
        assert [text is None for text in stored] == [True, False, False, False, False, True]


def test_a_message_stands_before_what_came_of_it() -> None:
    """What a run appends as soon as a message wakes it comes after that message."""

    @agent(on_message(), name="echo")
    async def echo(ctx: Context[None]) -> None:
        while True:
            ctx.conversation.append("note", f"after {ctx.now().isoformat()}")
            await ctx.receive()

    with Simulation([echo], contacts=PEOPLE) as sim:
        sim.reply("alice", "one")
        sim.crash()
        sim.reply("alice", "two")

        roles = [one.role for one in sim.session("echo", "alice").conversation]
        assert roles == ["contact", "note", "contact", "note"]


# Reading


def test_a_journal_holds_the_positions_that_were_read_and_no_texts() -> None:
    """The texts stand in the conversation alone; appending leaves no line at all."""

    @agent()
    async def reader(ctx: Context[None]) -> int:
        for number in range(30):
            ctx.conversation.append("user", f"needle {number}")
        await ctx.conversation.last(20)
        await ctx.conversation.read(3, 5)
        await ctx.conversation.read(29, 40)
        await ctx.conversation.read(31, 40)
        return await ctx.conversation.length()

    with Simulation([reader]) as sim:
        assert sim.run(sim.start(reader)).result == 30
        assert journal(sim) == ["[11,30]", "[3,5]", "[29,30]", "[31,30]", "[1,30]"]
        with sim._database.read() as connection:
            values = connection.execute(sa.select(schema.journal.c.value)).scalars().all()
        assert not any("needle" in (value or "") for value in values)


def test_what_others_append_meanwhile_does_not_change_what_was_read(url: str) -> None:
    """Two runs of one session: after a crash the first reads what it had read, and sees the other's later."""
    seen: list[Any] = []

    @agent(on_signal("note"), name="pad")
    async def pad(ctx: Context[None]) -> Any:
        if ctx.event.kind == "signal":
            ctx.conversation.append("user", ctx.event.data)
            return None
        before = await ctx.conversation.last(5)
        count = await ctx.conversation.length()
        await ctx.sleep(60)
        after = [one.content async for one in ctx.conversation]
        seen.append((texts(before), count, after))
        await ctx.sleep(60)
        return None

    with Simulation([pad], store=url) as sim:
        sim.signal("note", "one")
        sim.start(pad)
        sim.signal("note", "two")
        sim.crash()
        sim.signal("note", "three")
        sim.advance(60)
        sim.crash()
        sim.signal("note", "four")
        sim.crash()
        sim.advance(60)

        assert seen == [([("user", "one")], 1, ["one", "two", "three"])] * 2
        assert len(sim.session(pad).conversation) == 4


def test_concurrent_reads_replay_in_their_order() -> None:
    """gather, timeouts and tasks that are given up: the same again after a crash."""
    seen: list[Any] = []

    @agent()
    async def many(ctx: Context[None]) -> None:
        async def add_and_read(name: str) -> list[Any]:
            ctx.conversation.append("user", name)
            return texts(await ctx.conversation.last(9))

        found = await asyncio.gather(*(add_and_read(name) for name in "abc"))
        lost = asyncio.create_task(add_and_read("d"))
        await asyncio.sleep(0)
        lost.cancel()
        async with asyncio.timeout(1):
            found.append(await add_and_read("e"))
        await ctx.sleep(5)
        seen.append(found)

    with Simulation([many]) as sim:
        sim.start(many)
        sim.crash()
        sim.advance(5)
        assert [one.content for one in sim.session(many).conversation] == ["a", "b", "c", "d", "e"]

    assert [[content for _, content in part] for part in seen[0]] == [["a", "b", "c"]] * 3 + [list("abcde")]


def test_all_of_a_long_one_is_gone_through_in_parts() -> None:
    """As of when the reading began, a hundred entries at a time."""

    @agent()
    async def long(ctx: Context[None]) -> tuple[int, int]:
        for number in range(250):
            ctx.conversation.append("user", number)
        total = 0
        async for entry in ctx.conversation:
            ctx.conversation.append("user", "more")
            total += entry.content
        return total, await ctx.conversation.length()

    with Simulation([long]) as sim:
        run = sim.start(long)
        assert sim.run(run).result in ((sum(range(250)), 500), [sum(range(250)), 500])
        assert journal(sim)[:4] == ["[1,250]", "[1,100]", "[101,200]", "[201,250]"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda c: c.append("agent", "x"), "ValueError", "by and to people"),
        (lambda c: c.append("Big Name", "x"), "ValueError", "up to 32 characters"),
        (lambda c: c.append("user", {1, 2}), "NotSerializable", "an entry of the conversation (user) is a set"),
        (lambda c: c.append("user", "x" * 2**20), "ValueTooLarge", "over the limit of 1,048,576"),
        (lambda c: c.last(0), "ValueError", "from 1 to 1,000"),
        (lambda c: c.last(1001), "ValueError", "`async for`"),
        (lambda c: c.read(5, 4), "ValueError", "the last is not before the first"),
        (lambda c: c.read(1, 1001), "ValueError", "at most 1,000"),
    ],
    ids=["people's role", "odd role", "no JSON", "too large", "none", "too many", "backwards", "too wide"],
)  # fmt: skip
def test_what_is_refused_says_why(call: Any, error: str, words: str) -> None:
    """Roles, contents, sizes and ranges."""

    @agent()
    async def wrong(ctx: Context[None]) -> None:
        found = call(ctx.conversation)
        if found is not None:
            await found

    with Simulation([wrong]) as sim:
        run = sim.run(sim.start(wrong))
        assert run.status == "failed" and run.error is not None
        assert error in run.error and words in run.error
        assert sim.session(wrong).conversation == []


# Exactly once


@pytest.mark.parametrize("point", ENGINE_POINTS)
def test_a_worker_that_dies_at_any_point_appends_once(point: str) -> None:
    """At each passing of each crash point, one after the other until none is left: the conversation is the one without
    crashes."""
    deaths = 0
    for nth in range(1, 30):
        with Simulation([bot], contacts=PEOPLE) as sim:
            passed = 0

            def reached(here: str, nth: int = nth, sim: Simulation = sim) -> None:
                nonlocal passed
                passed += here == point
                if here == point and passed == nth:
                    raise SimulatedCrash(point)

            crashpoints.arm(reached)
            try:
                sim.reply("alice", "hello")
                sim.reply("alice", "yes")
            finally:
                crashpoints.arm(None)
            assert texts(sim.session("bot", "alice").conversation) == TALK
        if passed < nth:
            break
        deaths += 1
    assert deaths >= {"engine.step_done": 1, "engine.step_committed": 2}.get(point, 5)


def test_a_transaction_whose_acknowledgement_was_lost_appends_once(url: str) -> None:
    """Committed, and then told again with the same commit: nothing is written twice."""
    with Simulation([bot], contacts=PEOPLE, store=url) as sim:
        real, failed = sim._executor._transaction, []

        def twice(*args: Any) -> Any:
            first = real(*args)
            return real(*args) if args[0] and not failed.append(1) else first  # type: ignore[func-returns-value]

        sim._executor._transaction = twice  # type: ignore[method-assign]
        sim.reply("alice", "hello")
        sim.reply("alice", "yes")
        assert failed
        assert texts(sim.session("bot", "alice").conversation) == TALK


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 9)),
            st.tuples(st.just("last"), st.integers(1, 4)),
            st.tuples(st.just("read"), st.integers(1, 6)),
            st.tuples(st.sampled_from(["length", "all", "sleep", "think"]), st.just(1)),
        ),
        min_size=1,
        max_size=12,
    ),
    losses=st.sets(st.integers(0, 12)),
    points=st.lists(st.sampled_from(ENGINE_POINTS), max_size=3),
    others=st.lists(st.integers(0, 12), max_size=4),
)
def test_any_replay_reads_what_was_read(
    plan: list[tuple[str, int]], losses: set[int], points: list[str], others: list[int]
) -> None:
    """A random handler beside one that adds to the same conversation at random times: with and without crashes it reads
    the same, and what is there in the end is the same, each once."""

    @agent(on_signal("note"), name="mix")
    async def mix(ctx: Context[None]) -> list[Any]:
        talk, seen = ctx.conversation, []
        if ctx.event.kind == "signal":
            talk.append("other", ctx.event.data)
            return []
        for what, number in plan:
            match what:
                case "append":
                    talk.append("user", number)
                case "last":
                    seen.append([one.content for one in await talk.last(number)])
                case "read":
                    seen.append([one.content for one in await talk.read(number, number + 2)])
                case "length":
                    seen.append(await talk.length())
                case "all":
                    seen.append([one.content async for one in talk])
                case "think":
                    seen.append(await think("x"))
                case _:
                    await ctx.sleep(1)
        return seen

    def play(crashes: set[int], kills: list[str]) -> tuple[Any, list[Any]]:
        with Simulation([mix]) as sim:
            for point in kills[:1]:
                sim.kill_at(point)
            run = sim.start(mix)
            for second in range(13):
                if second in crashes:
                    sim.crash()
                for _ in range(others.count(second)):
                    sim.signal("note", second, id=str(len(sim.runs())))
                for point in kills[1 + second % 2 : 2 + second % 2]:
                    sim.kill_at(point)
                sim.advance(1)
            view = sim.run(run)
            return (view.status, view.result, view.error), texts(sim.session(mix).conversation)

    assert play(set(), []) == play(losses, points)


# What is deleted


@agent(on_message(contact="alice"), name="keeper")
async def keeper(ctx: Context[None]) -> list[str]:
    """Notes what it heard, and reads all of it; sleeps on it if told to."""
    ctx.conversation.append("assistant", "secret thought")
    found = [one.text for one in await ctx.conversation.last(10)]
    if ctx.event.text == "sleep":  # type: ignore[union-attr]
        await ctx.sleep(timedelta(days=90))
    return found


@pytest.fixture
def kept(url: str) -> Iterator[tuple[Simulation, Database]]:
    """A session with two runs that are over and one that sleeps on what it has read."""
    with Simulation([keeper], contacts=PEOPLE, store=url, start=BEGIN) as sim:
        for words in ("one", "two", "sleep"):
            sim.reply("alice", words)
        database = Database(url, clock=VirtualClock(sim.now))
        yield sim, database
        database.close()


READ = ["one", "secret thought", "two", "secret thought", "sleep", "secret thought"]


def test_what_a_sleeping_run_has_read_is_kept_for_its_replay(kept: tuple[Simulation, Database]) -> None:
    """Neither age nor forgetting takes it before the run has ended; then it goes, and no position comes again."""
    sim, database = kept
    sim.advance(timedelta(days=60))
    database.use_clock(VirtualClock(sim.now))
    policy = Policy(messages=timedelta(days=30))

    assert Retention(database=database, policy=policy).prune()["conversation"] == 0
    done = Forgetting(database).forget("alice")
    assert done.waiting["entries"] == 3 and done.erased["conversation"] == 0
    sim.crash()
    sim.advance(timedelta(days=31))
    assert (sim.runs()[-1].status, sim.runs()[-1].result) == ("completed", READ)

    database.use_clock(VirtualClock(sim.now))
    for _ in Forgetting(database).batches("alice", sim.now, done):
        pass
    assert [one.text for one in sim.session("keeper", "alice").conversation] == [MARKER] * 6

    foreseen = Retention(database=database, policy=policy).prune(dry_run=True)
    deleted = Retention(database=database, policy=policy, batch=1).prune()
    assert foreseen["conversation"] == deleted["conversation"] == 6
    assert sim.session("keeper", "alice").conversation == []
    sim.reply("alice", "again")
    assert sim.runs()[-1].result == ["again", "secret thought"]
    assert [one.seq for one in sim.session("keeper", "alice").conversation] == [7, 8]


def test_age_takes_the_oldest_first_and_leaves_the_rest(kept: tuple[Simulation, Database]) -> None:
    """What is left is read as before, under its positions."""
    sim, database = kept
    sim.cancel(sim.runs()[-1].id)
    sim.advance(timedelta(days=40))
    sim.reply("alice", "young")
    database.use_clock(VirtualClock(sim.now))

    deleted = Retention(database=database, policy=Policy(messages=timedelta(days=30))).prune()

    assert deleted["conversation"] == 6
    assert [one.seq for one in sim.session("keeper", "alice").conversation] == [7, 8]
    sim.reply("alice", "younger")
    assert sim.runs()[-1].result == ["young", "secret thought", "younger", "secret thought"]
    assert journal(sim)[-1] == "[7,10]"


def test_a_run_whose_entries_were_taken_by_hand_is_parked_with_the_reason(
    kept: tuple[Simulation, Database],
) -> None:
    """It does not go on upon something else than it had read; put back, it goes on."""
    sim, database = kept
    with database.begin() as connection:
        lost = connection.execute(sa.select(schema.conversation).where(schema.conversation.c.seq == 4)).one()
        connection.execute(sa.delete(schema.conversation).where(schema.conversation.c.seq == 4))
    sim.crash()
    sim.advance(timedelta(days=90))

    run = sim.runs()[-1]
    assert run.status == "stuck" and run.error is not None
    assert "has read the entries 1 to 6 of the conversation of keeper/alice, and 5 of them" in run.error
    with database.begin() as connection:
        connection.execute(sa.insert(schema.conversation).values(**lost._mapping))
    sim.retry(run.id)
    assert (sim.run(run.id).status, sim.run(run.id).result) == ("completed", READ)


def test_forgetting_one_leaves_what_others_answered(url: str) -> None:
    """Of the questions and answers of two people only the one's go; what models said of either goes."""

    @agent()
    async def both(ctx: Context[None]) -> None:
        await ctx.ask("alice", "You, Alice?")
        await ctx.ask("bob", "You, Bob?")
        ctx.conversation.append("assistant", "both said so")

    with Simulation([both], contacts=PEOPLE, store=url) as sim:
        sim.start(both)
        sim.reply("alice", "yes, Alice")
        sim.reply("bob", "yes, Bob")
        database = Database(url, clock=VirtualClock(sim.now))

        done = Forgetting(database).forget("alice")

        assert done.erased["conversation"] == 3
        said = [one.text for one in sim.session(both).conversation]
        assert said == [MARKER, MARKER, "You, Bob?", "yes, Bob", MARKER]
        database.close()


# What it costs


def test_what_is_stored_is_little_more_than_the_text(url: str) -> None:
    """A thousand entries of two hundred characters, one to a commit: at most twice the text, with indexes."""
    database = Database(url, clock=VirtualClock(BEGIN))
    database.upgrade()

    def size() -> int:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if database.is_postgres:
                return int(
                    connection.exec_driver_sql("SELECT pg_total_relation_size('conversation')").scalar_one()
                )
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
            return int((pages - free) * connection.exec_driver_sql("PRAGMA page_size").scalar_one())

    before = size()
    for number in range(1000):
        entry = conversation.NewEntry(role="assistant", content=f'"{number:0198}"')
        with database.begin() as connection:
            conversation.append(connection, [(1, [entry])], now=database.now())

    stored = size() - before
    assert 200_000 < stored < 400_000, stored
    database.close()


def test_a_span_is_what_is_there_of_what_was_wanted() -> None:
    """By what was wanted, and the oldest and newest positions that there are."""

    def span(oldest: int, newest: int, **match: int) -> tuple[int, int]:
        return Wanted(run=UUID(int=1), op=1, match=match).span(oldest, newest)

    assert span(1, 9, last=3) == (7, 9)
    assert span(1, 2, last=3) == (1, 2)
    assert span(5, 9, last=8) == (5, 9)
    assert span(10, 9, last=8) == (10, 9)
    assert span(5, 9, first=1, to=6) == (5, 6)
    assert span(5, 9, first=1, to=3) == (4, 3)
    assert span(1, 9, first=11, to=12) == (10, 9)
    assert span(5, 9) == (5, 9)
    assert span(1, 0) == (1, 0)


def test_an_entry_is_exported_by_the_package() -> None:
    """For annotations; its text is empty where the content is none."""
    entry = Entry(seq=1, role="user", content=[1], at=BEGIN)
    assert entry.text == ""
