"""Takes in what comes from outside: calls, signals, and what people write. Recorded first, then processed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import to_json
from sqlalchemy.engine import Connection

from wakeloop import crashpoints
from wakeloop.channel import Channel, DeliveryStatus, DeliveryUpdate, Incoming, RawRequest, RawResponse
from wakeloop.engine.values import JSON_CODEC, VALUE_LIMIT_BYTES
from wakeloop.errors import NotFound, ValueTooLarge
from wakeloop.events import Attachment, Call, Message, Signal, dump_event
from wakeloop.logs import get_logger
from wakeloop.outbox import Outbox
from wakeloop.store import inbox, outbox, received, verifications
from wakeloop.store import requests as request_store
from wakeloop.store.database import Database
from wakeloop.store.records import NewMessage, NewRun, Post
from wakeloop.world import World, signal_posts

log = get_logger("wakeloop.intake")

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
"""How long an outage of the database is waited out before whoever sent something is told to send it again."""

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])
_FIRST = re.compile(r"^\W*([A-Za-z]\d)\b[\s:,;.)\-]*(.*)$", re.DOTALL)
_LAST = re.compile(r"^(.*?)[\s:,;.(\-]+([A-Za-z]\d)\W*$", re.DOTALL)
_ADDRESSEE = re.compile(r"^@?([A-Za-z0-9_.-]+)[:,\s]+(.+)$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What people are told when nobody takes their message; None says nothing."""

    unknown_sender: str | None = None
    unrouted: str | None = None


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
        channels: Mapping[str, Channel],
        replies: Replies = Replies(),
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Args: changed: called after each commit that made something due."""
        self._database = database
        self._world = world
        self._outbox = outbox
        self._channels = channels
        self._replies = replies
        self._changed = changed

    # ------------------------------------------------------------------ calls and signals

    def start(self, agent: str, input: Any = None, *, key: str = "default", id: UUID | None = None) -> str:
        """Queue a run of an agent; its id. With an `id` of the caller's, starting it again changes nothing.

        Raises NotFound for an agent that is not known here, NotSerializable or ValueTooLarge for a bad input."""
        self._world.registry.get(agent)
        text = JSON_CODEC.dump(input, f"the input of agent {agent}")
        run = NewRun(
            id=id or self._world.ids.new_id(),
            agent=agent,
            key=key,
            event=dump_event(Call(input=JSON_CODEC.load(text))),
        )

        def work(connection: Connection, now: datetime) -> None:
            known = inbox.ensure_sessions(connection, [(agent, key)], now=now)
            queued = inbox.queue_runs(connection, [run], known, now=now)
            inbox.touch(connection, queued, now=now)

        self._transact(work)
        return str(run.id)

    def signal(self, signal: Signal) -> list[str]:
        """Record a signal for every session that listens for it; their names. A (source, id) counts once."""
        size = len(dump_event(signal))
        if size > VALUE_LIMIT_BYTES:
            raise ValueTooLarge(
                f"signal {signal.type} is {size:,} bytes, over the limit of {VALUE_LIMIT_BYTES:,}: send a reference",
                where=f"signal {signal.type}",
                size=size,
                limit=VALUE_LIMIT_BYTES,
            )
        posts = signal_posts(self._world.registry, signal)
        if not posts:
            log.info("a signal that no agent listens for", type=signal.type, id=signal.id)
        self._post(posts)
        return [f"{post.agent}/{post.key}" for post in posts]

    def cancel(self, agent: str, key: str, run_id: UUID) -> None:
        """Ask an open run to end: CancelledError is raised in it where it waits. Asked again, it is ended there."""
        dedupe = f"cancel:{run_id}:{self._world.ids.new_id()}"
        self._post([Post(agent=agent, key=key, kind="cancel", dedupe=dedupe, target=run_id)])

    def nudge(self) -> None:
        """Something was made due beside this intake."""
        self._changed()

    def _post(self, posts: list[Post]) -> None:
        def work(connection: Connection, now: datetime) -> None:
            names = {(post.agent, post.key) for post in posts}
            known = inbox.ensure_sessions(connection, names, now=now)
            inbox.touch(connection, inbox.post(connection, posts, known, now=now), now=now)

        self._transact(work)

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
            if isinstance(item, DeliveryUpdate):
                self.update(channel, item)
            else:
                self.incoming(channel, item)
        crashpoints.reach("intake.recorded")
        return adapter.respond(request)

    def channel(self, name: str) -> Channel:
        """A channel that is set up. Raises NotFound."""
        if name not in self._channels:
            known = ", ".join(sorted(self._channels)) or "none"
            raise NotFound(
                f"there is no channel {name}; set up are: {known} (see [channels.*] in wakeloop.toml)"
            )
        return self._channels[name]

    def update(self, channel: str, update: DeliveryUpdate) -> bool:
        """Apply a provider's report about a delivery; whether it was news."""

        def work(connection: Connection, now: datetime) -> bool:
            row = outbox.update_status(
                connection, channel, update.provider_id, update.status, update.error, now=now
            )
            if row is not None and update.status is DeliveryStatus.FAILED:
                self._outbox.fall_through(connection, row.message_id, update.error or "undelivered", now=now)
            return row is not None

        return self._transact(work)

    def incoming(self, channel: str, incoming: Incoming) -> str:
        """Record what a person sent, and route it; what became of it, in words. Sent twice, it counts once."""
        try:
            address = self._channels[channel].normalize(incoming.address)
        except ValueError:
            address = incoming.address
        contacts = self._world.people.by_address(channel, address)
        contact = contacts[0] if len(contacts) == 1 else None
        raw = to_json(dict(incoming.raw) or {"text": incoming.text}, serialize_unknown=True).decode()

        def work(connection: Connection, now: datetime) -> str:
            id = received.record(
                connection,
                channel=channel,
                provider_id=incoming.provider_id,
                address=address,
                contact=contact,
                raw=raw,
                now=now,
            )
            if id is None:
                return "a repetition of what is recorded already"
            routing = _Routing(self, connection, channel, address, incoming, now)
            outcome = routing.stranger(contacts) if contact is None else routing.person(contact)
            received.set_outcome(connection, id, outcome, routing.message_id)
            return outcome

        outcome = self._transact(work)
        log.info("message in", channel=channel, contact=contact, outcome=outcome)
        return outcome


