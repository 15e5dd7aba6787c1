"""A runtime with a few people and agents, its app on a real socket, and a client that is nothing but HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wakeloop.celery_app import make_app as make_celery_app
from wakeloop.embedded import EmbeddedWorker
from wakeloop.settings import load_settings
from wakeloop.tokens import Scope
from wakeloop.web.app import make_app
from wakeloop.web.server import WebServer, listen, url_of
from wakeloop.wiring import Runtime

BASE = "/api/v1"
PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "alice": {"console": "alice", "name": "Alice", "description": "Looks after money", "groups": ["board"]},
    "bob": {"console": "bob", "groups": ["board"], "tz": "Europe/Paris"},
    "carol": {"console": "carol"},
}
AGENTS = '''
from datetime import timedelta

from pydantic import BaseModel

from wakeloop import Context, agent, cron, on_signal


class Ledger(BaseModel):
    paid: int = 0


@agent(on_signal("invoice.*"), cron("0 9 * * MON"), state=Ledger)
async def billing(ctx: Context[Ledger]) -> int:
    """Counts what was paid."""
    ctx.state.paid += 1
    return ctx.state.paid


@agent()
async def echo(ctx: Context[None]) -> object:
    return ctx.event.input


@agent()
async def broken(ctx: Context[None]) -> None:
    raise ValueError("no luck")


@agent()
async def asker(ctx: Context[None]) -> str:
    return (await ctx.ask("alice", "Ship it?")).text
'''


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Site:
    """A served runtime."""

    def __init__(self, runtime: Runtime, server: WebServer, url: str) -> None:
        self.runtime = runtime
        self.server = server
        self.url = url

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None,
        headers: Mapping[str, str] | None = None, timeout: float = 30, at: str = BASE,
    ) -> Answer:  # fmt: skip
        """Any request below /api/v1, or `at` another place; a body that is no bytes is sent as JSON."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, f"{at}{path}", body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Answer:
        return self.call("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.call("POST", path, body, **options)

    def ask(self, **fields: Any) -> Any:
        """Make a question to Alice; the request."""
        answer = self.post("/requests", {"kind": "question", "to": "alice", "text": "Which day?", **fields})
        assert answer.status == 201, answer.text
        return answer.json

    def propose(self, **fields: Any) -> Any:
        """Make an approval for Alice; the request."""
        body = {
            "kind": "approval",
            "to": "alice",
            "action": "pay",
            "args": {"to": "ACME", "amount": 40},
            **fields,
        }
        answer = self.post("/requests", body)
        assert answer.status == 201, answer.text
        return answer.json

    def token(self, name: str, *scopes: Scope) -> str:
        """A token with these scopes."""
        return self.runtime.tokens.create(name, scopes)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Turns are run and messages delivered, by a worker in this process."""
        app = make_celery_app(
            f"embedded://{id(self)}", queue="wakeloop", concurrency=8, host=lambda: self.runtime
        )
        worker = EmbeddedWorker(app)
        worker.start()
        try:
            yield
        finally:
            worker.stop()


@contextmanager
def sites(folder: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings, on a SQLite file in a folder."""
    (folder / "agents").mkdir()
    (folder / "agents" / "some.py").write_text(AGENTS)
    with ExitStack() as parts:

        def make(**settings: Any) -> Site:
            chosen = load_settings(directory=folder, **{"contacts": PEOPLE, **settings})
            runtime = Runtime(chosen)
            parts.callback(runtime.stop, grace=0)
            runtime.database.upgrade()
            listening = parts.enter_context(listen("127.0.0.1", 0))
            server = WebServer(make_app(runtime), listening)
            server.start()
            parts.callback(server.stop, 10)
            return Site(runtime, server, url_of(listening))

        yield make


def is_problem(answer: Answer, status: int, *words: str) -> bool:
    """Whether a refusal is a problem document (RFC 9457) with these words in it."""
    if answer.headers["content-type"] != "application/problem+json" or answer.status != status:
        return False
    body = answer.json
    has_all = {"type", "title", "status", "detail"} <= body.keys() and body["status"] == status
    return has_all and all(word in body["detail"] for word in words)
