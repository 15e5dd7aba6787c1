"""A whole production in small: PostgreSQL, Redis, Celery workers, the web service, and Twilio's stand-in."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.servers import Postgres, Program, Redis, free_port, poll

from wakeloop.store import queries
from wakeloop.testing.twilio import TwilioStandIn
from wakeloop.views import RunView, run_view
from wakeloop.wiring import Runtime, load_settings

ROOT = Path(__file__).parents[2]
ALICE = "+14155550100"
BIN = Path(sys.executable).parent

AGENTS = '''
import os
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from wakeloop import Call, Context, agent, cron, every, on_message, step

EFFECTS = Path(os.environ["EFFECTS"])


class Memory(BaseModel):
    runs: int = 0


@step
def effect(name: str) -> str:
    with EFFECTS.open("a") as file:
        file.write(name + "\\n")
    return name


@agent(state=Memory)
async def survivor(ctx: Context[Memory]) -> str:
    """Does everything that a run can do between two waits."""
    label = ctx.event.input
    first = await effect(f"{label} first")
    answer = await ctx.ask("alice", f"{label}: go on?")
    second = await effect(f"{label} second")
    await ctx.sleep(timedelta(seconds=1))
    ctx.state.runs += 1
    await ctx.send("alice", f"{label}: {answer.text}, {ctx.state.runs}")
    return f"{first}, {second}"


@agent(state=Memory)
async def sleeper(ctx: Context[Memory]) -> str:
    """Sleeps and works in turn, without asking anyone."""
    label = ctx.event.input
    for number in range(4):
        await effect(f"{label} {number}")
        await ctx.sleep(0.7)
        ctx.state.runs += 1
    await ctx.send("alice", f"{label} is done")
    return f"{label} {ctx.state.runs}"


@agent(state=Memory)
async def hearer(ctx: Context[Memory]) -> str:
    """Waits for what Alice says by herself."""
    return (await ctx.receive(from_="alice")).text


@agent(every(timedelta(seconds=2), overlap="allow"), state=Memory)
async def beat(ctx: Context[Memory]) -> str:
    """Ticks."""
    ctx.state.runs += 1
    await effect(f"beat {ctx.event.nominal.isoformat()}")
    return ctx.event.nominal.isoformat()


@agent()
async def metronome(ctx: Context[None]) -> None:
    """Gives itself a schedule of every ten seconds when it is called."""
    if isinstance(ctx.event, Call):
        ctx.schedule.set(cron("* * * * * */10"))
'''

SETTINGS = """
lease_seconds = 3

