"""`wakeloop init` and `wakeloop dev` as a new user has them: real processes in a temporary folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Postgres, Redis, poll

WAKELOOP = str(Path(sys.executable).with_name("wakeloop"))
PATIENCE_SECONDS = 30.0
STOP_SECONDS = 3.0

SLEEPER = """
import time
from datetime import timedelta

from pydantic import BaseModel

from wakeloop import Context, agent, step


class Memory(BaseModel):
    words: list[str] = []


@agent(state=Memory)
async def keeper(ctx: Context[Memory]) -> list[str]:
    answer = await ctx.ask("me", "What is the word?")
    ctx.state.words.append(answer.text)
    await ctx.sleep(timedelta(seconds=ctx.event.input))
    await ctx.send("me", f"The words are {' '.join(ctx.state.words)}.")
    return ctx.state.words


@step
def hang() -> None:
    with open("hangs", "a") as file:
        file.write("once ")
    time.sleep(60)


@agent()
async def hanging(ctx: Context[None]) -> None:
    await ctx.send("me", "Now it hangs.")
    await hang()
"""


class Project:
    """A new user's folder, and what they type there."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def type(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [WAKELOOP, *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def ask(self, *words: str) -> Any:
        """What a command says, as JSON."""
        done = self.type(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, agent: str, *options: str) -> str:
        """Start an agent; the run's id."""
        return str(self.ask("start", agent, *options)["run"])

    def wait_for(self, run: str, status: str) -> dict[str, Any]:
        """A run, once it has come so far."""
        shown: dict[str, Any] = {}
        for _ in poll(PATIENCE_SECONDS):
            shown = self.ask("runs", "show", run)
            if shown["status"] == status:
                return shown
        raise AssertionError(f"run {run} is {shown['status']}, not {status}")

    def write(self, name: str, text: str) -> None:
        """Write a file of agents, as an editor does."""
        aside = self.folder / f"{name}.tmp"
        aside.write_text(text)
        aside.replace(self.folder / "agents" / name)


class Dev:
    """A `wakeloop dev` under way, and all that it printed."""

    def __init__(self, project: Project, log: Path, *options: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [WAKELOOP, "dev", *(options or ("--port", "0"))], cwd=project.folder, env=project.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, text: str, *, times: int = 1) -> str:
        """All that was printed, once this is part of it."""
        for _ in poll(PATIENCE_SECONDS):
            if self.output.count(text) >= times:
                return self.output
            if self.process.poll() is not None:
                break
        assert self.output.count(text) >= times, f"it never said {text!r}, but:\n{self.output}"
        return self.output

    def ready(self) -> Dev:
        """Wait until it runs."""
        self.wait_for("Ctrl-C stops")
        return self

    @property
    def url(self) -> str:
        found = re.search(r"web +(http://\S+)", self.output)
        assert found is not None
        return found[1]

    def stop(self, number: signal.Signals = signal.SIGINT) -> float:
        """Stop it as Ctrl-C does; how many seconds it took. Its exit code must be 0."""
        since = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE_SECONDS) == 0, self.output
        return time.monotonic() - since

    def kill(self) -> None:
        """Kill it, whatever it does."""
        self.process.kill()
        self.process.wait()


def _wait(condition: Callable[[], bool]) -> None:
    for _ in poll(PATIENCE_SECONDS):
        if condition():
            return
    raise AssertionError(f"it did not happen within {PATIENCE_SECONDS} s")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project as `wakeloop init` writes it, with an agent more."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WAKELOOP_")}
    # What is said is looked for as soon as it is said, and some agents here say something every second.
    unpaced = {"WAKELOOP_MESSAGES_PER_HOUR": "0", "WAKELOOP_COALESCE_SECONDS": "0"}
    made = Project(tmp_path, environment | unpaced | {"PYTHONUNBUFFERED": "1"})
    done = made.type("init", "mine")
    assert done.returncode == 0, done.stderr
    made.folder = tmp_path / "mine"
    made.write("keeper.py", SLEEPER)
    return made


