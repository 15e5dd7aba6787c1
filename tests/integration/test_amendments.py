"""What asked shows how it ended: messages are changed after the end of their request, through crashes and outages."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from wakeloop import ApprovalExpired, Context, Denied, NoAnswer, RequestCancelled, agent
from wakeloop.channel import Capabilities, DeliveryStatus, DeliveryUpdate, Incoming, Outgoing, Receipt
from wakeloop.decisions import Actor
from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop.testing import Simulation

CHAT = Capabilities(inbound=True, buttons=True, forms=True, threads=True, amends=True, reconcile=True)
PEOPLE = {
    "alice": {"chat": "U1", "name": "Alice"},
    "bob": {"chat": "U2", "name": "Bob"},
    "carol": {"sms": "+14155550100", "chat": "U3", "name": "Carol"},
}


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks whom it is told to."""
    try:
        return (await ctx.ask(ctx.event.input["to"], "How many?", timeout=timedelta(hours=1))).text
    except (NoAnswer, RequestCancelled) as error:
        return type(error).__name__


@agent()
async def buyer(ctx: Context[None]) -> str:
    """Asks both for permission."""
    try:
        await ctx.approve(
            ["alice", "bob"], "buy", {"what": "tea"}, text="Buy tea?", **(ctx.event.input or {})
        )
    except (Denied, ApprovalExpired) as error:
        return type(error).__name__
    return "bought"


def simulated(**facts: Any) -> Simulation:
    return Simulation([asker, buyer], contacts=PEOPLE, capabilities={"chat": CHAT}, **facts)


def shown(sim: Simulation) -> dict[str, str]:
    """What stands in place of the messages that asked, by address."""
    chat = sim.channels["chat"]
    return {taken.address: chat.amended[taken.provider_id] for taken in chat.sent if taken.provider_id in chat.amended}  # fmt: skip


def asked(sim: Simulation) -> None:
    """Ask Alice, and let a second pass: an answer is never in the very instant of its question."""
    sim.start("asker", {"to": "alice"})
    sim.advance(1)


def test_an_answered_question_shows_by_whom_and_what() -> None:
    """The message that asked, once, with all that it had said."""
    with simulated() as sim:
        asked(sim)
        assert shown(sim) == {}

        sim.reply("alice", "42")

        assert shown(sim) == {"U1": "How many?\nAnswered by Alice: 42"}
        assert sim.outbox("alice")[0].amended == "How many?\nAnswered by Alice: 42"
        [(sent, _)] = sim.channels["chat"].amendments
        assert (sent.provider_id, sent.address, sent.text) == ("chat-1", "U1", "How many?")


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("yes", "Approved by Bob."),
        ("no", "Denied by Bob."),
        ("no too expensive", "Denied by Bob: too expensive"),
        ("no 1", "Denied by Bob: not now"),
    ],
)
def test_everybodys_message_about_an_approval_shows_the_verdict(reply: str, line: str) -> None:
    """With the reason or comment, also where another decided."""
    with simulated() as sim:
        sim.start("buyer", {"reject_options": ["not now"]})
        sim.advance(1)

        sim.reply("bob", reply)

        texts = shown(sim)
        assert texts.keys() == {"U1", "U2"}
        assert {text.splitlines()[0] for text in texts.values()} == {"Buy tea?"}
        assert {text.splitlines()[-1] for text in texts.values()} == {line}


def test_all_who_approved_are_named_and_changes_are_told() -> None:
    """Two approvals of other arguments than the message shows."""
    with simulated() as sim:
        sim.start("buyer", {"quorum": 2, "edit": True})
        sim.advance(1)
        [request] = sim.requests()

        sim.approve(request, "alice", args={"what": "coffee"})
        sim.advance(1)
        sim.approve(request, "bob")

        assert {text.splitlines()[-1] for text in shown(sim).values()} == {
            "Approved by Alice and Bob, with changes."
        }
        # What asked again about the changed arguments, too.
        assert len(sim.channels["chat"].amendments) == 3


