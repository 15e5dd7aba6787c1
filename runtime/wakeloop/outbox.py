"""Makes deliveries: hands recorded messages to channels, and settles what became of each."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from wakeloop import crashpoints
from wakeloop.channel import Channel, DeliveryStatus, Outgoing, Receipt
from wakeloop.desk import Desk
from wakeloop.errors import ChannelError, NotFound, PermanentChannelError, TemporaryChannelError
from wakeloop.logs import get_logger
from wakeloop.store import outbox, received
from wakeloop.store.database import Database
from wakeloop.world import World

log = get_logger("wakeloop.outbox")

SEND_SECONDS = 15.0
TRIES = 8
LONGEST_WAIT_SECONDS = 900.0
RECONCILE_SECONDS = 5.0
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What came of an attempt: a receipt, or an error to be tried again after `again` seconds, or for good."""

    receipt: Receipt | None = None
    status: DeliveryStatus = DeliveryStatus.SENT
    error: str | None = None
    again: float | None = None


class Outbox:
    """Makes deliveries that are claimed by id.

    A delivery that an earlier sender left in the middle is never simply sent again: where the channel takes an
    idempotency key sending is repeated with the same one; where it can list what was sent, the list is asked first.
    What fails for good falls through to the contact's next channel; out of channels, a question's asker is told.
    """

    def __init__(
        self,
        *,
        database: Database,
        world: World,
        desk: Desk,
        channels: Mapping[str, Channel],
        send_seconds: float = SEND_SECONDS,
    ) -> None:
        """`send_seconds`: how long an attempt may take; its outcome is unknown after that. A delivery is claimed for
        twice as long, so that nobody looks for one that is still being sent."""
        self._database = database
        self._world = world
        self._desk = desk
        self._channels = channels
        self._send_seconds = send_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{random.SystemRandom().getrandbits(32):08x}"

    async def deliver(self, ids: Sequence[str], changed: Callable[[], None] = lambda: None) -> None:
        """Make these deliveries if they are still to be made; each has an outcome on record afterwards.

        `changed` is called when that made something else due."""
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(None, self._claim, [UUID(id) for id in ids])
        crashpoints.reach("outbox.claimed")
        await asyncio.gather(*(self._make(row) for row in rows))
        if rows:
            changed()

    async def _make(self, row: Any) -> None:
        sent = await self._attempt(row)
        if sent.receipt is not None:
            crashpoints.reach("outbox.sent")
        await asyncio.get_running_loop().run_in_executor(None, self.record, row, sent)

    def _claim(self, ids: Sequence[UUID]) -> list[Any]:
        def work() -> list[Any]:
            with self._database.begin() as connection:
                now = self._database.now()
                until = now + timedelta(seconds=2 * self._send_seconds)
                return outbox.claim(connection, ids, owner=self._owner, now=now, until=until)

        return self._database.retrying(work, seconds=PATIENCE_SECONDS)

    async def _attempt(self, row: Any) -> _Sent:
        channel = self._channels.get(row.channel)
        if channel is None:
            return _Sent(status=DeliveryStatus.FAILED, error=f"channel {row.channel} is not set up")
        if row.opted_out:
            return _Sent(status=DeliveryStatus.FAILED, error="the person asked not to be written to")
        message = Outgoing(
            key=str(row.id),
            address=row.address,
            text=row.text,
            subject=row.subject,
            claimed_at=row.claimed_at or self._database.now(),
        )
        try:
            async with asyncio.timeout(self._send_seconds):
                if row.status != DeliveryStatus.PENDING and channel.capabilities.reconcile:
                    found = await channel.find_sent(message, self._known(row, message.claimed_at))
                    if found is not None:
                        log.info("found sent before a crash", delivery=str(row.id))
                        return _Sent(receipt=found, status=found.status)
                receipt = await channel.send(message)
                return _Sent(receipt=receipt, status=receipt.status)
        except PermanentChannelError as error:
            return _Sent(status=DeliveryStatus.FAILED, error=_words(error))
        except TemporaryChannelError as error:
            if row.tries + 1 >= TRIES:
                return _Sent(
                    status=DeliveryStatus.FAILED, error=f"given up after {TRIES} attempts: {_words(error)}"
                )
            wait = error.retry_after if error.retry_after is not None else _backoff(row.tries + 1)
            return _Sent(status=DeliveryStatus.PENDING, error=_words(error), again=wait)
        except Exception as error:
            log.warning("a delivery's outcome is unknown", delivery=str(row.id), error=type(error).__name__)
            if row.tries + 1 >= TRIES:
                return _Sent(
                    status=DeliveryStatus.FAILED, error=f"given up after {TRIES} attempts: {error!r}"
                )
            return _Sent(status=DeliveryStatus.UNKNOWN, error=repr(error), again=RECONCILE_SECONDS)

    def record(self, row: Any, sent: _Sent) -> None:
        """Record what came of an attempt, and what follows from it, in one transaction."""

        def work() -> None:
            with self._database.begin() as connection:
                now = self._database.now()
                status, error, provider_id = (
                    sent.status,
                    sent.error,
                    sent.receipt.provider_id if sent.receipt else None,
                )
                due = None if sent.again is None else now + timedelta(seconds=sent.again)
                written = outbox.record(
                    connection,
                    row.id,
                    owner=self._owner,
                    status=status,
                    now=now,
                    due_at=due,
                    provider_id=provider_id,
                    error=error,
                )
                if written and status is DeliveryStatus.FAILED:
                    self.fall_through(connection, row.message_id, error or "", now=now)

        self._database.retrying(work, seconds=self._send_seconds)
        if sent.receipt is not None:
            log.info("message out", channel=row.channel, contact=row.contact)

    def fall_through(self, connection: Connection, message_id: UUID, reason: str, *, now: datetime) -> None:
        """A delivery failed for good: try the contact's next channel, or tell whoever asked that there is none."""
        message = received.message(connection, message_id)
        if message is None or message.contact is None:
            return
        tried = outbox.tried_channels(connection, message_id)
        try:
            route = self._world.people.route(message.contact, message.via)
        except NotFound:
            route = []
        for channel, address in route:
            if channel not in tried:
                id = self._world.ids.new_id()
                outbox.add_delivery(connection, id, message_id, message.contact, channel, address, now=now)
                outbox.set_channel(connection, message_id, channel)
                log.info("next channel", message=str(message_id), channel=channel)
                return
        log.warning("undeliverable", message=str(message_id), contact=message.contact)
        if message.request_id is not None:
            self._desk.undeliverable(connection, message.request_id, message.contact, reason, now=now)

    def _known(self, row: Any, since: datetime) -> frozenset[str]:
        with self._database.read() as connection:
            return outbox.provider_ids(connection, row.channel, row.contact, since - timedelta(days=1))


def _words(error: ChannelError) -> str:
    return f"{error.code}: {error}" if error.code else str(error)


def _backoff(tries: int) -> float:
    return float(min(LONGEST_WAIT_SECONDS, 5.0 * 2 ** (tries - 1)))
