"""Routes plain messages, many in one transaction: what says nothing but its words, and what it is for is not in doubt.

Everything else is `wakeloop.routing`'s, which decides as this does; here is its short way for most of what comes in, in a
handful of statements for all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection

from wakeloop import tracing
from wakeloop.channel import Incoming
from wakeloop.dispatch import Handed
from wakeloop.events import dump_event
from wakeloop.routing import SENDERS_ADDRESS, Arrived, Routing, codes
from wakeloop.store import arriving, inbox, leases, received, requests, verifications
from wakeloop.store.records import HandedOver, Post
from wakeloop.world import World

REPEATED = "a repetition of what is recorded already"


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A plain message of a contact. raw: what the provider sent, as JSON. auth: how it is known who sent it. trace: to which
    it belongs; by default the current span's."""

    channel: str
    address: str
    contact: str
    incoming: Incoming
    raw: str
    auth: str = SENDERS_ADDRESS
    trace: str | None = field(default_factory=tracing.carried)


def is_plain(incoming: Incoming) -> bool:
    """Whether a message says nothing but its words, and those name no request and are no code."""
    return not (
        incoming.automatic
        or incoming.help
        or incoming.opt_out is not None
        or incoming.pressed is not None
        or incoming.reply_to is not None
        or incoming.token is not None
        or incoming.files
        or incoming.attachments
        or codes(incoming.text)
        or verifications.may_be_code(incoming.text.strip())
    )


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What became of messages, in words, None of one that is not recorded; the sessions that are marked as dispatched; and
    whether that is all that was made due."""

    outcomes: list[str | None]
    handed: Sequence[Handed]
    is_all: bool


class Round:
    """Plain messages, each of another contact, on their way to where they go."""

    def __init__(self, world: World, messages: Sequence[Plain], *, now: datetime) -> None:
        self._world = world
        self._messages = messages
        self._now = now
        self._arrived: dict[int, Arrived] = {}
        self._answers: dict[int, tuple[UUID, int | None]] = {}
        self._places: dict[int, tuple[str, str]] = {}
        self._known: dict[tuple[str, str], int] = {}

    def look(self, connection: Connection) -> None:
        """Find out what each is for; those that may be for several or for none are left alone. Writes and locks nothing."""
        contacts = [message.contact for message in self._messages]
        asked, waiting = _by_contact(arriving.wanted(connection, contacts), contacts)
        for number, message in enumerate(self._messages):
            one = Arrived(
                connection=connection, id=self._world.ids.new_id(), channel=message.channel, address=message.address,
                incoming=message.incoming, now=self._now, auth=message.incoming.auth or message.auth,
            )  # fmt: skip
            if open_ones := asked.get(message.contact):
                if len(open_ones) == 1:
                    self._arrived[number], self._answers[number] = one, open_ones[0]
                continue
            found = waiting[message.contact]
            names = list(found) or [
                (agent.name, key)
                for agent, key in self._world.registry.takers(one.event(message.contact, one.text))
            ]
            if len(names) == 1:
                self._arrived[number], self._places[number] = one, names[0]
                self._known |= found

    @property
    def is_simple(self) -> bool:
        """Whether all are for sessions that are there, so that on PostgreSQL one statement is all there is to do."""
        return not self._answers and all(name in self._known for name in self._places.values())

    def put(self, connection: Connection, *, agents: Collection[str]) -> Routed:
        """On PostgreSQL, if that is all there is to do: record them, and put each into the inbox of its session. agents: see
        `arriving.take`."""
        rows = [
            {
                "message_id": one.id, "channel": one.channel, "provider_id": one.incoming.provider_id,
                "address": one.address, "contact": self._messages[number].contact, "raw": self._messages[number].raw,
                "outcome": self._told(number), "thread": one.incoming.thread,
                "session_id": self._known[self._places[number]], "subject": one.subject, "text": one.text,
                "dedupe": _dedupe(one), "body": dump_event(one.event(self._messages[number].contact, one.text)),
                "trace": self._messages[number].trace,
            }
            for number, one in self._arrived.items()
        ]  # fmt: skip
        if not rows:
            return self._routed({}, HandedOver())
        fresh, handed = arriving.take(connection, rows, now=self._now, agents=agents)
        outcomes = {
            number: self._told(number) if one.id in fresh else REPEATED
            for number, one in self._arrived.items()
        }
        return self._routed(outcomes, handed)

    def route(self, connection: Connection, routing: Routing, *, agents: Collection[str]) -> Routed:
        """Record these messages, and put each into the inbox of its session, or take it as the answer to the one request
        that its sender has open, in the caller's transaction."""
        arrived = {number: replace(one, connection=connection) for number, one in self._arrived.items()}
        places, known, now = self._places, self._known, self._now
        known |= inbox.ensure_sessions(
            connection, {name for name in places.values() if name not in known}, now=now
        )
        recorded = received.record_all(
            connection,
            [
                _record(self._messages[number], one, self._told(number) if number in places else "")
                for number, one in arrived.items()
            ],
        )
        fresh = {
            number: id
            for number, one in arrived.items()
            if (id := recorded.get((one.channel, one.incoming.provider_id))) is not None
        }
        outcomes = {number: self._told(number) if number in fresh else REPEATED for number in arrived}
        touched = {known[places[number]] for number in places if number in fresh}
        if chosen := {number: answer for number, answer in self._answers.items() if number in fresh}:
            taken = _answer(routing, self._messages, arrived, chosen, touched)
            received.set_outcomes(connection, {fresh[number]: outcome for number, outcome in taken.items()})
            outcomes |= taken
        kept = []
        posts = []
        for number, (agent, key) in places.items():
            if number not in fresh:
                continue
            one, message = arrived[number], self._messages[number]
            kept.append(
                {
                    "id": one.id, "session_id": known[agent, key], "request_id": None, "inbound": True,
                    "contact": message.contact, "channel": one.channel, "subject": one.subject, "text": one.text,
                    "attachments": None, "at": now,
                }
            )  # fmt: skip
            body = dump_event(one.event(message.contact, one.text))
            posts.append(
                Post(
                    agent=agent, key=key, kind="message", dedupe=_dedupe(one), body=body, trace=message.trace
                )
            )
        received.add_messages(connection, kept)
        inbox.touch(connection, inbox.post(connection, posts, known, now=now), now=now)
        touched |= {session for _, session in chosen.values() if session is not None}
        handed = leases.hand_over(connection, touched, now=now, agents=agents) if agents else []
        return self._routed(outcomes, HandedOver(sessions=handed, is_all=False))

    def _told(self, number: int) -> str:
        """What becomes of a message for a session, in words."""
        name = self._places.get(number)
        return "" if name is None else f"message for {name[0]}/{name[1]}"

    def _routed(self, outcomes: Mapping[int, str], handed: HandedOver) -> Routed:
        causes: dict[int, dict[str, None]] = {}
        for number, message in enumerate(self._messages):
            if number in self._arrived and message.trace is not None:
                session = (
                    self._known[self._places[number]] if number in self._places else self._answers[number][1]
                )
                if session is not None:
                    causes.setdefault(session, {})[message.trace] = None
        return Routed(
            outcomes=[outcomes.get(number) for number in range(len(self._messages))],
            handed=[
                Handed(id=id, agent=agent, key=key, causes=tuple(causes.get(id, ())))
                for id, agent, key in handed.sessions
            ],
            is_all=handed.is_all,
        )


