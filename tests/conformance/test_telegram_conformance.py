"""The public conformance suite over the Telegram adapter, called and fetching."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.telegram_provider import TelegramProvider

from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Provider
from wakeloop.testing.telegram import TelegramStandIn
from wakeloop_channels.telegram import TelegramChannel


class TestTelegram(ChannelConformance):
    """By webhook."""

    adapter = TelegramChannel
    secret_setting = "secret_tokens"

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with TelegramStandIn() as stand_in:
            yield TelegramProvider(stand_in, polling=False)


class TestTelegramPolling(ChannelConformance):
    """By long polling: there is no address to enter anywhere."""

    adapter = TelegramChannel
    webhooks = False
    listening = True

    test_the_guide_names_the_address = None

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with TelegramStandIn() as stand_in:
            yield TelegramProvider(stand_in, polling=True)
