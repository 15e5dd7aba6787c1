"""Messages reach their people once, through whichever channel works."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from wakeloop import Context, Undeliverable, agent, crashpoints
from wakeloop.channel import Capabilities, DeliveryStatus, DeliveryUpdate
from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop.intake import Intake
from wakeloop.testing import Simulation

PEOPLE = {"alice": {"sms": "+14155550100", "email": "alice@example.com"}}


@agent()
async def teller(ctx: Context[None]) -> None:
    """Says one thing."""
    await ctx.send("alice", "hello", via=ctx.event.input)


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks one thing."""
    try:
        return (await ctx.ask("alice", "Ship it?")).text
    except Undeliverable as error:
        return f"undeliverable: {error.reason}"


@pytest.mark.parametrize("point", ["outbox.claimed", "outbox.sent", "outbox", "timers", "engine.committing"])
def test_a_crash_at_any_point_sends_a_message_once(point: str) -> None:
    """What the provider took is found in its list before anything is sent again."""
    with Simulation([teller], contacts=PEOPLE) as sim:
        sim.kill_at(point)

        sim.start("teller")
        sim.advance(timedelta(minutes=5))

        assert [taken.text for taken in sim.channels["sms"].sent] == ["hello"]
        assert len(sim.outbox()) == 1


def test_the_same_text_sent_twice_on_purpose_arrives_twice_through_crashes() -> None:
    """Looking a message up in the provider's list never takes one delivery for another."""

    @agent()
    async def twice(ctx: Context[None]) -> None:
        await ctx.send("alice", "hello")
        await ctx.sleep(60)
        await ctx.send("alice", "hello")

    with Simulation([twice], contacts=PEOPLE) as sim:
        sim.start("twice")
        sim.kill_at("outbox.sent")
        sim.advance(timedelta(minutes=10))

        assert [taken.text for taken in sim.channels["sms"].sent] == ["hello", "hello"]


def test_a_provider_that_is_away_is_tried_again_later_and_later() -> None:
    """The waits double, and its own word on when to come back is honoured."""
    with Simulation([teller], contacts=PEOPLE) as sim:
        sim.channels["sms"].fail_next(
            TemporaryChannelError("busy"), TemporaryChannelError("busy", retry_after=120.0)
        )

        sim.start("teller")
        sim.advance(timedelta(seconds=6))
        assert sim.outbox() == []
        sim.advance(timedelta(seconds=110))
        assert sim.outbox() == []
        sim.advance(timedelta(seconds=15))

        assert [message.channel for message in sim.outbox()] == ["sms"]


def test_an_unknown_outcome_is_looked_up_before_anything_is_sent_again() -> None:
    """A connection lost in the middle says nothing about whether the message went out."""
    with Simulation([teller], contacts=PEOPLE) as sim:
        sim.channels["sms"].fail_next(ChannelError("connection lost"))

        sim.start("teller")
        sim.advance(timedelta(minutes=1))

        assert len(sim.channels["sms"].sent) == 1
        assert len(sim.outbox()) == 1


def test_a_list_that_cannot_be_read_leaves_the_outcome_unknown() -> None:
    """The provider has the message, its answer was lost, and then its list is away: nothing is sent before that was read."""
    with Simulation([teller], contacts=PEOPLE) as sim:
        sms = sim.channels["sms"]
        sms.lose_next()
        sms.fail_next_lookups(TemporaryChannelError("busy", retry_after=30.0))

        sim.start("teller")
        sim.advance(timedelta(minutes=5))

        assert [taken.text for taken in sms.sent] == ["hello"]
        assert len(sim.outbox()) == 1


def test_a_channel_that_can_tell_nothing_makes_few_copies() -> None:
    """Where nobody can say whether a message went out it is sent again, but not for ever: the next channel is used."""
    dumb = Capabilities(inbound=True)
    with Simulation([teller], contacts=PEOPLE, capabilities={"sms": dumb}) as sim:
        sim.channels["sms"].lose_next(100)

        sim.start("teller")
        sim.advance(timedelta(hours=1))

        assert len(sim.channels["sms"].sent) == 3
        assert [taken.text for taken in sim.channels["email"].sent] == ["hello"]


def test_a_delivery_that_fails_for_good_falls_through_to_the_next_channel() -> None:
    """In the contact's own order; `via` allows no other."""
    with Simulation([teller], contacts=PEOPLE) as sim:
        sim.channels["sms"].fail_next(PermanentChannelError("no such number", code="21211"))
        sim.start("teller")
        assert [message.channel for message in sim.outbox()] == ["email"]

        sim.channels["sms"].fail_next(PermanentChannelError("no such number", code="21211"))
        sim.start("teller", "sms", key="other")
        assert len(sim.outbox()) == 1


def test_a_question_that_reaches_nobody_fails_loudly() -> None:
    """It does not hang until its timeout: there may be none."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        for channel in sim.channels.values():
            channel.fail_next(PermanentChannelError("no such address", code="1"))

        run = sim.start("asker")

        assert sim.run(run).result == "undeliverable: 1: no such address"
        assert sim.requests() == []


def test_a_provider_that_reports_a_failure_later_makes_it_fall_through_too() -> None:
    """Sent is not delivered: the next channel is used when the news comes."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        sim.start("asker")
        taken = sim.channels["sms"].sent[0]

        news = DeliveryUpdate(
            provider_id=taken.provider_id, status=DeliveryStatus.FAILED, error="30003 unreachable"
        )
        assert sim._intake.update("sms", news)
        assert not sim._intake.update("sms", news)
        sim.advance(1)

        assert [(message.channel, message.text) for message in sim.outbox()] == [("email", "Ship it?")]


def test_a_failure_that_is_reported_before_the_message_is_on_record_is_not_missed(tmp_path: Path) -> None:
    """Providers may be quicker with their word than we with writing down their answer; they do not repeat it."""
    with (
        Simulation([asker], contacts=PEOPLE, store=f"sqlite:///{tmp_path}/store.db") as sim,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        web = Intake(
            database=sim._database,
            world=sim._world,
            outbox=sim._outbox,
            routing=sim._intake._routing,
            channels=sim.channels,
            report_seconds=10.0,
        )
        reports: list[Future[bool]] = []

        def report(point: str) -> None:
            if point == "outbox.sent" and not reports:
                id = sim.channels["sms"].sent[0].provider_id
                news = DeliveryUpdate(provider_id=id, status=DeliveryStatus.FAILED, error="30005 unknown")
                reports.append(elsewhere.submit(web.update, "sms", news))
                time.sleep(0.3)

        crashpoints.arm(report)
        try:
            sim.start("asker")
        finally:
            crashpoints.arm(None)

        assert [one.result(10) for one in reports] == [True]
        sim.advance(1)
        assert [message.channel for message in sim.outbox()] == ["email"]


def test_reports_out_of_order_only_go_forward() -> None:
    """`sent` after `delivered` changes nothing."""
    with Simulation([teller], contacts=PEOPLE) as sim:
        sim.start("teller")
        id = sim.channels["sms"].sent[0].provider_id

        assert sim._intake.update("sms", DeliveryUpdate(provider_id=id, status=DeliveryStatus.DELIVERED))
        assert not sim._intake.update("sms", DeliveryUpdate(provider_id=id, status=DeliveryStatus.SENT))
        assert not sim._intake.update("sms", DeliveryUpdate(provider_id=id, status=DeliveryStatus.FAILED))
        assert not sim._intake.update("sms", DeliveryUpdate(provider_id="?", status=DeliveryStatus.SENT))
