"""The agents that the works of bench/fleet run."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

from bench.fleet.marks import mark

from wakeloop import Call, Context, agent, cron, step

RELEASED = Path(os.environ["BENCH_RELEASED"])
STEP_SECONDS = 600.0


def is_released() -> bool:
    """Whether the process was killed once."""
    return RELEASED.exists()


@agent()
async def sleeper(ctx: Context[None]) -> None:
    """Sleeps until an instant."""
    number, until = ctx.event.input
    await ctx.sleep_until(datetime.fromtimestamp(until, UTC))
    mark("awake", number)


@agent()
async def asker(ctx: Context[None]) -> None:
    """Waits for the answer to a question."""
    number = ctx.event.input
    await ctx.ask(f"c{number}", "Go on?")
    mark("resumed", number)


@agent()
async def listener(ctx: Context[None]) -> None:
    """Waits for a message of one person."""
    number = ctx.event.input
    await ctx.receive(from_=f"c{number}")
    mark("resumed", number)


@step
async def hold(number: int) -> int:
    """Is not over before the process is killed; the second time it is at once."""
    mark("held", number)
    if not is_released():
        await asyncio.sleep(STEP_SECONDS)
    return number


@agent()
async def stepper(ctx: Context[None]) -> None:
    """Is in the middle of a step."""
    mark("stepped", await hold(ctx.event.input))


@agent()
async def present(ctx: Context[None]) -> None:
    """Tells which worker it runs in."""
    mark("present", os.getpid())


@agent()
async def plain(ctx: Context[None]) -> None:
    """Does nothing but run."""
    mark("plain", ctx.event.input)


@agent()
async def ticker(ctx: Context[None]) -> None:
    """Gives itself a schedule when it is called, and notes its ticks."""
    if isinstance(ctx.event, Call):
        ctx.schedule.set(cron(ctx.event.input))
    else:
        mark("tick", int(ctx.session.rpartition("/")[2]))
