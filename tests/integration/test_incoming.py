"""What comes in beside plain words: filled in forms, comments, machines' answers, unverified senders, and files."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field

from wakeloop import Answer, Call, Context, Denied, Message, agent, on_message, require_approval
from wakeloop.channel import Capabilities, File, Incoming, Sent
from wakeloop.events import Attachment
from wakeloop.intake import Intake
from wakeloop.routing import Replies
from wakeloop.store import queries
from wakeloop.testing import Simulation
from wakeloop.testing.channels import FakeChannel

PEOPLE = {"alice": {"email": "alice@example.com", "sms": "+14155550100"}, "bob": {"email": "bob@example.com"}}
TEXT = File(name="notes.txt", content_type="text/plain; charset=utf-8", data=b"hello")


class Order(BaseModel):
    item: str
    count: int = Field(ge=1)
    by: date


@agent()
async def orders(ctx: Context[None]) -> str:
    """Asks for an order."""
    answer: Answer[Order] = await ctx.ask("alice", "What shall I order?", answer=Order)
    return f"{answer.value.count} {answer.value.item} by {answer.value.by}"


@agent()
async def colours(ctx: Context[None]) -> str:
    """Asks for a choice."""
    return (await ctx.ask("alice", "Colour?", options=["red", "blue"])).text


@require_approval(["alice", "bob"], reject_options=["too expensive", "not now"])
def pay(amount: int) -> str:
    """Stands for a call of a bank."""
    return f"paid {amount}"


@agent()
async def bills(ctx: Context[None]) -> str:
    """Pays."""
    try:
        return await pay(5)
    except Denied as no:
        return f"{no.by}: {no.option} / {no.comment}"


@agent(on_message())
async def echo(ctx: Context[None]) -> str:
    """Takes every message."""
    assert isinstance(ctx.event, Message)
    return ctx.event.text


def said(sim: Simulation, contact: str = "alice") -> list[str]:
    return [message.text for message in sim.outbox(contact)]


def press(sim: Simulation, word: str, text: str = "", *, by: str = "alice", **facts: Any) -> str:
    """Press a button of the only open request."""
    hex = UUID(sim.requests(None)[-1].id).hex
    return sim.reply(by, text, channel="email", pressed=f"{hex}:{word}", **facts)


def conversation(sim: Simulation) -> list[Any]:
    with sim._database.read() as connection:
        return list(
            connection.execute(
                sa.text("SELECT text, subject, session_id FROM messages WHERE inbound ORDER BY id")
            )
        )


# ---------------------------------------------------------------------- forms


def test_a_filled_in_form_answers_a_typed_question() -> None:
    """The fields come as text, as an input of HTML sends them; nothing has to be asked piece by piece."""
    with Simulation([orders], contacts=PEOPLE) as sim:
        run = sim.start(orders)

        press(sim, "submit", values={"item": "cups", "count": "12", "by": "2026-11-03"})

        assert sim.run(run).result == "12 cups by 2026-11-03"
        assert [(one.act, one.result) for one in sim.audit(sim.requests(None)[0])] == [
            ("ask", "queued"), ("answer", "counted"),
        ]  # fmt: skip
        assert conversation(sim)[0].text == "item: cups\ncount: 12\nby: 2026-11-03"


def test_everything_that_is_wrong_with_a_form_is_told_in_one_message() -> None:
    """By the labels of the fields; the attempt is on record, and the next one counts."""
    with Simulation([orders], contacts=PEOPLE) as sim:
        run = sim.start(orders)

        press(sim, "submit", values={"item": "cups", "count": "a few"})

        lines = said(sim)[-1].splitlines()
        assert lines[0] == "That could not be taken. Please correct it and send it again:"
        assert [line.partition(":")[0] for line in lines[1:]] == ["Count", "By"]
        assert [(one.act, one.result) for one in sim.audit(sim.requests()[0])][1:] == [
            ("reply", "could not be read")
        ]
        press(sim, "submit", values={"item": "cups", "count": "1", "by": "2026-11-03"})
        assert sim.run(run).status == "completed"


@pytest.mark.parametrize("values", [None, {}, {"other": "yes"}])
def test_a_form_without_its_fields_is_no_answer(values: Mapping[str, str] | None) -> None:
    """The button that sends a form is no word, not even for a question that takes any."""

    @agent()
    async def plain(ctx: Context[None]) -> str:
        return (await ctx.ask("alice", "Well?")).text

    with Simulation([plain], contacts=PEOPLE) as sim:
        run = sim.start(plain)

        press(sim, "submit", values=values)

        assert sim.run(run).status == "waiting"
        assert "Answer: is missing" in said(sim)[-1]
        press(sim, "submit", values={"answer": " well\x00 enough "})
        assert sim.run(run).result == "well enough"


def test_a_form_for_an_approval_decides_nothing() -> None:
    """It has no fields; what is sent all the same is a comment."""
    with Simulation([bills], contacts=PEOPLE) as sim:
        run = sim.start(bills)

        press(sim, "submit", values={"answer": "yes"})

        assert sim.run(run).status == "waiting"
        assert "Noted as a comment" in said(sim)[-1]


# ---------------------------------------------------------------------- presses


@pytest.mark.parametrize(
    ("word", "comment", "result"),
    [
        ("no", "yes, absolutely", "alice: None / yes, absolutely"),
        ("no 2", "ask in May", "alice: not now / ask in May"),
        ("no", "", "alice: None / "),
        ("no", "No", "alice: None / "),
        ("yes", "no, wait", "paid 5"),
    ],
)
def test_what_is_said_beside_a_press_never_turns_it(word: str, comment: str, result: str) -> None:
    """The button is the verdict; the words are a comment, to the letter. A button's own label is none."""
    with Simulation([bills], contacts=PEOPLE) as sim:
        run = sim.start(bills)

        press(sim, word, comment)

        assert sim.run(run).result == result
        outcome = sim.requests(None)[0].outcome
        assert outcome is not None
        assert outcome.comment == ("" if comment == "No" else comment)


