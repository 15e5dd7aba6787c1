"""Plain messages that come at the same time are routed together, as each would be alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.servers import Postgres

from wakeloop import Context, agent, on_message
from wakeloop.channel import Incoming
from wakeloop.plain import Plain, Round, is_plain, rounds
from wakeloop.testing import Simulation

NAMES = ("alice", "bob", "carol", "dave", "erin")
PEOPLE = {name: {"sms": f"+1415555010{number}"} for number, name in enumerate(NAMES)}


@agent()
async def waiter(ctx: Context[None]) -> str:
    """Waits for a message of the contact that it is told to wait for."""
    return (await ctx.receive(from_=ctx.event.input)).text


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks Bob."""
    return (await ctx.ask("bob", "Ship it?")).text


@agent(on_message(contact="dave"))
async def for_dave(ctx: Context[None]) -> str:
    """Takes Dave's messages."""
    return ctx.event.text


AGENTS = [waiter, asker, for_dave]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres_server")
        yield server.new_database()


def start_all(sim: Simulation) -> list[str]:
    """A run that waits for Alice, a question to Bob, two runs that wait for Carol."""
    runs = [sim.start(waiter, "alice", key="one"), sim.start(asker)]
    return [*runs, sim.start(waiter, "carol", key="two"), sim.start(waiter, "carol", key="three")]


def plain(name: str, id: str, text: str = "hello") -> Plain:
    address = PEOPLE[name]["sms"]
    incoming = Incoming(provider_id=id, address=address, text=text)
    return Plain(channel="sms", address=address, contact=name, incoming=incoming, raw="{}")


def route_all(sim: Simulation, messages: list[Plain]) -> list[str | None]:
    """Beside the simulation, together."""
    some = Round(sim._world, messages, now=sim.now)
    with sim._database.begin() as connection:
        some.look(connection)
        if some.is_simple and sim._database.is_postgres:
            return some.put(connection, agents=[]).outcomes
        return some.route(connection, sim._intake._routing, agents=[]).outcomes


def test_each_message_goes_to_the_one_session_or_request_that_it_is_for(url: str) -> None:
    """Those that may be for several sessions or for nobody are left alone, and leave no trace."""
    with Simulation(AGENTS, contacts=PEOPLE, store=url) as sim:
        runs = start_all(sim)
        (request,) = sim.requests()
        outcomes = route_all(sim, [plain(name, f"SM{name}") for name in NAMES])
        again = route_all(sim, [plain("alice", "SMalice"), plain("dave", "SM2", "hello again")])
        sim.advance(1)
        statuses = [sim.run(run).status for run in runs]
        results = [sim.run(runs[0]).result, *sorted(run.result for run in sim.runs("for_dave"))]

    answered = f"the answer to request {request.id} of asker/default"
    expected = ["message for waiter/one", answered, None, "message for for_dave/dave", None]
    assert outcomes == expected
    assert again == ["a repetition of what is recorded already", "message for for_dave/dave"]
    assert statuses == ["completed", "completed", "waiting", "waiting"]
    assert results == ["hello", "hello", "hello again"]


def test_answers_that_come_together_count_as_they_would_alone(url: str) -> None:
    """Of two people who were asked the same, whoever wrote first answers, and the other is told so; what is repeated is not
    judged again; who has two questions open is left alone. How each is known is on record."""

    @agent()
    async def both(ctx: Context[None]) -> str:
        return (await ctx.ask(["carol", "alice"], "Who?")).text

    @agent()
    async def more(ctx: Context[None]) -> str:
        return (await ctx.ask(["dave", "erin"], "And now?")).text

    with Simulation([asker, both, more], contacts=PEOPLE, store=url) as sim:
        runs = [sim.start(asker), sim.start(both), sim.start(more), sim.start(more, key="other")]
        (what, who) = (next(one.id for one in sim.requests() if one.run == run) for run in runs[:2])
        texts = [("carol", "me"), ("bob", "yes"), ("dave", "hm"), ("alice", "no, me")]
        messages = [plain(name, f"SM{name}", text) for name, text in texts]
        outcomes = route_all(sim, messages)
        again = [sim._intake.incoming("sms", messages[number].incoming) for number in (0, 1, 3)]
        sim.advance(1)
        results = [sim.run(run).result for run in runs[:2]]
        told = [message.text for message in sim.outbox("alice")][-1]
        record = [(line.contact, line.act, line.result, line.auth) for line in sim.audit(who) if line.auth]

    assert outcomes == [
        f"the answer to request {who} of both/default",
        f"the answer to request {what} of asker/default",
        None,
        f"too late for request {who} (answered) of both/default",
    ]
    assert again == ["a repetition of what is recorded already"] * 3
    assert results == ["yes", "me"]
    assert "carol" in told.lower()
    assert record == [
        ("carol", "answer", "counted", "sender's address"),
        ("alice", "reply", "late: answered", "sender's address"),
    ]


def test_a_repetition_changes_nothing(url: str) -> None:
    """While its run still waits, too."""
    with Simulation(AGENTS, contacts=PEOPLE, store=url) as sim:
        start_all(sim)
        first = route_all(sim, [plain("dave", "SM1"), plain("alice", "SM2")])
        second = route_all(sim, [plain("alice", "SM2"), plain("dave", "SM1")])
        sim.advance(1)
        runs = sim.runs("for_dave")

    assert first == ["message for for_dave/dave", "message for waiter/one"]
    assert second == ["a repetition of what is recorded already"] * 2
    assert len(runs) == 1


def test_what_one_person_says_goes_in_rounds() -> None:
    """In the order in which it was said."""
    first, second, third = plain("alice", "1"), plain("bob", "2"), plain("alice", "3")

    assert rounds([first, second, third]) == [[first, second], [third]]


@pytest.mark.parametrize(
    "facts",
    [
        {"text": "A7 yes"}, {"text": "yes a7!"}, {"text": "123456"}, {"reply_to": "SM1"}, {"pressed": "x"}, {"token": "x"},
        {"opt_out": True}, {"opt_out": False}, {"help": True}, {"automatic": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_says_more_than_its_words_is_not_plain(facts: dict[str, object]) -> None:
    """It goes the long way."""
    incoming = Incoming(**{"provider_id": "1", "address": "+1", "text": "hello", **facts})  # type: ignore[arg-type]

    assert not is_plain(incoming)
    assert is_plain(Incoming(provider_id="1", address="+1", text="hello"))


def test_many_at_once_are_each_recorded_once(url: str) -> None:
    """From many threads, some of them twice: as many runs as there are messages."""
    with Simulation(AGENTS, contacts=PEOPLE, store=url) as sim:
        incoming = [
            Incoming(provider_id=f"SM{number}", address=PEOPLE["dave"]["sms"], text=f"word {number}")
            for number in (*range(40), *range(20))
        ]
        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(lambda one: sim._intake.incoming("sms", one), incoming))
        sim.advance(1)
        said = sorted(run.result for run in sim.runs("for_dave"))

    assert outcomes.count("message for for_dave/dave") == 40
    assert outcomes.count("a repetition of what is recorded already") == 20
    assert said == sorted(f"word {number}" for number in range(40))
