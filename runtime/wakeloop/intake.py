"""Takes in what comes from outside: calls, signals, and what people write. Recorded first, then processed."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from wakeloop import crashpoints, tracing
from wakeloop.attachments import KEPT
from wakeloop.channel import (
    Amending,
    Channel,
    DeliveryStatus,
    DeliveryUpdate,
    File,
    Incoming,
    RawRequest,
    RawResponse,
)
from wakeloop.dispatch import Handed
from wakeloop.engine.values import JSON_CODEC, VALUE_LIMIT_BYTES
from wakeloop.errors import NotFound, NotPossible, ValueTooLarge
from wakeloop.events import Attachment, Call, Signal, dump_event
from wakeloop.gathering import Gathering
from wakeloop.logs import get_logger, tell
from wakeloop.outbox import Outbox
from wakeloop.plain import REPEATED, Plain, Round, Routed, is_plain, rounds
from wakeloop.routing import SENDERS_ADDRESS, SIGNED_BY_PROVIDER, Arrived, Routing, cleaned
from wakeloop.store import files, inbox, outbox, queries, received
from wakeloop.store.database import Database, is_outage
from wakeloop.store.records import Emitted, NewRun, Post
from wakeloop.world import World, signal_posts

log = get_logger("wakeloop.intake")
_logger = logging.getLogger("wakeloop.intake")

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
"""How long an outage of the database is waited out before whoever sent something is told to send it again."""

Taker = Callable[[Sequence[Handed]], None]

LOOK_SECONDS = 0.05
REPORT_SECONDS = 2.0
"""How long a provider's word that a message failed waits until its own id of that message is on record: it may come
before whoever sent the message has recorded the provider's answer."""

FILES_LIMIT_BYTES = 20 * 1024 * 1024
"""How large the files of one message may be together."""

TOGETHER = 100
"""So many plain messages, or starts of runs, that come at the same time share a transaction."""

NAME_LIMIT = 200
_CONTENT_TYPE = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What somebody sent. contacts: all whose address it is; raw: what the provider sent, as JSON."""

    channel: str
    address: str
    contacts: tuple[str, ...]
    incoming: Incoming
    raw: str

    @property
    def contact(self) -> str | None:
        """Who sent it, if there is no doubt."""
        return self.contacts[0] if len(self.contacts) == 1 else None

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain message of somebody."""
        return self.contact is not None and is_plain(self.incoming)

    def plain(self, auth: str) -> Plain:
        """The plain message that it is, in the current span. auth: how it is known who sent it, as a rule."""
        assert self.contact is not None
        return Plain(
            channel=self.channel, address=self.address, contact=self.contact, incoming=self.incoming, raw=self.raw, auth=auth
        )  # fmt: skip


def receiving(channel: str) -> AbstractContextManager[Any]:
    """The span in which something is received."""
    facts = {
        "messaging.system": channel,
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "wakeloop.channel": channel,
    }
    return tracing.span(f"receive {channel}", "consumer", facts)


