"""`make demo`: the main job from end to end on this machine, with nobody's help and no account anywhere.

An agent wakes on cron and texts Alice through the real Twilio client, to a local stand-in for Twilio's API; her reply
comes back as a signed webhook; the agent learns from it and sleeps; the whole process is killed with SIGKILL and
started again; the agent wakes on time, and texts again. Exits with 0 only if all of that was seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from wakeloop.store import queries
from wakeloop.store.database import Database
from wakeloop.testing.twilio import StandInMessage, TwilioStandIn
from wakeloop.views import RunView, run_view, state_view

T = TypeVar("T")

HERE = Path(__file__).parent
WAKELOOP = str(Path(sys.executable).with_name("wakeloop"))
ALICE = "+14155550100"
SLEEP_SECONDS = 14
PATIENCE_SECONDS = 30
LATE_SECONDS = 3.0

console = Console(highlight=False, width=110)


class DemoFailed(Exception):
    """Something that the demo is to show did not happen."""


def say(who: str, text: str, style: str = "") -> None:
    """One line of the timeline."""
    now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-4]
    console.print(Text.assemble((now, "dim"), "  ", (f"{who:<9}", f"bold {style}".strip()), text))


def wait_for(look: Callable[[], T | None], what: str) -> T:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise DemoFailed(f"after {PATIENCE_SECONDS} s there is still no {what}")


class Project:
    """A user's project in a temporary folder, and the one process that runs it."""

    def __init__(self, folder: Path, twilio: TwilioStandIn, port: int, wakes: datetime) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "wakeloop.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._database = Database(f"sqlite:///{folder}/.wakeloop/wakeloop.db")
        shutil.copytree(HERE / "agents", folder / "agents", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "wakeloop.toml").write_text(
            f'port = {port}\npublic_url = "{self.url}"\n\n'
            f'[contacts.alice]\nname = "Alice"\nsms = "{ALICE}"\n\n'
            f'[channels.sms]\naccount_sid = "{twilio.account_sid}"\nfrom_number = "{twilio.number}"\n'
            f'api_url = "{twilio.url}"\n'
        )
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WAKELOOP_")}
        self._environment = {
            **inherited,
            "WAKELOOP_SMS_AUTH_TOKEN": twilio.auth_token,
            "DEMO_CRON": f"{wakes.minute} {wakes.hour} * * * {wakes.second}",
            "DEMO_SLEEP": str(SLEEP_SECONDS),
        }

    @property
    def pid(self) -> int:
        """The process that runs it."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """`wakeloop dev`, until its web app answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [WAKELOOP, "dev"], cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        wait_for(self._is_ready, "answer from `wakeloop dev`")

    def kill(self) -> None:
        """SIGKILL: no process gets to say goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> float:
        """Ctrl-C; how many seconds it took."""
        assert self._process is not None
        begin = time.monotonic()
        self._process.send_signal(signal.SIGINT)
        status = self._process.wait(10)
        if status != 0:
            raise DemoFailed(f"`wakeloop dev` ended with status {status}")
        return time.monotonic() - begin

    def end(self) -> None:
        """Make sure that nothing is left running."""
        self._database.close()
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def runs(self) -> list[RunView]:
        """The runs that its store knows."""
        with self._database.read() as connection:
            return [run_view(row, None) for row in queries.list_runs(connection)]

    def state(self) -> Any:
        """What the agent remembers; None before it has learned anything."""
        with self._database.read() as connection:
            return state_view(queries.list_sessions(connection)[0].state, None)

    def asleep_until(self) -> datetime | None:
        """When the run wakes that has its answer."""
        state = self.state()  # first: what the runs wait for is committed together with it
        waiting = [run.wake_at for run in self.runs() if run.status == "waiting" and run.wake_at]
        return waiting[0] if waiting and state is not None and state["days"] == 1 else None

    def completed(self) -> RunView | None:
        """The run that is over."""
        return next((run for run in self.runs() if run.status == "completed"), None)

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise DemoFailed(f"`wakeloop dev` ended with status {self._process.returncode}")
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def play(twilio: TwilioStandIn, project: Project, wakes: datetime) -> None:
    """The story. Raises DemoFailed where it does not go as it should."""
    say("setup", f"a stand-in for Twilio's API listens at {twilio.url}", "blue")
    project.start()
    say(
        "wakeloop",
        f"`wakeloop dev` runs as process {project.pid}: SQLite, worker and web app in one",
        "green",
    )
    say("wakeloop", f"agent standup is scheduled for {wakes:%H:%M:%S} UTC every day, by cron", "green")

    question = wait_for(lambda: next(iter(twilio.messages), None), "text message")
    late = (datetime.now(UTC) - wakes).total_seconds()
    say(
        "twilio",
        f"POST /Messages.json from {question.from_} to {question.to}: taken as {question.sid[:8]}…",
        "blue",
    )
    say("SMS", f"to Alice: {question.body!r}  ({late:.1f} s after the nominal time)", "magenta")
    check(0 <= late < LATE_SECONDS + 2, f"the first text is {late:.1f} s late")

    forged = twilio.forge("transfer everything", from_=ALICE)
    say("intruder", f"posts a webhook with a forged signature: refused with HTTP {forged.status}", "red")
    check(forged.status == 403, "a forged webhook was not refused")
    answer = twilio.reply("the billing bug", from_=ALICE)
    say("SMS", "from Alice: 'the billing bug'", "magenta")
    say("twilio", f"webhook with a valid X-Twilio-Signature: HTTP {answer.status}", "blue")
    check(answer.status == 200, "the reply was refused")

    until = wait_for(project.asleep_until, "run that sleeps")
    state = project.state()
    say("wakeloop", f"the agent remembers {json.dumps(state)}, and sleeps until {until:%H:%M:%S}", "green")
    check(state == {"days": 1, "focus": "the billing bug"}, f"its state is {state}")

    pid = project.pid
    project.kill()
    check(not runs(pid), f"process {pid} is still there")
    say("kill -9", f"process {pid} is gone; nothing runs, and nothing is held in any broker", "red")
    time.sleep(2)
    project.start()
    say("wakeloop", f"started again as process {project.pid}, from the file that it left", "green")

    check(len(twilio.messages) == 1, "a text was sent twice")
    check_back: StandInMessage = wait_for(
        lambda: twilio.messages[1] if len(twilio.messages) > 1 else None, "second text"
    )
    late = (datetime.now(UTC) - until).total_seconds()
    say("SMS", f"to Alice: {check_back.body!r}  ({late:.2f} s after the time it chose)", "magenta")
    check(0 <= late < LATE_SECONDS, f"it woke {late:.2f} s late")
    check(check_back.body == "Day 1: is 'the billing bug' done?", "it did not go on where it stopped")

    ended = wait_for(project.completed, "end of the run")
    say("wakeloop", f"run {ended.id[-8:]} completed with {ended.result!r}", "green")
    took = project.stop()
    check(len(twilio.messages) == 2, f"{len(twilio.messages)} texts were sent instead of two")
    say("wakeloop", f"Ctrl-C: stopped in {took:.1f} s, nothing is left running", "green")


def runs(pid: int) -> bool:
    """Whether a process of this id is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def check(truth: bool, otherwise: str) -> None:
    """Go on only if this is true."""
    if not truth:
        raise DemoFailed(otherwise)


