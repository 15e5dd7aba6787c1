"""A Restate application with the handlers that are measured, as its documentation has them; Hypercorn serves it.

    python -m bench.peers.restate_app PORT        (BENCH_MARKS)

Several processes may serve the same port; the system gives connections to one or another.
"""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import time
from datetime import timedelta

import hypercorn.asyncio
import restate

from bench.fleet.marks import mark, tell

CONNECTED = timedelta(hours=1)
"""So long an invocation waits before it is suspended. By default it is a minute; what is suspended is resumed more slowly."""

bench = restate.Service("bench")


async def increment(number: int) -> int:
    return number + 1


@bench.handler()
async def count(ctx: restate.Context, steps: int) -> int:
    """So many steps, one after the other."""
    number = 0
    for _ in range(steps):
        number = await ctx.run_typed("increment", increment, number=number)
    return number


@bench.handler(inactivity_timeout=CONNECTED)
async def sleeper(ctx: restate.Context, call: list[float]) -> None:
    """Sleeps until an instant; the call is a number and that instant."""
    number, until = int(call[0]), call[1]
    # A sleep is of whole milliseconds, from a now that is cut to them: one more, lest it end before the instant.
    await ctx.sleep(timedelta(milliseconds=max(0, math.ceil((until - time.time()) * 1000) + 1)))
    mark("awake", number)


@bench.handler(inactivity_timeout=CONNECTED)
async def listener(ctx: restate.Context, number: int) -> None:
    """Waits for an answer."""
    id, answer = ctx.awakeable(type_hint=str)
    tell("awakeables", number, id)
    mark("waits", number)
    await answer
    mark("resumed", number)


def main(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), reuse_port=True) as listening:
        config = hypercorn.Config()
        config.bind = [f"fd://{listening.detach()}"]
        print("restate's application serves", flush=True)
        asyncio.run(hypercorn.asyncio.serve(restate.app([bench]), config))


if __name__ == "__main__":
    main(int(sys.argv[1]))