def test_a_choice_may_carry_a_comment() -> None:
    """The answer is the choice's words; the comment is on record."""
    with Simulation([colours], contacts=PEOPLE) as sim:
        run = sim.start(colours)

        press(sim, "#2", "like the sea")

        assert sim.run(run).result == "blue"
        assert sim.audit(sim.requests(None)[0])[-1].comment == "blue: like the sea"


def test_a_press_without_words_stands_in_the_conversation_with_its_label() -> None:
    """Whoever reads it later sees what was chosen."""
    with Simulation([colours], contacts=PEOPLE) as sim:
        sim.start(colours)

        press(sim, "#1")

        assert [row.text for row in conversation(sim)] == ["red"]


def test_a_button_of_somebody_elses_request_decides_nothing_else() -> None:
    """Not even the presser's own open question; that they tried is on record."""

    @agent()
    async def ask_bob(ctx: Context[None]) -> str:
        return (await ctx.ask("bob", "Lunch?")).text

    with Simulation([colours, ask_bob], contacts=PEOPLE) as sim:
        sim.start(ask_bob)
        sim.start(colours)
        alices = sim.requests()[-1]

        outcome = press(sim, "#1", "red", by="bob")

        assert outcome.startswith("refused: bob may not decide")
        assert [one.status for one in sim.requests(None)] == ["open", "open"]
        assert sim.audit(alices)[-1].result == "refused: not asked"


class Amending(FakeChannel):
    """A provider that can change what it has sent."""

    capabilities = Capabilities(inbound=True, buttons=True, amends=True)

    async def amend(self, sent: Sent, text: str) -> None:
        pass


def test_a_press_that_settles_is_not_answered_in_words_where_the_message_changes() -> None:
    """A late press is; so is one that only counts towards a quorum."""

    @require_approval(["alice", "bob"], quorum=2)
    def merge() -> str:
        return "merged"

    @agent()
    async def mergers(ctx: Context[None]) -> str:
        return await merge()

    with Simulation([mergers], contacts=PEOPLE) as sim:
        sim.channels["email"] = Amending("email", lambda: sim.now)
        sim.start(mergers)
        count = len(said(sim)), len(said(sim, "bob"))

        press(sim, "yes")
        assert "approved by 1 of 2" in said(sim)[-1]
        press(sim, "yes", by="bob")
        assert (len(said(sim)), len(said(sim, "bob"))) == (count[0] + 1, count[1])
        press(sim, "no", by="bob")
        assert "That request is closed: it was approved by you" in said(sim, "bob")[-1]


# ---------------------------------------------------------------------- machines


