"""People are left alone at night, not flooded, and told what belongs together in one message; through crashes too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.store_kit import EVERY_STORE, Store, at_once, make_stores, raised

from wakeloop import Context, Undeliverable, agent, on_message
from wakeloop.channel import DeliveryStatus, DeliveryUpdate
from wakeloop.desk import Desk
from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop.links import Links
from wakeloop.outbox import Outbox
from wakeloop.pacing import Pace
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.routing import Replies
from wakeloop.store import outbox
from wakeloop.store.records import NewMessage
from wakeloop.testing import Simulation
from wakeloop.testing.channels import FakeChannel
from wakeloop.world import World

ALICE = {"alice": {"sms": "+14155550100", "email": "alice@example.com"}}
SLEEPER = {"alice": {"sms": "+14155550100", "tz": "Europe/Paris", "quiet_hours": "22:00-07:00"}}


@agent()
async def teller(ctx: Context[None]) -> None:
    """Says several things at once."""
    for text in ctx.event.input:
        await ctx.send("alice", text)


@agent()
async def asker(ctx: Context[None]) -> str:
    """Says several things and asks one."""
    for text in ctx.event.input:
        await ctx.send("alice", text)
    try:
        return (await ctx.ask("alice", "Ship it?")).text
    except Undeliverable as error:
        return f"undeliverable: {error.reason}"


def texts(sim: Simulation) -> list[str]:
    return [message.text for message in sim.outbox()]


def times(sim: Simulation) -> list[str]:
    return [message.at.isoformat() for message in sim.outbox()]


def say(sim: Simulation, text: str, channel: str = "sms", **facts: Any) -> None:
    """Put a message to Alice into the outbox, as something that is no run does."""
    new = NewMessage(
        id=sim._world.ids.new_id(), contact="alice", channel=channel,
        address=sim._world.people.route("alice", channel)[0][1], via=None, subject=None, text=text, **facts,
    )  # fmt: skip
    with sim._database.begin() as connection:
        outbox.put(connection, None, [new], now=sim.now)
    sim.advance(0)


# Quiet hours


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("2026-01-10T22:30:00Z", "2026-01-11T06:00:00+00:00"),
        ("2026-03-28T23:30:00Z", "2026-03-29T05:00:00+00:00"),
        ("2026-10-24T21:30:00Z", "2026-10-25T06:00:00+00:00"),
    ],
    ids=["winter", "spring forward", "fall back"],
)
def test_a_message_in_quiet_hours_goes_at_their_end_on_the_recipients_clock(begin: str, end: str) -> None:
    """Seven in the morning in Paris is seven, also after the night in which the clocks change."""
    with Simulation([teller], contacts=SLEEPER, start=begin) as sim:
        sim.start(teller, ["hello"])
        assert texts(sim) == []
        sim.advance(to=datetime.fromisoformat(end) - timedelta(seconds=1))
        assert texts(sim) == []
        sim.crash()
        sim.advance(1)

        assert times(sim) == [end]


def test_an_urgent_message_goes_in_quiet_hours() -> None:
    """Alone: what is not urgent stays until the morning, and is one message then."""
    with Simulation([teller], contacts=SLEEPER, start="2026-01-10T23:00:00Z") as sim:
        sim.start(teller, ["one", "two"])
        say(sim, "fire!", urgent=True)
        assert texts(sim) == ["fire!"]

        sim.advance(timedelta(hours=8))

        assert texts(sim) == ["fire!", "one\n\ntwo"]


def test_a_second_try_and_the_next_channel_wait_for_the_morning_too() -> None:
    """What was begun before the night does not go on in it."""
    people = {"alice": SLEEPER["alice"] | {"email": "alice@example.com"}}
    with Simulation([teller], contacts=people, start="2026-01-10T20:59:50Z") as sim:
        sim.channels["sms"].fail_next(
            TemporaryChannelError("busy", retry_after=30.0), PermanentChannelError("no")
        )
        sim.start(teller, ["hello"])
        sim.advance(timedelta(hours=8, minutes=59))
        assert sim.outbox() == []

        sim.advance(timedelta(hours=1))

        assert [(one.channel, one.at.hour) for one in sim.outbox()] == [("email", 6)]


@pytest.mark.parametrize("left", [True, False], ids=["which had left", "which had not left"])
def test_a_message_of_unknown_outcome_is_looked_for_in_the_night_and_not_sent(left: bool) -> None:
    """What had left before the night is found and recorded; what had not waits for the morning."""
    with Simulation([teller], contacts=SLEEPER, start="2026-01-10T20:59:58Z") as sim:
        if left:
            sim.channels["sms"].lose_next()
        else:
            sim.channels["sms"].fail_next(ChannelError("no connection"))
        sim.start(teller, ["hello"])
        sim.advance(timedelta(hours=2))
        assert len(sim.outbox()) == len(sim.channels["sms"].sent) == (1 if left else 0)

        sim.advance(timedelta(hours=8))

        [at] = [taken.at for taken in sim.channels["sms"].sent]
        assert at.isoformat() == ("2026-01-10T20:59:58+00:00" if left else "2026-01-11T06:00:00+00:00")
        assert len(sim.outbox()) == 1


def test_a_change_of_the_settings_counts_for_what_is_waiting_to_be_sent() -> None:
    """Quiet hours are looked at when a message is about to go, not when it was said."""
    with Simulation([teller], contacts=SLEEPER, start="2026-01-10T20:30:00Z") as sim:
        sim.channels["sms"].fail_next(TemporaryChannelError("busy", retry_after=1800.0))
        sim.start(teller, ["hello"])
        sim._world.people = type(sim._world.people)({"alice": {"sms": "+14155550100"}})

        sim.advance(timedelta(hours=1))

        assert times(sim) == ["2026-01-10T21:00:00+00:00"]


def test_whoever_writes_at_three_in_the_morning_is_answered_at_once() -> None:
    """What routing answers is no disturbance: the person is awake. Neither is it held as a burst, nor counted."""
    with Simulation([], contacts=SLEEPER, start="2026-01-11T02:00:00Z", messages_per_hour=1) as sim:
        sim._intake._routing._replies = Replies(unrouted="Kept.")
        for _ in range(3):
            sim.reply("alice", "anybody there?")

        assert times(sim) == ["2026-01-11T02:00:00+00:00"] * 3


# So many an hour


def test_a_person_gets_so_many_messages_in_any_hour(caplog: pytest.LogCaptureFixture) -> None:
    """Over all channels; the next waits until one falls out of the hour, and is logged as put off once, without an
    address."""
    caplog.set_level(logging.INFO)
    with Simulation([], contacts=ALICE, messages_per_hour=3, coalesce_seconds=0) as sim:
        for minutes, channel in ((0, "sms"), (10, "email"), (10, "sms"), (10, "email"), (0, "sms")):
            sim.advance(timedelta(minutes=minutes))
            say(sim, f"{channel} {sim.now:%H:%M}", channel)
        sim.advance(timedelta(hours=3))
        minutes = [(one.at - sim.outbox()[0].at).total_seconds() / 60 for one in sim.outbox()]
        sent = texts(sim)

    assert minutes == [0, 10, 20, 60, 70]
    assert sent == ["sms 00:00", "email 00:10", "sms 00:20", "email 00:30", "sms 00:30"]
    logged = [record.getMessage() for record in caplog.records if "message put off" in record.getMessage()]
    assert len(logged) == 2
    assert not any("+1415" in line or "alice@" in line for line in logged)


def test_urgency_does_not_lift_the_cap() -> None:
    """An agent that finds everything urgent cannot flood anybody."""
    with Simulation([], contacts=ALICE, messages_per_hour=1) as sim:
        say(sim, "one", urgent=True)
        say(sim, "two", urgent=True)
        assert texts(sim) == ["one"]

        sim.advance(timedelta(hours=1))

        assert texts(sim) == ["one", "two"]


def test_a_flood_is_a_message_a_slot_and_nothing_of_it_is_lost() -> None:
    """What waits for the cap is packed into as few messages as fit the channel."""
    with Simulation([teller], contacts=ALICE, messages_per_hour=2) as sim:
        sim.start(teller, [f"line {number:04} {'x' * 90}" for number in range(100)])
        sim.advance(timedelta(hours=12))
        said = "\n\n".join(texts(sim))
        sizes = [len(text) for text in texts(sim)]
        per_hour = max(
            sum(timedelta() <= other.at - one.at < timedelta(hours=1) for other in sim.outbox())
            for one in sim.outbox()
        )

    assert [line[5:9] for line in said.split("\n\n")] == [f"{number:04}" for number in range(100)]
    assert max(sizes) <= 1600
    assert len(sizes) == 8
    assert per_hour == 2


# Bursts


def test_the_first_message_goes_at_once_and_what_follows_within_a_minute_goes_together() -> None:
    """The conversation keeps the single messages; the outbox shows what reached the provider."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two", "three"])
        assert texts(sim) == ["one"]
        sim.advance(30)
        sim.start(teller, ["four"], key="other")
        sim.advance(29)
        assert texts(sim) == ["one"]
        sim.advance(1)

        assert texts(sim) == ["one", "two\n\nthree\n\nfour"]
        assert [taken.text for taken in sim.channels["sms"].sent] == texts(sim)
        assert [one.text for one in sim.session(teller).conversation] == ["one", "two", "three"]