def test_what_nobody_answered_shows_that_its_time_is_over() -> None:
    """Nobody is told in words, but no button is left that leads nowhere."""
    with simulated() as sim:
        asked(sim)

        sim.advance(timedelta(hours=1))

        assert shown(sim) == {"U1": "How many?\nExpired."}


def test_a_cancelled_run_withdraws_its_question() -> None:
    """Settled by the turn, told by the desk."""
    with simulated() as sim:
        run = sim.start("asker", {"to": "alice"})
        sim.advance(1)

        sim.cancel(run)

        assert shown(sim) == {"U1": "How many?\nWithdrawn."}


def test_what_tells_of_the_end_is_not_amended() -> None:
    """Only what asked is: the others are told once in words."""
    with simulated() as sim:
        sim.start("buyer")
        sim.advance(1)
        sim.reply("bob", "yes")
        sim.advance(timedelta(minutes=5))

        told = sim.outbox("alice")[-1]
        assert told.text.startswith("Approved by Bob, nothing more to do")
        assert told.amended is None


def test_a_channel_that_cannot_amend_is_not_asked_to() -> None:
    """By its capabilities: a message by SMS stays as it is."""
    with simulated() as sim:
        sim.start("asker", {"to": "carol"})
        sim.advance(1)
        sim.reply("carol", "7")

        assert [channel.amendments for channel in sim.channels.values()] == [[], []]


def test_a_crash_between_the_amendment_and_its_record_repeats_it() -> None:
    """It is done again and on record then; to do it twice does no harm."""
    with simulated() as sim:
        asked(sim)
        sim.kill_at("outbox.amended")

        sim.reply("alice", "42")
        assert len(sim.channels["chat"].amendments) == 1
        sim.advance(timedelta(hours=2))

        assert sim.channels["chat"].amendments == [sim.channels["chat"].amendments[0]] * 2
        assert shown(sim) == {"U1": "How many?\nAnswered by Alice: 42"}


@pytest.mark.parametrize("point", ["timers.claimed", "outbox.claimed", "engine.committing"])
def test_an_amendment_survives_a_crash_anywhere_before_it(point: str) -> None:
    """It is in the store with the end of the request."""
    with simulated() as sim:
        asked(sim)
        sim.kill_at(point)

        sim.reply("alice", "42")
        sim.advance(timedelta(minutes=5))

        assert shown(sim) == {"U1": "How many?\nAnswered by Alice: 42"}


def test_what_had_no_known_outcome_at_the_end_is_amended_once_it_is_found() -> None:
    """The request ended while nobody knew whether its message had gone out."""
    with simulated() as sim:
        sim.channels["chat"].lose_next()
        run = sim.start("asker", {"to": "alice"})
        sim.advance(1)
        sim.cancel(run)
        assert shown(sim) == {}

        sim.advance(timedelta(minutes=5))

        assert [taken.text.splitlines()[0] for taken in sim.channels["chat"].sent] == [
            "How many?",
            "No longer needed: “How many?”",
        ]
        assert shown(sim) == {"U1": "How many?\nWithdrawn."}


def test_a_request_that_ends_while_its_message_is_being_sent_is_amended_after_that() -> None:
    """Between the claim and the provider's receipt, by another process."""
    with simulated() as sim:
        chat = sim.channels["chat"]
        send, outcome = chat.send, []

        async def slow(message: Outgoing) -> Receipt:
            receipt = await send(message)
            if message.kind == "question":
                [request] = sim.requests()
                actor = Actor(contact="alice", channel="web", auth="signed link")
                outcome.append(sim._requests.reply(UUID(request.id), actor, "42").words)
            return receipt

        chat.send = slow  # type: ignore[method-assign]
        asked(sim)
        sim.advance(timedelta(minutes=5))

        assert len(outcome) == 1
        assert shown(sim) == {"U1": "How many?\nAnswered by Alice: 42"}


