"""The agents of the campaign: each does one thing that a fault may break, and leaves a mark of it outside.

A mark is one line of JSON in the file EFFECTS, written by one call, so that the order of the lines is the order in which
things happened, whatever became of the process afterwards.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from wakeloop import (
    Context,
    Denied,
    Message,
    Signal,
    Tick,
    agent,
    cron,
    every,
    on_message,
    on_signal,
    require_approval,
    step,
)

EFFECTS = os.environ.get("EFFECTS", os.devnull)
PROCESS = uuid.uuid4().hex[:12]
"""This process among all that ever ran: ids of processes are used again."""

BOSSES = tuple(f"boss{number}" for number in range(12))
CHATTERS = tuple(f"chatter{number}" for number in range(12))


def mark(**facts: Any) -> None:
    """Write a line that nothing takes back."""
    line = json.dumps({"process": PROCESS, "at": time.monotonic(), **facts}) + "\n"
    file = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


mark(what="process")


class Count(BaseModel):
    """What a session remembers: how many of its runs came to their end."""

    runs: int = 0


@step
def work(run: str, part: str, seen: str = "") -> str:
    """Takes effect outside, and gives another result each time that it runs. seen: the result of the part before."""
    result = uuid.uuid4().hex
    mark(what="step", run=run, part=part, seen=seen, result=result)
    return result


@agent(state=Count)
async def chain(ctx: Context[Count]) -> dict[str, Any]:
    """Three steps, each with the result of the one before; many runs share a session."""
    first = await work(ctx.run_id, "1")
    second = await work(ctx.run_id, "2", first)
    third = await work(ctx.run_id, "3", second)
    ctx.state.runs += 1
    return {"results": [first, second, third], "count": ctx.state.runs}


@agent(state=Count)
async def nap(ctx: Context[Count]) -> dict[str, Any]:
    """Works, sleeps for as long as it is told, and works again."""
    before = await work(ctx.run_id, "1")
    await ctx.sleep(ctx.event.input["seconds"])
    after = await work(ctx.run_id, "2", before)
    ctx.state.runs += 1
    return {"results": [before, after], "count": ctx.state.runs}


@agent()
async def ask(ctx: Context[None]) -> dict[str, Any]:
    """Asks a person by SMS."""
    told = ctx.event.input
    before = await work(ctx.run_id, "1")
    answer = await ctx.ask(told["to"], f"{told['label']}: what now?")
    after = await work(ctx.run_id, "2", before)
    return {"results": [before, after], "answer": answer.text, "by": answer.by}


def _pay(boss: str) -> Callable[[str, int], Awaitable[str]]:
    @require_approval(boss, name="pay")
    def pay(label: str, amount: int) -> str:
        result = uuid.uuid4().hex
        mark(what="paid", label=label, amount=amount, boss=boss, result=result)
        return result

    return pay  # type: ignore[no-any-return]


PAY = {boss: _pay(boss) for boss in BOSSES}


@agent()
async def buy(ctx: Context[None]) -> dict[str, Any]:
    """Pays, if it may."""
    told = ctx.event.input
    try:
        return {"paid": await PAY[told["boss"]](told["label"], told["amount"])}
    except Denied as no:
        return {"denied": no.by}


@agent()
async def child(ctx: Context[None]) -> dict[str, Any]:
    """Does a part of its parent's work."""
    return {"results": [await work(ctx.run_id, "1")], "part": ctx.event.input}


@agent()
async def family(ctx: Context[None]) -> dict[str, Any]:
    """Has two others do its work, and waits for both."""
    children = [await ctx.spawn(child, part) for part in ("left", "right")]
    results = [await one for one in children]
    done = await work(ctx.run_id, "1")
    return {
        "results": [done],
        "children": [one.id for one in children],
        "parts": [one["part"] for one in results],
    }


@agent()
async def order(ctx: Context[None]) -> dict[str, Any]:
    """Tells another session, by a signal."""
    told = ctx.event.input
    done = await work(ctx.run_id, "1")
    signal = await ctx.emit("order.placed", {"label": told["label"], "shelf": told["shelf"]})
    return {"results": [done], "signal": signal.id}


@agent(on_signal("order.placed", key="shelf{shelf}"), state=Count)
async def shelf(ctx: Context[Count]) -> dict[str, Any]:
    """Gets what was ordered, one run for each signal, from agents and from outside."""
    assert isinstance(ctx.event, Signal)
    done = await work(ctx.run_id, "1")
    ctx.state.runs += 1
    return {"results": [done], "label": ctx.event.data["label"], "count": ctx.state.runs}


@agent(on_message(contact=CHATTERS), state=Count)
async def echo(ctx: Context[Count]) -> dict[str, Any]:
    """Repeats what it is told."""
    assert isinstance(ctx.event, Message)
    ctx.state.runs += 1
    await ctx.send(ctx.event.from_, f"{ctx.event.text} to you")
    return {"text": ctx.event.text, "count": ctx.state.runs}


@agent(every(timedelta(seconds=1), overlap="allow", misfire="fire_all"), state=Count)
async def beat(ctx: Context[Count]) -> dict[str, Any]:
    """Every second, each of them, whatever was missed."""
    assert isinstance(ctx.event, Tick)
    done = await work(ctx.run_id, "1")
    ctx.state.runs += 1
    return {"results": [done], "count": ctx.state.runs}


@agent(cron("* * * * * *", overlap="skip"))
async def slow_beat(ctx: Context[None]) -> dict[str, Any]:
    """Every second, but for those that come while one is under way; one stands for all that were missed."""
    done = await work(ctx.run_id, "1")
    await ctx.sleep(1.5)
    return {"results": [done]}


@agent(cron("* * * * * */2", overlap="buffer_one", misfire="skip"))
async def patient_beat(ctx: Context[None]) -> dict[str, Any]:
    """Every two seconds; one waits while another is under way, and what was missed is skipped."""
    done = await work(ctx.run_id, "1")
    await ctx.sleep(1.0)
    return {"results": [done]}
