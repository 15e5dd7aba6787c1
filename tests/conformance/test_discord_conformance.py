"""The public conformance suite over the Discord adapter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.discord_provider import DiscordProvider

from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Provider
from wakeloop.testing.discord import DiscordStandIn
from wakeloop_channels.discord import DiscordChannel


class TestDiscord(ChannelConformance):
    """Without a gateway connection: what people write comes by dialogs."""

    adapter = DiscordChannel
    timed_signatures = True
    secret_setting = "public_keys"
    another_secret = "ab" * 32

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with DiscordStandIn() as stand_in:
            yield DiscordProvider(stand_in)
