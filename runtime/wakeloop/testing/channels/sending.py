"""What every adapter must do with what it is given to send."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta

import pytest

from wakeloop.channel import Amending, Button, DeliveryStatus, Field, Receipt, Sent
from wakeloop.errors import PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop.testing.channels.provider import Fault, Provider
from wakeloop.testing.channels.traits import Run, Suite, failure, needs, only, outgoing

TEXTS = {
    "emoji": "Ship it? \U0001f44d\U0001f3fd \U0001f469\u200d\U0001f680 \U0001f3f3\ufe0f\u200d\U0001f308",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd, \u0645\u0631\u062d\u0628\u0627 12:30",
    "combining": "Cafe\u0301 n\u0303 \u0915\u094d\u0937\u093f Z\u0351\u036b\u0343algo",
    "astral": "\u6f22\u5b57 \U0001d518\U0001d52b\U0001d526 \U00020000",
    "markup": "*all* _of_ ~it~ `code` <b>&amp;</b> [x](y) | > 1. # @here <!channel> {{1}} %s",
    "form": "50% + 3 = a&b;c \"quoted\" 'so' \\n / ? #",
    "lines": "One\nTwo\n\nFour",
}
UNSAYABLE = {
    "NUL": "before \0 after",
    "lone surrogate": "before \ud83d after",
    "escape": "before \x1b[2J after",
    "direction": "before \u202e after",
    "noncharacter": "before \uffff after",
}
LONGEST_WAIT_SECONDS = 15.0


class SendingTests(Suite):
    """Taking over, refusing, losing."""

    def test_a_message_is_taken_once_and_as_it_is(self, provider: Provider, run: Run) -> None:
        """The provider has one message, to that address, with that text; the receipt has its id."""
        receipt = run(provider.channel.send(outgoing(provider)))

        took = only(provider.sent())
        assert (took.address, took.text) == (provider.address, "Ship it?"), "another address or text arrived"
        assert receipt.provider_id == took.provider_id, (
            "Receipt.provider_id must be the provider's own id of it"
        )
        assert receipt.status in (DeliveryStatus.SENT, DeliveryStatus.DELIVERED), (
            f"a message that was taken over is SENT (or DELIVERED), not {receipt.status}"
        )
        assert json.loads(json.dumps(dict(receipt.raw))) == dict(receipt.raw), "Receipt.raw must be JSON"

    def test_each_message_has_an_id_of_its_own(self, provider: Provider, run: Run) -> None:
        """Also if they say the same."""
        receipts = [
            run(provider.channel.send(outgoing(provider, key=key, subject="Release"))) for key in ("d1", "d2")
        ]

        ids = [receipt.provider_id for receipt in receipts]
        assert ids == [took.provider_id for took in provider.sent()]
        assert len(set(ids)) == 2, "two deliveries got the same provider_id: receipts would be mixed up"

    def test_many_at_once_do_not_mix(self, provider: Provider, run: Run) -> None:
        """Each delivery gets the receipt of its own message."""
        texts = [f"message {number}" for number in range(8)]

        async def send_all() -> list[Receipt]:
            return await asyncio.gather(
                *(provider.channel.send(outgoing(provider, text, key=text)) for text in texts)
            )

        receipts = run(send_all())

        took = {message.provider_id: message.text for message in provider.sent()}
        assert texts == [took.get(receipt.provider_id) for receipt in receipts]

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
    def test_every_script_arrives_as_it_was_written(self, provider: Provider, run: Run, text: str) -> None:
        """Emoji, right to left, combining marks; what looks like the provider's markup is no markup."""
        run(provider.channel.send(outgoing(provider, text)))

        assert only(provider.sent()).text == text, "the person must read exactly the text that was sent"

    @pytest.mark.parametrize("text", UNSAYABLE.values(), ids=UNSAYABLE.keys())
    def test_what_cannot_be_said_breaks_nothing(self, provider: Provider, run: Run, text: str) -> None:
        """A character that the provider does not take is replaced, or the message is refused for good; never an error
        that leaves the outcome open."""
        try:
            run(provider.channel.send(outgoing(provider, text)))
        except PermanentChannelError:
            assert list(provider.sent()) == [], "what was refused must not have been taken"
        else:
            shown = only(provider.sent()).text
            assert shown.startswith("before") and shown.rstrip().endswith("after"), (
                f"more than the character itself was lost: {shown!r}"
            )

    @needs("max_length")
    def test_the_longest_message_is_taken_whole(self, provider: Provider, run: Run) -> None:
        """`capabilities.max_length` is what the provider really takes."""
        text = "x" * (self.can().max_length or 0)

        run(provider.channel.send(outgoing(provider, text)))

        assert "".join(took.text for took in provider.sent()) == text

    def test_a_message_that_is_too_long_is_never_cut(self, provider: Provider, run: Run) -> None:
        """All of it arrives, in however many parts, or it is refused for good."""
        text = "".join(f"{number:07} " for number in range(6_000)).strip()

        try:
            run(provider.channel.send(outgoing(provider, text)))
        except PermanentChannelError:
            assert list(provider.sent()) == [], "what was refused must not have been taken"
        else:
            shown = "".join(took.text for took in provider.sent())
            assert "".join(shown.split()) == "".join(text.split()), "a part of the message is missing"

    def test_what_a_channel_cannot_show_does_no_harm(self, provider: Provider, run: Run) -> None:
        """Subject, thread, buttons, fields, link and token: who cannot use them sends the text."""
        earlier = run(provider.channel.send(outgoing(provider, "Good morning.")))
        question = outgoing(
            provider,
            "Which day?",
            key="d2",
            subject="Release",
            thread=(earlier.provider_id,),
            kind="question",
            buttons=(Button(label="Monday", value="b1"), Button(label="Not yet", value="b2", style="no")),
            fields=(Field(name="day", label="Day", kind="date", required=False),),
            submit="b3",
            link="https://agents.example.com/p/abc",
            token="t0ken",
        )

        receipt = run(provider.channel.send(question))

        by_id = {took.provider_id: took for took in provider.sent()}
        assert receipt.provider_id in by_id, "the receipt names no message that was taken"
        assert "Which day?" in by_id[receipt.provider_id].text
        if self.can().buttons and not self.verdicts_only:
            shown = by_id[receipt.provider_id].buttons
            assert {"Monday", "Not yet"} <= set(shown), f"the buttons shown are {shown}"

    @needs("media")
    def test_a_file_by_url_is_sent_along(self, provider: Provider, run: Run) -> None:
        """`capabilities.media`: an attachment that can be fetched arrives."""
        file = Attachment(url=provider.file_url, content_type="application/pdf", name="plan.pdf")

        run(provider.channel.send(outgoing(provider, "The plan", attachments=(file,))))

        assert sum(len(took.attachments) for took in provider.sent()) == 1, "the file did not arrive"

    @needs("media")
    def test_a_file_by_value_is_sent_along_or_refused(self, provider: Provider, run: Run) -> None:
        """A `data:` attachment arrives, or the message is refused for good, so that another channel brings it."""
        file = Attachment(url="data:text/plain;base64,c2hpcCBpdA==", content_type="text/plain", name="p.txt")

        try:
            run(provider.channel.send(outgoing(provider, "The plan", attachments=(file,))))
        except PermanentChannelError:
            assert list(provider.sent()) == [], "what was refused must not have been taken"
        else:
            assert sum(len(took.attachments) for took in provider.sent()) == 1, (
                "the file was left out silently"
            )

    # What goes wrong

    @needs("network")
    def test_a_busy_provider_is_asked_again(self, provider: Provider, run: Run) -> None:
        """Certainly not taken: TemporaryChannelError; the next attempt succeeds."""
        provider.fail_next(Fault.BUSY, retry_after=17)

        error = failure(run, provider.channel.send(outgoing(provider)))

        assert isinstance(error, TemporaryChannelError), f"busy must be TemporaryChannelError, not {error!r}"
        assert list(provider.sent()) == []
        run(provider.channel.send(outgoing(provider)))
        only(provider.sent())

    @needs("network", "says_when")
    def test_a_busy_provider_says_when(self, provider: Provider, run: Run) -> None:
        """Its Retry-After becomes `retry_after`, in seconds."""
        provider.fail_next(Fault.BUSY, retry_after=17)

        error = failure(run, provider.channel.send(outgoing(provider)))

        waits = getattr(error, "retry_after", None)
        assert waits == pytest.approx(17, abs=1), f"the provider said 17 seconds, the error says {waits}"

    @needs("network")
    def test_a_refusal_for_good_is_permanent(self, provider: Provider, run: Run) -> None:
        """PermanentChannelError, which makes the runtime use the person's next channel."""
        provider.fail_next(Fault.REFUSED)

        error = failure(run, provider.channel.send(outgoing(provider)))

        assert isinstance(error, PermanentChannelError), f"it must be PermanentChannelError, not {error!r}"
        assert list(provider.sent()) == []

    @needs("network")
    def test_errors_say_nothing_personal(self, provider: Provider, run: Run) -> None:
        """They are logged: no address, no words, no secret."""
        for fault in (Fault.REFUSED, Fault.BUSY, Fault.LOST):
            provider.fail_next(fault)
            error = failure(run, provider.channel.send(outgoing(provider, "my own words")))

            for hidden in (provider.address, "my own words", *provider.secrets):
                assert hidden not in f"{error} {error!r}", f"{hidden!r} is in the words of {fault.name}"

    @needs("network")
    def test_a_provider_that_is_down_was_not_reached(self, provider: Provider, run: Run) -> None:
        """No connection, so certainly not taken: TemporaryChannelError."""
        provider.fail_next(Fault.DOWN)

        error = failure(run, provider.channel.send(outgoing(provider)))

        assert isinstance(error, TemporaryChannelError), f"down must be TemporaryChannelError, not {error!r}"
        assert list(provider.sent()) == []

    @needs("network")
    @pytest.mark.parametrize("fault", [Fault.SLOW, Fault.LOST])
    def test_a_lost_answer_leaves_the_outcome_open(self, provider: Provider, run: Run, fault: Fault) -> None:
        """The message may have left, so the error is neither temporary nor permanent; temporary only where sending twice
        is harmless. It is noticed in bounded time."""
        provider.fail_next(fault)
        began = time.monotonic()

        error = failure(run, provider.channel.send(outgoing(provider)))

        took = time.monotonic() - began
        assert took < LONGEST_WAIT_SECONDS, (
            f"it waited {took:.0f} s: give the adapter under test a short timeout"
        )
        assert not isinstance(error, PermanentChannelError), "it was taken: this is no refusal"
        if not self.can().idempotent:
            assert not isinstance(error, TemporaryChannelError), (
                "the runtime would send it again, though it may have arrived"
            )

    @needs("network", "reconcile")
    @pytest.mark.parametrize("fault", [Fault.SLOW, Fault.LOST])
    def test_after_a_crash_the_message_is_found_once(
        self, provider: Provider, run: Run, fault: Fault
    ) -> None:
        """`capabilities.reconcile`: another process finds what left, and not what is known already."""
        message = outgoing(provider)
        provider.fail_next(fault)
        failure(run, provider.channel.send(message))
        other = provider.restarted()

        async def look() -> list[Receipt | None]:
            try:
                found = await other.find_sent(message, frozenset())
                known = frozenset({found.provider_id}) if found is not None else frozenset()
                return [found, await other.find_sent(message, known)]
            finally:
                await other.close()

        found, again = run(look())

        assert found is not None, "find_sent did not find the message that had left"
        assert found.provider_id == only(provider.sent()).provider_id
        assert again is None, "find_sent must not give a message whose id is `known`"

    @needs("reconcile")
    def test_only_the_same_message_is_found(self, provider: Provider, run: Run) -> None:
        """Nothing for another text, nor for what was sent before the delivery was claimed."""
        run(provider.channel.send(outgoing(provider)))
        other_text = outgoing(provider, "Ship it now?", key="d2", age=60)
        later = outgoing(provider, key="d3", age=-3600)

        for message, why in ((other_text, "another text"), (later, "a message from before `claimed_at`")):
            found = run(provider.channel.find_sent(message, frozenset()))
            assert found is None, f"find_sent took {why} for it"

    @needs("network", "idempotent")
    def test_after_a_crash_sending_again_is_harmless(self, provider: Provider, run: Run) -> None:
        """`capabilities.idempotent`: the same key, from another process, is the same message."""
        message = outgoing(provider)
        provider.fail_next(Fault.LOST)
        failure(run, provider.channel.send(message))
        other = provider.restarted()

        async def again() -> Receipt:
            try:
                return await other.send(message)
            finally:
                await other.close()

        receipt = run(again())

        assert receipt.provider_id == only(provider.sent()).provider_id

    @needs("idempotent")
    def test_the_same_key_is_the_same_message(self, provider: Provider, run: Run) -> None:
        """Two attempts at one delivery are one message with one id."""
        message = outgoing(provider)

        receipts = [run(provider.channel.send(message)) for _ in range(2)]

        ids = {receipt.provider_id for receipt in receipts}
        assert len(ids) == 1, f"two attempts with one key have the ids {ids}: the person got it twice"
        only(provider.sent())

    @needs("amends")
    def test_what_was_sent_can_be_changed_twice(self, provider: Provider, run: Run) -> None:
        """`amend` shows the new text without buttons, and a second time does no harm."""
        channel = provider.channel
        assert isinstance(channel, Amending)
        choices = (Button(label="Yes", value="b1"), Button(label="No", value="b2"))
        receipt = run(channel.send(outgoing(provider, kind="approval", buttons=choices)))
        sent = Sent(provider_id=receipt.provider_id, address=provider.address, text="Ship it?")

        for _ in range(2):
            run(channel.amend(sent, "Ship it? Alice said yes."))

        took = next(took for took in provider.sent() if took.provider_id == receipt.provider_id)
        assert (took.text, took.buttons) == ("Ship it? Alice said yes.", ()), "the message was not amended"

    def test_the_adapter_can_be_closed_twice(self, provider: Provider, run: Run) -> None:
        """Whoever stops need not know who stopped before."""
        run(provider.channel.send(outgoing(provider)))
        for _ in range(2):
            run(provider.channel.close())

    @needs("no_reconcile", "no_idempotent")
    def test_nobody_pretends_to_look(self, provider: Provider, run: Run) -> None:
        """Without `capabilities.reconcile`, find_sent gives None."""
        message = outgoing(provider)
        run(provider.channel.send(message))

        assert run(provider.channel.find_sent(message, frozenset())) is None

    @needs("reconcile")
    def test_nothing_is_found_where_nothing_was_sent(self, provider: Provider, run: Run) -> None:
        """An empty list is no error."""
        message = outgoing(provider, heard_at=outgoing(provider).claimed_at - timedelta(minutes=5))

        assert run(provider.channel.find_sent(message, frozenset())) is None
