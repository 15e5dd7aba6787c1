"""A served site with people on it, for the tests of pages: a runtime, a worker if wanted, and the web app on loopback."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from wakeloop.asking import RequestSpec, schema_like
from wakeloop.celery_app import make_app as make_celery_app
from wakeloop.embedded import EmbeddedWorker
from wakeloop.forms import Form, form_of
from wakeloop.settings import load_settings
from wakeloop.views import RequestView
from wakeloop.web.app import make_app
from wakeloop.web.server import WebServer, listen, url_of
from wakeloop.wiring import Runtime

CONTACTS: Mapping[str, Mapping[str, Any]] = {
    "alice": {"web": "alice", "name": "Alice", "tz": "America/New_York"},
    "bob": {"web": "bob", "name": "Bob"},
    "carol": {"console": "carol", "name": "Carol"},
}
AGENT = """
from wakeloop import Context, agent, on_message


@agent(on_message())
async def echo(ctx: Context[None]) -> None:
    await ctx.send(ctx.event.from_, f"You wrote: {ctx.event.text}")
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server answered; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    text: str


class PagesSite:
    """A runtime and the web app on it."""

    def __init__(self, runtime: Runtime, server: WebServer, url: str) -> None:
        self.runtime = runtime
        self.server = server
        self.url = url
        runtime.links.base_url = url

    def page(self, contact: str) -> str:
        """The path of a contact's page."""
        return f"/people/{self.runtime.links.page_token(contact)}"

    def call(
        self, method: str, path: str, form: Mapping[str, str] | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:  # fmt: skip
        """Any request, redirects not followed."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        sent = dict(headers or {})
        body = None
        if form is not None:
            body = urlencode(form).encode()
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(status=answer.status, headers=found, text=answer.read().decode())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """A page; a header's name is written with _ for -."""
        return self.call(
            "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    def proof(self, path: str, *, headers: Mapping[str, str] | None = None) -> str:
        """What the forms of a page carry."""
        found = re.search(r'name="proof" value="([^"]+)"', self.call("GET", path, headers=headers).text)
        assert found is not None
        return unescape(found[1])

    def post(self, contact: str, act: str, request: RequestView | str = "", **fields: str) -> Answer:
        """Send a form of a contact's page, with what such a form carries; `__` in a name is a dot."""
        page = self.page(contact)
        id = request if isinstance(request, str) else request.id
        path = f"{page}/messages" if act == "messages" else f"{page}/requests/{id}/{act}"
        form = {"proof": self.proof(page)} | {
            name.replace("__", "."): value for name, value in fields.items()
        }
        return self.call("POST", path, form)

    def follow(self, answer: Answer) -> str:
        """The page that an answer leads to."""
        assert answer.status == 303, answer.text
        return self.get(answer.headers["location"].partition("#")[0]).text

    # ------------------------------------------------------------------ requests

    def ask(
        self, *to: str, text: str = "Ship it?", answer: Any = str, options: Sequence[str] = (), **more: Any
    ) -> RequestView:
        """A question of a program."""
        form = form_of(answer, options)
        spec = RequestSpec(
            kind="question", to=to or ("alice",), text=text, options=form.options,
            form=None if form.is_plain else form.dump(), **more,
        )  # fmt: skip
        return self.runtime.requests.make(spec, maker="tests")[0]

    def ask_approval(
        self, *to: str, args: Mapping[str, Any], action: str = "pay", edit: bool = False, text: str = "Pay this?",
        **more: Any,
    ) -> RequestView:  # fmt: skip
        """An approval that a program asks for."""
        form = Form(schema=schema_like(args)).dump() if edit else None
        spec = RequestSpec(
            kind="approval",
            to=to or ("alice",),
            text=text,
            action=action,
            args=dict(args),
            args_form=form,
            **more,
        )
        return self.runtime.requests.make(spec, maker="tests")[0]

    def again(self, request: RequestView) -> RequestView:
        """A request as it is now."""
        return self.runtime.requests.get(UUID(request.id))

    def record(self, request: RequestView) -> list[tuple[str, str, str | None]]:
        """What is on record of a request's decisions: act, result, contact."""
        return [
            (line.act, line.result, line.contact)
            for line in self.runtime.requests.audit(UUID(request.id))
            if line.act not in ("ask", "tell")
        ]


@contextlib.contextmanager
def served(
    folder: Path, *, worker: bool = False, agent: str = AGENT, contacts: Mapping[str, Any] = CONTACTS, **settings: Any
) -> Iterator[PagesSite]:  # fmt: skip
    """A site on a SQLite file in a folder; `worker`: agents run, in this process."""
    (folder / "agents").mkdir(exist_ok=True)
    (folder / "agents" / "agent.py").write_text(agent)
    with contextlib.ExitStack() as parts:
        chosen = load_settings(
            directory=folder, contacts={id: dict(table) for id, table in contacts.items()}, **settings
        )
        runtime = Runtime(chosen)
        runtime.database.upgrade()
        parts.callback(runtime.stop, grace=0)
        if worker:
            app = make_celery_app(chosen.broker_url, queue=chosen.queue, concurrency=4, host=lambda: runtime)
            working = EmbeddedWorker(app)
            working.start()
            parts.callback(working.stop)
            parts.callback(runtime.stop, grace=0)
        listening = parts.enter_context(listen("127.0.0.1", 0))
        server = WebServer(make_app(runtime), listening)
        server.start()
        parts.callback(server.stop, 10)
        yield PagesSite(runtime, server, url_of(listening))
