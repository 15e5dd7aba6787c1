"""What the tests of every channel share: it is used on a loop of its own, as a process would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from wakeloop.channel import Channel, Outgoing, Receipt

C = TypeVar("C", bound=Channel)
T = TypeVar("T")


def using(channel: C, use: Callable[[C], Awaitable[T]]) -> T:
    """Run `use` on a loop of its own, and close the channel's connections there."""

    async def run() -> T:
        try:
            return await use(channel)
        finally:
            await channel.close()

    return asyncio.run(run())


def send(channel: Channel, message: Outgoing) -> Receipt:
    return using(channel, lambda it: it.send(message))


def find_sent(channel: Channel, message: Outgoing, *known: str) -> Receipt | None:
    return using(channel, lambda it: it.find_sent(message, frozenset(known)))
