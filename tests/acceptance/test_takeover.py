"""How soon what a killed worker had in hand goes on, and a reply when nobody can be told of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.plant import SETTINGS, Plant, make_plant
from tests.servers import Postgres, Program, Redis, free_port

pytestmark = pytest.mark.timeout(300)

LEASE_SECONDS = 120
HELD = 6

AGENTS = """
import asyncio
import os
from pathlib import Path

from wakeloop import Context, agent, step

EFFECTS = Path(os.environ["EFFECTS"])


@step
async def hold(label: str) -> str:
    with EFFECTS.open("a") as file:
        file.write(label + "\\n")
    if EFFECTS.read_text().split().count(label) == 1:
        await asyncio.sleep(600)
    return label


@agent()
async def holder(ctx: Context[None]) -> str:
    return await hold(ctx.event.input)


@agent()
async def asker(ctx: Context[None]) -> str:
    return (await ctx.ask("alice", "go on?")).text
"""


@pytest.fixture
def plant(tmp_path: Path, postgres_server: Postgres, redis_server: Redis) -> Iterator[Plant]:
    settings = SETTINGS.replace("lease_seconds = 3", f"lease_seconds = {LEASE_SECONDS}")
    with make_plant(
        tmp_path, postgres_server, redis_server, agents={"holding.py": AGENTS}, settings=settings
    ) as plant:
        yield plant


def test_steps_of_a_worker_that_was_killed_go_on_long_before_its_lease_is_over(plant: Plant) -> None:
    """Another worker of the machine sees that the process is gone; what itself is in the middle of, it goes on with."""
    with plant.worker("first") as first:
        first.wait_for("ready.")
        for number in range(HELD):
            plant.start("holder", f"held-{number}", key=str(number))
        _wait_for_effects(plant, HELD)
        with plant.worker("second") as second:
            second.wait_for("ready.")
            before = plant.effects_of("held-")
            first.kill()
            begun = time.monotonic()
            runs = plant.wait_until_over("holder", HELD, seconds=LEASE_SECONDS / 2)
            taken = time.monotonic() - begun

    assert set(before.values()) == {1}
    assert Counter(run.status for run in runs) == {"completed": HELD}
    assert set(plant.effects_of("held-").values()) == {2}
    assert taken < LEASE_SECONDS / 2


def test_a_worker_that_begins_again_takes_up_what_it_held_when_it_was_killed(plant: Plant) -> None:
    """The only one of a machine need not wait for its own lease."""
    with plant.worker("only") as only:
        only.wait_for("ready.")
        plant.start("holder", "held")
        _wait_for_effects(plant, 1)
        only.kill()
        only.start()
        runs = plant.wait_until_over("holder", 1, seconds=LEASE_SECONDS / 2)

    assert [(run.status, run.result) for run in runs] == [("completed", "held")]


def test_a_reply_is_found_by_a_worker_if_the_web_process_cannot_reach_the_broker(plant: Plant) -> None:
    """Then it is only slower; what was said is answered and recorded as ever."""
    broker = plant.environment["WAKELOOP_BROKER_URL"]
    plant.environment["WAKELOOP_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    web: Program = plant.web()
    plant.environment["WAKELOOP_BROKER_URL"] = broker
    with web, plant.worker("worker") as worker:
        web.wait_for("wakeloop web on")
        worker.wait_for("ready.")
        plant.start("asker", "")
        question = plant.twilio.wait_for(1, timeout=60)[0]
        status = plant.twilio.reply("yes", from_=question.to).status
        runs = plant.wait_until_over("asker", 1, seconds=60)

    assert status == 200
    assert [(run.status, run.result) for run in runs] == [("completed", "yes")]


def _wait_for_effects(plant: Plant, count: int) -> None:
    deadline = time.monotonic() + 60
    while sum(plant.effects_of("held").values()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
