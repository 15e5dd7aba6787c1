"""An agent that takes down what it is told, a message to a wake: `remember` is all that there is to exchange for another way."""

from __future__ import annotations

from wakeloop import Call, Context, agent


async def remember(ctx: Context[None], text: str) -> None:
    ctx.conversation.append("user", text)


@agent()
async def listener(ctx: Context[None]) -> None:
    """Take down one message."""
    assert isinstance(ctx.event, Call) and isinstance(ctx.event.input, str)
    await remember(ctx, ctx.event.input)
