"""`wakeloop dev`: store, worker, web app and agents in one process, on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import watchfiles
from kombu.utils.url import maybe_sanitize_url
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from wakeloop import __version__
from wakeloop.celery_app import App, make_app, register_agents
from wakeloop.coming import next_by_agent
from wakeloop.embedded import EmbeddedWorker
from wakeloop.errors import ConfigurationError
from wakeloop.interrupts import interrupts
from wakeloop.logs import get_logger
from wakeloop.settings import Settings
from wakeloop.terminal import distance, moment, trigger_words
from wakeloop.thread_worker import ThreadWorker
from wakeloop.web.app import make_app as make_web_app
from wakeloop.web.server import WebServer, listen, url_of
from wakeloop.wiring import Runtime, guides, is_loopback

log = get_logger("wakeloop.dev")

GRACE_SECONDS = 1.0
STOP_SECONDS = 2.7
"""After so long, stopping is over, whatever hangs: what it was doing is taken up at the next start."""
DEBOUNCE_MS = 200


def run(settings: Settings, console: Console) -> None:
    """Run until SIGINT or SIGTERM; a second one ends the process at once.

    Raises ConfigurationError if it cannot start: settings, store or port cannot be used, or another one has the
    store."""
    stopping = threading.Event()
    with interrupts(again=lambda number: os._exit(128 + number)) as ending, contextlib.ExitStack() as parts:
        alone = parts.enter_context(_only_one(settings))
        listening = parts.enter_context(listen(settings.host, settings.port))
        runtime = Runtime(settings, alone=alone)
        if runtime.links.base_url is None and is_loopback(settings.host):
            runtime.links.base_url = url_of(listening)  # any free port was asked for: now it is known
        runtime.database.upgrade()
        worker = _Worker(runtime)
        web = WebServer(make_web_app(runtime), listening)
        worker.start()
        web.start()
        watcher = threading.Thread(
            target=_watch, args=(worker, stopping), name="wakeloop-reload", daemon=True
        )
        watcher.start()
        console.print(_banner(runtime, url_of(listening)))
        ending.wait()
        stopping.set()
        console.print(Text("\nstopping …", style="dim"))
        _give_up_after(STOP_SECONDS, console)
        web.stop(GRACE_SECONDS)
        worker.stop()
        console.print(Text("stopped; what sleeps or waits goes on at the next start", style="dim"))


class _Worker:
    """The Celery worker of this process, and the runtime that it is for."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        self.runtime = runtime
        self.app: App = make_app(
            settings.broker_url,
            queue=settings.queue,
            concurrency=settings.worker_concurrency,
            host=lambda: runtime,
        )
        self._worker = EmbeddedWorker(self.app) if self.app.embedded else ThreadWorker(self.app)

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        # First, because the worker would give its host ten seconds.
        self.runtime.stop(grace=GRACE_SECONDS)
        self._worker.stop()

    def reload(self) -> None:
        """Take up changed agents; what cannot be loaded is on the log, and the others go on."""
        try:
            self.runtime.reload_agents()
            register_agents(self.app, self.runtime)
        except (ConfigurationError, SQLAlchemyError) as error:
            log.error("the agents could not be loaded anew; the old ones go on", error=str(error))
            return
        log.info("agents loaded", agents=", ".join(self.runtime.world.registry.names) or "none")


def _watch(worker: _Worker, stopping: threading.Event) -> None:
    folder = worker.runtime.settings.agents_dir
    changes = watchfiles.watch(
        folder,
        watch_filter=watchfiles.PythonFilter(),
        debounce=DEBOUNCE_MS,
        stop_event=stopping,
        raise_interrupt=False,
    )
    for _ in changes:
        worker.reload()


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[bool]:
    """Keep a second `wakeloop dev` off the same SQLite file; gives whether this process has the store to itself.

    A PostgreSQL store may have other workers, so nothing is locked. Raises ConfigurationError if another has it."""
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        yield False
        return
    file = Path(f"{url.database}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip()
            raise ConfigurationError(
                f"another `wakeloop dev`{f' (process {owner})' if owner else ''} runs on {url.database}: stop it first, "
                "or set WAKELOOP_DATABASE_URL to another store"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield settings.broker_url.startswith("embedded:")


def _give_up_after(seconds: float, console: Console) -> None:
    """End the process if stopping takes longer, such as for a step that sleeps in a thread."""

    def give_up() -> None:
        console.print(Text("something did not stop in time; the next start takes it up", style="yellow"))
        os._exit(0)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def _banner(runtime: Runtime, url: str) -> Text:
    """What runs here, and how to stop it."""
    settings, people = runtime.settings, runtime.world.people
    public = settings.public_url or ""
    embedded = settings.broker_url.startswith("embedded:")
    names = runtime.world.registry.names
    blocks: dict[str, list[Text]] = {
        "web": [
            Text.assemble((url, "bold"), (f"  webhooks at {public}/webhooks/CHANNEL", "dim")),
            Text.assemble(
                (f"{url}/inbox", "bold"),
                ("  what wants a human; `wakeloop link CONTACT` is a person's page", "dim"),
            ),
        ],
        "store": [Text(runtime.database.name)],
        "broker": [Text("in this process" if embedded else str(maybe_sanitize_url(settings.broker_url)))],
        "agents": _agent_lines(runtime) or [Text(f"none yet in {settings.agents_dir}", style="yellow")],
        "broken": [Text(str(problem), style="red") for problem in runtime.problems],
        "contacts": [
            Text.assemble((id, "bold"), (f"  by {', '.join(people.get(id).addresses) or 'nothing'}", "dim"))
            for id in people.ids
        ]
        or [Text("none yet; add [contacts.…] to wakeloop.toml", style="yellow")],
        "channels": [Text(", ".join(runtime.channels) or "none")],
        "enter": _guide_lines(runtime),
    }
    banner = Text.assemble("\n", ("wakeloop ", "bold"), (__version__, "bold cyan"), "\n\n")
    for name, lines in blocks.items():
        for index, line in enumerate(lines):
            banner.append(f"{'' if index else name:>9}  ", style="dim")
            banner.append_text(line).append("\n")
    hint = (
        f"`wakeloop start {names[0] if names else 'AGENT'}` in another terminal wakes an agent; Ctrl-C stops"
    )
    return banner.append(f"\n{hint}\n", style="dim")


def _guide_lines(runtime: Runtime) -> list[Text]:
    """What to enter where in the consoles of providers, so that they call this process."""
    return [
        Text.assemble((name, "bold"), f"  {what}", (f"  as {where}", "dim"))
        for name, pairs in guides(runtime.settings, runtime.channels).items()
        for where, what in pairs
    ]


def _agent_lines(runtime: Runtime) -> list[Text]:
    registry = runtime.world.registry
    now = runtime.database.now()
    following = next_by_agent(runtime.database, registry)
    width = max((len(name) for name in registry.names), default=0)
    lines = []
    for agent in registry.agents:
        line = Text(agent.name.ljust(width), style="bold")
        if at := following.get(agent.name):
            line.append(f"  next {moment(at, now)} ({distance(at, now)})", style="not bold")
        triggers = ", ".join(trigger_words(trigger) for trigger in agent.triggers)
        lines.append(line.append(f"  {triggers or 'when started'}", style="not bold dim"))
    return lines
