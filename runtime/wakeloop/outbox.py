"""Makes deliveries: hands recorded messages to channels, and settles what became of each."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from wakeloop import crashpoints, meters, tracing
from wakeloop.amending import Amender, amends
from wakeloop.attempts import failure_words, may_double, most_tries, wait_seconds
from wakeloop.channel import DeliveryStatus, Outgoing, Receipt, Sender
from wakeloop.composing import Composed, Composer
from wakeloop.desk import Desk
from wakeloop.errors import NotFound, PermanentChannelError, TemporaryChannelError
from wakeloop.logs import get_logger
from wakeloop.pacing import HOUR, Circumstances, Pace, Plan, Recent, Waiting, Why, joined, plan
from wakeloop.store import amendments, claims, outbox, received
from wakeloop.store import requests as request_store
from wakeloop.store.database import Database
from wakeloop.world import World

log = get_logger("wakeloop.outbox")

SEND_SECONDS = 15.0
RECONCILE_SECONDS = 5.0
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """What came of an attempt: a receipt, or an error to be tried again after `again` seconds (or at a time), or for
    good. cause: the exception that it was."""

    receipt: Receipt | None = None
    status: DeliveryStatus = DeliveryStatus.SENT
    error: str | None = None
    again: float | datetime | None = None
    cause: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class _Claimed:
    """A message for the provider, until when it is claimed, and the delivery of it, or the first of a bundle, as it was
    before the claim. not_before: if it has not left yet, it must not before that time. composed: what goes with it.
    traces: of those that go with it in one message."""

    row: Any
    text: str
    until: datetime
    not_before: datetime | None = None
    composed: Composed = field(default_factory=Composed)
    traces: Sequence[str | None] = ()


class Outbox:
    """Makes deliveries that are claimed by id.

    A delivery that an earlier sender left in the middle is never simply sent again: where the channel takes an
    idempotency key sending is repeated with the same one; where it can list what was sent, the list is asked first.
    What fails for good falls through to the contact's next channel; out of channels, a question's asker is told.

    Ids of deliveries whose messages are to be amended come in the same way: see `wakeloop.amending`.

    What is claimed goes by the pace that people are written to: see `wakeloop.pacing`. What goes together is recorded
    with the claim, before it is sent, so that after a crash it is the same message.
    """

    def __init__(
        self,
        *,
        database: Database,
        world: World,
        desk: Desk,
        channels: Mapping[str, Sender],
        send_seconds: float = SEND_SECONDS,
        pace: Pace | None = None,
    ) -> None:
        """`send_seconds`: how long an attempt may take; its outcome is unknown after that. A delivery is claimed for
        twice as long, and for that of those to the same address before it, so that nobody looks for one that is still
        being sent."""
        self._database = database
        self._world = world
        self._desk = desk
        self._channels = channels
        self._send_seconds = send_seconds
        self._pace = pace or Pace()
        self._composer = Composer(desk=desk, channels=channels)
        self._amender = Amender(
            database=database, channels=channels, seconds=send_seconds, patience=PATIENCE_SECONDS
        )
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{random.SystemRandom().getrandbits(32):08x}"

    async def deliver(self, ids: Sequence[str], changed: Callable[[], None] = lambda: None) -> None:
        """Make these deliveries, and whatever else is due to the same people, if they are still to be made and may be
        made now; each that was made has an outcome on record afterwards. Those to one address go one after another.
        Amend the messages of those that are to be amended.

        `changed` is called when that made something else due."""
        loop = asyncio.get_running_loop()
        claimed, amended = await loop.run_in_executor(None, self._claim, [UUID(id) for id in ids])
        crashpoints.reach("outbox.claimed")
        by_address: dict[tuple[str, str], list[_Claimed]] = defaultdict(list)
        for one in claimed:
            by_address[self._queue(one.row.channel, one.row.address, one.row.id)].append(one)
        making = [self._make_in_order(theirs) for theirs in by_address.values()]
        await asyncio.gather(*making, self._amender.amend(amended))
        if claimed or amended:
            changed()

    async def _make_in_order(self, claimed: Sequence[_Claimed]) -> None:
        for one in claimed:
            if self._database.now() + timedelta(seconds=self._send_seconds) > one.until:
                # Whoever has it by then would take it for one that may have left.
                log.warning("a claim ran out before its turn", delivery=str(one.row.id))
                return
            sent = await self._traced(one)
            meters.DELIVERY_ATTEMPTS.labels(one.row.channel, str(sent.status)).inc()
            if sent.receipt is not None:
                crashpoints.reach("outbox.sent")
            await asyncio.get_running_loop().run_in_executor(None, self.record, one.row, sent)

    def _claim(self, ids: Sequence[UUID]) -> tuple[list[_Claimed], list[Any]]:
        """The deliveries that are to be made now, and the amendments."""

        def work() -> tuple[list[_Claimed], list[Any]]:
            with self._database.begin() as connection:
                now = self._database.now()
                until = now + timedelta(seconds=2 * self._send_seconds)
                return (
                    self._plan_and_claim(connection, ids, now),
                    amendments.take(connection, ids, until=until),
                )

        return self._database.retrying(work, seconds=PATIENCE_SECONDS)

    def _plan_and_claim(self, connection: Connection, ids: Sequence[UUID], now: datetime) -> list[_Claimed]:
        people = claims.lock_people(connection, ids, now=now)
        rows = {row.id: row for row in claims.waiting(connection, people, now=now)}
        if not rows:
            return []
        made = plan(
            [self._waiting(row) for row in rows.values()],
            Circumstances(
                now=now, pace=self._pace, recent=self._recent(connection, people, now),
                heard=self._heard(connection, people, now), quiet_until=lambda contact: self._quiet_until(contact, now),
                max_length=self._max_length,
            ),
        )  # fmt: skip
        self._put_off(connection, made, rows)
        claims.bundle(connection, [one.ids for one in made.parcels if len(one.ids) > 1], now=now)
        places: dict[tuple[str, str], int] = defaultdict(int)
        until: dict[UUID, datetime] = {}
        for parcel in made.parcels:
            queue = self._queue(parcel.channel, parcel.address, parcel.ids[0])
            places[queue] += 1
            place = places[queue]
            until[parcel.ids[0]] = now + timedelta(seconds=2 * self._send_seconds * place)
        claims.take(connection, until, owner=self._owner, now=now)
        led = [id for id in until if rows[id].bundle is not None]
        members = claims.members(connection, led)
        texts = {id: joined(row.text for row in found) for id, found in members.items()}
        composed = self._composer.compose(connection, [rows[id] for id in until])
        return [
            _Claimed(
                row=rows[parcel.ids[0]],
                text=texts.get(parcel.ids[0]) or joined(rows[id].text for id in parcel.ids),
                until=until[parcel.ids[0]],
                not_before=parcel.not_before,
                composed=composed.get(parcel.ids[0], Composed()),
                traces=[row.trace for row in members.get(parcel.ids[0], map(rows.__getitem__, parcel.ids))],
            )
            for parcel in made.parcels
        ]

    def _queue(self, channel: str, address: str, id: UUID) -> tuple[str, str]:
        """Deliveries with the same go one after another."""
        known = self._channels.get(channel)
        return (channel, address) if known is None or known.capabilities.ordered else (channel, str(id))

    def _waiting(self, row: Any) -> Waiting:
        return Waiting(
            id=row.id, contact=row.contact, channel=row.channel, address=row.address, order=(row.at, row.message_id),
            text=row.text, subject=row.subject, held=row.held, is_due=bool(row.is_due),
            is_begun=row.status != DeliveryStatus.PENDING, is_retry=row.tries > 0,
            is_hopeless=bool(row.opted_out) or row.channel not in self._channels,
            is_request=row.request_id is not None, urgent=row.urgent, interactive=row.interactive,
            has_attachments=bool(row.has_attachments),
        )  # fmt: skip

    def _recent(self, connection: Connection, people: Sequence[str], now: datetime) -> list[Recent]:
        since = now - max(HOUR, timedelta(seconds=self._pace.coalesce_seconds))
        return [
            Recent(
                contact=row.contact, channel=row.channel, address=row.address, order=(row.claimed_at, row.message_id),
                is_plain=row.request_id is None and not row.urgent and not row.interactive, interactive=row.interactive,
            )
            for row in claims.recent(connection, people, since=since)
        ]  # fmt: skip

    def _heard(
        self, connection: Connection, people: Sequence[str], now: datetime
    ) -> dict[tuple[str, str], tuple[datetime, UUID]]:
        last: dict[tuple[str, str], tuple[datetime, UUID]] = {}
        since = now - timedelta(seconds=self._pace.coalesce_seconds)
        for row in claims.heard(connection, people, since=since):
            key = (row.contact, row.channel)
            last[key] = max(last.get(key, (row.at, row.id)), (row.at, row.id))
        return last

    def _quiet_until(self, contact: str, now: datetime) -> datetime | None:
        try:
            return self._world.people.get(contact).quiet_until(now)
        except NotFound:  # a stranger, or a contact who is not one any more
            return None

    def _max_length(self, channel: str) -> int | None:
        return self._channels[channel].capabilities.max_length

    def _put_off(self, connection: Connection, made: Plan, rows: Mapping[UUID, Any]) -> None:
        claims.hold(connection, [(one.id, one.until, str(one.why)) for one in made.holds])
        for one in made.holds:
            row = rows[one.id]
            if one.why is not Why.BURST and row.held != one.why:
                log.info(
                    "message put off", message=str(row.message_id), contact=row.contact, channel=row.channel,
                    why=str(one.why), until=one.until.isoformat(),
                )  # fmt: skip

    async def _traced(self, claimed: _Claimed) -> _Sent:
        """Make an attempt, in a span of the trace in which the message was recorded."""
        row = claimed.row
        facts = {
            "messaging.system": row.channel,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "wakeloop.channel": row.channel,
            "wakeloop.delivery": str(row.id),
            "wakeloop.attempt": row.tries + 1,
            "wakeloop.run": None if row.run_id is None else str(row.run_id),
            "wakeloop.request": None if row.request_id is None else str(row.request_id),
            "messaging.batch.message_count": len(claimed.traces) if len(claimed.traces) > 1 else None,
        }
        links = {one for one in claimed.traces if one != row.trace}
        is_root = row.trace is None
        with tracing.span(f"send {row.channel}", "client", facts, parent=row.trace, links=[*links], is_root=is_root) as span:  # fmt: skip
            sent = await self._attempt(claimed)
            if span is not None:
                span.note({"wakeloop.status": str(sent.status)})
                if sent.cause is not None:
                    span.fail(sent.cause)
                elif sent.status is DeliveryStatus.FAILED:
                    span.fail("failed")
        return sent

    async def _attempt(self, claimed: _Claimed) -> _Sent:
        row = claimed.row
        channel = self._channels.get(row.channel)
        if channel is None:
            return _Sent(status=DeliveryStatus.FAILED, error=f"channel {row.channel} is not set up")
        if row.opted_out:
            return _Sent(status=DeliveryStatus.FAILED, error="the person asked not to be written to")
        message = Outgoing(
            key=str(row.id),
            address=row.address,
            text=claimed.composed.text(claimed.text),
            subject=row.subject,
            claimed_at=row.claimed_at or self._database.now(),
            **claimed.composed.extras,
        )
        in_doubt = row.status != DeliveryStatus.PENDING
        try:
            async with asyncio.timeout(self._send_seconds):
                if in_doubt and channel.capabilities.reconcile:
                    found = await channel.find_sent(message, self._known(row, message.claimed_at))
                    if found is not None:
                        log.info("found sent before a crash", delivery=str(row.id))
                        return _Sent(receipt=found, status=found.status)
                    in_doubt = False
                if claimed.not_before is not None:
                    return _Sent(status=DeliveryStatus.UNKNOWN, error=row.error, again=claimed.not_before)
                receipt = await channel.send(message)
                return _Sent(receipt=receipt, status=receipt.status)
        except PermanentChannelError as error:
            return _Sent(status=DeliveryStatus.FAILED, error=failure_words(error), cause=error)
        except TemporaryChannelError as error:
            tries = row.tries + 1
            if tries >= most_tries(channel.capabilities):
                return _Sent(
                    status=DeliveryStatus.FAILED,
                    error=f"given up after {tries} attempts: {failure_words(error)}",
                    cause=error,
                )
            wait = wait_seconds(channel.capabilities, tries, error.retry_after)
            # If an earlier attempt may have got through, and the provider's list could not be read, it still may have.
            status = DeliveryStatus.UNKNOWN if in_doubt else DeliveryStatus.PENDING
            return _Sent(status=status, error=failure_words(error), again=wait, cause=error)
        except Exception as error:
            log.warning("a delivery's outcome is unknown", delivery=str(row.id), error=type(error).__name__)
            tries = row.tries + 1
            if tries >= most_tries(channel.capabilities, may_double=may_double(channel.capabilities)):
                words = f"given up after {tries} attempts: {error!r}"
                return _Sent(status=DeliveryStatus.FAILED, error=words, cause=error)
            again = RECONCILE_SECONDS
            return _Sent(status=DeliveryStatus.UNKNOWN, error=repr(error), again=again, cause=error)

    def record(self, row: Any, sent: _Sent) -> None:
        """Record what came of an attempt, and what follows from it, in one transaction."""

        def work() -> None:
            with self._database.begin() as connection:
                now = self._database.now()
                # Whether its request has ended, and this message is to be amended, is then certain.
                request: UUID | None = row.request_id
                may_amend = sent.receipt is not None and amends(self._channels.get(row.channel))
                if may_amend and request is not None:
                    request_store.await_others(connection, request)
                status, error, provider_id = (
                    sent.status,
                    sent.error,
                    sent.receipt.provider_id if sent.receipt else None,
                )
                due = (
                    sent.again
                    if sent.again is None or isinstance(sent.again, datetime)
                    else now + timedelta(seconds=sent.again)
                )
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
                    with tracing.resumed(row.trace):
                        self.fall_through(connection, row.message_id, error or "", now=now)
                elif written and may_amend and request is not None:
                    amendments.arrive(connection, row.id, now=now)

        self._database.retrying(work, seconds=self._send_seconds)
        if sent.receipt is not None:
            log.info("message out", channel=row.channel, contact=row.contact)

    def fall_through(self, connection: Connection, message_id: UUID, reason: str, *, now: datetime) -> None:
        """A delivery failed for good: try the contact's next channel, or tell whoever asked that there is none. What
        went together stays together there."""
        together = outbox.together_with(connection, message_id)
        held = str(Why.BURST) if len(together) > 1 else None
        for id in together:
            self._next_channel(connection, id, reason, held, now=now)

    def _next_channel(
        self, connection: Connection, message_id: UUID, reason: str, held: str | None, *, now: datetime
    ) -> None:
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
                trace = tracing.carried()
                outbox.add_delivery(
                    connection,
                    id,
                    message_id,
                    message.contact,
                    channel,
                    address,
                    now=now,
                    held=held,
                    trace=trace,
                )
                outbox.set_channel(connection, message_id, channel)
                if message.request_id is not None and amends(self._channels.get(channel)):
                    self._desk.amend_if_over(connection, message, id)
                log.info("next channel", message=str(message_id), channel=channel)
                return
        log.warning("undeliverable", message=str(message_id), contact=message.contact)
        if message.request_id is not None and not message.interactive:
            self._desk.undeliverable(connection, message.request_id, message.contact, reason, now=now)

    def _known(self, row: Any, since: datetime) -> frozenset[str]:
        with self._database.read() as connection:
            return outbox.provider_ids(connection, row.channel, row.contact, since - timedelta(days=1))
