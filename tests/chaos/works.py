"""What every world of a campaign has: a project, the client, people's providers, and processes that are watched over.

`Fleet` is a production in small; `tests.chaos.disks` has the one that runs on a disk of its own.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from tests.chaos import agents, client, processes
from tests.chaos.plan import Plan
from tests.chaos.processes import BIN, Armed, Process
from tests.servers import Postgres, Program, Redis, ServerError, free_port, poll

from wakeloop.testing.telegram import BOT_TOKEN, TelegramStandIn
from wakeloop.testing.twilio import StandInMessage, TwilioStandIn
from wakeloop.tokens import Scope
from wakeloop.wiring import Runtime, load_settings

LEASE_SECONDS = 6
CONCURRENCY = 8
LOOK_SECONDS = 0.1
OUTAGE_SECONDS = 60.0
ARMED = 0.35
"""How many of the workers that are started again kill themselves at a crash point, by the number of times that it was
passed before."""
CRASH_POINTS = {
    "engine.step_done": 60, "engine.step_committed": 60, "engine.committing": 60, "engine.committed": 60,
    "timers.claimed": 60, "outbox.claimed": 10, "outbox.sent": 10, "listeners.recorded": 3,
}  # fmt: skip
SETTINGS = """
lease_seconds = {lease}
worker_concurrency = {concurrency}
messages_per_hour = 0
coalesce_seconds = 0
webhooks_per_minute = 0
refused_webhooks_per_minute = 0

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{twilio}"

[channels.telegram]
polling = true
api_url = "{telegram}"
"""
CLOCK = """
CREATE TABLE public.chaos_clock (step double precision NOT NULL);
INSERT INTO public.chaos_clock VALUES (0);
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
  'SELECT pg_catalog.clock_timestamp() + step * interval ''1 second'' FROM public.chaos_clock';
"""
"""The runtime asks for the database's time by `SELECT clock_timestamp()` and nothing else; this answers it instead."""


class Works(ABC):
    """A project folder and what runs in it."""

    def __init__(
        self, folder: Path, plan: Plan, *, heard: Callable[[StandInMessage], None] = lambda message: None
    ) -> None:
        """heard: called for each SMS that the provider took."""
        self.folder, self.plan = folder, plan
        self.port = free_port()
        self.twilio = TwilioStandIn(webhook=f"http://127.0.0.1:{self.port}/webhooks/sms", on_message=heard)
        self.telegram = TelegramStandIn()
        self.telegram.faults_at = "/sendMessage"
        self.effects = folder / "effects.jsonl"
        self.taken = folder / "taken.txt"
        self.pace = folder / "pace.txt"
        self.processes: list[Process] = []
        self.chance = random.Random(f"{plan.options.seed} processes")
        self._over = threading.Event()

    # ------------------------------------------------------------------ what differs

    @abstractmethod
    def open_store(self, stack: contextlib.ExitStack) -> Mapping[str, str]:
        """Start what the store needs, until the stack is closed; the environment that names it."""

    @abstractmethod
    def runners(self) -> list[Process]:
        """The processes that run the agents and the web service."""

    @abstractmethod
    def calm(self) -> None:
        """From now on nothing fails that has not failed yet."""

    # ------------------------------------------------------------------ life

    @contextlib.contextmanager
    def running(self) -> Iterator[Works]:
        """All of it, for the length of a `with` block."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.twilio)
            stack.enter_context(self.telegram)
            self._prepare(self.open_store(stack))
            stack.callback(self.runtime.stop)
            argv = [sys.executable, client.__file__, self.folder / "plan.jsonl", self.pace, self.taken]
            argv += [str(self.port), self.token]
            self.processes = [
                *self.runners(),
                Process("client", "client", lambda: Program(argv, cwd=self.folder), ends=True),
            ]
            watcher = threading.Thread(target=self._supervise, name="supervisor")
            watcher.start()
            try:
                yield self
            finally:
                self._over.set()
                watcher.join()
                for process in self.processes:
                    process.close()

    def _prepare(self, store: Mapping[str, str]) -> None:
        (self.folder / "agents").mkdir()
        shutil.copy(agents.__file__, self.folder / "agents" / "campaign.py")
        (self.folder / "wakeloop.toml").write_text(self._settings())
        variables = {
            **store, "WAKELOOP_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "WAKELOOP_SMS_AUTH_TOKEN": self.twilio.auth_token, "WAKELOOP_TELEGRAM_BOT_TOKEN": BOT_TOKEN,
        }  # fmt: skip
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        self.runtime = Runtime(load_settings(directory=self.folder))
        self.runtime.database.upgrade()
        self.token = self.runtime.tokens.create("client", [Scope.AGENTS_START, Scope.SIGNALS_SEND])
        (self.folder / "plan.jsonl").write_text("".join(f"{call.line()}\n" for call in self.plan.calls))
        self.allow(0)

    def _settings(self) -> str:
        told = SETTINGS.format(
            lease=LEASE_SECONDS, concurrency=CONCURRENCY, sid=self.twilio.account_sid, number=self.twilio.number,
            twilio=self.twilio.url, telegram=self.telegram.url,
        )  # fmt: skip
        tables = [f'[contacts.{name}]\nsms = "{number}"' for name, number in self.numbers.items()]
        tables += [f'[contacts.{name}]\ntelegram = "{chat}"' for name, chat in self.chats.items()]
        return told + "\n" + "\n\n".join(tables) + "\n"

    def program(
        self, argv: list[str | Path], *, kind: type[Program] = Program, **environment: str
    ) -> Program:
        """A program that runs in the project."""
        given = {"EFFECTS": str(self.effects), **processes.paths(), **environment}
        return kind(argv, env=given, cwd=self.folder)

    def _supervise(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for process in self.processes:
                process.look()

    def wait_until_up(self) -> None:
        """Until everything has come up once."""
        wanted = len(self.processes) - 1
        for _ in poll(120.0):
            marks = self.effects.read_bytes() if self.effects.exists() else b""
            if self.is_serving and marks.count(b'"what": "process"') >= wanted:
                return
            time.sleep(LOOK_SECONDS)
        raise ServerError(f"not all processes came up: {[one.last_words for one in self.processes]}")

    # ------------------------------------------------------------------ who is in it

    @property
    def numbers(self) -> dict[str, str]:
        """The people who have a telephone, with its number."""
        people = [f"person{number}" for number in range(self.plan.people)]
        names = [*people, *agents.BOSSES, *agents.CHATTERS[::2]]
        return {name: f"+1415555{1000 + place}" for place, name in enumerate(names)}

    @property
    def chats(self) -> dict[str, int]:
        """The people who are on Telegram, with their chat."""
        return {name: 9000 + place for place, name in enumerate(agents.CHATTERS[1::2])}

    def of_kind(self, kind: str) -> list[Process]:
        """The processes of a kind."""
        return [process for process in self.processes if process.kind == kind]

    # ------------------------------------------------------------------ what is done to it and seen of it

    @property
    def kills(self) -> Counter[str]:
        """How many processes were killed, by kind."""
        return processes.kills(self.processes)

    @property
    def is_serving(self) -> bool:
        """Whether the web service takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def allow(self, calls: int) -> None:
        """Let the client go on until it has made so many calls."""
        new = self.pace.with_suffix(".new")
        new.write_text(f"{calls}\n")
        new.replace(self.pace)

    def calls_taken(self) -> int:
        """How many calls the client was told to be taken."""
        return self.taken.read_bytes().count(b"\n") if self.taken.exists() else 0

    def rows(self, statement: sa.Executable) -> list[Any]:
        """What the store says, asked as often as it takes while it is away."""

        def look() -> list[Any]:
            with self.runtime.database.begin() as connection:
                found = connection.execute(statement)
                return list(found) if found.returns_rows else []

        return self.runtime.database.retrying(look, seconds=OUTAGE_SECONDS)


