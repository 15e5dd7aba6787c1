"""What a run held in memory is freed with its turn, without a look for cyclic garbage."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from wakeloop import Agent, Context, agent, step
from wakeloop.engine.execution import Execution
from wakeloop.engine.loop import DeterministicLoop, DurableTask
from wakeloop.testing import Simulation
from wakeloop.turn import Turn

HELD = (Turn, Execution, Context, DeterministicLoop, DurableTask)


class Count(BaseModel):
    """A state."""

    times: int = 0


@step
async def add(number: int) -> int:
    return number + 1


@step(retries=0)
def refuse() -> None:
    raise ValueError("no")


@agent(state=Count)
async def worker(ctx: Context[Count]) -> int:
    """Works, side by side, and ends."""
    ctx.state.times += 1
    results = await asyncio.gather(add(1), add(2))
    async with asyncio.timeout(60):
        await ctx.sleep(5)
    return sum(results)


@agent()
async def sleeper(ctx: Context[None]) -> None:
    """Sleeps longer than anybody waits."""
    await ctx.sleep(timedelta(days=30))


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks."""
    return (await ctx.ask("ann", "Well?")).text or ""


@agent()
async def failure(ctx: Context[None]) -> None:
    """Fails, by what a step raised."""
    await refuse()


@pytest.fixture(autouse=True)
def _nobody_looks() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> dict[str, int]:
    """What is in memory of runs."""
    return dict(Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, HELD)))


@pytest.mark.parametrize(
    ("of", "then", "status"),
    [
        (worker, lambda sim: sim.advance(10), "completed"),
        (sleeper, lambda sim: sim.advance(10), "waiting"),
        (asker, lambda sim: sim.reply("ann", "fine"), "completed"),
        (failure, lambda sim: None, "failed"),
    ],
    ids=["completed", "asleep", "answered", "failed"],
)
def test_nothing_of_a_run_stays_when_its_turn_is_over(
    of: Agent, then: Callable[[Simulation], Any], status: str
) -> None:
    """However it ended. A worker that has thousands of runs under way would have them all looked through for those that are
    over."""
    with Simulation([of], contacts={"ann": {"sms": "+15555550100"}}) as sim:
        run = sim.start(of)
        then(sim)

        assert sim.run(run).status == status
        assert held() == {}


def test_nothing_of_a_run_stays_that_was_ended_from_outside() -> None:
    """It was asleep, and sees CancelledError."""
    with Simulation([sleeper]) as sim:
        run = sim.start(sleeper)
        sim.cancel(run)

        assert sim.run(run).status == "cancelled"
        assert held() == {}
