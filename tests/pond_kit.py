"""A channel whose messages are fetched over HTTP, for processes of their own: installed into a folder, as a package is."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.http_kit import Peer, Reply, json_reply

from wakeloop.testing.stand_in import Asked

ADAPTER = '''
import asyncio
import json
import os
import urllib.request

from wakeloop.channel import Capabilities, Incoming
from wakeloop.clock import SystemClock
from wakeloop.testing.channels import FakeChannel


class PondChannel(FakeChannel):
    """Fetches what comes after its cursor, again and again."""

    name = "pond"
    capabilities = Capabilities(inbound=True)
    listens = True
    url = ""

    @classmethod
    def from_settings(cls, section, services):
        made = cls("pond", SystemClock().now)
        made.url = section["url"]
        return made

    async def listen(self, inlet):
        while True:
            for number, text in await asyncio.to_thread(self._fetch, int(inlet.cursor or 0)):
                message = Incoming(provider_id=f"m{number}", address="alice", text=text)
                await inlet.take([message], cursor=str(number))

    def _fetch(self, after):
        with urllib.request.urlopen(f"{self.url}/?after={after}&by={os.getpid()}", timeout=5) as answer:
            return json.load(answer)
'''


def install(folder: Path) -> None:
    """Make the channel `pond` one that is installed wherever this folder is on the path."""
    facts = folder / "pond-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pond\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[wakeloop.channels]\npond = pond_channel:PondChannel\n")
    (folder / "pond_channel.py").write_text(ADAPTER)


class PondProvider(Peer):
    """Keeps messages, and notes who asked for them when."""

    def __init__(self) -> None:
        super().__init__(self._take)
        self.asked: list[tuple[int, float]] = []
        self._messages: list[str] = []
        self._more = threading.Condition()

    def write(self, *texts: str) -> None:
        """Somebody wrote."""
        with self._more:
            self._messages.extend(texts)
            self._more.notify_all()

    def after(self, number: int) -> list[tuple[int, str]]:
        """Up to three messages after that number, waiting a moment for the first."""
        with self._more:
            self._more.wait_for(lambda: len(self._messages) > number, timeout=0.3)
            return list(enumerate(self._messages, start=1))[number : number + 3]

    def _take(self, asked: Asked) -> Reply:
        self.asked.append((int(asked.query["by"]), time.monotonic()))
        return json_reply(self.after(int(asked.query["after"])))
