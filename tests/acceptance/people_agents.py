"""Agents that ask people for answers and for permission. The plant of test_humans_agents.py runs them on real workers."""

import asyncio
import os
from collections.abc import Awaitable
from datetime import date
from pathlib import Path

from pydantic import BaseModel

from wakeloop import Agent, ApprovalExpired, Context, Denied, agent, require_approval, step

EFFECTS = Path(os.environ.get("EFFECTS", os.devnull))
TIMEOUT_SECONDS = 2.0
"""Of `claimant`'s requests."""


def effect(name: str) -> str:
    """Something that happens outside, and is counted."""
    with EFFECTS.open("a") as file:
        file.write(name + "\n")
    return name


async def outcome_of(call: Awaitable[str]) -> str:
    """What a gated call came to, in words."""
    try:
        return await call
    except Denied as no:
        return f"denied by {no.by}: {no.comment}"
    except ApprovalExpired:
        return "expired"


# ---------------------------------------------------------------------- different approvers per tool


@require_approval("cfo")
def pay(invoice: str) -> str:
    """Money, which the chief financial officer lets go."""
    return effect(f"paid {invoice}")


@require_approval("head_of_marketing")
def announce(words: str) -> str:
    """Words, which the head of marketing answers for."""
    return effect(f"announced {words}")


@agent()
async def launch(ctx: Context[None]) -> list[str]:
    """Uses both tools at once."""
    label = ctx.event.input
    return list(await asyncio.gather(outcome_of(pay(label)), outcome_of(announce(label))))


# ---------------------------------------------------------------------- two people and a feedback loop


class Starter(BaseModel):
    """What HR must tell about somebody who starts."""

    name: str
    first_day: date
    remote: bool


@step
def welcome(starter: Starter, notes: list[str]) -> str:
    """Stands for a model that writes, and takes notes into account."""
    place = "from home" if starter.remote else "at the office"
    text = f"Welcome {starter.name}, you start {place} on {starter.first_day:%d %B %Y}."
    return " ".join([text, *(f"P.S. {note}." for note in notes)])


@require_approval("manager")
def mail(to: str, text: str) -> str:
    """Stands for a mail to somebody outside."""
    return effect(f"mailed {to}: {text}")


@agent()
async def onboarding(ctx: Context[None]) -> str:
    """Asks HR for the details, and the manager until the words are right."""
    starter = (await ctx.ask("hr", "Who starts next?", answer=Starter)).value
    notes: list[str] = []
    while True:
        text = await welcome(starter, notes)
        try:
            sent = await mail(starter.name, text)
            break
        except Denied as no:
            notes.append(no.comment)
    for contact in ("hr", "manager"):
        await ctx.send(contact, f"{starter.name} has been welcomed.")
    return sent


# ---------------------------------------------------------------------- escalation


@require_approval("oncall", escalate=[(1.0, "backup"), (2.0, "oncall", "console")])
def restart(service: str) -> str:
    """Cannot wait for somebody who sleeps."""
    return effect(f"restarted {service}")


@agent()
async def outage(ctx: Context[None]) -> str:
    """Asks one person, then another too, then the first one by another channel."""
    return await restart(ctx.event.input)


# ---------------------------------------------------------------------- races


@require_approval("treasurer")
def transfer(label: str) -> str:
    """Must happen once."""
    return effect(f"transferred {label}")


@agent()
async def transferrer(ctx: Context[None]) -> str:
    """Transfers what it is told to."""
    return await outcome_of(transfer(ctx.event.input))


@require_approval("judge", timeout=TIMEOUT_SECONDS)
def claim(label: str) -> str:
    """Is good for a moment only."""
    return effect(f"claimed {label}")


@agent()
async def claimant(ctx: Context[None]) -> str:
    """Claims, if it may in time."""
    return await outcome_of(claim(ctx.event.input))


@agent()
async def curious(ctx: Context[None]) -> str:
    """Asks a question, of which there are many."""
    return (await ctx.ask("alice", f"Question {ctx.event.input}?")).text


# ---------------------------------------------------------------------- workers that die


@require_approval("owner")
def launch_rocket(name: str) -> str:
    """Is never repeated: a step that may not be."""
    return effect(f"launched {name}")


@require_approval("owner")
@step(retries=3)
def book(name: str) -> str:
    """May be repeated, if a crash left it in doubt."""
    return effect(f"booked {name}")


def doomed(queue: str) -> Agent:
    """An agent whose work only the workers of one queue take."""

    @agent(name=queue, queue=queue)
    async def handler(ctx: Context[None]) -> str:
        return await (book(queue) if ctx.event.input == "book" else launch_rocket(queue))

    return handler


first = doomed("first")
second = doomed("second")
third = doomed("third")