[contacts.alice]
sms = "{alice}"

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"
"""


class Plant:
    """The servers, and a project folder; workers and web services are started from it."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        broker_url: str,
        *,
        agents: Mapping[str, str] | None = None,
        settings: str = SETTINGS,
    ) -> None:
        """agents: the project's agents, source by file name. settings: its wakeloop.toml, as a template."""
        self.folder = folder
        self._agents = {"plant.py": AGENTS} if agents is None else agents
        self._settings = settings
        self.effects = folder / "effects.txt"
        self.effects.touch()
        self.port = free_port()
        self.twilio = TwilioStandIn(webhook=f"http://127.0.0.1:{self.port}/webhooks/sms")
        self.environment = {
            "EFFECTS": str(self.effects),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "WAKELOOP_DATABASE_URL": database_url,
            "WAKELOOP_BROKER_URL": broker_url,
            "WAKELOOP_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "WAKELOOP_SMS_AUTH_TOKEN": self.twilio.auth_token,
            # Each message is counted by its text, and there are more of them than a person should get.
            "WAKELOOP_MESSAGES_PER_HOUR": "0",
            "WAKELOOP_COALESCE_SECONDS": "0",
        }

    @contextlib.contextmanager
    def running(self) -> Iterator[Plant]:
        """Twilio's stand-in and a runtime to look through, for the length of a `with` block."""
        (self.folder / "agents").mkdir()
        for name, source in self._agents.items():
            (self.folder / "agents" / name).write_text(source)
        with self.twilio:
            settings = self._settings.format(
                alice=ALICE, sid=self.twilio.account_sid, number=self.twilio.number, url=self.twilio.url
            )
            (self.folder / "wakeloop.toml").write_text(settings)
            before = dict(os.environ)
            os.environ.update(self.environment)
            try:
                self.runtime = Runtime(load_settings(directory=self.folder))
            finally:
                os.environ.clear()
                os.environ.update(before)
            self.runtime.database.upgrade()
            try:
                yield self
            finally:
                self.runtime.stop()

    def worker(
        self, name: str, *, crash_at: str | None = None, passing: int = 1, queues: str | None = None
    ) -> Program:
        """A Celery worker; with `crash_at` one that kills itself there. queues: only of these it takes work."""
        app = "wakeloop" if crash_at is None else "tests.acceptance.armed"
        environment = dict(self.environment)
        if crash_at is not None:
            environment |= {"CRASH_AT": crash_at, "CRASH_ON": str(passing)}
        argv = [
            BIN / "celery",
            "-A",
            app,
            "worker",
            "-n",
            f"{name}@here",
            "-c",
            "8",
            "-l",
            "INFO",
            *(["-Q", queues] if queues is not None else []),
        ]
        return Program(argv, env=environment, cwd=self.folder)

    def web(self, *, crash_at: str | None = None) -> Program:
        """The web service, which Twilio's stand-in calls back; with `crash_at` one that kills itself there."""
        service: list[str | Path] = [BIN / "wakeloop"]
        environment = dict(self.environment)
        if crash_at is not None:
            service = [
                sys.executable,
                "-c",
                "import tests.acceptance.armed, wakeloop.cli; wakeloop.cli.main()",
            ]
            environment |= {"CRASH_AT": crash_at}
        return Program([*service, "web", "--port", str(self.port)], env=environment, cwd=self.folder)

    def start(self, agent: str, label: str, *, key: str = "default") -> str:
        """Start an agent; the run's id."""
        return self.runtime.intake.start(agent, label, key=key)

    def runs(self, agent: str) -> list[RunView]:
        """An agent's runs, newest first."""

        def look() -> list[Any]:
            with self.runtime.database.read() as connection:
                return queries.list_runs(connection, agent=agent)

        rows = self.runtime.database.retrying(look, seconds=10)
        return [run_view(row, self.runtime.world.registry.get(agent)) for row in rows]

    def wait_until_over(self, agent: str, count: int, *, seconds: float) -> list[RunView]:
        """Wait until so many of an agent's runs are over; all of its runs."""
        runs: list[RunView] = []
        for _ in poll(seconds):
            runs = self.runs(agent)
            if sum(run.status not in ("queued", "running", "waiting") for run in runs) >= count:
                return runs
        raise AssertionError(f"after {seconds} s: {[(run.status, run.error) for run in runs]}")

    def wait_until_sent(self, count: int, *, seconds: float) -> None:
        """Wait until so many messages are recorded as taken by their provider, and none is still to be sent."""
        sent: list[Any] = []
        for _ in poll(seconds):
            with self.runtime.database.read() as connection:
                sent = queries.sent(connection)
            if len(sent) >= count:
                return
        raise AssertionError(f"after {seconds} s {len(sent)} messages are recorded as sent")

    def effects_of(self, prefix: str) -> Counter[str]:
        """How often each effect took place."""
        lines = self.effects.read_text().splitlines()
        return Counter(line for line in lines if line.startswith(prefix))

    def texts(self) -> Counter[str]:
        """What Twilio's stand-in took, with how often."""
        return Counter(message.body for message in self.twilio.messages)


@contextlib.contextmanager
def make_plant(
    folder: Path,
    postgres: Postgres,
    redis: Redis,
    *,
    agents: Mapping[str, str] | None = None,
    settings: str = SETTINGS,
    **environment: Any,
) -> Iterator[Plant]:
    """A plant on a database of its own and an empty broker."""
    redis.flushall()
    plant = Plant(folder, postgres.new_database(), redis.url, agents=agents, settings=settings)
    plant.environment |= environment
    with plant.running():
        yield plant
