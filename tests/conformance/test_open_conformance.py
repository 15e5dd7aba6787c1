"""The public conformance suite over the channels that are open to any service: webhook and Apprise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.conformance.webhook_kit import ChatSystem
from tests.conformance.webhook_provider import WebhookProvider
from tests.http_kit import HANG_UP, Peer, Reply

from wakeloop.channel import Outgoing, Receipt
from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop_channels.apprise_notices import AppriseChannel
from wakeloop_channels.webhook import WebhookChannel


class TestWebhook(ChannelConformance):
    """A chat system of one's own."""

    adapter = WebhookChannel
    timed_signatures = True

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """On real HTTP."""
        with ChatSystem() as chat:
            yield WebhookProvider(chat)


class NotingApprise(AppriseChannel):
    """Notes which delivery each text was, for the service is not told."""

    notes: tuple[Outgoing, ...] = ()

    async def send(self, message: Outgoing) -> Receipt:
        self.notes = (*self.notes, message)
        return await super().send(message)


class Service(Provider):
    """One that Apprise knows, on real HTTP."""

    address = "ops"
    secrets = ("s3cretpassword",)

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.taken: list[dict[str, Any]] = []
        host = peer.url.removeprefix("http://")
        self.settings = {"service_ops": f"json://me:s3cretpassword@{host}/notify", "timeout": 0.6}
        self.channel: NotingApprise = NotingApprise.from_settings(self.settings, self.services)

    def sent(self) -> Sequence[Took]:
        left, found = list(self.channel.notes), []
        for body in self.taken:
            text = body["message"].partition("\n\nAnswer here: ")[0]
            note = next(one for one in left if one.text == text)
            left.remove(note)
            found.append(Took(provider_id=f"apprise-{note.key}", address="ops", text=text))
        return found

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                self.peer.faults.append(Reply(status=429))
            case Fault.REFUSED:
                self.peer.faults.append(Reply(status=404))
            case Fault.DOWN:
                self.peer.stop()
            case Fault.SLOW:
                self.peer.faults.append(2.0)
            case Fault.LOST:
                self.peer.faults.append(HANG_UP)


class TestApprise(ChannelConformance):
    """One-way notices. Apprise keeps the service's Retry-After to itself, and whether a connection was made at all."""

    adapter = AppriseChannel
    webhooks = False
    says_when = False

    test_a_provider_that_is_down_was_not_reached = None

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """A service that takes everything."""
        taken: list[dict[str, Any]] = []

        def take(came: Any) -> Reply:
            taken.append(came.json)
            return Reply()

        with Peer(take) as peer:
            service = Service(peer)
            service.taken = taken
            yield service
