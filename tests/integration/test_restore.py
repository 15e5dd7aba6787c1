"""A copy of the store that is an hour old is put back: what then happens to timers, messages, replies and approvals."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url
from tests.servers import Postgres

from wakeloop import Context, Denied, agent, cron, require_approval
from wakeloop.testing import Simulation

START = "2026-11-02T08:00:00Z"
PEOPLE = {"alice": {"sms": "+15555550100"}}
HOUR = timedelta(hours=1)
paid: list[str] = []


@require_approval("alice")
def pay(invoice: str) -> str:
    paid.append(invoice)
    return f"paid {invoice}"


@agent(name="payer")
async def payer(ctx: Context[None]) -> str:
    """Asks before it pays."""
    try:
        return await pay("INV-7")
    except Denied:
        return "denied"


@agent(name="asker")
async def asker(ctx: Context[None]) -> str:
    """Asks, and sends what it was told."""
    answer = await ctx.ask("alice", "How many?")
    await ctx.send("alice", f"Noted: {answer.text}.")
    return answer.text


@agent(name="sleeper")
async def sleeper(ctx: Context[None]) -> str:
    """Sleeps for half an hour, and says so."""
    await ctx.sleep(HOUR / 2)
    await ctx.send("alice", "I am up.")
    return ctx.now().isoformat()


@agent(cron("*/20 * * * *"), name="ticker")
async def ticker(ctx: Context[None]) -> int:
    """Ticks three times an hour, and once for all that it missed."""
    return len(ctx.event.missed)  # type: ignore[union-attr]


AGENTS = [payer, asker, sleeper, ticker]
Copy = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Copy]:
    """A store, and what makes a copy of it as docs/operations.md says, giving the copy's URL."""
    if request.param == "sqlite":
        file = tmp_path / "store.db"

        def copy_file() -> str:
            copy = tmp_path / "copy.db"
            subprocess.run(
                ["python3", "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))", file, copy],
                check=True,
            )  # fmt: skip
            return f"sqlite:///{copy}"

        return f"sqlite:///{file}", copy_file
    server: Postgres = request.getfixturevalue("postgres_server")
    url, other = server.new_database(), server.new_database()

    def dump() -> str:
        names = [make_url(one).database for one in (url, other)]
        at = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres"]
        assert names[0] is not None and names[1] is not None
        sql = subprocess.run([server._bin / "pg_dump", *at, names[0]], check=True, capture_output=True).stdout
        restore = [server._bin / "psql", *at, "-q", "-v", "ON_ERROR_STOP=1", names[1]]
        subprocess.run(restore, check=True, input=sql, capture_output=True)
        return other

    return url, dump


def test_a_copy_that_is_an_hour_old_goes_on_from_then(store: tuple[str, Copy]) -> None:
    """Timers fire late by their policy; what was said since is asked and sent again; replies since are lost, and an
    approval that was used since must be given anew, which runs the function a second time."""
    url, copy = store
    paid.clear()
    with Simulation(AGENTS, contacts=PEOPLE, start=START, store=url) as sim:
        sim.start(asker)
        sim.reply("alice", "seven")  # before the copy: it stays answered
        sim.advance(timedelta(minutes=2))
        sim.start(asker, key="open")
        sim.start(payer)
        sim.start(sleeper)
        sim.advance(timedelta(minutes=2))
        copied = copy()
        asked = {request.kind: request.id for request in sim.requests()}

        sim.approve(asked["approval"], by="alice")
        sim.reply("alice", "eight")
        sim.advance(HOUR)
        since = sim.now
        assert Counter(run.status for run in sim.runs()) == {"completed": 7}
        assert paid == ["INV-7"]

    with Simulation(AGENTS, contacts=PEOPLE, start=since, store=copied) as sim:
        sim.advance(timedelta(seconds=1))

        # Timers: the one that came due meanwhile fires at once, and the schedule once for all that it missed.
        [slept] = sim.runs("sleeper")
        assert slept.result == since.isoformat()
        ticks = sim.runs("ticker")
        assert [(tick.result, tick.skipped) for tick in ticks] == [(2, None)]
        # Messages: what was sent after the copy is sent again; what had gone out by then is not.
        texts = Counter(message.text for message in sim.outbox("alice"))
        assert texts["I am up."] == 1
        assert sum(count for text, count in texts.items() if text.startswith("Noted: seven")) == 1
        # Replies and decisions since then are lost: what they answered is open, and was not asked again.
        assert {request.id for request in sim.requests()} == set(asked.values())
        assert {run.status for run in sim.runs("payer") + sim.runs("asker")} == {"completed", "waiting"}
        # A decision that was used is to be made anew; the function runs again.
        sim.approve(asked["approval"], by="alice")
        assert paid == ["INV-7", "INV-7"]
        sim.reply("alice", "eight")
        sim.advance(timedelta(minutes=5))
        assert {run.status for run in sim.runs()} == {"completed"}


def test_a_file_that_is_copied_while_it_is_closed_is_a_copy(tmp_path: Path) -> None:
    """With nothing running, the SQLite file itself may be copied."""
    with Simulation(AGENTS, contacts=PEOPLE, start=START, store=tmp_path / "store.db") as sim:
        run = sim.start(asker)
    shutil.copy(tmp_path / "store.db", tmp_path / "copy.db")

    with Simulation(AGENTS, contacts=PEOPLE, start=START, store=tmp_path / "copy.db") as sim:
        sim.reply("alice", "seven")

        assert sim.run(run).result == "seven"
