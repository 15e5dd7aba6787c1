"""The public conformance suite over the Slack channel, called by webhooks and listening on a WebSocket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.conformance.slack_provider import SlackProvider

from wakeloop.testing.channels.conformance import ChannelConformance
from wakeloop.testing.channels.provider import Provider
from wakeloop_channels.slack import SlackChannel


class TestSlack(ChannelConformance):
    """Slack, called by webhooks."""

    adapter = SlackChannel
    timed_signatures = True

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with SlackProvider.running() as provider:
            yield provider


class TestSlackSocketMode(ChannelConformance):
    """Slack, listening on a WebSocket: there is no address to enter anywhere."""

    adapter = SlackChannel
    webhooks = False
    listening = True

    test_the_guide_names_the_address = None

    @pytest.fixture
    def provider(self) -> Iterator[Provider]:
        """The stand-in on real HTTP."""
        with SlackProvider.running(socket_mode=True) as provider:
            yield provider