def _dedupe(arrived: Arrived) -> str:
    return f"message:{arrived.id}"


def _answer(
    routing: Routing, messages: Sequence[Plain], arrived: Mapping[int, Arrived],
    answers: Mapping[int, tuple[UUID, int | None]], sessions: Collection[int],
) -> dict[int, str]:  # fmt: skip
    """Have these messages judged; what became of each, in words. sessions: for which there is something in the same
    transaction: they are locked too, as all of them must be in one order, and before the requests."""
    (connection,) = {one.connection for one in arrived.values()}
    locked = requests.lock_all(
        connection,
        {id for id, _ in answers.values()},
        {*sessions, *(session for _, session in answers.values() if session is not None)},
    )
    taken: dict[int, str] = {}
    # In the order in which others lock what belongs to requests; who answers the same one, in that in which they came.
    for number, (id, _) in sorted(answers.items(), key=lambda item: (item[1][0], item[0])):
        with tracing.resumed(messages[number].trace):
            # Whoever answers it after the first finds it changed.
            taken[number] = routing.answer(
                arrived[number], messages[number].contact, id, locked=locked.pop(id, None)
            )
    return taken


def rounds(messages: Iterable[Plain]) -> list[list[Plain]]:
    """These messages in rounds, in each of which nobody says more than one thing."""
    found: list[list[Plain]] = []
    said: dict[str, int] = {}
    for message in messages:
        number = said.get(message.contact, 0)
        said[message.contact] = number + 1
        if number == len(found):
            found.append([])
        found[number].append(message)
    return found


def _by_contact(
    rows: Iterable[Any], contacts: Sequence[str]
) -> tuple[dict[str, list[tuple[UUID, int | None]]], dict[str, dict[tuple[str, str], int]]]:
    """The open requests of contacts who have any; and the sessions that wait for each contact: for theirs if there are any,
    else for anyone's."""
    asked: dict[str, list[tuple[UUID, int | None]]] = {}
    own: dict[str, dict[tuple[str, str], int]] = {contact: {} for contact in contacts}
    anyones: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.request is not None:
            asked.setdefault(row.contact, []).append((row.request, row.session))
        else:
            names = anyones if row.contact is None else own[row.contact]
            names[row.agent, row.key] = row.session
    return asked, {contact: names or anyones for contact, names in own.items()}


def _record(message: Plain, arrived: Arrived, outcome: str) -> dict[str, object]:
    return {
        "channel": message.channel, "provider_id": message.incoming.provider_id, "address": message.address,
        "contact": message.contact, "raw": message.raw, "outcome": outcome, "at": arrived.now,
        "thread": message.incoming.thread, "reply_to": None, "message_id": arrived.id,
    }  # fmt: skip
