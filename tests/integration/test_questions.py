"""Questions: several people, escalation, typed answers in a dialogue, and the end that everybody is told of."""

from __future__ import annotations

import asyncio
import enum
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, field_validator

from wakeloop import Context, Escalation, NoAnswer, RequestCancelled, Undeliverable, agent, on_message
from wakeloop.channel import Capabilities, Incoming, Outgoing, Receipt
from wakeloop.errors import NotFound, PermanentChannelError
from wakeloop.testing import Simulation
from wakeloop.testing.channels import FakeChannel

PEOPLE = {
    "alice": {"sms": "+14155550100", "email": "alice@example.com"},
    "bob": {"sms": "+14155550101", "groups": ["ops"]},
    "carol": {"sms": "+14155550102", "name": "Carol C.", "groups": ["ops"]},
}


class Order(BaseModel):
    item: str
    count: int = Field(ge=1)
    express: bool = False


class Even(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("an even number, please")
        return value


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


def asking(*args: Any, **options: Any) -> Any:
    """An agent that asks this, and gives the answer's value, or what it got instead."""

    @agent(name="asking")
    async def asks(ctx: Context[None]) -> Any:
        try:
            answer = await ctx.ask(*args, **options)
        except (NoAnswer, RequestCancelled, Undeliverable) as error:
            return type(error).__name__
        value = answer.value
        return value.model_dump() if isinstance(value, BaseModel) else str(getattr(value, "value", value))

    return asks


def texts(sim: Simulation, contact: str = "alice") -> list[str]:
    return [message.text for message in sim.outbox(contact)]


# ---------------------------------------------------------------------- several people


def test_of_several_people_the_first_answer_counts() -> None:
    """The others are told once, by whom; what they answer after that changes nothing."""
    with Simulation([asking(["alice", "bob"], "Lunch?")], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        assert texts(sim) == texts(sim, "bob") == ["Lunch?"]
        assert sim.requests()[0].to == ("alice", "bob")

        sim.reply("bob", "noon")
        sim.reply("alice", "one")

        assert sim.run(run).result == "noon"
        assert texts(sim)[1] == "No answer needed any more, bob has answered: “Lunch?”"
        assert "closed" in texts(sim)[2] and len(texts(sim)) == 3
        assert texts(sim, "bob") == ["Lunch?"]


def test_a_group_is_everybody_in_it() -> None:
    """Named like a contact."""
    with Simulation([asking("ops", "Who is on call?")], contacts=PEOPLE) as sim:
        run = sim.start("asking")

        assert sim.requests()[0].asked == ("bob", "carol")
        sim.reply("carol", "me")
        assert sim.run(run).result == "me"


def test_the_same_person_answering_on_two_channels_answers_once() -> None:
    """Two channels race; the second word is told that it came too late."""
    with Simulation([asking("alice", "Well?", escalate=[(60, "alice", "email")])], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        sim.advance(60)

        sim.reply("alice", "from the phone", channel="sms")
        code = sim.requests(None)[0].code
        outcome = sim.reply("alice", f"{code} from the desk", channel="email")

        assert sim.run(run).result == "from the phone"
        assert "too late" in outcome


# ---------------------------------------------------------------------- the timetable


def test_a_request_escalates_on_its_timetable() -> None:
    """First another channel, then another person, with the same request; reminders go on in between."""
    escalate = [Escalation(after=timedelta(minutes=30), to="alice", via="email"), (timedelta(hours=1), "bob")]
    with Simulation([asking("alice", "Well?", escalate=escalate, timeout=7200)], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        sim.advance(timedelta(minutes=29, seconds=59))
        assert [(one.channel, one.to) for one in sim.outbox()] == [("sms", "alice")]
        sim.advance(1)
        assert [(one.channel, one.to) for one in sim.outbox()][1:] == [("email", "alice")]
        sim.advance(timedelta(minutes=30))
        assert [(one.channel, one.to) for one in sim.outbox()][2:] == [("sms", "bob")]
        assert len(sim.requests()) == 1

        sim.reply("bob", "done")

        assert sim.run(run).result == "done"
        assert "bob has answered" in texts(sim)[-1]


def test_reminders_come_until_the_end_and_wake_nobody_but_the_person() -> None:
    """Three in three hours, however often the process died; then the timeout."""
    with Simulation([asking("alice", "Well?", remind=3600, timeout=4 * 3600)], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        for _ in range(8):
            sim.advance(timedelta(minutes=30))
            sim.crash()

        assert texts(sim) == ["Well?", *["Reminder: Well?"] * 3]
        assert sim.run(run).result == "NoAnswer"
        assert [one.status for one in sim.requests(None)] == ["expired"]


def test_reminders_missed_while_down_are_one() -> None:
    """After a night without a worker a person gets one, not ten."""
    with Simulation([asking("alice", "Well?", remind=3600)], contacts=PEOPLE) as sim:
        sim.start("asking")
        sim._clock.move(sim.now + timedelta(hours=10))
        sim.advance(0)

        assert texts(sim) == ["Well?", "Reminder: Well?"]
        sim.advance(timedelta(minutes=59))
        assert len(texts(sim)) == 2
        sim.advance(timedelta(minutes=1))
        assert len(texts(sim)) == 3


def test_an_unreachable_person_brings_the_escalation_forward() -> None:
    """Nobody waits an hour for a number that does not exist."""
    with Simulation([asking("bob", "Well?", escalate=[(3600, "carol")])], contacts=PEOPLE) as sim:
        sim.channels["sms"].fail_next(PermanentChannelError("no such number"))
        run = sim.start("asking")

        assert [one.to for one in sim.outbox()] == ["carol"]
        sim.reply("carol", "here")
        assert sim.run(run).result == "here"


def test_a_timeout_around_it_withdraws_the_question() -> None:
    """`asyncio.timeout` closes it, and the person is told once."""

    @agent()
    async def impatient(ctx: Context[None]) -> str:
        try:
            async with asyncio.timeout(60):
                return (await ctx.ask("alice", "Well?")).text
        except TimeoutError:
            return "gave up"

    with Simulation([impatient], contacts=PEOPLE) as sim:
        run = sim.start(impatient)
        sim.advance(60)

        assert sim.run(run).result == "gave up"
        assert texts(sim) == ["Well?", "No longer needed: “Well?”"]
        assert [one.status for one in sim.requests(None)] == ["cancelled"]


def test_whom_there_is_not_cannot_be_asked() -> None:
    """Nor escalated to: the handler is told at once, with the nearest names."""

    @agent()
    async def asks(ctx: Context[None]) -> list[str]:
        found = []
        for options in (
            {"to": "alise"},
            {"to": "alice", "escalate": [(60, "bobb")]},
            {"to": "bob", "via": "email"},
        ):
            try:
                await ctx.ask(text="Well?", **options)  # type: ignore[arg-type]
            except NotFound as error:
                found.append(str(error))
        return found

    with Simulation([asks], contacts=PEOPLE) as sim:
        found = sim.run(sim.start(asks)).result

        assert ["alice" in found[0], "bob" in found[1], "email" in found[2]] == [True] * 3
        assert sim.outbox() == []


# ---------------------------------------------------------------------- typed answers


def test_a_model_is_asked_field_by_field() -> None:
    """A short dialogue; a field that cannot be read is asked again with the reason; a crash in the middle forgets
    nothing."""
    with Simulation([asking("alice", "What shall I order?", answer=Order)], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        assert "What shall I order?" in texts(sim)[0] and "1/3 item" in texts(sim)[0]

        sim.reply("alice", "tea")
        assert "2/3 count" in texts(sim)[-1]
        sim.crash()
        sim.reply("alice", "a few")
        assert "could not be read" in texts(sim)[-1] and "2/3 count" in texts(sim)[-1]
        sim.reply("alice", "3")
        assert "3/3 express" in texts(sim)[-1]
        sim.reply("alice", "yes")

        assert sim.run(run).result == {"item": "tea", "count": 3, "express": True}
        assert [one.status for one in sim.requests(None)] == ["answered"]


def test_a_model_may_be_answered_in_one_message() -> None:
    """As lines, or as JSON."""
    for words in ('{"item": "tea", "count": 2, "express": false}', "item: tea\ncount: 2\nexpress: no"):
        with Simulation([asking("alice", "Order?", answer=Order)], contacts=PEOPLE) as sim:
            run = sim.start("asking")
            sim.reply("alice", words)
            assert sim.run(run).result == {"item": "tea", "count": 2, "express": False}


def test_what_only_the_type_itself_can_refuse_is_asked_again() -> None:
    """A validator of the model's own has the last word; its reason is told."""
    with Simulation([asking("alice", "Which number?", answer=Even)], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        sim.reply("alice", "3")
        assert "an even number, please" in texts(sim)[-1]
        sim.reply("alice", "4")
        assert sim.run(run).result == {"number": 4}


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        (bool, "sí", "True"),
        (bool, "nope", "False"),
        (int, "１２", "12"),
        (date, "3 November 2026", "2026-11-03"),
        (Size, "2", "large"),
        (Literal["red", "green"], "Green!", "green"),
    ],
)
def test_people_answer_in_their_own_way(kind: Any, words: str, value: str) -> None:
    """Natural words for yes and no, full-width digits, dates with names of months, choices by number."""
    with Simulation([asking("alice", "Well?", answer=kind)], contacts=PEOPLE) as sim:
        run = sim.start("asking")
        sim.reply("alice", words)
        assert sim.run(run).result == value


def test_choices_of_an_enum_are_numbered() -> None:
    """As options are."""
    with Simulation([asking("alice", "Which size?", answer=Size)], contacts=PEOPLE) as sim:
        sim.start("asking")
        assert texts(sim) == ["Which size?\n1 small, 2 large"]


# ---------------------------------------------------------------------- matched, never guessed


def test_each_of_two_open_questions_can_be_told_by_its_code() -> None:
    """When a second comes, the person learns both codes."""

    @agent()
    async def two(ctx: Context[None]) -> list[str]:
        first = asyncio.create_task(ctx.ask("alice", "Tea?"))
        await ctx.sleep(60)
        second = asyncio.create_task(ctx.ask("alice", "Cake?"))
        return [(await first).text, (await second).text]

    with Simulation([two], contacts=PEOPLE) as sim:
        run = sim.start(two)
        sim.advance(60)
        codes = {one.text: one.code for one in sim.requests()}

        assert codes["Cake?"] in texts(sim)[-1] and f"For “Tea?” reply {codes['Tea?']}" in texts(sim)[-1]
        sim.reply("alice", f"{codes['Cake?'].lower()}: cheesecake")
        sim.reply("alice", f"green {codes['Tea?']}!")
        assert sim.run(run).result == ["green", "cheesecake"]


def test_fifty_open_questions_to_one_phone_are_told_apart() -> None:
    """Each has a code of its own; a bare yes is answered with a list, and each code reaches its own question."""

    @agent()
    async def many(ctx: Context[None]) -> list[str]:
        answers = await asyncio.gather(*(ctx.ask("alice", f"Question {n}?") for n in range(50)))
        return [answer.text for answer in answers]

    with Simulation([many], contacts=PEOPLE) as sim:
        run = sim.start(many)
        sim.advance(timedelta(hours=3))
        codes = {one.text: one.code for one in sim.requests()}
        assert len(set(codes.values())) == 50

        sim.reply("alice", "yes")
        assert texts(sim)[-1].startswith("50 questions are open")
        for n in reversed(range(50)):
            sim.reply("alice", f"{codes[f'Question {n}?']} answer {n}")

        assert sim.run(run).result == [f"answer {n}" for n in range(50)]


def test_a_word_after_the_end_is_answered_with_what_happened() -> None:
    """Even without a code, if nobody else takes it; an agent that takes messages comes first."""

    @agent(on_message(contact="bob"))
    async def echo(ctx: Context[None]) -> str:
        return ctx.event.text  # type: ignore[union-attr]

    with Simulation([asking(["alice", "bob"], "Well?", timeout=60), echo], contacts=PEOPLE) as sim:
        sim.start("asking")
        sim.advance(60)

        sim.reply("alice", "sorry, I slept")
        sim.reply("bob", "what is new?")

        assert "came too late" in texts(sim)[-1] and "expired" in texts(sim)[-1]
        assert [run.result for run in sim.runs(echo)] == ["what is new?"]


def test_a_code_of_a_closed_question_never_answers_another() -> None:
    """The person meant the old one: they are told, and the open one stays open."""
    with Simulation([asking("alice", "Old?", timeout=60)], contacts=PEOPLE) as sim:
        sim.start("asking")
        old = sim.requests()[0].code
        sim.advance(60)
        sim.replace_agents([asking("alice", "New?")])
        sim.start("asking", key="new")
        assert sim.requests()[0].code != old

        sim.reply("alice", f"{old} yes")

        assert "Old?" in texts(sim)[-1] and "too late" in texts(sim)[-1]
        assert [one.status for one in sim.requests(None)] == ["expired", "open"]


# ---------------------------------------------------------------------- richer channels


class Buttons(FakeChannel):
    """A provider with buttons, threads and tokens; it keeps what it was given."""

    capabilities = Capabilities(inbound=True, buttons=True, threads=True, tokens=True, receipts=True)

    def __init__(self, name: str, now: Any) -> None:
        super().__init__(name, now)
        self.given: list[Outgoing] = []

    async def send(self, message: Outgoing) -> Receipt:
        self.given.append(message)
        return await super().send(message)


def rich(sim: Simulation) -> Buttons:
    channel = Buttons("sms", lambda: sim.now)
    sim.channels["sms"] = channel
    return channel


def test_a_pressed_button_a_reply_and_a_token_name_their_request() -> None:
    """With several open no code is needed: the provider's word or ours says which is meant."""

    @agent()
    async def three(ctx: Context[None]) -> list[str]:
        answers = await asyncio.gather(
            ctx.ask("alice", "Colour?", options=["red", "blue"]),
            ctx.ask("alice", "Place?"),
            ctx.ask("alice", "Time?"),
        )
        return [answer.text for answer in answers]

    with Simulation([three], contacts=PEOPLE) as sim:
        channel = rich(sim)
        run = sim.start(three)
        given = {message.text.partition("?")[0]: message for message in channel.given}
        ids = {taken.text.partition("?")[0]: taken.provider_id for taken in channel.sent}
        blue = next(button for button in given["Colour"].buttons if button.label == "blue")
        assert len(blue.value.encode()) <= 64

        def comes(number: int, text: str, **facts: Any) -> None:
            sim._intake.incoming(
                "sms", Incoming(provider_id=f"in{number}", address="+14155550100", text=text, **facts)
            )

        comes(1, "blue", pressed=blue.value)
        comes(2, "in the park", reply_to=ids["Place"])
        comes(3, "at nine", token=given["Time"].token)
        sim.advance(0)

        assert sim.run(run).result == ["blue", "in the park", "at nine"]


def test_a_button_of_somebody_elses_request_is_nothing() -> None:
    """What Bob presses of Alice's is no answer; nor is a token with her name that he sends."""
    with Simulation([asking("alice", "Well?")], contacts=PEOPLE) as sim:
        channel = rich(sim)
        sim.start("asking")
        [message] = channel.given
        pressed = f"{UUID(sim.requests()[0].id).hex}:yes"

        for number, facts in enumerate(
            ({"pressed": pressed}, {"token": message.token}, {"token": "made up"})
        ):
            sim._intake.incoming(
                "sms", Incoming(provider_id=f"in{number}", address="+14155550101", text="yes", **facts)
            )

        assert [one.status for one in sim.requests(None)] == ["open"]


def test_an_agent_knows_people_by_name_and_never_by_address() -> None:
    """What it is told is recorded, and the same in a replay after the settings have changed."""
    seen: list[Any] = []

    @agent()
    async def curious(ctx: Context[None]) -> None:
        seen.append([asdict(card) for card in ctx.contacts()])
        await ctx.sleep(1)

    with Simulation([curious], contacts=PEOPLE) as sim:
        sim.start(curious)
        sim.crash()
        sim.advance(1)

    assert seen[0] == seen[1]
    assert [card["name"] for card in seen[0]] == ["alice", "bob", "Carol C."]
    assert not any("+1415" in str(card) or "@" in str(card) for card in seen[0])