class Intake:
    """Records what arrives and makes the sessions that it concerns due.

    Everything is in the store when a call returns; only then is it acknowledged, and only after that processed. The
    same message from a provider, or the same signal from a source, changes nothing the second time.
    """

    def __init__(
        self,
        *,
        database: Database,
        world: World,
        outbox: Outbox,
        routing: Routing,
        channels: Mapping[str, Channel],
        changed: Callable[[], None] = lambda: None,
        taker: Callable[[], Taker | None] = lambda: None,
        files_limit: int = FILES_LIMIT_BYTES,
        report_seconds: float = 0.0,
    ) -> None:
        """Args: changed: called after each commit that made something due. taker: who takes sessions that were marked as
        dispatched where they were made due, if anybody does just now; see `wakeloop.handing`. files_limit: of one message, in bytes.
        report_seconds: see REPORT_SECONDS; 0 where nothing else sends at the same time."""
        self._database = database
        self._world = world
        self._outbox = outbox
        self._channels = channels
        self._routing = routing
        self._changed = changed
        self._taker = taker
        self._files_limit = files_limit
        self._report_seconds = report_seconds
        self._plain = Gathering(self._take_plain, most=TOGETHER, concerns_all=_is_outage)
        self._starts = Gathering(self._queue, most=TOGETHER, concerns_all=_is_outage)

    # ------------------------------------------------------------------ calls and signals

    def start(self, agent: str, input: Any = None, *, key: str = "default", id: UUID | None = None) -> str:
        """Queue a run of an agent; its id. With an `id` of the caller's, starting it again changes nothing.

        Raises NotFound for an agent that is not known here, NotSerializable or ValueTooLarge for a bad input."""
        return str(self.start_once(agent, input, key=key, id=id)[0])

    def start_once(
        self, agent: str, input: Any = None, *, key: str = "default", id: UUID | None = None
    ) -> tuple[UUID, bool]:
        """The same; and whether the run is new. Of callers with the same id at once, one made it.

        Raises NotPossible too, if the id is that of a run of something else."""
        self._world.registry.get(agent)
        text = JSON_CODEC.dump(input, f"the input of agent {agent}")
        run = NewRun(
            id=id or self._world.ids.new_id(),
            agent=agent,
            key=key,
            event=dump_event(Call(input=JSON_CODEC.load(text))),
        )

        there = self._known(run) if id is not None else None
        if there is None and not self._starts.do(run):
            there = self._known(run)
        if there is False:
            raise NotPossible(f"run {run.id} is there already, of something else: use a new id for it")
        return run.id, there is None

    def _known(self, run: NewRun) -> bool | None:
        """Whether a run that has this id is the same; None if there is none."""
        with self._database.lone() as connection:
            row = queries.find_run(connection, run.id)
        return None if row is None else (row.agent, row.key, row.event) == (run.agent, run.key, run.event)

    def _queue(self, runs: Sequence[NewRun]) -> list[bool]:
        """Queue runs together; which of them are new. Of two with one id it is the first."""

        def work(connection: Connection, now: datetime) -> set[UUID]:
            ordered = sorted({run.id: run for run in reversed(runs)}.values(), key=lambda run: run.id)
            known, made = inbox.ensure_recipients(
                connection, {(run.agent, run.key) for run in ordered}, now=now
            )
            queued = inbox.add_runs(connection, ordered, known, now=now)
            inbox.touch(connection, set(queued.values()) - made, now=now)
            return set(queued)

        queued = self._transact(work)
        firsts = {run.id: place for place, run in reversed(list(enumerate(runs)))}
        return [run.id in queued and firsts[run.id] == place for place, run in enumerate(runs)]

    def signal(self, signal: Signal) -> list[str]:
        """Record a signal for every session that listens for it, or has a run that waits for it; their names. A (source, id)
        counts once in each."""
        size = len(dump_event(signal))
        if size > VALUE_LIMIT_BYTES:
            raise ValueTooLarge(
                f"signal {signal.type} is {size:,} bytes, over the limit of {VALUE_LIMIT_BYTES:,}: send a reference",
                where=f"signal {signal.type}",
                size=size,
                limit=VALUE_LIMIT_BYTES,
            )
        posts, emitted = signal_posts(self._world.registry, signal)
        taken = self._post(posts, emitted)
        if not taken:
            log.info("a signal that no agent listens for", type=signal.type, id=signal.id)
        return [f"{post.agent}/{post.key}" for post in taken]

    def cancel(self, agent: str, key: str, run_id: UUID) -> None:
        """Ask an open run to end: CancelledError is raised in it where it waits. Asked again, it is ended there."""
        dedupe = f"cancel:{run_id}:{self._world.ids.new_id()}"
        self._post([Post(agent=agent, key=key, kind="cancel", dedupe=dedupe, target=run_id)])

    def nudge(self) -> None:
        """Something was made due beside this intake."""
        self._changed()

    def _post(self, posts: Sequence[Post], *signals: Emitted) -> list[Post]:
        """Record these, and these signals for the runs that wait for them; all that was recorded."""

        def work(connection: Connection, now: datetime) -> list[Post]:
            found = [*posts, *inbox.for_waiting(connection, signals)]
            names = {(post.agent, post.key) for post in found}
            known, made = inbox.ensure_recipients(connection, names, now=now)
            inbox.touch(connection, inbox.post(connection, found, known, now=now) - made, now=now)
            return found

        return self._transact(work)

    def _transact(self, work: Callable[[Connection, datetime], T]) -> T:
        """One transaction, tried again for a few seconds if the database is away: all that is recorded here may be
        recorded twice and counts once. Afterwards whatever it made due is looked for."""

        def attempt() -> T:
            with self._database.begin() as connection:
                return work(connection, self._database.now())

        result = self._database.retrying(attempt, seconds=PATIENCE_SECONDS)
        self._changed()
        return result

    # ------------------------------------------------------------------ what people write

    def webhook(self, channel: str, request: RawRequest) -> RawResponse:
        """Verify, record and answer a provider's request.

        Raises NotFound for a channel that is not set up, InvalidWebhook for a request that is forged or malformed:
        then nothing is recorded."""
        adapter = self.channel(channel)
        adapter.verify(request)
        for item in adapter.parse(request):
            self.take(channel, item, auth=SIGNED_BY_PROVIDER)
        crashpoints.reach("intake.recorded")
        return adapter.respond(request)

    def take(self, channel: str, item: Incoming | DeliveryUpdate, *, auth: str) -> None:
        """Record what a provider told: a message, or how far one of ours has come."""
        if isinstance(item, DeliveryUpdate):
            self.update(channel, item)
            return
        with receiving(channel):
            self.incoming(channel, item, auth=auth)

    def channel(self, name: str) -> Channel:
        """A channel that is set up. Raises NotFound."""
        if name not in self._channels:
            known = ", ".join(sorted(self._channels)) or "none"
            raise NotFound(
                f"there is no channel {name}; set up are: {known} (see [channels.*] in wakeloop.toml)"
            )
        return self._channels[name]

    def update(self, channel: str, update: DeliveryUpdate) -> bool:
        """Apply a provider's report about a delivery; whether it was news.

        What has failed must not be missed, for the next channel waits for it: see REPORT_SECONDS."""
        if update.status is DeliveryStatus.FAILED:
            self._await_record(channel, update.provider_id)

        def work(connection: Connection, now: datetime) -> bool:
            row = outbox.update_status(
                connection, channel, update.provider_id, update.status, update.error, now=now
            )
            if row is not None and update.status is DeliveryStatus.FAILED:
                with tracing.resumed(row.trace):
                    self._outbox.fall_through(
                        connection, row.message_id, update.error or "undelivered", now=now
                    )
            return row is not None

        return self._transact(work)

    def _await_record(self, channel: str, provider_id: str) -> None:
        until = time.monotonic() + self._report_seconds
        while not self._is_recorded(channel, provider_id) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)

    def _is_recorded(self, channel: str, provider_id: str) -> bool:
        def look() -> bool:
            with self._database.read() as connection:
                return outbox.is_recorded(connection, channel, provider_id)

        return self._database.retrying(look, seconds=PATIENCE_SECONDS)

    def incoming(
        self, channel: str, incoming: Incoming, *, contact: str | None = None, auth: str = SENDERS_ADDRESS
    ) -> str:
        """Record what a person sent, and route it; what became of it, in words. Sent twice, it counts once.

        contact: who sent it, if that is known otherwise than by the address; auth: how it is known, for the record, unless
        the channel says it."""
        said = self.said(channel, incoming, contact=contact)
        found = self._plain.do(said.plain(auth)) if said.is_plain else None
        return self.route_alone(said, auth=auth) if found is None else self.told(said, found)

    def said(self, channel: str, incoming: Incoming, *, contact: str | None = None) -> Said:
        """What was sent, and by whom; nothing of it is recorded yet."""
        try:
            address = self._channels[channel].normalize(incoming.address)
        except ValueError:
            address = incoming.address
        contacts = (contact,) if contact is not None else self._world.people.by_address(channel, address)
        raw = to_json(dict(incoming.raw) or {"text": incoming.text}, serialize_unknown=True).decode()
        return Said(channel=channel, address=address, contacts=tuple(contacts), incoming=incoming, raw=raw)

    def route_plain(self, messages: Sequence[Plain]) -> list[Callable[[], str | None]]:
        """Record plain messages and route them, no more than TOGETHER; for each what tells what became of it or raises what
        went wrong. None is said of one that is not recorded, which `route_alone` is for."""
        return self._plain.do_all(messages)

    def route_alone(self, said: Said, *, auth: str) -> str:
        """Record what a person sent, and route it, in a transaction of its own; what became of it, in words."""
        channel, incoming, contact = said.channel, said.incoming, said.contact

        def work(connection: Connection, now: datetime) -> str:
            id = received.record(
                connection,
                channel=channel,
                provider_id=incoming.provider_id,
                address=said.address,
                contact=contact,
                raw=said.raw,
                now=now,
                thread=incoming.thread,
                reply_to=incoming.reply_to,
            )
            if id is None:
                return REPEATED
            message_id = self._world.ids.new_id()
            attachments, left_out = self._keep_files(connection, channel, message_id, incoming, now)
            message = Arrived(
                connection=connection, id=message_id, channel=channel, address=said.address, incoming=incoming, now=now,
                auth=incoming.auth or auth, attachments=attachments, amends=_amends(self._channels[channel]),
            )  # fmt: skip
            outcome = self._route(message, contact, list(said.contacts))
            received.set_outcome(connection, id, "; ".join([outcome, *left_out]), message.id)
            return outcome

        return self.told(said, self._transact(work))

    def told(self, said: Said, outcome: str) -> str:
        """Note on the log what became of a message, once that is committed; the same."""
        tell(_logger, logging.INFO, "message in", {"channel": said.channel, "contact": said.contact, "outcome": outcome})  # fmt: skip
        return outcome

    def _take_plain(self, messages: Sequence[Plain]) -> list[str | None]:
        found: dict[int, str | None] = {}
        for some in rounds(messages):
            found |= zip(map(id, some), self._take_round(some), strict=True)
        return [found[id(message)] for message in messages]

    def _take_round(self, messages: Sequence[Plain]) -> list[str | None]:
        taker = self._taker()
        agents = self._world.registry.names if taker is not None else []

        def attempt() -> Routed:
            some = Round(self._world, messages, now=self._database.now())
            with self._database.lone() as connection:
                some.look(connection)
                if some.is_simple and self._database.is_postgres:
                    return some.put(connection, agents=agents)
            with self._database.begin() as connection:
                return some.route(connection, self._routing, agents=agents)

        routed = self._database.retrying(attempt, seconds=PATIENCE_SECONDS)
        if taker is not None:
            taker(routed.handed)
        if taker is None or not routed.is_all:
            self._changed()
        return routed.outcomes

    def _route(self, message: Arrived, contact: str | None, contacts: list[str]) -> str:
        if message.incoming.automatic:
            return self._routing.automatic(message, contact)
        if contact is None:
            return self._routing.stranger(message, contacts)
        return self._routing.person(message, contact)

    def _keep_files(
        self, connection: Connection, channel: str, message_id: UUID, incoming: Incoming, now: datetime
    ) -> tuple[tuple[Attachment, ...], list[str]]:
        """Keep the files that came with their bytes, as far as they are not too large; all that is attached to the
        message, and what is to be noted of the files that were left out."""
        attached = [one.model_copy(update={"channel": channel}) for one in incoming.attachments]
        kept, left_out, size = [], [], 0
        for file in incoming.files:
            name = _file_name(file)
            if size + len(file.data) > self._files_limit:
                log.warning("a file was not kept: too large", channel=channel, message=str(message_id), bytes=len(file.data))  # fmt: skip
                left_out.append(f"{name} ({len(file.data):,} bytes) was not kept: over attachments_limit_mb")
                continue
            size += len(file.data)
            id, kind = self._world.ids.new_id(), _content_type(file)
            kept.append((id, name, kind, file.data))
            attached.append(Attachment(url=f"{KEPT}{id}", name=name, content_type=kind, channel=channel))
        files.add(connection, message_id, kept, now=now)
        return tuple(attached), left_out


def _is_outage(error: Exception) -> bool:
    return isinstance(error, SQLAlchemyError) and is_outage(error)


def _amends(channel: Channel) -> bool:
    return channel.capabilities.amends and isinstance(channel, Amending)


def _file_name(file: File) -> str:
    """What a file is called, without folders and what is not to be seen; never empty."""
    last = re.split(r"[/\\]", cleaned(file.name))[-1]
    return "".join(one for one in last if one.isprintable()).strip(". ")[:NAME_LIMIT] or "file"


def _content_type(file: File) -> str:
    plain = file.content_type.partition(";")[0].strip().lower()
    return plain if _CONTENT_TYPE.fullmatch(plain) else "application/octet-stream"