def test_an_automatic_reply_answers_nothing_and_is_never_answered() -> None:
    """It is kept, with a mark, where what it answers stands; it wakes nobody and starts nothing."""

    @agent()
    async def waiter(ctx: Context[None]) -> str:
        await ctx.send("alice", "News.")
        return (await ctx.receive(from_="alice")).text

    with Simulation([bills, waiter, echo], contacts=PEOPLE) as sim:
        waiting, paying = sim.start(waiter), sim.start(bills)
        sent = len(sim.outbox())
        news = next(one.provider_id for one in sim.channels["email"].sent if one.text == "News.")

        outcomes = [
            sim.reply("alice", "yes", channel="email", automatic=True),
            press(sim, "yes", automatic=True),
            sim.reply("alice", "STOP", channel="email", automatic=True),
            sim.reply("alice", "I am away", channel="email", automatic=True, reply_to=news),
        ]

        assert outcomes == ["an automatic reply; kept"] * 4
        assert sim.run(waiting).status == sim.run(paying).status == "waiting"
        assert len(sim.outbox()) == sent and sim.runs(echo) == []
        assert [one.text for one in sim.session(waiter).conversation] == ["News."]  # nobody has said more
        with sim._database.read() as connection:
            kept = [row.text for row in queries.list_messages(connection, limit=10)]
            assert "[automatic reply] I am away" in kept
            assert len(queries.unrouted(connection, limit=10)) == 4


def test_a_machine_neither_verifies_nor_opts_out() -> None:
    """Nor does an unknown one get the answer for unknown senders."""
    with Simulation([echo], contacts=PEOPLE) as sim:
        sim._intake._routing._replies = Replies(unknown_sender="Who are you?")
        stranger = Incoming(provider_id="1", address="x@example.com", text="away", automatic=True)
        stop = Incoming(
            provider_id="2", address="alice@example.com", text="STOP", automatic=True, opt_out=True
        )

        assert {sim._intake.incoming("email", one) for one in (stranger, stop)} == {
            "an automatic reply; kept"
        }
        sim.advance(1)

        assert sim.outbox() == []
        with sim._database.read() as connection:
            assert connection.execute(sa.text("SELECT count(*) FROM opt_outs")).scalar() == 0


# ---------------------------------------------------------------------- who it is


def test_an_unverified_sender_never_decides_about_a_call() -> None:
    """By words, by a press, by a reply or by a token that was ours: refused, on record, and told where it can be done."""
    with Simulation([bills], contacts=PEOPLE) as sim:
        sim._requests._decisions._links.base_url = "https://agents.example.com"
        run = sim.start(bills)
        request = sim.requests()[0]
        token = sim._requests._decisions._links.reply_token("alice", UUID(request.id))
        sent = sim.channels["email"].sent[0].provider_id

        for facts in ({}, {"token": token}, {"reply_to": sent}):
            sim.reply("alice", "yes", channel="email", vouched=False, **facts)
        press(sim, "no", "never", vouched=False)

        assert sim.run(run).status == "waiting"
        lines = sim.audit(request)[2:]
        assert [line.result for line in lines] == ["refused: sender not verified"] * 4
        assert [line.comment for line in lines] == ["yes", "yes", "yes", "no: never"]
        assert len(said(sim)) == 5
        assert "could not be verified that this message is from you" in said(sim)[-1]
        assert "https://agents.example.com/people/" in said(sim)[-1]
        sim.reply("bob", "yes", channel="email")
        assert sim.run(run).result == "paid 5"


def test_a_yes_pressed_below_other_arguments_does_not_count() -> None:
    """A button approves the call that its message showed; one who was told of changed arguments has a button for those."""

    @require_approval(["alice", "bob"], quorum=2, edit=True)
    def order(count: int) -> str:
        return f"ordered {count}"

    @agent()
    async def shop(ctx: Context[None]) -> str:
        return await order(5)

    chat = Capabilities(inbound=True, buttons=True)
    with Simulation([shop], contacts=PEOPLE, capabilities={"email": chat}) as sim:
        run = sim.start(shop)
        request = sim.requests()[0]
        old = next(
            one.outgoing.buttons[0].value
            for one in sim.channels["email"].sent
            if one.address == "alice@example.com"
        )
        sim.approve(request, by="bob", args={"count": 500})
        new = sim.channels["email"].sent[-1].outgoing.buttons[0].value

        outcome = sim.reply("alice", "", channel="email", pressed=old)
        waiting = sim.run(run).status
        sim.reply("alice", "", channel="email", pressed=new)

        assert outcome.startswith("refused: the arguments have changed")
        assert waiting == "waiting"
        assert ("approve", "refused: changed meanwhile") in [
            (one.act, one.result) for one in sim.audit(request)
        ]
        assert sim.run(run).result == "ordered 500"