@pytest.fixture
def dev(project: Project, tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    """Starts `wakeloop dev`; what is left of it is killed in the end."""
    started: list[Dev] = []

    def start(*options: str) -> Dev:
        started.append(Dev(project, tmp_path / f"dev{len(started)}.log", *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()


def test_behind_a_tunnel_it_says_what_providers_must_call(dev: Callable[..., Dev]) -> None:
    """The public address is for this process alone; the settings stay as they are."""
    running = dev("--port", "0", "--tunnel-url", "https://tunnel.example.com").ready()

    assert "webhooks at https://tunnel.example.com/webhooks/CHANNEL" in running.output
    assert running.stop() < STOP_SECONDS + 2


def test_a_new_project_runs_at_once(project: Project, dev: Callable[..., Dev]) -> None:
    """Init, dev, start, the question on the terminal, a reply, and the state that is kept; then Ctrl-C."""
    running = dev().ready()
    assert "wakeloop.db" in running.output
    assert re.search(r"agents +hello +next ", running.output)

    run = project.start("hello")
    running.wait_for("What matters today?")
    waiting = project.wait_for(run, "waiting")
    assert project.ask("reply", "me", "the", "billing", "bug")["outcome"].startswith("the answer to request")
    running.wait_for("Noted: “the billing bug”")

    assert ("reply", "me") in [(one["kind"], one["name"]) for one in waiting["waits"]]
    states = {one["agent"]: one["state"] for one in project.ask("sessions")}
    assert states["hello"] == {"goals": ["the billing bug"]}
    assert running.stop() < STOP_SECONDS
    assert "stopped" in running.output
    assert "Traceback" not in running.output


def test_a_run_goes_on_after_ctrl_c_and_a_second_start(project: Project, dev: Callable[..., Dev]) -> None:
    """What was asked before is answered while nothing runs, and the run ends after the next start."""
    first = dev().ready()
    run = project.start("keeper", "--input", "1")
    first.wait_for("What is the word?")
    first.stop(signal.SIGTERM)

    assert "the answer to request" in project.ask("reply", "me", "swordfish")["outcome"]
    assert project.ask("runs", "show", run)["status"] == "waiting"
    second = dev().ready()

    assert project.wait_for(run, "completed")["result"] == ["swordfish"]
    second.wait_for("The words are swordfish.")
    assert "What is the word?" not in second.output


def test_a_sleeping_run_survives_sigkill_and_wakes_on_time(project: Project, dev: Callable[..., Dev]) -> None:
    """Killed while it sleeps; started again before it is due; neither early nor asked again."""
    first = dev().ready()
    run = project.start("keeper", "--input", "6")
    first.wait_for("What is the word?")
    project.ask("reply", "me", "swordfish")
    first.wait_for("run waits", times=2)
    first.kill()
    due = project.ask("runs", "show", run)["wake_at"]
    second = dev().ready()

    shown = project.wait_for(run, "completed")

    assert shown["ended_at"] >= due
    assert shown["result"] == ["swordfish"]
    assert second.wait_for("The words are swordfish.").count("The words are") == 1


def test_a_step_under_way_at_a_sigkill_is_begun_again_at_once(
    project: Project, dev: Callable[..., Dev]
) -> None:
    """The only process on this store need not wait for its predecessor's lease to run out."""
    project.environment["WAKELOOP_LEASE_SECONDS"] = "600"
    attempts = project.folder / "hangs"
    first = dev().ready()
    project.start("hanging")
    _wait(attempts.exists)
    first.kill()

    dev().ready()

    _wait(lambda: attempts.read_text().count("once") == 2)


def test_stopping_is_quick_while_a_step_hangs(project: Project, dev: Callable[..., Dev]) -> None:
    """A thread cannot be interrupted; the step's run is handed back."""
    running = dev().ready()
    run = project.start("hanging")
    running.wait_for("Now it hangs.")

    assert running.stop() < STOP_SECONDS

    assert project.ask("runs", "show", run)["status"] == "running"
    assert dev().ready().stop() < STOP_SECONDS


def test_a_second_ctrl_c_ends_it_at_once(project: Project, dev: Callable[..., Dev]) -> None:
    """For those who do not want to wait even for what is under way."""
    running = dev().ready()
    project.start("hanging")
    running.wait_for("Now it hangs.")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stopping")
    since = time.monotonic()

    while running.process.poll() is None and time.monotonic() - since < STOP_SECONDS:
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.05)

    assert running.process.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT


def test_changed_agents_are_taken_up_and_broken_ones_do_not_disturb(
    project: Project, dev: Callable[..., Dev]
) -> None:
    """A new file, a broken one told with its line, and its correction; the run asleep meanwhile goes on."""
    running = dev().ready()
    asleep = project.start("keeper", "--input", "0")
    running.wait_for("What is the word?")

    agent = 'from wakeloop import agent\n\n\n@agent()\nasync def fresh(ctx):\n    await ctx.send("me", "I am new")\n'
    project.write("fresh.py", agent)
    running.wait_for("fresh", times=1)
    project.start("fresh")
    running.wait_for("I am new")

    project.write("fresh.py", agent + "\n\ndef broken(:\n")
    running.wait_for("an agent file is broken")
    assert re.search(r"fresh\.py +line 9 ", running.output)
    project.ask("reply", "me", "swordfish")
    assert project.wait_for(asleep, "completed")["result"] == ["swordfish"]

    project.write("fresh.py", agent.replace("I am new", "I am well again"))
    running.wait_for("agents loaded", times=3)
    project.start("fresh")
    running.wait_for("I am well again")
    running.stop()


def test_a_reply_by_a_schedule_of_its_own_reaches_the_terminal(
    project: Project, dev: Callable[..., Dev]
) -> None:
    """A cron agent is woken without anybody's doing."""
    project.write(
        "beat.py",
        "from datetime import timedelta\n\nfrom wakeloop import agent, every\n\n\n"
        '@agent(every(timedelta(seconds=1)))\nasync def beat(ctx):\n    await ctx.send("me", "beat")\n',
    )
    running = dev().ready()

    running.wait_for("| beat", times=3)

    assert {one["agent"] for one in project.ask("next", "--count", "3")} == {"beat"}


# What keeps it from starting


def _refused(project: Project, *options: str) -> str:
    done = project.type("dev", *options)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("wakeloop: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_second_dev_on_the_same_store_is_refused(project: Project, dev: Callable[..., Dev]) -> None:
    """With the process that has it; when that one is gone, even by SIGKILL, the next may start."""
    first = dev().ready()

    told = _refused(project, "--port", "0")
    assert f"another `wakeloop dev` (process {first.process.pid}) runs on" in told
    first.kill()

    assert dev().ready().stop() < STOP_SECONDS


def test_a_port_in_use_is_told_in_a_line(project: Project) -> None:
    """With the way out; nothing is left locked."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        assert f"127.0.0.1:{port} is in use" in _refused(project, "--port", port)


def test_settings_that_are_wrong_are_told_in_a_line(project: Project) -> None:
    """With file and line; a file that is not there, with the way to it."""
    (project.folder / "wakeloop.toml").write_text("\nport = none\n")
    assert "wakeloop.toml:2: is not valid TOML" in _refused(project)
    assert "there is no such file" in _refused(project, "--config", "elsewhere.toml")


def test_a_broker_and_a_database_that_are_away_are_told_in_a_line(project: Project) -> None:
    """Each names its setting."""
    project.environment["WAKELOOP_DATABASE_URL"] = "postgresql://x@127.0.0.1:1/x"
    assert "check WAKELOOP_DATABASE_URL" in _refused(project, "--port", "0")
    del project.environment["WAKELOOP_DATABASE_URL"]
    project.environment["WAKELOOP_BROKER_URL"] = "redis://127.0.0.1:1/0"
    assert "the broker redis://127.0.0.1:1/0 cannot be used" in _refused(project, "--port", "0")


# With real servers


def test_dev_works_on_postgresql_and_redis(
    project: Project, dev: Callable[..., Dev], postgres_server: Postgres, redis_server: Redis
) -> None:
    """The same code on what production has."""
    redis_server.flushall()
    project.environment["WAKELOOP_DATABASE_URL"] = postgres_server.new_database()
    project.environment["WAKELOOP_BROKER_URL"] = redis_server.url
    running = dev().ready()

    run = project.start("keeper", "--input", "0")
    running.wait_for("What is the word?")
    project.ask("reply", "me", "swordfish")

    assert project.wait_for(run, "completed")["result"] == ["swordfish"]
    assert running.stop() < STOP_SECONDS
