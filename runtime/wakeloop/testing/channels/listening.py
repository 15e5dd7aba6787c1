"""What an adapter that fetches its messages must do, and the inlet that it hands them to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from wakeloop.channel import Channel, DeliveryUpdate, Incoming, Listening
from wakeloop.testing.channels.provider import Provider
from wakeloop.testing.channels.traits import Run, Suite, needs

PATIENCE_SECONDS = 10.0


class ListeningTests(Suite):
    """What an adapter that fetches its messages must do besides."""

    @needs("listening", "inbound")
    def test_what_comes_while_nobody_listens_is_not_missed(self, provider: Provider, run: Run) -> None:
        """Another process goes on from the cursor that the last one left."""
        first = RecordingInlet(provider.cursor)
        provider.message("one")
        run(listen(provider.channel, first, 1))
        provider.message("two")
        provider.message("three")
        other = provider.restarted()
        second = RecordingInlet(first.cursor)

        async def go_on() -> None:
            try:
                await listen(other, second, 2)
            finally:
                await other.close()

        run(go_on())

        came = [item for item in [*first.items, *second.items] if isinstance(item, Incoming)]
        said = {item.provider_id: item.text for item in came}
        assert list(said.values()) == ["one", "two", "three"], "each must come, once by its provider_id"

    @needs("listening", "inbound")
    def test_what_was_not_recorded_comes_again(self, provider: Provider, run: Run) -> None:
        """If `take` fails, the provider must not have been told that the message was taken."""
        provider.message("one")
        broken = RecordingInlet(provider.cursor, refuse=OSError("the database is away"))
        with suppress(OSError):
            run(_within(provider.channel, broken))
        inlet = RecordingInlet(broken.cursor)

        run(listen(provider.channel, inlet, 1))

        assert [item.text for item in inlet.items if isinstance(item, Incoming)] == ["one"]


class RecordingInlet:
    """What the runtime gives to `listen`: it keeps what is handed in. refuse: raise this at the first `take`, as when the
    database is away."""

    def __init__(self, cursor: str | None = None, *, refuse: Exception | None = None) -> None:
        self.cursor = cursor
        self.items: list[Incoming | DeliveryUpdate] = []
        self._refuse = refuse
        self._changed = asyncio.Condition()

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        """See wakeloop.channel.Inlet."""
        await asyncio.sleep(0)
        if self._refuse is not None:
            raise self._refuse
        async with self._changed:
            self.items += items
            self.cursor = cursor if cursor is not None else self.cursor
            self._changed.notify_all()

    async def wait_for(self, count: int) -> None:
        """Until so many have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.items) >= count)


async def listen(channel: Channel, inlet: RecordingInlet, count: int) -> None:
    """Let the adapter listen until `count` have come; what it raises is raised."""
    assert isinstance(channel, Listening), "a listening channel implements `listens` and `listen`"
    assert channel.listens, "`listens` must be true with the settings that the test gives"
    listening = asyncio.ensure_future(channel.listen(inlet))
    come = asyncio.ensure_future(inlet.wait_for(count))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait([listening, come], return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            await listening
    except TimeoutError:
        raise AssertionError(
            f"{len(inlet.items)} came within {PATIENCE_SECONDS:.0f} s of listening; {count} were awaited"
        ) from None
    finally:
        for task in (listening, come):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _within(channel: Channel, inlet: RecordingInlet) -> None:
    """Listen for a moment."""
    assert isinstance(channel, Listening)
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await channel.listen(inlet)
