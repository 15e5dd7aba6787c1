"""Agents whose people answer by mail, Slack, Telegram and SMS. The tests of channels run them on real workers."""

import os
from pathlib import Path

from wakeloop import ApprovalExpired, Context, Denied, Message, agent, on_message, require_approval, step

EFFECTS = Path(os.environ.get("EFFECTS", os.devnull))


def effect(name: str) -> str:
    """Something that happens outside, and is counted."""
    with EFFECTS.open("a") as file:
        file.write(name + "\n")
    return name


# ---------------------------------------------------------------------- a campaign by mail


@step
def draft(brief: str, readers: str, wishes: list[str]) -> str:
    """Stands for a model that writes."""
    return f"{brief} For {readers}." + "".join(f" ({wish})" for wish in wishes)


@require_approval("alice")
def publish(text: str) -> str:
    """Stands for the newsletter's own system."""
    return effect(f"published {text}")


@agent(on_message(channel="email", contact="alice"))
async def campaign(ctx: Context[None]) -> str:
    """A mail asks for a newsletter: clarify, draft until it is right, publish."""
    assert isinstance(ctx.event, Message)
    readers = await ctx.ask("alice", "Who is it for?")
    wishes: list[str] = []
    while True:
        text = await draft(ctx.event.text, readers.text, wishes)
        try:
            published = await publish(text)
        except Denied as no:
            wishes.append(no.comment)
        else:
            await ctx.send("alice", "It is out.")
            return published


# ---------------------------------------------------------------------- escalation to another channel


@require_approval("lead", escalate=[(1.0, "newsroom")])
def release(version: str) -> str:
    """Cannot wait until somebody reads their mail."""
    return effect(f"released {version}")


@agent()
async def releases(ctx: Context[None]) -> str:
    """Releases what it is told to."""
    try:
        return await release(ctx.event.input)
    except (Denied, ApprovalExpired) as no:
        return str(no)


# ---------------------------------------------------------------------- one person, two channels


@require_approval("erin", escalate=[(0.3, "erin", "slack")])
def transfer(label: str) -> str:
    """Must happen once."""
    return effect(f"transferred {label}")


@agent()
async def transferrer(ctx: Context[None]) -> str:
    """Transfers what it is told to, if it may."""
    try:
        return await transfer(ctx.event.input)
    except Denied as no:
        return f"denied by {no.by}"


# ---------------------------------------------------------------------- questions and notices


@agent()
async def curious(ctx: Context[None]) -> str:
    """Asks whom it is told to ask."""
    return (await ctx.ask(ctx.event.input, "Which colour?")).text


@agent()
async def herald(ctx: Context[None]) -> str:
    """Asks for a yes or no, by a person's only channel."""
    answer = await ctx.ask(ctx.event.input, "Shall I open the gate?", options=["open", "shut"])
    return effect(f"{ctx.event.input}: {answer.text}")


@agent(on_message(channel="email", contact="postbox"))
async def echo(ctx: Context[None]) -> str:
    """Repeats what it is told by mail."""
    assert isinstance(ctx.event, Message)
    return ctx.event.text