@contextlib.contextmanager
def stage() -> Iterator[tuple[TwilioStandIn, Project, datetime]]:
    """Everything that the story needs, taken down again whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begin = (
        time.monotonic()
    )  # the first start compiles everything; the second one is as long as those to come
    for _ in range(2):
        begin = time.monotonic()
        subprocess.run([WAKELOOP, "--version"], check=True, capture_output=True)
    startup = time.monotonic() - begin
    wakes = (datetime.now(UTC) + timedelta(seconds=4 + 4 * startup)).replace(microsecond=0)
    with (
        tempfile.TemporaryDirectory(prefix="wakeloop-demo-") as folder,
        TwilioStandIn(webhook=f"http://127.0.0.1:{port}/webhooks/sms") as twilio,
    ):
        project = Project(Path(folder), twilio, port, wakes)
        try:
            yield twilio, project, wakes
        except DemoFailed:
            console.print(Text(project.log.read_text(errors="replace"), style="dim"))
            raise
        finally:
            project.end()


def main() -> int:
    console.print(
        Text("wakeloop: an agent that wakes on cron, texts a person, and survives a kill\n", style="bold")
    )
    begin = time.monotonic()
    try:
        with stage() as (twilio, project, wakes):
            play(twilio, project, wakes)
    except DemoFailed as failure:
        say("FAILED", str(failure), "red")
        return 1
    console.print(Text(f"\nAll of it happened, in {time.monotonic() - begin:.0f} s.", style="bold"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
