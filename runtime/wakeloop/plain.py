"""Routes plain messages, many in one transaction: what says nothing but its words, and what it is for is not in doubt.

Everything else is `wakeloop.routing`'s, which decides as this does; here is its short way for most of what comes in, in a
handful of statements for all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy.engine import Connection

from wakeloop import tracing
from wakeloop.channel import Incoming
from wakeloop.events import dump_event
from wakeloop.routing import SENDERS_ADDRESS, Arrived, Routing, codes
from wakeloop.store import inbox, received, requests, verifications
from wakeloop.store.records import Post
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


def route(
    connection: Connection, world: World, routing: Routing, messages: Sequence[Plain], *, now: datetime
) -> list[str | None]:
    """Record these messages, each of another contact, and put each into the inbox of the one session that it is for, or
    take it as the answer to the one request that its sender has open; what became of it, in words. Those that may be for
    several or for none are left alone, unrecorded: None."""
    asked = requests.open_of_contacts(connection, [message.contact for message in messages])
    free = [message.contact for message in messages if message.contact not in asked]
    waiting = _by_contact(received.waiting_for_any(connection, free) if free else (), free)
    arrived: dict[int, Arrived] = {}
    answers: dict[int, tuple[UUID, int | None]] = {}
    places: dict[int, tuple[str, str]] = {}
    known: dict[tuple[str, str], int] = {}
    for number, message in enumerate(messages):
        one = Arrived(
            connection=connection, id=world.ids.new_id(), channel=message.channel, address=message.address,
            incoming=message.incoming, now=now, auth=message.incoming.auth or message.auth,
        )  # fmt: skip
        if message.contact in asked:
            if len(asked[message.contact]) == 1:
                arrived[number], answers[number] = one, asked[message.contact][0]
            continue
        found = waiting[message.contact]
        names = list(found) or [
            (agent.name, key) for agent, key in world.registry.takers(one.event(message.contact, one.text))
        ]
        if len(names) == 1:
            arrived[number], places[number] = one, names[0]
            known |= found
    known |= inbox.ensure_sessions(
        connection, {name for name in places.values() if name not in known}, now=now
    )
    outcomes = {number: f"message for {agent}/{key}" for number, (agent, key) in places.items()}
    recorded = received.record_all(
        connection, [_record(messages[number], one, outcomes.get(number, "")) for number, one in arrived.items()]
    )  # fmt: skip
    fresh = {
        number: id
        for number, one in arrived.items()
        if (id := recorded.get((one.channel, one.incoming.provider_id))) is not None
    }
    outcomes |= {number: REPEATED for number in arrived if number not in fresh}
    if chosen := {number: answer for number, answer in answers.items() if number in fresh}:
        sessions = {known[places[number]] for number in places if number in fresh}
        taken = _answer(routing, messages, arrived, chosen, sessions)
        received.set_outcomes(connection, {fresh[number]: outcome for number, outcome in taken.items()})
        outcomes |= taken
    kept = []
    posts = []
    for number, (agent, key) in places.items():
        if number not in fresh:
            continue
        one, contact = arrived[number], messages[number].contact
        kept.append(
            {
                "id": one.id, "session_id": known[agent, key], "request_id": None, "inbound": True, "contact": contact,
                "channel": one.channel, "subject": one.subject, "text": one.text, "attachments": None, "at": now,
            }
        )  # fmt: skip
        body = dump_event(one.event(contact, one.text))
        posts.append(
            Post(
                agent=agent, key=key, kind="message", dedupe=f"message:{one.id}", body=body,
                trace=messages[number].trace,
            )
        )  # fmt: skip
    received.add_messages(connection, kept)
    inbox.touch(connection, inbox.post(connection, posts, known, now=now), now=now)
    return [outcomes.get(number) for number in range(len(messages))]


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
    rows: Iterable[received.Waits], contacts: Sequence[str]
) -> Mapping[str, dict[tuple[str, str], int]]:
    """The sessions that wait for each contact: for theirs if there are any, else for anyone's."""
    own: dict[str, dict[tuple[str, str], int]] = {contact: {} for contact in contacts}
    anyones: dict[tuple[str, str], int] = {}
    for row in rows:
        names = anyones if row.contact is None else own[row.contact]
        names[row.agent, row.key] = row.session
    return {contact: names or anyones for contact, names in own.items()}


def _record(message: Plain, arrived: Arrived, outcome: str) -> dict[str, object]:
    return {
        "channel": message.channel, "provider_id": message.incoming.provider_id, "address": message.address,
        "contact": message.contact, "raw": message.raw, "outcome": outcome, "at": arrived.now,
        "thread": message.incoming.thread, "reply_to": None, "message_id": arrived.id,
    }  # fmt: skip
