"""A code that comes back from an address verifies it; nothing else does, and no other reply is taken for one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.conformance.store_kit import EVERY_STORE, Store, make_stores

from wakeloop import Context, agent
from wakeloop.contacting import address_states, write_code
from wakeloop.store import verifications
from wakeloop.testing import Simulation

ALICE = {"alice": {"sms": "+14155550100", "tz": "Europe/Paris", "quiet_hours": "22:00-07:00"}}


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def begin(store: Store, address: str = "+1") -> str:
    with store.database.begin() as connection:
        return verifications.begin(connection, "sms", address, now=store.now)


def take(store: Store, text: str, address: str = "+1", channel: str = "sms") -> bool:
    with store.database.begin() as connection:
        return verifications.take(connection, channel, address, text, store.now)


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06}"


@pytest.mark.parametrize("form", ["{}", " {}. ", "{0:.3} {0:.6}", "“{}”!", "{}\n"])
def test_the_code_verifies_the_address_that_it_came_from(store: Store, form: str) -> None:
    """Spaces and punctuation do not matter; the code counts once, and is kept only as a hash."""
    code = begin(store)
    text = form.replace("{0:.3} {0:.6}", f"{code[:3]} {code[3:]}").format(code)
    [row] = store.rows("SELECT code FROM verifications")
    assert code not in row.code

    assert not take(store, text, address="+2")
    assert not take(store, text, channel="whatsapp")
    assert take(store, text)
    assert not take(store, text)
    with store.database.read() as connection:
        assert verifications.verified(connection, "sms", ["+1", "+2"]) == {"+1": store.now}
        assert verifications.verified(connection, "whatsapp", ["+1"]) == {}


def test_a_code_runs_out_after_fifteen_minutes(store: Store) -> None:
    """To the second."""
    code = begin(store)
    store.pass_time(15 * 60)

    assert not take(store, code)


def test_five_wrong_codes_make_the_right_one_void(store: Store) -> None:
    """Four do not; what is no code at all is no try."""
    code = begin(store)
    for _ in range(4):
        assert not take(store, wrong(code))
    for text in ("hello", "A7 yes", "12345", "1234567", f"it is {code}", ""):
        assert not take(store, text)
    assert take(store, code)

    code = begin(store)
    for _ in range(5):
        assert not take(store, wrong(code))
    assert not take(store, code)


def test_a_new_code_replaces_the_one_before_and_an_address_stays_verified(store: Store) -> None:
    """Until the new one comes back the old time stands."""
    first = begin(store)
    assert take(store, first)
    since = store.now
    store.pass_time(60)
    second = begin(store)
    third = begin(store)

    assert second == third or not take(store, second)
    with store.database.read() as connection:
        assert verifications.verified(connection, "sms", ["+1"]) == {"+1": since}
    assert take(store, third)
    with store.database.read() as connection:
        row = verifications.find(connection, "sms", "+1")
        assert row is not None
        assert (row.code, row.verified_at) == (None, store.now)


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks one thing."""
    return (await ctx.ask("alice", "How many?")).text


def code_of(sim: Simulation) -> str:
    found = re.search(r"\d{6}", sim.channels["sms"].sent[-1].text)
    assert found is not None
    return found[0]


def test_a_code_goes_through_the_real_outbox_and_routing_and_disturbs_no_question() -> None:
    """Also at night, for somebody waits for it. A number that is not the code is an answer as ever."""
    with Simulation([asker], contacts=ALICE, start="2026-01-10T12:00:00Z") as sim:
        run = sim.start(asker)
        sim.advance(timedelta(hours=11))
        write_code(sim._database, sim._world, "alice")
        sim.advance(1)

        assert sim.reply("alice", code_of(sim)) == "verified"
        [state] = address_states(sim._database, sim._world)["alice"]
        assert (state.channel, state.verified_at, state.opted_out_at) == ("sms", sim.now, None)
        assert sim.run(run).status == "waiting"
        assert "confirmed" in sim.outbox()[-1].text

        sim.reply("alice", "482113")
        assert sim.run(run).result == "482113"


def test_an_opted_out_address_is_sent_no_code() -> None:
    """It fails with the reason; STOP comes before any code."""
    with Simulation([], contacts=ALICE) as sim:
        sim.reply("alice", "STOP")
        write_code(sim._database, sim._world, "alice")
        sim.advance(1)

        assert sim.outbox() == []
        [state] = address_states(sim._database, sim._world)["alice"]
        assert state.opted_out_at is not None
