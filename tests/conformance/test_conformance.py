"""The public conformance suite over the adapters that come with wakeloop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.conformance.twilio_provider import TwilioProvider, WhatsAppProvider

from wakeloop.channel import Channel, Outgoing, RawRequest, Receipt
from wakeloop.errors import PermanentChannelError, TemporaryChannelError
from wakeloop.testing.channels import FakeChannel
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop.testing.twilio import TwilioStandIn
from wakeloop_channels.console import ConsoleChannel
from wakeloop_channels.twilio import TwilioChannel
from wakeloop_channels.webchat import WebChatChannel
from wakeloop_channels.whatsapp import WhatsAppChannel


class TestSMS(ChannelConformance):
    """Twilio."""

    adapter = TwilioChannel
    secret_setting = "auth_token"

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with TwilioStandIn() as stand_in:
            yield TwilioProvider(stand_in)


class TestWhatsApp(ChannelConformance):
    """Twilio, to somebody who has just written."""

    adapter = WhatsAppChannel
    secret_setting = "auth_token"

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with TwilioStandIn() as stand_in:
            yield WhatsAppProvider(stand_in)


class NotingConsole(ConsoleChannel):
    """Notes which delivery each block was, for the block itself does not say."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def send(self, message: Outgoing) -> Receipt:
        self.keys.append(message.key)
        return await super().send(message)


class Terminal(Provider):
    """Standard error, read back."""

    address = "alice"

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self.channel: NotingConsole = NotingConsole.from_settings({}, self.services)
        self._captured = captured
        self._shown = ""

    def sent(self) -> Sequence[Took]:
        self._shown += self._captured.readouterr().err
        blocks = re.findall(r"^--- to (.+?) at .+\n((?:\|.*\n)*)--- to answer", self._shown, re.MULTILINE)
        return [
            Took(provider_id=f"console-{key}", address=address, text=self._text(lines))
            for key, (address, lines) in zip(self.channel.keys, blocks, strict=True)
        ]

    def _text(self, lines: str) -> str:
        shown = [line[2:] for line in lines.split("\n")[:-1]]
        return "\n".join(line for line in shown if line != "[Release]")


class TestConsole(ChannelConformance):
    """Replies come by `wakeloop reply`, not by a webhook."""

    adapter = ConsoleChannel
    webhooks = False
    network = False

    @pytest.fixture
    def provider(self, capsys: pytest.CaptureFixture[str]) -> Provider:
        """The terminal of this test."""
        return Terminal(capsys)


class NotingWebChat(WebChatChannel):
    """Notes what stands on the page, by delivery, as the store does in truth."""

    def __init__(self) -> None:
        self.page: dict[str, Took] = {}

    async def send(self, message: Outgoing) -> Receipt:
        receipt = await super().send(message)
        self.page[message.key] = Took(
            provider_id=receipt.provider_id, address=message.address, text=message.text
        )
        return receipt


class Page(Provider):
    """The person's page, which is no provider: what is recorded stands there."""

    address = "alice"

    def __init__(self) -> None:
        self.channel: NotingWebChat = NotingWebChat.from_settings({}, self.services)

    def sent(self) -> Sequence[Took]:
        return list(self.channel.page.values())


class TestWebChat(ChannelConformance):
    """What people write comes by their page, not by a webhook."""

    adapter = WebChatChannel
    webhooks = False
    network = False

    @pytest.fixture
    def provider(self) -> Provider:
        """An empty page."""
        return Page()


class Simulated(Provider):
    """What Simulation gives every contact."""

    address = "+15555550100"

    def __init__(self) -> None:
        now = datetime.now(UTC) + timedelta(seconds=1)
        self.channel: FakeChannel = FakeChannel("fake", lambda: now)

    def sent(self) -> Sequence[Took]:
        return [
            Took(provider_id=taken.provider_id, address=taken.address, text=taken.text)
            for taken in self.channel.sent
        ]

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        if fault in (Fault.SLOW, Fault.LOST):
            self.channel.lose_next()
        elif fault == Fault.REFUSED:
            self.channel.fail_next(PermanentChannelError("refused", code=None))
        else:
            self.channel.fail_next(TemporaryChannelError("busy", code=None, retry_after=retry_after))

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        return self.channel.request(sender or self.address, text)

    def restarted(self) -> Channel:
        return self.channel  # it is the provider, too, and that survives


class TestFake(ChannelConformance):
    """It is made by Simulation, and called by nobody else: there are no settings and no signatures."""

    adapter = FakeChannel
    capabilities = replace(FakeChannel.capabilities, receipts=False)

    test_capabilities_agree_with_what_is_there = None
    test_an_unknown_setting_is_named = None
    test_every_missing_setting_is_named = None
    test_a_forged_webhook_is_refused = None
    test_hostile_headers_are_refused = None
    test_a_huge_body_is_refused_or_read = None
    test_a_malformed_body_gets_a_4xx = None
    test_what_is_no_address_is_refused = None
    test_what_cannot_be_stored_is_replaced = None

    @pytest.fixture
    def provider(self) -> Provider:
        """A channel of its own."""
        return Simulated()
