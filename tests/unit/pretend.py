"""A package of channel adapters, installed for one test: ones that work, are broken, hang, or lack their library."""

from __future__ import annotations

from pathlib import Path

import pytest

MODULE = """
import asyncio
from wakeloop.channel import Capabilities, Receipt, DeliveryStatus
from wakeloop.errors import PermanentChannelError, TemporaryChannelError


class Plain:
    name = "plain"
    capabilities = Capabilities()

    def __init__(self, section, services):
        self.section, self.services, self.closed = section, services, False

    @classmethod
    def from_settings(cls, section, services):
        return cls(section, services)

    def normalize(self, address):
        return address

    async def send(self, message):
        if message.address == "nowhere":
            raise PermanentChannelError("no such address", code="404")
        return Receipt(provider_id=message.key)

    async def find_sent(self, message, known):
        return None

    def verify(self, request): ...

    def parse(self, request):
        return []

    def respond(self, request): ...

    async def close(self):
        self.closed = True


class Rich(Plain):
    name = "rich"
    capabilities = Capabilities(inbound=True, buttons=True, threads=True, receipts=True)

    async def check(self):
        return "wakeloop-bot"

    def guide(self, webhook_url):
        return [("Event subscriptions, Request URL", webhook_url), ("Interactivity", webhook_url + "?kind=press")]


class Refused(Plain):
    name = "refused"

    async def check(self):
        raise PermanentChannelError("the token was revoked: make a new one", code="invalid_auth")


class Buggy(Plain):
    name = "buggy"

    async def check(self):
        raise KeyError("team")


class Slow(Plain):
    name = "slow"

    async def check(self):
        await asyncio.sleep(60)
        return "nobody"
"""

ENTRY_POINTS = """
[wakeloop.channels]
plain = pretend_channels:Plain
rich = pretend_channels:Rich
refused = pretend_channels:Refused
buggy = pretend_channels:Buggy
slow = pretend_channels:Slow
lacking = pretend_lacking:Channel [bells]
nameless = pretend_lacking:Channel
halved = pretend_halved:Channel
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the package where this process finds it."""
    place = folder / "site"
    info = place / "pretend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (place / "pretend_channels.py").write_text(MODULE)
    (place / "pretend_lacking.py").write_text("import bells_and_whistles.loud\n")
    (place / "pretend_halved.py").write_text("from json import no_such_name\n")
    monkeypatch.syspath_prepend(str(place))