def test_an_agent_can_see_that_nobody_vouches_for_a_message() -> None:
    """Whoever knows an address can write in its name; what an agent does about that is its author's choice."""

    @agent(on_message())
    async def careful(ctx: Context[None]) -> bool:
        assert isinstance(ctx.event, Message)
        return ctx.event.vouched

    with Simulation([careful], contacts=PEOPLE) as sim:
        sim.reply("alice", "wire the money", channel="email", vouched=False)
        sim.reply("alice", "hello", channel="email")

        assert [one.result for one in sim.runs(careful)] == [False, True]


def test_an_unverified_sender_may_answer_and_write() -> None:
    """Questions and messages are taken from whoever has the address, as they are on any channel."""
    with Simulation([colours, echo], contacts=PEOPLE) as sim:
        run = sim.start(colours)

        sim.reply("alice", "red", channel="email", vouched=False)
        sim.reply("alice", "hello", channel="email", vouched=False)

        assert sim.run(run).result == "red"
        assert [one.result for one in sim.runs(echo)] == ["hello"]


def test_an_unverified_stranger_is_not_answered() -> None:
    """Whoever's address was forged did not write."""
    with Simulation([echo], contacts=PEOPLE) as sim:
        sim._intake._routing._replies = Replies(unknown_sender="Who are you?")

        sim._intake.incoming(
            "email", Incoming(provider_id="1", address="x@example.com", text="hi", vouched=False)
        )
        sim.advance(1)

        assert sim.outbox() == []


def test_the_record_says_how_the_sender_is_known() -> None:
    """In the channel's own words, else by the provider's signature."""
    with Simulation([bills, colours], contacts=PEOPLE) as sim:
        sim.start(bills)
        sim.reply("alice", "yes", channel="email", auth="DKIM of example.com")
        sim.start(colours)
        sim.reply("alice", "red", channel="email")

        bill, colour = sim.requests(None)
        known = [
            next(line.auth for line in sim.audit(one) if line.result == "counted") for one in (bill, colour)
        ]
        assert known == ["DKIM of example.com", "provider's signature, sender's address"]


# ---------------------------------------------------------------------- subjects and files


def test_a_subject_comes_with_the_message() -> None:
    """The agent sees it, and so does the conversation; line ends and what no database keeps are not in it."""

    @agent(on_message())
    async def subjects(ctx: Context[None]) -> str | None:
        assert isinstance(ctx.event, Message)
        return ctx.event.subject

    with Simulation([subjects], contacts=PEOPLE) as sim:
        sim.reply("alice", "hello", channel="email", subject="Re:\r\n the \x00 plan")

        assert sim.runs(subjects)[0].result == "Re: the plan"
        assert conversation(sim)[0].subject == "Re: the plan"


@agent(on_message())
async def reader(ctx: Context[None]) -> list[str]:
    """Reads what comes with a message, sleeps, and tells it."""
    assert isinstance(ctx.event, Message)
    found = [(await ctx.read(one)).decode() for one in ctx.event.attachments]
    await ctx.sleep(60)
    return [
        f"{one.name}: {one.content_type}: {text}"
        for one, text in zip(ctx.event.attachments, found, strict=True)
    ]


def test_files_are_kept_with_their_message_and_read_in_a_step() -> None:
    """The bytes are in the store from the moment at which the message is; what was read is not read again."""
    with Simulation([reader], contacts=PEOPLE) as sim:
        sim.reply(
            "alice",
            "see",
            channel="email",
            files=[TEXT, File(name="../b\x00.csv", content_type="?", data=b"1")],
        )
        with sim._database.begin() as connection:
            connection.execute(sa.text("DELETE FROM files"))
        sim.crash()
        sim.advance(60)

        assert sim.runs(reader)[0].result == [
            "notes.txt: text/plain: hello",
            "b.csv: application/octet-stream: 1",
        ]


def test_files_over_the_limit_are_left_out_and_the_message_is_not() -> None:
    """Those that fit are kept; the record says what is missing."""
    with Simulation([reader], contacts=PEOPLE) as sim:
        intake: Intake = sim._intake
        intake._files_limit = 10
        large = File(name="film.mp4", content_type="video/mp4", data=b"x" * 6)

        outcome = sim.reply("alice", "see", channel="email", files=[TEXT, large, TEXT])
        sim.advance(60)

        assert outcome.endswith("; film.mp4 (6 bytes) was not kept: over attachments_limit_mb")
        assert sim.runs(reader)[0].result == ["notes.txt: text/plain: hello"] * 2


