"""The web channel: being recorded is being on the page."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from wakeloop.channel import Channel, ChannelServices, DeliveryStatus, Outgoing, RawRequest
from wakeloop.errors import ConfigurationError, InvalidWebhook
from wakeloop_channels.webchat import WebChatChannel


@pytest.fixture
def web() -> WebChatChannel:
    return WebChatChannel.from_settings({}, ChannelServices())


def test_the_port_is_fulfilled(web: WebChatChannel) -> None:
    """People can write back, and sending again does no harm."""
    assert isinstance(web, Channel)
    assert (web.name, web.capabilities.inbound, web.capabilities.idempotent) == ("web", True, True)


def test_a_message_is_delivered_at_once_under_one_id(web: WebChatChannel) -> None:
    """However often it is sent."""
    message = Outgoing(key="k1", address="alice", text="hi", claimed_at=datetime(2026, 11, 2, tzinfo=UTC))

    first, second = asyncio.run(web.send(message)), asyncio.run(web.send(message))

    assert first == second
    assert (first.provider_id, first.status) == ("web-k1", DeliveryStatus.DELIVERED)
    assert asyncio.run(web.find_sent(message, frozenset())) is None


@pytest.mark.parametrize("address", ["", "two words", "x" * 101])
def test_what_is_no_id_is_no_address(web: WebChatChannel, address: str) -> None:
    """A contact's id has no white space."""
    assert web.normalize("alice") == "alice"
    with pytest.raises(ValueError, match="own id"):
        web.normalize(address)


def test_it_has_neither_settings_nor_webhooks(web: WebChatChannel) -> None:
    """Nobody may speak for a person through a webhook."""
    with pytest.raises(ConfigurationError, match=r"channels\.web\.colour"):
        WebChatChannel.from_settings({"colour": "red"}, ChannelServices())
    request = RawRequest(method="POST", url="http://x/", headers={}, body=b"")
    with pytest.raises(InvalidWebhook):
        web.verify(request)
    with pytest.raises(InvalidWebhook):
        web.parse(request)
    assert web.respond(request).status == 404
