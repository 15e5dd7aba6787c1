"""A wakeloop server on a real port for tests of programs that call it, and the people whom they ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.servers import until

from wakeloop.decisions import Actor
from wakeloop.settings import load_settings
from wakeloop.tokens import Scope
from wakeloop.views import RequestView
from wakeloop.web.app import make_app
from wakeloop.web.server import WebServer, listen, url_of
from wakeloop.wiring import Runtime

CONTACTS = {
    "alice": {"console": "alice", "name": "Alice", "description": "Knows the customers"},
    "cfo": {"console": "carla", "name": "Carla", "groups": ["finance"]},
    "cto": {"console": "tom", "name": "Tom"},
}
AGENT = """
from wakeloop import Context, agent, on_signal


@agent(on_signal("invoice.paid"))
async def echo(ctx: Context[None]) -> None:
    pass
"""


class Site:
    """A server on a SQLite file, which can be stopped and started again on the same port, and its people.

    The people decide through `wakeloop.requests.Requests`, as pages and channels do; no worker runs."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._folder = folder
        (folder / "agents").mkdir(exist_ok=True)
        (folder / "agents" / "echo.py").write_text(AGENT)
        self._port = port
        self._running: tuple[Runtime, WebServer, Any] | None = None

    def start(self) -> None:
        """Serve; from the second time on where it was served before."""
        runtime = Runtime(load_settings(directory=self._folder, contacts=CONTACTS))
        runtime.database.upgrade()
        listening = listen("127.0.0.1", self._port)
        self._port = listening.getsockname()[1]
        self.url = url_of(listening)
        server = WebServer(make_app(runtime), listening)
        server.start()
        self._running = (runtime, server, listening)

    def stop(self) -> None:
        """Be away, as for a deploy: nothing listens on the port any more."""
        if self._running is not None:
            runtime, server, listening = self._running
            self._running = None
            server.stop(10)
            listening.close()
            runtime.stop(grace=0)

    @property
    def runtime(self) -> Runtime:
        """The runtime of the server that is running."""
        assert self._running is not None
        return self._running[0]

    def token(self, *scopes: Scope, name: str = "test") -> str:
        """A new token."""
        return self.runtime.tokens.create(name, scopes or (Scope.REQUESTS_READ, Scope.REQUESTS_WRITE))

    # ------------------------------------------------------------------ people

    def asked(self, matches: Callable[[RequestView], bool] = lambda request: True) -> RequestView:
        """The oldest open request that matches, as soon as there is one."""
        return until(lambda: next(filter(matches, self.all("open")), None))

    def all(self, status: str | None = None) -> list[RequestView]:
        """All requests, oldest first."""
        return self.runtime.requests.find(status=status, limit=1000)

    def reply(self, request: RequestView, text: str, by: str = "alice") -> Any:
        """A person's words."""
        return self.runtime.requests.reply(UUID(request.id), person(by), text)

    def approve(self, request: RequestView, by: str = "cfo", **options: Any) -> None:
        """A yes."""
        assert self.runtime.requests.approve(UUID(request.id), person(by), **options).accepted

    def deny(self, request: RequestView, by: str = "cfo", **options: Any) -> None:
        """A no."""
        assert self.runtime.requests.deny(UUID(request.id), person(by), **options).accepted


def person(contact: str) -> Actor:
    """Somebody on a page of theirs."""
    return Actor(contact=contact, channel="page", auth="test")


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """A site that runs."""
    site = Site(folder)
    site.start()
    try:
        yield site
    finally:
        site.stop()
