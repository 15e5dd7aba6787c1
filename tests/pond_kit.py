"""A channel whose messages are fetched over HTTP, for processes of their own: installed into a folder, as a package is."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

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


class PondProvider:
    """Keeps messages, and notes who asked for them when."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []
        self._messages: list[str] = []
        self._more = threading.Condition()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                provider.asked.append((int(query["by"][0]), time.monotonic()))
                body = json.dumps(provider.after(int(query["after"][0]))).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

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

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
