"""What people write goes where it belongs: matched, never guessed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from wakeloop import Context, Undeliverable, agent, on_message
from wakeloop.channel import Incoming
from wakeloop.routing import Replies
from wakeloop.testing import Simulation

PEOPLE = {
    "alice": {"sms": "+14155550100", "email": "alice@example.com"},
    "bob": {"sms": "+14155550101"},
    "carol": {"sms": "+14155550102"},
    "twin": {"sms": "+14155550102"},
}


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks what it is told to ask."""
    answer = await ctx.ask("alice", str(ctx.event.input), timeout=timedelta(hours=1))
    return answer.text


@agent(on_message())
async def echo(ctx: Context[None]) -> str:
    """Takes every message."""
    return ctx.event.text


@agent(on_message(contact="bob"))
async def for_bob(ctx: Context[None]) -> str:
    """Takes Bob's messages."""
    return ctx.event.text


@agent()
async def waiter(ctx: Context[None]) -> str:
    """Waits for a message of the contact that it is told to wait for."""
    message = await ctx.receive(from_=ctx.event.input)
    return message.text


def texts(sim: Simulation, contact: str = "alice") -> list[str]:
    return [message.text for message in sim.outbox(contact)]


def test_the_only_open_question_gets_the_reply() -> None:
    """A question alone on its person's phone needs no code."""
    with Simulation([asker, echo], contacts=PEOPLE) as sim:
        run = sim.start("asker", "Ship it?")

        sim.reply("alice", "yes")

        assert texts(sim) == ["Ship it?"]
        assert sim.run(run).result == "yes"


def test_a_reply_to_another_message_is_not_taken_for_the_only_open_question() -> None:
    """By the provider's own word it answers something else: nothing is guessed, and the sender is asked."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        run = sim.start(asker, "Ship it?")

        outcome = sim.reply("alice", "yes", reply_to="a message of somebody else's")
        asked = texts(sim)[-1]
        code = sim.requests()[0].code
        waiting = sim.run(run).status
        sim.reply("alice", f"{code} yes", reply_to="a message of somebody else's")

        assert outcome == "answers another message than the open question's; asked whether it is meant"
        assert asked == f"1 question is open. Reply with a code and your answer:\n{code}: Ship it?"
        assert (waiting, sim.run(run).result) == ("waiting", "yes")


def test_a_reply_to_a_notice_goes_to_who_takes_messages_and_not_to_the_open_question() -> None:
    """What answers a message that asked nothing is a message of its own, if an agent takes messages."""
    with Simulation([asker, echo], contacts=PEOPLE) as sim:
        run = sim.start(asker, "Ship it?")

        sim.reply("alice", "thanks, yes", reply_to="a notice of ours")

        assert sim.run(run).status == "waiting"
        assert [one.result for one in sim.runs(echo)] == ["thanks, yes"]


def test_with_two_open_questions_the_code_decides_in_any_position() -> None:
    """The second question carries its code; replies may name it first or last, in any case."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        first = sim.start("asker", "Ship it?", key="one")
        second = sim.start("asker", "Lunch?", key="two")
        code = {request.text: request.code for request in sim.requests()}
        assert f"Reply {code['Lunch?']} and your answer" in texts(sim)[1]

        sim.reply("alice", f"{code['Lunch?'].lower()} pizza!")
        sim.reply("alice", f"not today, {code['Ship it?']}")

        assert (sim.run(second).result, sim.run(first).result) == ("pizza!", "not today")


def test_a_reply_that_names_none_of_several_questions_is_answered_with_the_list() -> None:
    """Nothing is guessed: both questions stay open."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        sim.start("asker", "Ship it?", key="one")
        sim.start("asker", "Lunch?", key="two")

        sim.reply("alice", "yes")

        listed = texts(sim)[-1]
        assert all(f"{request.code}: {request.text}" in listed for request in sim.requests())
        assert len(sim.requests()) == 2


def test_a_code_without_an_answer_is_asked_for_it() -> None:
    """Naming a question is no answer to it."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        sim.start("asker", "Ship it?")
        code = sim.requests()[0].code

        sim.reply("alice", code)

        assert texts(sim)[-1] == f"What is your answer to {code}: Ship it?"
        assert len(sim.requests()) == 1


def test_a_reply_that_names_a_closed_question_is_told_so() -> None:
    """It is neither an answer nor the beginning of something else."""
    with Simulation([asker, echo], contacts=PEOPLE) as sim:
        sim.start("asker", "Ship it?")
        code = sim.requests()[0].code
        sim.advance(timedelta(hours=2))

        sim.reply("alice", f"{code} yes")

        assert "came too late" in texts(sim)[-1] and "Ship it?" in texts(sim)[-1]
        assert sim.runs("echo") == []


