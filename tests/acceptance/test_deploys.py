"""Deploys with real processes: a worker that ends hands its work on, and old and new code work side by side."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from tests.acceptance.plant import BIN, SETTINGS, Plant, make_plant
from tests.servers import Postgres, Program, Redis, poll

from wakeloop.registry import Registry, load_folder

pytestmark = pytest.mark.timeout(300)

HEAD = """
import asyncio
import os
from pathlib import Path

from wakeloop import Context, agent, step


def note(what: str) -> int:
    effects = Path(os.environ["EFFECTS"])
    with effects.open("a") as file:
        file.write(what + "\\n")
    return effects.read_text().split().count(what)
"""

SLOW = (
    HEAD
    + """

@step
async def short() -> None:
    note("short")
    await asyncio.sleep(1)


@step
async def long() -> None:
    if note("long") == 1:
        await asyncio.sleep(600)


@agent()
async def worker_bee(ctx: Context[None]) -> str:
    await (short() if ctx.event.input == "short" else long())
    await ctx.sleep(0.5)
    return "done"
"""
)

BEFORE = (
    HEAD
    + """

@step
def old_rate() -> str:
    note("old_rate")
    return "old"


@agent()
async def quote(ctx: Context[None]) -> str:
    rate = await old_rate()
    await ctx.sleep(float(ctx.event.input))
    return rate
"""
)

AFTER = (
    HEAD
    + """

@step
def old_rate() -> str:
    note("old_rate")
    return "old"


@step
def new_rate() -> str:
    note("new_rate")
    return "new"


@agent()
async def quote(ctx: Context[None]) -> str:
    rate = await (new_rate() if ctx.patched("new-rate") else old_rate())
    await ctx.sleep(float(ctx.event.input))
    return rate


@agent()
async def novel(ctx: Context[None]) -> str:
    await ctx.sleep(0.5)
    return "done"
"""
)

LONG_LEASE = SETTINGS.replace("lease_seconds = 3", "lease_seconds = 120\nstop_grace_seconds = 3")


@pytest.fixture
def servers(postgres_server: Postgres, redis_server: Redis) -> tuple[Postgres, Redis]:
    return postgres_server, redis_server


def test_a_worker_that_is_told_to_end_finishes_what_is_short_and_hands_back_what_is_long(
    tmp_path: Path, servers: tuple[Postgres, Redis]
) -> None:
    """SIGTERM: it ends by itself within the grace period, and the next worker waits for no lease to run out."""
    with make_plant(tmp_path, *servers, agents={"bee.py": SLOW}, settings=LONG_LEASE) as plant:
        with plant.worker("first") as first:
            first.wait_for("ready.")
            plant.start("worker_bee", "short", key="short")
            plant.start("worker_bee", "long", key="long")
            for _ in poll(30):
                if {"short", "long"} <= set(plant.effects_of("")):
                    break
            began = time.monotonic()
            first.send(signal.SIGTERM)
            status = first.wait(30)
            took = time.monotonic() - began
        with plant.worker("second"):
            began = time.monotonic()
            runs = plant.wait_until_over("worker_bee", 2, seconds=60)
            waited = time.monotonic() - began

    assert status == 0
    assert took < 3 + 20, "what compose's stop_grace_period leaves room for"
    assert waited < 60, "the lease would have lasted for two minutes"
    assert [run.status for run in runs] == ["completed"] * 2
    assert plant.effects_of("") == {"short": 1, "long": 2}


class Deploy:
    """A plant whose own folder has the old code, and a second folder with the new."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self._folder = plant.folder / "new"
        (self._folder / "agents").mkdir(parents=True)
        (self._folder / "agents" / "quote.py").write_text(AFTER)
        (self._folder / "wakeloop.toml").write_text((plant.folder / "wakeloop.toml").read_text())

    def old(self) -> Program:
        return self.plant.worker("old")

    def new(self) -> Program:
        argv = [BIN / "celery", "-A", "wakeloop", "worker", "-n", "new@here", "-c", "8", "-l", "INFO"]
        return Program(argv, env=self.plant.environment, cwd=self._folder)

    def look_with_new_code(self) -> None:
        """From here on the test itself, which starts runs, knows the new agents too."""
        self.plant.runtime.world.registry = Registry(load_folder(self._folder / "agents").agents)


@pytest.fixture
def deploy(tmp_path: Path, servers: tuple[Postgres, Redis]) -> Iterator[Deploy]:
    with make_plant(tmp_path, *servers, agents={"quote.py": BEFORE}) as plant:
        yield Deploy(plant)


def test_old_and_new_code_work_side_by_side_while_runs_are_asleep(deploy: Deploy) -> None:
    """An agent that the old worker does not know is left for the new one; runs go on by the way they began."""
    plant = deploy.plant
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(deploy.old())
        plant.start("quote", "12", key="asleep")
        old.wait_for("run waits")
        new = stack.enter_context(deploy.new())
        new.wait_for("ready.")
        deploy.look_with_new_code()
        for number in range(4):
            plant.start("novel", "", key=str(number))
        novel = plant.wait_until_over("novel", 4, seconds=60)

        old.send(signal.SIGTERM)
        assert old.wait(40) == 0
        plant.start("quote", "0.5", key="fresh")
        quotes = plant.wait_until_over("quote", 2, seconds=60)

        said = old.output

    assert [run.status for run in novel] == ["completed"] * 4
    assert "unregistered" not in said
    assert {run.key: (run.status, run.result) for run in quotes} == {
        "asleep": ("completed", "old"),
        "fresh": ("completed", "new"),
    }
    assert plant.effects_of("") == {"old_rate": 1, "new_rate": 1}


def test_a_run_of_new_code_that_wakes_on_an_old_worker_is_parked_and_can_be_retried(deploy: Deploy) -> None:
    """Side by side, the old code cannot know of a patch: nothing is lost, and nothing is done twice."""
    plant = deploy.plant
    deploy.look_with_new_code()
    with deploy.new() as new:
        run = plant.start("quote", "3")
        new.wait_for("run waits")
    with deploy.old():
        stuck = plant.wait_until_over("quote", 1, seconds=60)
    with deploy.new():
        plant.runtime.operations.retry(UUID(run))
        for _ in poll(60):
            if (done := plant.runs("quote"))[0].status == "completed":
                break

    assert stuck[0].status == "stuck"
    assert "ctx.patched" in str(stuck[0].error)
    assert [(one.status, one.result) for one in done] == [("completed", "new")]
    assert plant.effects_of("") == {"new_rate": 1}