def test_what_is_sent_after_the_end_is_amended_after_that() -> None:
    """The provider was away when it was asked, and had no answer until the question was over."""
    with simulated() as sim:
        sim.channels["chat"].fail_next(TemporaryChannelError("busy", retry_after=600.0))
        run = sim.start("asker", {"to": "alice"})
        sim.advance(1)
        sim.cancel(run)
        assert "How many?" not in [taken.text for taken in sim.channels["chat"].sent]

        sim.advance(timedelta(minutes=20))

        assert shown(sim) == {"U1": "How many?\nWithdrawn."}


def test_what_falls_through_to_a_channel_that_amends_after_the_end_is_amended_there() -> None:
    """The provider of the first channel reported the failure when all was over."""
    with simulated() as sim:
        run = sim.start("asker", {"to": "carol"})
        sim.advance(1)
        sim.cancel(run)
        sim.advance(1)
        taken = sim.channels["sms"].sent[0]

        news = DeliveryUpdate(provider_id=taken.provider_id, status=DeliveryStatus.FAILED, error="30003")
        assert sim._intake.update("sms", news)
        sim.advance(1)

        assert shown(sim) == {"U3": "How many?\nWithdrawn."}


def test_a_provider_that_is_away_is_asked_again_later() -> None:
    """Not before it said so; whatever else goes wrong for a time is tried again as well."""
    with simulated() as sim:
        asked(sim)
        sim.channels["chat"].fail_next_amendments(
            TemporaryChannelError("busy", retry_after=120.0), ChannelError("connection lost"), OSError("away")
        )

        sim.reply("alice", "42")
        sim.advance(timedelta(seconds=100))
        assert shown(sim) == {}
        sim.advance(timedelta(minutes=5))

        assert shown(sim) == {"U1": "How many?\nAnswered by Alice: 42"}


@pytest.mark.parametrize(
    "errors",
    [
        [PermanentChannelError("message is too old", code="cant_update_message")],
        [TemporaryChannelError("busy")] * 8,
    ],
    ids=["permanent", "for too long"],
)
def test_what_cannot_be_amended_is_given_up_and_logged(
    errors: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The run is not concerned: the message just stays as it was."""
    with simulated() as sim, caplog.at_level(logging.WARNING):
        asked(sim)
        sim.channels["chat"].fail_next_amendments(*errors)

        sim.reply("alice", "42")
        sim.advance(timedelta(days=2))

        assert shown(sim) == {}
        assert sim.runs("asker")[0].result == "42"
        assert "a message stays as it was sent" in caplog.text
        assert "How many?" not in caplog.text


def test_a_long_answer_is_cut_in_the_line() -> None:
    """The rest is with whoever asked."""
    with simulated() as sim:
        asked(sim)
        sim.reply("alice", "because " * 100)

        line = shown(sim)["U1"].splitlines()[-1]
        assert line.startswith("Answered by Alice: because because")
        assert line.endswith("…")
        assert len(line) < 130


def test_a_form_that_is_filled_in_where_it_stands_is_answered_and_amended() -> None:
    """What goes out is what comes back, and who pressed is told by the message itself, not in words besides."""

    @agent()
    async def counter(ctx: Context[None]) -> int:
        return (await ctx.ask("alice", "How many?", answer=int)).value

    with Simulation([counter], contacts=PEOPLE, capabilities={"chat": CHAT}) as sim:
        run = sim.start("counter")
        sim.advance(1)
        [taken] = sim.channels["chat"].sent
        [field] = taken.outgoing.fields

        incoming = Incoming(
            provider_id="press-1", address="U1", text="", reply_to=taken.provider_id,
            pressed=taken.outgoing.submit, values={field.name: "42"},
        )  # fmt: skip
        sim._intake.incoming("chat", incoming)
        sim.advance(1)

        assert sim.run(run).result == 42
        assert shown(sim) == {"U1": "How many?\nAnswered by Alice: 42"}
        assert len(sim.channels["chat"].sent) == 1
