"""What every adapter must make of what comes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wakeloop.channel import Button, Channel, DeliveryStatus, DeliveryUpdate, Field, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.testing.channels.listening import RecordingInlet, listen
from wakeloop.testing.channels.mutations import almost
from wakeloop.testing.channels.provider import Provider
from wakeloop.testing.channels.sending import TEXTS, UNSAYABLE
from wakeloop.testing.channels.traits import Run, Suite, is_4xx, needs, outgoing, the_message, the_update

FUZZING = settings(
    deadline=None,
    max_examples=80,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.too_slow,
    ],
)
VALUES = {
    "letters": "b" * 64,
    "punctuation": (";:,|/\\\"'<>&%=+#{}[]()~ " * 4)[:64],
    "not ASCII": "\u00e9" * 32,
}


def take_in(channel: Channel, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
    """Treat a webhook as the runtime does."""
    channel.verify(request)
    items = channel.parse(request)
    response = channel.respond(request)
    assert 200 <= response.status < 300, f"a good webhook must be answered with 2xx, not {response.status}"
    return items


def stored(item: Incoming | DeliveryUpdate) -> None:
    """Fail unless a database takes it: JSON, UTF-8, no NUL."""
    assert json.loads(json.dumps(item.raw)) == item.raw, "`raw` must be JSON, as it came"
    words = [text for text in vars(item).values() if isinstance(text, str)]
    for text in [*words, *_strings(dict(item.raw))]:
        assert "\0" not in text, "PostgreSQL stores no NUL: replace it"
        text.encode()  # a lone surrogate raises here: replace it


class ReceivingTests(Suite):
    """Messages, receipts, forgeries and nonsense."""

    def come_in(
        self, provider: Provider, run: Run, happening: Callable[[], RawRequest | None]
    ) -> list[Incoming | DeliveryUpdate]:
        """What the adapter makes of one thing that happens at the provider."""
        request = happening()
        if request is not None:
            items = take_in(provider.channel, request)
        else:
            inlet = RecordingInlet(provider.cursor)
            run(listen(provider.channel, inlet, 1))
            items = inlet.items
        for item in items:
            stored(item)
        return items

    @needs("inbound", "arrivals")
    def test_a_message_comes_in(self, provider: Provider, run: Run) -> None:
        """Who said it, in the canonical form, what, and the provider's id for it; the raw payload is kept."""
        incoming = the_message(self.come_in(provider, run, lambda: provider.message("Yes, ship it")))

        assert incoming.text == "Yes, ship it"
        assert provider.channel.normalize(incoming.address) == provider.address, "another address came in"
        assert incoming.provider_id, "without the provider's id duplicates cannot be told"
        assert incoming.raw, "the payload must be kept in `raw`"
        assert (incoming.pressed, incoming.opt_out, incoming.automatic) == (None, None, False)

    @needs("inbound", "arrivals")
    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
    def test_every_script_comes_in_as_it_was_written(self, provider: Provider, run: Run, text: str) -> None:
        """Emoji, right to left, combining marks, what looks like markup."""
        incoming = the_message(self.come_in(provider, run, lambda: provider.message(text)))

        assert incoming.text == text, "the agent must read exactly what the person wrote"

    @needs("inbound", "arrivals")
    @pytest.mark.parametrize("text", UNSAYABLE.values(), ids=UNSAYABLE.keys())
    def test_what_cannot_be_stored_is_replaced(self, provider: Provider, run: Run, text: str) -> None:
        """NUL and half a surrogate pair, which some encodings can carry, do not stop a message."""
        try:
            request = provider.message(text)
        except ValueError:
            return  # the provider's encoding has no such character

        incoming = the_message(self.come_in(provider, run, lambda: request))

        assert incoming.text.startswith("before") and incoming.text.endswith("after")

    @needs("inbound", "arrivals")
    def test_two_messages_are_two(self, provider: Provider, run: Run) -> None:
        """Also if they say the same: the dedupe key is the provider's id, not the text."""
        first = the_message(self.come_in(provider, run, lambda: provider.message("yes")))
        requests = [provider.message("yes")]
        items = self.come_in(provider, run, lambda: requests[0])
        ids = {item.provider_id for item in items} - {first.provider_id}

        assert len(ids) == 1, "two messages got the same provider_id: the second would be dropped"

    @needs("webhooks", "inbound")
    def test_a_duplicate_is_recognised(self, provider: Provider, run: Run) -> None:
        """A webhook that the provider repeats has the same provider_id, in another process, too."""
        request = webhook(provider.message("yes"))
        other = provider.restarted()

        ids = [
            the_message(take_in(channel, delivery)).provider_id
            for channel, delivery in (
                (provider.channel, request),
                (provider.channel, provider.repeated(request)),
                (other, provider.repeated(request)),
            )
        ]
        run(other.close())

        assert len(set(ids)) == 1, f"the same message has the ids {ids}: it would be answered twice"

    @needs("buttons", "inbound", "arrivals")
    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
    def test_a_button_comes_back_as_its_value(self, provider: Provider, run: Run, value: str) -> None:
        """All of its 64 bytes, from the button that was pressed."""
        choices = (Button(label="Yes", value=value, style="yes"), Button(label="No", value="b2", style="no"))
        receipt = run(provider.channel.send(outgoing(provider, kind="approval", buttons=choices)))

        incoming = the_message(
            self.come_in(provider, run, lambda: provider.press(receipt.provider_id, "Yes"))
        )

        assert incoming.pressed == value, "`pressed` must be the `value` of the button, as it was given"
        assert provider.channel.normalize(incoming.address) == provider.address, "somebody else pressed it"

    @needs("forms", "inbound", "arrivals")
    def test_a_form_comes_back_filled_in(self, provider: Provider, run: Run) -> None:
        """`values` by the names of the fields, `submit` as what was pressed."""
        fields = (
            Field(name="day", label="Day", kind="text"),
            Field(name="why", label="Why", kind="multiline", required=False),
        )
        receipt = run(provider.channel.send(outgoing(provider, kind="question", fields=fields, submit="b9")))
        filled = {"day": "Monday \U0001f680", "why": "One\nTwo"}

        incoming = the_message(
            self.come_in(provider, run, lambda: provider.fill(receipt.provider_id, filled))
        )

        assert incoming.pressed == "b9", "`pressed` must be `Outgoing.submit`"
        assert dict(incoming.values or {}) == filled

    @needs("threads", "inbound", "arrivals")
    def test_a_reply_names_what_it_answers(self, provider: Provider, run: Run) -> None:
        """`reply_to` is the id that the receipt of our message had."""
        receipts = [run(provider.channel.send(outgoing(provider, key=key))) for key in ("d1", "d2")]

        incoming = the_message(
            self.come_in(provider, run, lambda: provider.message("yes", answering=receipts[0].provider_id))
        )

        assert incoming.reply_to == receipts[0].provider_id

    @needs("tokens", "inbound", "arrivals")
    def test_a_token_comes_back(self, provider: Provider, run: Run) -> None:
        """What was hidden in our message is in the person's reply."""
        receipt = run(provider.channel.send(outgoing(provider, kind="question", token="t0ken-ABC_123")))

        incoming = the_message(
            self.come_in(provider, run, lambda: provider.message("yes", answering=receipt.provider_id))
        )

        assert incoming.token == "t0ken-ABC_123"

    # Receipts

    @needs("receipts", "arrivals")
    def test_receipts_tell_how_far_a_message_has_come(self, provider: Provider, run: Run) -> None:
        """Late, early or repeated: each says the same of the same message, whatever came before. The runtime moves a
        delivery only forward."""
        receipt = run(provider.channel.send(outgoing(provider)))

        for status in [*reversed(self.reports), *self.reports]:
            update = the_update(
                self.come_in(provider, run, partial(provider.receipt, receipt.provider_id, status))
            )
            assert (update.provider_id, update.status) == (receipt.provider_id, status)
            if status == DeliveryStatus.FAILED:
                assert update.error, "a failure must say why, in the provider's code or words"

    # Forgeries and nonsense

    @needs("webhooks")
    def test_a_forged_webhook_is_refused(self, provider: Provider) -> None:
        """Without a signature, with one by another secret, with other content than what was signed."""
        request = self._any_webhook(provider)
        forgeries = provider.tampered(request)

        assert forgeries, "`tampered` must give at least one forgery"
        for number, forgery in enumerate(forgeries):
            assert forgery != request, f"forgery {number} is the good request itself"
            refused(partial(provider.channel.verify, forgery), f"forgery {number}")
        provider.channel.verify(request)

    @needs("webhooks", "timed_signatures")
    def test_an_old_webhook_is_refused(self, provider: Provider) -> None:
        """A good signature from too long ago: somebody plays it back."""
        old = provider.replayed_old(self._any_webhook(provider))

        refused(lambda: provider.channel.verify(old), "a replayed request")

    @needs("webhooks", "secret_setting")
    def test_secrets_can_be_rotated(self, provider: Provider, run: Run) -> None:
        """While there are two, what either signed is taken; once the old one is gone, only the new one's."""
        request = self._any_webhook(provider)
        name = self.secret_setting or ""
        old, new = str(provider.settings[name]), self.another_secret
        adapter = type(provider.channel)
        both = [
            adapter.from_settings({**provider.settings, name: value}, provider.services)
            for value in (f"{old},{new}", f"{new},{old}")
        ]
        after = adapter.from_settings({**provider.settings, name: new}, provider.services)

        for channel in both:
            channel.verify(request)
        refused(lambda: after.verify(request), "a webhook signed with a secret that was taken away")
        for channel in (*both, after):
            run(channel.close())

    @needs("webhooks")
    def test_hostile_headers_are_refused(self, provider: Provider) -> None:
        """Each header missing, empty, not ASCII, or long: never another error than InvalidWebhook."""
        request = self._any_webhook(provider)

        for name in request.headers:
            for value in (None, "", "\u2603\xff", "x" * 10_000, "=,;:=\0"):
                headers = {other: held for other, held in request.headers.items() if other != name}
                if value is not None:
                    headers[name] = value
                tolerated(provider.channel, replace(request, headers=headers))
        refused(
            lambda: provider.channel.verify(replace(request, headers={})), "a webhook without any headers"
        )

    @needs("webhooks")
    def test_a_huge_body_is_refused_or_read(self, provider: Provider) -> None:
        """Signed or not; the runtime itself refuses what is over `capabilities.body_limit`."""
        request = self._any_webhook(provider)
        for body in (b"a" * (self.can().body_limit + 1), b"[" * 200_000, b"a=b&" * 50_000):
            tolerated(provider.channel, replace(request, body=body))
            tolerated(provider.channel, provider.signed(body, request))

    @needs("webhooks")
    @FUZZING
    @given(data=st.data())
    def test_a_malformed_body_gets_a_4xx(self, provider: Provider, data: st.DataObject) -> None:
        """Rightly signed, and almost right: InvalidWebhook with a 4xx status, or something that can be stored."""
        for request in self._every_webhook(provider):
            body = data.draw(almost(request.body))
            tolerated(provider.channel, provider.signed(body, request))

    @needs("webhooks")
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "post", ""])
    def test_another_method_breaks_nothing(self, provider: Provider, method: str) -> None:
        """Browsers and scanners call webhooks, too."""
        tolerated(provider.channel, replace(self._any_webhook(provider), method=method))

    def _any_webhook(self, provider: Provider) -> RawRequest:
        return self._every_webhook(provider)[0]

    def _every_webhook(self, provider: Provider) -> list[RawRequest]:
        """One of each kind; the same at every call within a test, for hypothesis makes many."""
        made: list[RawRequest] = self.__dict__.setdefault("_webhooks_made", [])
        if not made and self.can().inbound:
            made.append(webhook(provider.message("yes")))
        if self.can().receipts and len(made) <= self.can().inbound:
            sent = asyncio.run(_send(provider))
            made.append(webhook(provider.receipt(sent, self.reports[-1])))
        return made

    @needs("no_inbound")
    def test_a_one_way_channel_takes_no_webhook(self, provider: Provider) -> None:
        """Whoever calls it is told so, with a 4xx."""
        if self.webhooks:
            return
        request = RawRequest(method="POST", url="https://example.com/hooks", headers={}, body=b"text=yes")

        refused(lambda: provider.channel.verify(request), "a webhook")