def test_a_question_is_never_held_and_what_was_said_before_it_goes_first() -> None:
    """Nobody is asked before they were told what it is about."""
    with Simulation([teller, asker], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two"])
        sim.advance(10)
        sim.start(asker, ["three"])

        assert texts(sim) == ["one", "two\n\nthree", "Ship it?"]


def test_nothing_is_held_in_a_conversation() -> None:
    """A person who has written since gets each answer at once."""

    @agent(on_message())
    async def echo(ctx: Context[None]) -> None:
        await ctx.send("alice", f"you said {ctx.event.text}")

    with Simulation([echo], contacts=ALICE) as sim:
        for text in ("one", "two", "three"):
            sim.reply("alice", text)
            sim.advance(1)

        assert texts(sim) == ["you said one", "you said two", "you said three"]


@pytest.mark.parametrize("point", ["outbox.claimed", "outbox.sent"])
@pytest.mark.parametrize("late", [False, True], ids=["at once", "with more said meanwhile"])
def test_a_crash_in_the_middle_of_a_bundle_sends_it_once_and_as_it_was(point: str, late: bool) -> None:
    """It is recorded before it is sent, so what comes later is not in it, and the provider's list is asked for it."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two", "three"])
        sim.kill_at(point)
        sim.advance(60)
        if late:
            sim.start(teller, ["four"], key="other")
        sim.advance(timedelta(minutes=10))

        sent = [taken.text for taken in sim.channels["sms"].sent]
        assert sent == ["one", "two\n\nthree", *(["four"] if late else [])]
        assert texts(sim) == sent


@pytest.mark.parametrize("left", [True, False], ids=["which had left", "which had not left"])
def test_a_bundle_of_unknown_outcome_is_looked_up_as_a_whole(left: bool) -> None:
    """A connection lost in the middle says nothing about whether the provider took it; what is said before that is
    known is not put into it."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two", "three"])
        if left:
            sim.channels["sms"].lose_next()
        else:
            sim.channels["sms"].fail_next(ChannelError("connection lost"), TemporaryChannelError("busy"))
        sim.advance(61)
        sim.start(teller, ["four"], key="other")
        sim.advance(timedelta(minutes=5))

        assert texts(sim) == ["one", "two\n\nthree", "four"]
        assert [taken.text for taken in sim.channels["sms"].sent] == texts(sim)