class Fetching(FakeChannel):
    """A provider that keeps files, for those with its credentials."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.fetched: list[Attachment] = []
        self.kept = b"from the provider"

    async def fetch(self, attachment: Attachment) -> bytes:
        self.fetched.append(attachment)
        return self.kept


@agent(on_message())
async def url_reader(ctx: Context[None]) -> str:
    """Reads whatever its message names, or what came with it."""
    assert isinstance(ctx.event, Message)
    url = ctx.event.text
    wanted = Attachment(url=url, channel="email") if "//" in url or ":" in url else ctx.event.attachments[0]
    try:
        return (await ctx.read(wanted)).decode()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fetching(sim: Simulation) -> Fetching:
    channel = Fetching("email", lambda: sim.now)
    sim.channels["email"] = channel
    return channel


def test_what_the_provider_keeps_is_fetched_through_its_channel() -> None:
    """With the channel's credentials, once."""
    with Simulation([url_reader], contacts=PEOPLE) as sim:
        channel = fetching(sim)
        photo = Attachment(url="https://api.example.com/media/1", name="photo.jpg")
        message = Incoming(provider_id="1", address="alice@example.com", text="see", attachments=(photo,))

        sim._intake.incoming("email", message)
        sim.advance(1)

        assert sim.runs(url_reader)[0].result == "from the provider"
        assert channel.fetched == [photo.model_copy(update={"channel": "email"})]


@pytest.mark.parametrize(
    "url", ["https://internal.example.com/secret", "file:///etc/passwd", "https://api.example.com/x"]
)
def test_an_address_that_came_with_no_message_is_not_fetched(url: str) -> None:
    """A model may be talked into naming any; the channel's credentials go nowhere for it."""
    with Simulation([url_reader], contacts=PEOPLE) as sim:
        channel = fetching(sim)
        sim.reply("alice", url, channel="email")

        assert "NotPossible: the attachment came with no message" in str(sim.runs(url_reader)[0].result)
        assert channel.fetched == []


@pytest.mark.parametrize(
    ("url", "result"),
    [
        ("data:text/plain;base64,aGVsbG8=", "hello"),
        ("data:,a%20b", "a b"),
        (
            "data:text/plain;base64,?",
            "NotFound: 'data:text/plain;base64,?' has no data that can be read: Only base64",
        ),
        ("data:nothing", "NotFound: 'data:nothing' has no data"),
        ("wakeloop:files/7", "NotFound: 'wakeloop:files/7' is no file"),
        (f"wakeloop:files/{UUID(int=7)}", f"NotFound: there is no file {UUID(int=7)}"),
    ],
)
def test_other_urls_are_read_or_refused_in_words(url: str, result: str) -> None:
    """Bytes within the URL, and ids of files."""
    with Simulation([url_reader], contacts=PEOPLE) as sim:
        sim.reply("alice", url, channel="email")

        assert str(sim.runs(url_reader)[0].result).startswith(result)


def test_a_channel_that_cannot_fetch_says_so() -> None:
    """The agent is told to do it itself."""
    with Simulation([url_reader], contacts=PEOPLE) as sim:
        photo = Attachment(url="https://api.example.com/media/1")
        sim._intake.incoming(
            "email", Incoming(provider_id="1", address="alice@example.com", text="see", attachments=(photo,))
        )
        sim.advance(1)

        assert "cannot fetch: fetch its url in a step of your own" in str(sim.runs(url_reader)[0].result)


@pytest.mark.parametrize(("more", "is_read"), [(0, True), (1, False)])
def test_what_the_journal_does_not_take_is_refused_with_what_to_do(more: int, is_read: bool) -> None:
    """The limit is that of any step's result; a larger file is there over the API."""
    limit = 786_429
    with Simulation([url_reader], contacts=PEOPLE) as sim:
        file = File(name="film.mp4", content_type="video/mp4", data=b"x" * (limit + more))
        sim.reply("alice", "see", channel="email", files=[file])

        result = str(sim.runs(url_reader)[0].result)
        if is_read:
            assert len(result) == limit
        else:
            assert result.startswith("ValueTooLarge: the attachment 'film.mp4' is 786,430 bytes")
            assert "get it from /api/v1/files/" in result


def test_calls_have_no_attachments() -> None:
    """An attachment that a run was started with is refused as any other address."""

    @agent()
    async def called(ctx: Context[None]) -> str:
        assert isinstance(ctx.event, Call)
        return (await ctx.read(Attachment.model_validate(ctx.event.input))).decode()

    with Simulation([called], contacts=PEOPLE) as sim:
        run = sim.start(called, {"url": "https://api.example.com/media/1", "channel": "sms"})

        assert "came with no message of this session" in str(sim.run(run).error)
