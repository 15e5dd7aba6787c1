"""The world of processes: servers, workers, the web service and the client, each started again when it is gone.

Whatever runs here may be killed at any moment. A supervisor starts it again, as systemd or a container's restart policy
would, and counts how it ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from tests.chaos import agents, client
from tests.chaos.plan import Plan
from tests.servers import Postgres, Program, Redis, ServerError, free_port, poll

from wakeloop.testing.telegram import BOT_TOKEN, TelegramStandIn
from wakeloop.testing.twilio import StandInMessage, TwilioStandIn
from wakeloop.tokens import Scope
from wakeloop.wiring import Runtime, load_settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LEASE_SECONDS = 4
CONCURRENCY = 8
LOOK_SECONDS = 0.1
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


class Armed(Program):
    """A program that may kill itself at a crash point."""


class Process:
    """One process that is wanted for as long as the campaign lasts, whatever becomes of it."""

    def __init__(
        self, kind: str, name: str, program: Callable[[], Program], *, ends: bool = False
    ) -> None:
        """program: a new one for each start. ends: one that ends with status 0 has done what it was to do."""
        self.kind, self.name = kind, name
        self.endings: Counter[str] = Counter()
        self.last_words = ""
        self._program, self._ends = program, ends
        self._lock = threading.Lock()
        self._running: Program | None = None
        self._again_at = 0.0
        self._wanted = True

    @property
    def is_running(self) -> bool:
        with self._lock:
            return self._running is not None and self._running.running

    @property
    def is_done(self) -> bool:
        """Whether it did what it was to do, and ended."""
        return not self._wanted

    def kill(self, *, down: float) -> bool:
        """End it by SIGKILL, for so many seconds; whether it ran."""
        with self._lock:
            if self._running is None or not self._running.running:
                return False
            self._running.kill()
            self._forget("killed", down)
            return True

    def disarm(self) -> None:
        """Have it replaced if it may kill itself at a crash point."""
        with self._lock:
            if self._running is not None and isinstance(self._running, Armed):
                self._running.stop()
                self._forget("replaced", 0.0)

    def look(self) -> None:
        """Start it if it does not run, and note how it ended."""
        with self._lock:
            if self._running is not None and not self._running.running:
                status = self._running.wait()
                if status == 0 and self._ends:
                    self._wanted = False
                elif status == -signal.SIGKILL:
                    self._forget("killed at a crash point", 0.5)
                else:
                    self.last_words = self._running.output[-4000:]
                    self._forget(f"ended by itself with {status}", 0.5)
            if self._running is None and self._wanted and time.monotonic() >= self._again_at:
                self._running = self._program()
                self._running.start()

    def close(self) -> None:
        """Ask it to end, for good."""
        with self._lock:
            self._wanted = False
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def _forget(self, how: str, down: float) -> None:
        self.endings[how] += 1
        if self._running is not None:
            self._running.close()
        self._running = None
        self._again_at = time.monotonic() + down


class Works:
    """PostgreSQL, Redis, workers, a web service, the client, and two stand-ins of providers, in a folder of their own."""

    def __init__(
        self, folder: Path, plan: Plan, *, heard: Callable[[StandInMessage], None] = lambda message: None
    ) -> None:
        """heard: called for each SMS that the provider took."""
        self.folder, self.plan = folder, plan
        self.port = free_port()
        self.twilio = TwilioStandIn(webhook=f"http://127.0.0.1:{self.port}/webhooks/sms", on_message=heard)
        self.telegram = TelegramStandIn()
        self.telegram.faults_at = "/sendMessage"
        self.postgres, self.redis = Postgres(), Redis()
        self.effects = folder / "effects.jsonl"
        self.taken = folder / "taken.txt"
        self.pace = folder / "pace.txt"
        self.processes: list[Process] = []
        self._chance = random.Random(f"{plan.options.seed} processes")
        self._arms = False
        self._over = threading.Event()

    # ------------------------------------------------------------------ life

    @contextlib.contextmanager
    def running(self) -> Iterator[Works]:
        """All of it, for the length of a `with` block."""
        with contextlib.ExitStack() as stack:
            for server in (self.postgres, self.redis, self.twilio, self.telegram):
                stack.enter_context(server)  # type: ignore[arg-type]
            self._prepare()
            stack.callback(self.runtime.stop)
            self._add_processes()
            watcher = threading.Thread(target=self._supervise, name="supervisor")
            watcher.start()
            try:
                yield self
            finally:
                self._over.set()
                watcher.join()
                for process in self.processes:
                    process.close()

    def _prepare(self) -> None:
        database = self.postgres.new_database()
        self.dsn = database.replace("+psycopg", "")
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(CLOCK.encode())
            name = connection.info.dbname
            connection.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog".encode())
        (self.folder / "agents").mkdir()
        shutil.copy(agents.__file__, self.folder / "agents" / "campaign.py")
        (self.folder / "wakeloop.toml").write_text(self._settings())
        (self.folder / ".env").write_text(
            f"WAKELOOP_DATABASE_URL={database}\nWAKELOOP_BROKER_URL={self.redis.url}\n"
            f"WAKELOOP_PUBLIC_URL=http://127.0.0.1:{self.port}\n"
            f"WAKELOOP_SMS_AUTH_TOKEN={self.twilio.auth_token}\nWAKELOOP_TELEGRAM_BOT_TOKEN={BOT_TOKEN}\n"
        )
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

    def _add_processes(self) -> None:
        for number in range(self.plan.options.workers):
            name = f"worker{number}"
            self.processes.append(Process("worker", name, lambda name=name: self._worker(name)))  # type: ignore[misc]
        web: list[str | Path] = [BIN / "wakeloop", "web", "--port", str(self.port)]
        self.processes.append(Process("web", "web", lambda: self._program(web)))
        argv: list[str | Path] = [sys.executable, client.__file__, self.folder / "plan.jsonl", self.pace, self.taken]
        argv += [str(self.port), self.token]
        self.processes.append(Process("client", "client", lambda: self._program(argv), ends=True))

    def _worker(self, name: str) -> Program:
        armed: dict[str, str] = {}
        if self._arms and self._chance.random() < ARMED:
            point = self._chance.choice(list(CRASH_POINTS))
            armed = {"CRASH_AT": point, "CRASH_ON": str(self._chance.randint(1, CRASH_POINTS[point]))}
        app = "tests.acceptance.armed" if armed else "wakeloop"
        argv = [BIN / "celery", "-A", app, "worker", "-n", f"{name}@here", "-l", "WARNING", "--without-mingle"]
        return self._program(argv, **armed)

    def _program(self, argv: list[str | Path], **environment: str) -> Program:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        kind = Armed if environment else Program
        return kind(
            argv, env={"EFFECTS": str(self.effects), "PYTHONPATH": paths, **environment}, cwd=self.folder
        )

    def _supervise(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for process in self.processes:
                process.look()

    def calm(self) -> None:
        """Start no worker any more that kills itself, and replace those that may."""
        self._arms = False
        for process in self.of_kind("worker"):
            process.disarm()

    def wait_until_up(self) -> None:
        """Until the workers and the web service are there."""
        wanted = self.plan.options.workers + 1
        for _ in poll(120.0):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                if self.effects.exists() and self.effects.read_bytes().count(b'"what": "process"') >= wanted:
                    self._arms = True
                    return
            time.sleep(0.1)
        raise ServerError(f"not all processes came up: {[one.last_words for one in self.processes]}")

    # ------------------------------------------------------------------ what is done to it and seen of it

    def of_kind(self, kind: str) -> list[Process]:
        """The processes of a kind."""
        return [process for process in self.processes if process.kind == kind]

    @property
    def kills(self) -> Counter[str]:
        """How many processes were killed, by kind."""
        found: Counter[str] = Counter()
        for process in self.processes:
            for how, count in process.endings.items():
                if how.startswith("killed"):
                    found[process.kind if how == "killed" else f"{process.kind}, at a crash point"] += count
        return found

    def allow(self, calls: int) -> None:
        """Let the client go on until it has made so many calls."""
        new = self.pace.with_suffix(".new")
        new.write_text(f"{calls}\n")
        new.replace(self.pace)

    def calls_taken(self) -> int:
        """How many calls the client was told to be taken."""
        return self.taken.read_bytes().count(b"\n") if self.taken.exists() else 0

    def sql(self, statement: str, *parameters: Any, seconds: float = 30.0) -> list[tuple[Any, ...]]:
        """Ask the database, as often as it takes while it is away."""
        trouble: Exception | None = None
        for _ in poll(seconds):
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=5) as connection:
                    cursor = connection.execute(statement.encode(), parameters)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                trouble = error
        raise AssertionError(f"after {seconds} s the database does not answer: {trouble}")