@pytest.mark.parametrize("word", ["STOP", "stop", "Cancel", "END", "QUIT", "Unsubscribe", "STOPALL"])
def test_the_carriers_keywords_are_never_an_answer(word: str) -> None:
    """The person is not written to any more; the question is still unanswered."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        run = sim.start("asker", "Cancel the launch?")

        assert sim.reply("alice", word, channel="sms") == "opted out"

        assert sim.run(run).status == "waiting"
        assert [request.status for request in sim.requests()] == ["open"]


def test_somebody_who_opted_out_is_reached_on_another_channel_or_not_at_all() -> None:
    """STOP holds for its channel; START takes it back."""

    @agent()
    async def sender(ctx: Context[None]) -> str:
        try:
            await ctx.ask(str(ctx.event.input), "Are you there?")
        except Undeliverable as error:
            return f"{error.to} cannot be reached"
        return "asked"

    with Simulation([sender, asker], contacts=PEOPLE) as sim:
        sim.reply("alice", "STOP", channel="sms")
        sim.reply("bob", "STOP", channel="sms")

        sim.start("sender", "alice", key="a")
        alone = sim.start("sender", "bob", key="b")
        assert [(message.to, message.channel) for message in sim.outbox()] == [("alice", "email")]
        assert sim.run(alone).result == "bob cannot be reached"

        sim.reply("bob", "START", channel="sms")
        sim.start("sender", "bob", key="c")
        assert [(message.to, message.channel) for message in sim.outbox("bob")] == [("bob", "sms")]


def test_a_run_that_waits_for_a_person_comes_before_agents_that_take_messages() -> None:
    """It asked to hear from them; the agent would only begin something new."""
    with Simulation([waiter, echo], contacts=PEOPLE) as sim:
        run = sim.start("waiter", "bob")

        sim.reply("alice", "for echo")
        sim.reply("bob", "for the waiter")

        assert sim.run(run).result == "for the waiter"
        assert [one.result for one in sim.runs("echo")] == ["for echo"]


def test_of_several_agents_that_would_take_a_message_the_person_chooses_by_name() -> None:
    """The message waits for nobody: it is asked who it is for, and sent again with a name."""
    with Simulation([echo, for_bob], contacts=PEOPLE) as sim:
        sim.reply("bob", "hello")
        assert "echo, for_bob" in texts(sim, "bob")[-1]
        assert sim.runs() == []

        sim.reply("bob", "@for_bob hello")

        assert [(run.agent, run.result) for run in sim.runs()] == [("for_bob", "hello")]


def test_of_several_sessions_of_one_agent_the_person_chooses_by_the_key() -> None:
    """The agent's name alone would not tell them apart; a key may begin like another, and small letters do."""
    with Simulation([waiter, for_bob], contacts=PEOPLE) as sim:
        first, second, third = (
            sim.start("waiter", "bob", key=key) for key in ("Order 1", "Order 1 b", "order")
        )

        sim.reply("bob", "waiter good morning")

        asked = (
            "Who is this for? Begin with one of these names: waiter/Order 1, waiter/Order 1 b, waiter/order."
        )
        assert texts(sim, "bob") == [asked]
        assert [sim.run(run).status for run in (first, second, third)] == ["waiting"] * 3

        sim.reply("bob", "waiter/order 1 b: good morning")
        sim.reply("bob", "@Waiter/Order 1, good evening")
        sim.reply("bob", "good night")
        assert [sim.run(run).result for run in (first, second, third)] == [
            "good evening",
            "good morning",
            "good night",
        ]


def test_an_unknown_sender_is_recorded_and_reaches_no_agent() -> None:
    """Not even one whose question is the only open one."""
    with Simulation([asker, echo], contacts=PEOPLE) as sim:
        sim.start("asker", "Ship it?")

        outcome = sim._intake.incoming(
            "sms", Incoming(provider_id="x1", address="+14155559999", text="yes", raw={"Body": "yes"})
        )
        sim.advance(1)

        assert outcome == "an unknown sender, ignored"
        assert sim.runs("echo") == []
        assert len(sim.requests()) == 1


def test_an_unknown_sender_is_answered_if_so_set() -> None:
    """With the text of the settings, on the channel on which they wrote."""
    with Simulation([echo], contacts=PEOPLE) as sim:
        sim._intake._routing._replies = Replies(unknown_sender="This number is not read.")

        sim._intake.incoming("sms", Incoming(provider_id="x1", address="+14155559999", text="yes"))
        sim.advance(1)

        assert [(message.to, message.text) for message in sim.outbox()] == [
            ("+14155559999", "This number is not read.")
        ]


def test_an_address_that_two_contacts_share_is_neither_of_them() -> None:
    """Who wrote cannot be told, so nobody is taken for somebody else."""
    with Simulation([echo], contacts=PEOPLE) as sim:
        outcome = sim.reply("carol", "it is me")

        assert outcome == "an address that several contacts share: carol, twin"
        assert sim.runs() == []


def test_the_same_message_from_a_provider_counts_once() -> None:
    """Providers send a webhook again when the answer to it was lost."""
    with Simulation([echo], contacts=PEOPLE) as sim:
        for _ in range(3):
            sim._intake.incoming("sms", Incoming(provider_id="same", address="+14155550100", text="hi"))
        sim.advance(1)

        assert [run.result for run in sim.runs("echo")] == ["hi"]


def test_a_message_that_nobody_takes_is_kept() -> None:
    """It is on record, and an operator sees it."""
    with Simulation([asker], contacts=PEOPLE) as sim:
        assert sim.reply("alice", "anyone?") == "nobody takes it; kept"
        assert sim.outbox() == []