class _Routing:
    """Where one recorded message goes: a reply is matched, never guessed."""

    def __init__(
        self,
        intake: Intake,
        connection: Connection,
        channel: str,
        address: str,
        incoming: Incoming,
        now: datetime,
    ) -> None:
        self._intake = intake
        self._connection = connection
        self._channel = channel
        self._address = address
        self._incoming = incoming
        self._now = now
        self._world = intake._world
        self.message_id = self._world.ids.new_id()
        self._text = _clean(incoming.text)

    def stranger(self, contacts: list[str]) -> str:
        """A sender who is nobody's contact, or whose address several contacts share: never taken for one of them."""
        self._keep(None, None)
        if self._opt():
            return (
                "an opt-out of an unknown sender"
                if self._incoming.opt_out
                else "an opt-in of an unknown sender"
            )
        if self._verifies():
            return "verified an address that several contacts share"
        if contacts:
            return f"an address that several contacts share: {', '.join(contacts)}"
        text = self._intake._replies.unknown_sender
        if text is not None:
            self._say(text, contact=self._address)
            return "an unknown sender, answered"
        return "an unknown sender, ignored"

    def person(self, contact: str) -> str:
        """A contact: their reply to a question, a message for a session that waits, or one that begins something."""
        if self._opt():
            self._keep(contact, None)
            return "opted out" if self._incoming.opt_out else "opted in"
        if self._incoming.help:
            self._keep(contact, None)
            return "asked for help; the provider answers that"
        if self._verifies():
            self._keep(contact, None)
            self._say("Thank you, this is confirmed.", contact=contact)
            return "verified"
        questions = request_store.open_of_contact(self._connection, contact)
        by_code = {row.code: row for row in questions}
        for code, rest in _codes(self._text):
            if code in by_code:
                return self._answer(by_code[code], contact, rest)
            past = request_store.latest_of_contact(self._connection, contact, code)
            if past is not None and not questions:
                return self._too_late(past, contact)
        if len(questions) == 1:
            return self._answer(questions[0], contact, self._text)
        if questions:
            self._keep(contact, None)
            listed = "\n".join(f"{row.code}: {_short(row.text)}" for row in questions[:10])
            more = f"\n… and {len(questions) - 10} more" if len(questions) > 10 else ""
            self._say(
                f"{len(questions)} questions are open. Reply with a code and your answer:\n{listed}{more}",
                contact=contact,
            )
            return f"could answer {len(questions)} questions; asked which"
        return self._to_session(contact)

    def _answer(self, request: Any, contact: str, text: str) -> str:
        session = received.session_of_request(self._connection, request.id)
        assert session is not None
        self._keep(contact, session.id, request.id)
        if not text:
            self._say(f"What is your answer to {request.code}: {_short(request.text)}", contact=contact)
            return f"named request {request.code} without an answer; asked for it"
        body = {"request": str(request.id), "value": self._message(contact, text).model_dump(mode="json")}
        self._deliver(session, "reply", JSON_CODEC.dump(body, "a reply"), target=request.run_id)
        return f"reply to request {request.id} of {session.agent}/{session.key}"

    def _too_late(self, request: Any, contact: str) -> str:
        self._keep(contact, None, request.id)
        self._say(f"That question is closed ({request.status}): {_short(request.text)}", contact=contact)
        return f"too late for request {request.id} ({request.status})"

    def _to_session(self, contact: str) -> str:
        """The session that waits for this person, or the agents that take messages."""
        found = {(row.agent, row.key): row.contact for row in received.waiting_for(self._connection, contact)}
        waiting = list(found)
        named = [name for name, wanted in found.items() if wanted is not None]
        message = self._message(contact, self._text)
        takers = [(agent.name, key) for agent, key in self._world.registry.takers(message)]
        candidates = named or waiting or takers
        addressed = _ADDRESSEE.match(self._text)
        if len(candidates) > 1 and addressed is not None:
            chosen = [name for name in candidates if name[0].casefold() == addressed[1].casefold()]
            if len(chosen) == 1:
                candidates, self._text = chosen, addressed[2]
                message = self._message(contact, self._text)
        if len(candidates) > 1:
            self._keep(contact, None)
            names = ", ".join(sorted({agent for agent, _ in candidates}))
            self._say(f"Who is this for? Begin with one of these names: {names}.", contact=contact)
            return f"could be for {names}; asked which"
        if not candidates:
            self._keep(contact, None)
            if self._intake._replies.unrouted is not None:
                self._say(self._intake._replies.unrouted, contact=contact)
                return "nobody takes it; answered"
            return "nobody takes it; kept"
        agent, key = candidates[0]
        known = inbox.ensure_sessions(self._connection, [(agent, key)], now=self._now)
        self._keep(contact, known[agent, key])
        row = _Session(id=known[agent, key], agent=agent, key=key)
        self._deliver(row, "message", dump_event(message))
        return f"message for {agent}/{key}"

    def _deliver(self, session: Any, kind: str, body: str, target: UUID | None = None) -> None:
        post = Post(
            agent=session.agent,
            key=session.key,
            kind=kind,
            dedupe=f"message:{self.message_id}",
            body=body,
            target=target,
        )
        known = {(session.agent, session.key): session.id}
        arrived = inbox.post(self._connection, [post], known, now=self._now)
        inbox.touch(self._connection, arrived, now=self._now)

    def _opt(self) -> bool:
        if self._incoming.opt_out is None:
            return False
        outbox.set_opt_out(
            self._connection, self._channel, self._address, self._incoming.opt_out, now=self._now
        )
        return True

    def _verifies(self) -> bool:
        """Whether it is the code by which an operator asked whose address this is."""
        return verifications.take(self._connection, self._channel, self._address, self._text, self._now)

    def _message(self, contact: str, text: str) -> Message:
        return Message(
            id=str(self.message_id),
            text=text,
            from_=contact,
            channel=self._channel,
            at=self._now,
            attachments=self._incoming.attachments,
        )

    def _keep(self, contact: str | None, session: int | None, request: UUID | None = None) -> None:
        attachments = self._incoming.attachments
        received.add_message(
            self._connection,
            id=self.message_id,
            session_id=session,
            request_id=request,
            contact=contact,
            channel=self._channel,
            text=self._text,
            now=self._now,
            attachments=_ATTACHMENTS.dump_json(attachments).decode() if attachments else None,
        )

    def _say(self, text: str, *, contact: str) -> None:
        message = NewMessage(
            id=self._world.ids.new_id(),
            contact=contact,
            channel=self._channel,
            address=self._address,
            via=self._channel,
            subject=None,
            text=text,
            interactive=True,
        )
        outbox.put(self._connection, None, [message], {}, now=self._now)


@dataclass(frozen=True, kw_only=True)
class _Session:
    id: int
    agent: str
    key: str


def _codes(text: str) -> list[tuple[str, str]]:
    """The codes that a text may name, each with what it says besides: "A7 yes", "yes a7!", "A7"."""
    found = []
    first = _FIRST.match(text)
    if first is not None:
        found.append((first[1].upper(), first[2].strip()))
    last = _LAST.match(text)
    if last is not None:
        found.append((last[2].upper(), last[1].strip()))
    return found


def _clean(text: str) -> str:
    """Without what no database keeps."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode().strip()


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"