def test_a_bundle_that_fails_for_good_falls_through_as_one() -> None:
    """Each of its messages goes to the next channel, and they stay together there."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two", "three"])
        sim.channels["sms"].fail_next(PermanentChannelError("no such number", code="21211"))
        sim.advance(timedelta(minutes=5))

        assert [(one.channel, one.text) for one in sim.outbox()] == [
            ("sms", "one"),
            ("email", "two\n\nthree"),
        ]


def test_what_a_provider_reports_of_a_bundle_holds_for_all_of_it() -> None:
    """Delivered together; or, if it is told to have failed, each goes to the next channel."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two", "three"])
        sim.advance(60)
        id = sim.channels["sms"].sent[-1].provider_id

        assert sim._intake.update(
            "sms", DeliveryUpdate(provider_id=id, status=DeliveryStatus.FAILED, error="30003")
        )
        assert not sim._intake.update("sms", DeliveryUpdate(provider_id=id, status=DeliveryStatus.FAILED))
        sim.advance(timedelta(minutes=5))
        assert [(one.channel, one.text) for one in sim.outbox()] == [
            ("sms", "one"),
            ("email", "two\n\nthree"),
        ]

        id = sim.channels["email"].sent[-1].provider_id
        assert sim._intake.update("email", DeliveryUpdate(provider_id=id, status=DeliveryStatus.DELIVERED))
        with sim._database.read() as connection:
            found = connection.exec_driver_sql("SELECT status FROM deliveries WHERE channel = 'email'")
            assert found.scalars().all() == ["delivered"] * 2