def webhook(request: RawRequest | None) -> RawRequest:
    """The request that a provider with webhooks gave."""
    assert request is not None, (
        "with webhooks = True the provider must give a RawRequest; set it to False if the adapter fetches instead"
    )
    return request


def refused(call: Callable[[], object], what: str) -> None:
    """Fail unless `call` raises InvalidWebhook with a 4xx status."""
    try:
        call()
    except InvalidWebhook as error:
        is_4xx(error, what)
        return
    raise AssertionError(f"{what} must be refused by `verify`, but it was taken")


def tolerated(channel: Channel, request: RawRequest) -> None:
    """Fail unless the request is refused with a 4xx, or understood."""
    try:
        channel.verify(request)
        items = channel.parse(request)
        channel.respond(request)
    except InvalidWebhook as error:
        is_4xx(error, "a malformed webhook")
        return
    except Exception as error:
        raise AssertionError(f"a malformed webhook must raise InvalidWebhook, not {error!r}") from error
    for item in items:
        assert item.provider_id, "what has no provider_id cannot be recorded"
        stored(item)


async def _send(provider: Provider) -> str:
    """The id of a message that was sent on a loop of its own."""
    try:
        return (await provider.channel.send(outgoing(provider))).provider_id
    finally:
        await provider.channel.close()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *_strings(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