class Fleet(Works):
    """PostgreSQL, Redis, workers and a web service."""

    def open_store(self, stack: contextlib.ExitStack) -> Mapping[str, str]:
        self.postgres, self.redis = stack.enter_context(Postgres()), stack.enter_context(Redis())
        database = self.postgres.new_database()
        self.dsn = database.replace("+psycopg", "")
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(CLOCK.encode())
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog".encode())
        return {"WAKELOOP_DATABASE_URL": database, "WAKELOOP_BROKER_URL": self.redis.url}

    def runners(self) -> list[Process]:
        self._arms = False
        names = [f"worker{number}" for number in range(self.plan.options.workers)]
        workers = [Process("worker", name, lambda name=name: self._worker(name)) for name in names]  # type: ignore[misc]
        web: list[str | Path] = [BIN / "wakeloop", "web", "--port", str(self.port)]
        return [*workers, Process("web", "web", lambda: self.program(web))]

    def _worker(self, name: str) -> Program:
        argv: list[str | Path] = [BIN / "celery", "-A", "wakeloop", "worker", "-n", f"{name}@here"]
        argv += ["-l", "WARNING"]
        if not self._arms or self.chance.random() >= ARMED:
            return self.program(argv)
        point = self.chance.choice(list(CRASH_POINTS))
        passing = str(self.chance.randint(1, CRASH_POINTS[point]))
        argv[2] = "tests.acceptance.armed"
        return self.program(argv, kind=Armed, CRASH_AT=point, CRASH_ON=passing)

    def wait_until_up(self) -> None:
        super().wait_until_up()
        self._arms = True

    def calm(self) -> None:
        self._arms = False
        for process in self.of_kind("worker"):
            process.disarm()

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Say something to PostgreSQL itself, as often as it takes while it is away."""
        trouble: Exception | None = None
        for _ in poll(OUTAGE_SECONDS):
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                    cursor = connection.execute(statement.encode(), parameters)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                trouble = error
        raise ServerError(f"after {OUTAGE_SECONDS} s the database does not answer: {trouble}")