def test_deliveries_to_one_address_are_made_in_order() -> None:
    """Also those that went into one batch from several sessions; other addresses do not wait for them."""
    people = ALICE | {"bob": {"sms": "+14155550101"}}
    with Simulation([asker], contacts=people) as sim:
        for key in "abcde":
            sim._intake.start("asker", [], key=key)
        say(sim, "fire!", urgent=True)

        sent = [taken.text for taken in sim.channels["sms"].sent]
        assert len(sent) == 6
        assert sent == texts(sim)


# Opt-outs


def test_whoever_opted_out_is_reached_by_the_next_channel_until_they_opt_in() -> None:
    """At once, also at night for what is urgent; nothing else than their START undoes it."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.reply("alice", "STOP", channel="sms")
        sim.start(teller, ["one"])
        sim.advance(60)
        sim.reply("alice", "hello?", channel="sms")
        sim.start(teller, ["two"], key="b")
        sim.crash()
        sim.advance(60)
        sim.reply("alice", "START", channel="sms")
        sim.start(teller, ["three"], key="c")
        sim.advance(60)

        assert [(one.channel, one.text) for one in sim.outbox()] == [
            ("email", "one"), ("email", "two"), ("sms", "three"),
        ]  # fmt: skip


def test_an_opt_out_on_every_channel_makes_a_question_fail_loudly() -> None:
    """It does not hang, and it says why."""
    with Simulation([asker], contacts=ALICE) as sim:
        for channel in ("sms", "email"):
            sim.reply("alice", "STOP", channel=channel)

        run = sim.start(asker, [])

        result = sim.run(run).result
        assert result.startswith("undeliverable: ")
        assert result.endswith("the person asked not to be written to")
        assert sim.outbox() == []


def test_an_opt_out_while_a_bundle_is_waiting_counts_for_it() -> None:
    """It is looked at when a message is about to go."""
    with Simulation([teller], contacts=ALICE) as sim:
        sim.start(teller, ["one", "two", "three"])
        sim.reply("alice", "STOP", channel="sms")
        sim.advance(timedelta(minutes=3))

        assert sorted((one.channel, one.text) for one in sim.outbox()) == [
            ("email", "three"), ("email", "two"), ("sms", "one"),
        ]  # fmt: skip


# On every store


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def sender(store: Store, channel: FakeChannel, **pace: Any) -> Outbox:
    world = World(registry=Registry([]), people=People(ALICE), ids=store.clock)
    desk = Desk(world=world, links=Links(keys=lambda: ["test"], base_url=None, now=store.clock.now))
    return Outbox(
        database=store.database, world=world, desk=desk, channels={"sms": channel}, pace=Pace(**pace)
    )


def put(store: Store, count: int) -> list[str]:
    new = [
        NewMessage(
            id=store.id(), contact="alice", channel="sms", address="+14155550100", via=None, subject=None,
            text=f"text {number}",
        )
        for number in range(count)
    ]  # fmt: skip
    with store.database.begin() as connection:
        outbox.put(connection, None, new, now=store.now)
    return [str(one.id) for one in new]


def test_senders_that_claim_at_once_do_not_exceed_the_cap_together(store: Store) -> None:
    """Each plans for a person under that person's lock, and sees what the others claimed."""
    channel = FakeChannel("sms", lambda: store.now)
    ids = put(store, 12)

    def deliver(mine: list[str]) -> None:
        asyncio.run(sender(store, channel, messages_per_hour=5, coalesce_seconds=0).deliver(mine))

    assert raised(at_once(*(lambda n=n: deliver(ids[n::4]) for n in range(4)))) == []

    assert [taken.text for taken in channel.sent] == [f"text {number}" for number in range(5)]
    held = store.rows("SELECT held FROM deliveries WHERE status = 'pending'")
    assert [row.held for row in held] == ["cap"] * 7


def test_senders_that_claim_at_once_make_one_bundle(store: Store) -> None:
    """What waited goes once, and whole, whoever is first; what is reported of it holds for each part."""
    channel = FakeChannel("sms", lambda: store.now)
    ids = put(store, 6)
    asyncio.run(sender(store, channel).deliver(ids))
    store.pass_time(60)
    with store.database.begin() as connection:
        outbox.claim_due(connection, now=store.now, limit=100)

    works = [lambda n=n: asyncio.run(sender(store, channel).deliver(ids[n:])) for n in (0, 2, 4)]
    assert raised(at_once(*works)) == []

    assert [taken.text for taken in channel.sent] == [
        "text 0", "text 1\n\ntext 2\n\ntext 3\n\ntext 4\n\ntext 5",
    ]  # fmt: skip
    assert [row.status for row in store.rows("SELECT status FROM deliveries")] == ["sent"] * 6
