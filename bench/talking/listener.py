"""An agent that takes down what it is told, a message to a wake: `remember` is all that there is to exchange for another way."""

from __future__ import annotations

from pydantic import BaseModel

from wakeloop import Context, agent


class Talk(BaseModel):
    messages: list[str] = []


def remember(ctx: Context[Talk], text: str) -> None:
    ctx.state.messages.append(text)


@agent(state=Talk)
async def listener(ctx: Context[Talk]) -> None:
    """Take down one message."""
    remember(ctx, ctx.event.input)
