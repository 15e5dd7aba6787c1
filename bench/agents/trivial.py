"""Agents that do nothing but take trivial steps, so that what a run and a step cost is all that they cost."""

from __future__ import annotations

from wakeloop import Call, Context, agent, step


@step
async def increment(number: int) -> int:
    return number + 1


@agent()
async def count(ctx: Context[None]) -> int:
    """Take as many steps as it was told, one after the other."""
    assert isinstance(ctx.event, Call) and isinstance(ctx.event.input, int)
    number = 0
    for _ in range(ctx.event.input):
        number = await increment(number)
    return number
