"""Changes messages that were sent: each shows how its request ended, where the channel can do that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from wakeloop import crashpoints
from wakeloop.attempts import failure_words, most_tries, wait_seconds
from wakeloop.channel import Amending, Sender, Sent
from wakeloop.errors import PermanentChannelError, TemporaryChannelError
from wakeloop.logs import get_logger
from wakeloop.store import amendments
from wakeloop.store.database import Database

log = get_logger("wakeloop.amending")


def amends(channel: Sender | None) -> bool:
    """Whether a channel changes what it has sent."""
    return channel is not None and channel.capabilities.amends and isinstance(channel, Amending)


class Amender:
    """Makes amendments that were taken from the store (`store.amendments.take`).

    To amend twice does no harm, so there is nothing to look up after a crash: what is not on record as done is done
    again. What fails for a time is tried again as deliveries are; given up, or refused for good, it is logged, and the
    message stays as it was."""

    def __init__(
        self, *, database: Database, channels: Mapping[str, Sender], seconds: float, patience: float
    ) -> None:
        """`seconds`: how long an attempt may take; patience: how long an outage of the database is waited out."""
        self._database = database
        self._channels = channels
        self._seconds = seconds
        self._patience = patience

    async def amend(self, taken: Sequence[Any]) -> None:
        """Make these, all at once, and record what came of each."""
        await asyncio.gather(*(self._make(row) for row in taken))

    async def _make(self, row: Any) -> None:
        wait = await self._attempt(row)
        await asyncio.get_running_loop().run_in_executor(None, self._record, row, wait)

    async def _attempt(self, row: Any) -> float | None:
        """How long to wait before it is tried again; None if it is over."""
        channel = self._channels.get(row.channel)
        if row.provider_id is None or channel is None or not isinstance(channel, Amending):
            self._give_up(row, "the channel cannot change it")
            return None
        sent = Sent(provider_id=row.provider_id, address=row.address, text=row.said, subject=row.subject)
        try:
            async with asyncio.timeout(self._seconds):
                await channel.amend(sent, row.text)
        except PermanentChannelError as error:
            self._give_up(row, failure_words(error))
            return None
        except TemporaryChannelError as error:
            reason, retry_after = failure_words(error), error.retry_after
        except Exception as error:
            reason, retry_after = repr(error), None
        else:
            crashpoints.reach("outbox.amended")
            log.info("message amended", channel=row.channel, contact=row.contact)
            return None
        if row.tries >= most_tries(channel.capabilities):
            self._give_up(row, f"after {row.tries} attempts: {reason}")
            return None
        return wait_seconds(channel.capabilities, row.tries, retry_after)

    def _give_up(self, row: Any, reason: str) -> None:
        log.warning(
            "a message stays as it was sent", delivery=str(row.delivery_id), channel=row.channel,
            contact=row.contact, error=reason,
        )  # fmt: skip

    def _record(self, row: Any, wait: float | None) -> None:
        def work() -> None:
            with self._database.begin() as connection:
                due = None if wait is None else self._database.now() + timedelta(seconds=wait)
                amendments.record(connection, row.delivery_id, due_at=due)

        self._database.retrying(work, seconds=self._patience)
