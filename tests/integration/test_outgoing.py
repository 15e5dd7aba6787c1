"""What a channel gets of a message: the thread it stands in, buttons and fields, who was heard when, and files."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel

from wakeloop import Attachment, Context, agent, on_message
from wakeloop.calls import digest
from wakeloop.channel import Button, Capabilities, Field, Incoming, Outgoing
from wakeloop.errors import PermanentChannelError, TemporaryChannelError, ValueTooLarge
from wakeloop.testing import Simulation

RICH = Capabilities(
    inbound=True, buttons=True, forms=True, threads=True, tokens=True, media=True, reconcile=True
)
PEOPLE = {"alice": {"mail": "alice@example.com", "sms": "+14155550100"}, "bob": {"mail": "bob@example.com"}}
REPORT = Attachment.from_bytes(b"%PDF-", name="report.pdf", content_type="application/pdf")
PICTURE = Attachment(url="https://files.example.com/a%20b.png?x=1", content_type="image/png")


class Order(BaseModel):
    """An order."""

    item: str
    count: int = 1


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


def sent(sim: Simulation, channel: str = "mail") -> list[Outgoing]:
    return [taken.outgoing for taken in sim.channels[channel].sent]


def ids(sim: Simulation, channel: str = "mail") -> list[str]:
    return [taken.provider_id for taken in sim.channels[channel].sent]


def write(sim: Simulation, id: str, text: str, address: str = "alice@example.com", **facts: Any) -> str:
    """A person writes by mail."""
    outcome = sim._intake.incoming("mail", Incoming(provider_id=id, address=address, text=text, **facts))
    sim.advance(1)
    return outcome


def simulated(*agents: Any, **facts: Any) -> Simulation:
    return Simulation(agents, contacts=PEOPLE, capabilities={"mail": RICH}, coalesce_seconds=0, **facts)


# ---------------------------------------------------------------------- threads


@agent(on_message(contact="alice"))
async def editor(ctx: Context[None]) -> None:
    """Clarifies, drafts and asks again, all with who wrote."""
    answer = await ctx.ask("alice", "For whom is it?")
    await ctx.send("alice", f"A draft for {answer.text}.")
    await ctx.receive()
    await ctx.send("alice", "Done.")


def test_a_conversation_stays_in_one_thread_whoever_says_what() -> None:
    """From the mail that began it over question, answer and remark to the last word."""
    with simulated(editor) as sim:
        write(sim, "m1", "Write about tea.", thread="root", reply_to="m0")
        [first] = ids(sim)
        write(sim, "m2", "Everybody.", reply_to=first)
        [_, second] = ids(sim)
        write(sim, "m3", "Shorter, please.", reply_to=second)

        assert [message.thread for message in sent(sim)] == [
            ("root", "m0", "m1"),
            ("root", "m0", "m1", first, "m2"),
            ("root", "m0", "m1", first, "m2", second, "m3"),
        ]


def test_a_thread_goes_on_under_its_subject() -> None:
    """That of the mail that began it, or that somebody gave it since; where nobody did, its first words are told."""
    with simulated(editor) as sim:
        write(sim, "m1", "Write about tea.", subject="Tea")
        write(sim, "m2", "Everybody.", reply_to=ids(sim)[0])
        assert [(message.topic, message.opening) for message in sent(sim)] == [
            ("Tea", "Write about tea.")
        ] * 2

        write(sim, "m3", "Shorter, please.", reply_to=ids(sim)[1], subject="Re: Coffee")
        assert (sent(sim)[-1].text, sent(sim)[-1].topic) == ("Done.", "Re: Coffee")

    with simulated(editor) as sim:
        sim.start("editor")
        sim.advance(1)
        write(sim, "m1", "Everybody.")
        assert [(message.topic, message.opening) for message in sent(sim)] == [
            (None, None),
            (None, "For whom is it?"),
        ]


def test_another_session_or_person_has_another_thread() -> None:
    """What is said to others in the same run, and to the same person elsewhere, is no part of it."""

    @agent()
    async def teller(ctx: Context[None]) -> None:
        for _ in range(2):
            await ctx.send("alice", "hello")
            await ctx.send("bob", "hello")
            await ctx.sleep(60)

    with simulated(teller) as sim:
        sim.start("teller", key="one")
        sim.start("teller", key="two")
        sim.advance(60)

        by_key: dict[str, list[str]] = {}
        for taken in sim.channels["mail"].sent:
            by_key.setdefault(taken.address, []).append(taken.provider_id)
        threads = [(message.address, message.thread) for message in sent(sim)]
        assert threads[:4] == [(address, ()) for address in [*PEOPLE_MAIL, *PEOPLE_MAIL]]
        alice, bob = by_key["alice@example.com"], by_key["bob@example.com"]
        assert sorted(threads[4:]) == sorted(
            [(PEOPLE_MAIL[0], (alice[0],)), (PEOPLE_MAIL[1], (bob[0],)), (PEOPLE_MAIL[0], (alice[1],)), (PEOPLE_MAIL[1], (bob[1],))]
        )  # fmt: skip


PEOPLE_MAIL = ["alice@example.com", "bob@example.com"]


def test_a_subject_of_its_own_begins_a_thread_and_reminders_go_on_in_it() -> None:
    """The question about the invoice is no part of the talk about the draft."""

    @agent()
    async def clerk(ctx: Context[None]) -> None:
        await ctx.send("alice", "Here is a draft.", subject="Draft")
        await ctx.ask("alice", "Pay it?", subject="Invoice", remind=60)

    with simulated(clerk) as sim:
        sim.start("clerk")
        sim.advance(60)

        draft, question, _ = ids(sim)
        assert [message.thread for message in sent(sim)] == [(), (), (question,)]
        assert sent(sim)[-1].topic == "Invoice"
        assert draft != question


def test_what_falls_through_has_the_other_channels_thread() -> None:
    """What was said by mail is no thread of SMS, and the other way round."""

    @agent()
    async def teller(ctx: Context[None]) -> None:
        await ctx.send("alice", "first")
        await ctx.send("alice", "second")

    capabilities = {"mail": RICH, "sms": Capabilities(inbound=True, threads=True)}
    with Simulation([teller], contacts=PEOPLE, capabilities=capabilities, coalesce_seconds=0) as sim:
        mail = sim.channels["mail"]
        mail.fail_next(PermanentChannelError("mailbox full"))
        sim.start("teller")

        assert [(message.text, message.thread) for message in sent(sim)] == [("second", ())]
        assert [(message.text, message.thread) for message in sent(sim, "sms")] == [("first", ())]


def test_a_channel_without_threads_is_told_of_none() -> None:
    """By its capabilities."""

    @agent()
    async def teller(ctx: Context[None]) -> None:
        await ctx.send("alice", "first", via="sms")
        await ctx.send("alice", "second", via="sms")

    with simulated(teller) as sim:
        sim.start("teller")

        assert [message.thread for message in sent(sim, "sms")] == [(), ()]


def test_what_is_sent_again_after_a_lost_answer_stands_where_it_did() -> None:
    """Every attempt is the same message, whatever came in between."""

    @agent()
    async def talker(ctx: Context[None]) -> None:
        await ctx.send("alice", "first")
        await ctx.sleep(60)
        await ctx.send("alice", "second")
        await ctx.receive()

    with simulated(talker) as sim:
        sim.start("talker")
        sim.advance(59)
        mail = sim.channels["mail"]
        attempts: list[Outgoing] = []
        send = mail.send

        async def noted(message: Outgoing) -> Any:
            attempts.append(message)
            if len(attempts) == 1:
                raise OSError("the connection was lost")
            return await send(message)

        mail.send = noted  # type: ignore[method-assign]
        sim.advance(1)
        write(sim, "m1", "Hello?")
        sim.advance(60)

        assert [message.thread for message in attempts] == [("mail-1",)] * 2


def test_an_answer_to_a_message_at_once_stands_with_it() -> None:
    """It is about no request and of no run: the thread is that of the message."""
    with simulated(*(agent(on_message(), name=name)(_idle) for name in ("one", "two"))) as sim:
        write(sim, "m1", "hello", thread="root")

        [asked] = sent(sim)
        assert asked.text.startswith("Who is this for?")
        assert asked.thread == ("root", "m1")


async def _idle(ctx: Context[None]) -> None:
    await ctx.sleep(1)


# ---------------------------------------------------------------------- heard, pressed, filled in


def test_a_channel_is_told_when_the_address_last_wrote() -> None:
    """On that channel; None if it never did."""

    @agent(on_message(contact="bob"))
    async def teller(ctx: Context[None]) -> None:
        await ctx.send("alice", "hello")
        await ctx.send("bob", "hello")

    with simulated(teller) as sim:
        sim.advance(30)
        began = sim.now
        write(sim, "m1", "hi", address="bob@example.com")
        sim.advance(1)

        assert {message.address: message.heard_at for message in sent(sim)} == {
            "alice@example.com": None,
            "bob@example.com": began,
        }


def asking(**question: Any) -> Any:
    @agent()
    async def asker(ctx: Context[None]) -> None:
        await ctx.ask("alice", "What?", **question)

    return asker


def test_a_typed_answer_has_fields_and_what_sends_them_back() -> None:
    """By the names under which the form reads them."""
    with simulated(asking(answer=Order)) as sim:
        sim.start("asker")
        [request] = sim.requests()

        [message] = sent(sim)
        assert message.kind == "question"
        assert message.buttons == ()
        assert message.fields == (
            Field(name="item", label="Item", kind="text"),
            Field(name="count", label="Count", kind="integer", required=False, default="1"),
        )
        assert message.submit == f"{request.id.replace('-', '')}:submit"
        assert message.token


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        ({"answer": Size}, ["small", "large"]),
        ({"answer": bool}, ["Yes", "No"]),
        ({"options": ["a", "b"]}, ["a", "b"]),
        ({}, []),
    ],
)
def test_a_plain_choice_is_pressed_and_plain_words_are_written(
    question: dict[str, Any], labels: list[str]
) -> None:
    """Neither needs a form."""
    with simulated(asking(**question)) as sim:
        sim.start("asker")

        [message] = sent(sim)
        assert [button.label for button in message.buttons] == labels
        assert (message.fields, message.submit) == ((), None)


def test_an_approval_has_its_buttons_and_its_kind() -> None:
    """Yes, no, and the reasons for a no."""

    @agent()
    async def buyer(ctx: Context[None]) -> None:
        await ctx.approve("alice", "buy", {"what": "tea"}, edit=True, reject_options=["later"])

    with simulated(buyer) as sim:
        sim.start("buyer")
        [request] = sim.requests()
        hex = request.id.replace("-", "")

        seen = digest("buy", {"what": "tea"}).removeprefix("sha256:")[:16]
        [message] = sent(sim)
        assert message.kind == "approval"
        assert message.buttons == (
            Button(label="Yes", value=f"{hex}:yes@{seen}", style="yes"),
            Button(label="No", value=f"{hex}:no", style="no"),
            Button(label="No: later", value=f"{hex}:no 1", style="no"),
        )
        assert message.fields == ()


def test_a_channel_gets_nothing_that_it_cannot_do() -> None:
    """One like SMS gets the text, and what kind of message it is."""
    with simulated(asking(answer=Order, via="sms")) as sim:
        sim.start("asker")

        [message] = sent(sim, "sms")
        assert message.kind == "question"
        assert (message.buttons, message.fields, message.submit, message.token) == ((), (), None, None)


def test_what_is_no_open_request_has_no_kind() -> None:
    """A plain message, and the word that an answer is no longer needed."""

    @agent()
    async def asker(ctx: Context[None]) -> None:
        await ctx.send("bob", "hello")
        await ctx.ask(["alice", "bob"], "Ready?", answer=bool)

    with simulated(asker) as sim:
        sim.start("asker")
        sim.reply("alice", "yes")

        kinds = [(message.address[:3], message.kind, bool(message.buttons)) for message in sent(sim)]
        assert kinds == [
            ("bob", "", False), ("ali", "question", True), ("bob", "question", True), ("bob", "", False)
        ]  # fmt: skip


# ---------------------------------------------------------------------- files


@agent()
async def reporter(ctx: Context[None]) -> None:
    """Sends files."""
    await ctx.send("alice", "Here it is.", via=ctx.event.input, attachments=[REPORT, PICTURE])


def test_files_go_with_the_message_where_the_channel_can_send_them() -> None:
    """By address, or with their bytes."""
    with simulated(reporter) as sim:
        sim.start("reporter", "mail")

        [message] = sent(sim)
        assert message.text == "Here it is."
        assert message.attachments == (REPORT, PICTURE)
        assert sim.outbox("alice")[0].attachments == (REPORT, PICTURE)
        [said] = sim.session("reporter").conversation
        assert said.message is not None and said.message.attachments == (REPORT, PICTURE)


def test_where_it_cannot_the_text_says_where_they_are() -> None:
    """Here there is no page that anybody could reach."""
    with simulated(reporter) as sim:
        sim.start("reporter", "sms")

        [message] = sent(sim, "sms")
        assert message.attachments == ()
        assert message.text == (
            "Here it is.\nreport.pdf (on your page)\na b.png: https://files.example.com/a%20b.png?x=1"
        )


def test_the_text_is_the_same_at_every_attempt() -> None:
    """Or what left before a crash would not be found: the link to the page is as of when the message was said."""
    with simulated(reporter) as sim:
        sim._outbox._composer._desk._links.base_url = "https://example.com"
        sms = sim.channels["sms"]
        sms.fail_next(TemporaryChannelError("busy", retry_after=100.0))
        sms.lose_next()

        sim.start("reporter", "sms")
        sim.advance(timedelta(minutes=10))

        [message] = sent(sim, "sms")
        assert "report.pdf (on your page: https://example.com/people/" in message.text
        assert [taken.text for taken in sms.sent] == [message.text]
        assert len(sim.outbox()) == 1


def test_a_message_with_files_goes_by_itself() -> None:
    """A burst is joined, but nobody could tell which of its texts a file belongs to."""

    @agent()
    async def chatty(ctx: Context[None]) -> None:
        await ctx.send("alice", "one")
        await ctx.send("alice", "two")
        await ctx.send("alice", "three", attachments=[PICTURE])
        await ctx.send("alice", "four")

    with Simulation([chatty], contacts=PEOPLE, capabilities={"mail": RICH}) as sim:
        sim.start("chatty")
        sim.advance(120)

        assert sorted((message.text, len(message.attachments)) for message in sent(sim)) == [
            ("one", 0), ("three", 1), ("two\n\nfour", 0)
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("attachment", "reason"),
    [
        (Attachment(url="wakeloop:files/1", name="a.pdf"), "ctx.read"),
        (Attachment(url="file:///etc/passwd"), "cannot be fetched"),
        (Attachment(url="https://api.example.com/1", channel="sms"), "cannot be fetched"),
        ("a.pdf", "takes Attachment objects"),
    ],
)
def test_a_file_that_nobody_could_fetch_is_refused_where_it_is_sent(attachment: Any, reason: str) -> None:
    """With what to do instead."""

    @agent()
    async def forwarder(ctx: Context[None]) -> None:
        await ctx.send("alice", "see", attachments=[attachment])

    with simulated(forwarder) as sim:
        run = sim.start("forwarder")

        assert reason in (sim.run(run).error or "")
        assert sim.outbox() == []


def test_more_bytes_than_the_journal_takes_are_refused() -> None:
    """The error says how to send them."""

    @agent()
    async def sender(ctx: Context[None]) -> str:
        large = Attachment.from_bytes(bytes(1024 * 1024), name="a.bin", content_type="application/x-thing")
        try:
            await ctx.send("alice", "see", attachments=[large])
        except ValueTooLarge as error:
            return f"{error.limit}: {error}"
        return "sent"

    with simulated(sender) as sim:
        result = sim.run(sim.start("sender")).result

    assert result.startswith("1048576: the files for alice are 1,398,")
    assert "Attachment(url=…)" in result


def test_bytes_come_out_of_an_attachment_as_they_went_in() -> None:
    """Also percent-encoded ones, as RFC 2397 has them."""
    assert REPORT.url == "data:application/pdf;base64,JVBERi0="
    assert REPORT.data == b"%PDF-"
    assert Attachment(url="data:,A%20brief%20note").data == b"A brief note"
    assert PICTURE.data is None
    with pytest.raises(ValueError, match="comma"):
        _ = Attachment(url="data:text/plain").data
    with pytest.raises(ValueError, match="content type"):
        Attachment.from_bytes(b"", name="a", content_type="pdf")
