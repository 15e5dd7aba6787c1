"""Routes plain messages, many in one transaction: what says nothing but its words, and whose session is not in doubt.

Everything else is `wakeloop.routing`'s, which decides as this does; here is its short way for most of what comes in, in a
handful of statements for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.engine import Connection

from wakeloop import tracing
from wakeloop.channel import Incoming
from wakeloop.events import dump_event
from wakeloop.routing import Arrived, codes
from wakeloop.store import inbox, received, requests, verifications
from wakeloop.store.records import Post
from wakeloop.world import World

REPEATED = "a repetition of what is recorded already"


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A plain message of a contact. raw: what the provider sent, as JSON. trace: to which it belongs; by default the
    current span's."""

    channel: str
    address: str
    contact: str
    incoming: Incoming
    raw: str
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
    connection: Connection, world: World, messages: Sequence[Plain], *, now: datetime
) -> list[str | None]:
    """Record these messages, each of another contact, and put each into the inbox of the one session that it is for; what
    became of it, in words. Those that may be for a request, for several sessions or for none are left alone, unrecorded:
    None."""
    contacts = [message.contact for message in messages]
    asked = requests.have_open(connection, contacts)
    waiting = _by_contact(received.waiting_for_any(connection, contacts), contacts)
    arrived: dict[int, Arrived] = {}
    places: dict[int, tuple[str, str]] = {}
    known: dict[tuple[str, str], int] = {}
    for number, message in enumerate(messages):
        if message.contact in asked:
            continue
        one = Arrived(
            connection=connection, id=world.ids.new_id(), channel=message.channel, address=message.address,
            incoming=message.incoming, now=now,
        )  # fmt: skip
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
    fresh = received.record_all(
        connection, [_record(messages[number], arrived[number], outcomes[number]) for number in places]
    )
    kept = []
    posts = []
    for number, (agent, key) in places.items():
        one, contact = arrived[number], messages[number].contact
        if (one.channel, one.incoming.provider_id) not in fresh:
            outcomes[number] = REPEATED
            continue
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
