"""Where a message goes that a person sent: a reply is matched, never guessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy.engine import Connection

from wakeloop.asking import RequestSpec, choices
from wakeloop.channel import Incoming
from wakeloop.decisions import Actor, Attempt, Decisions
from wakeloop.desk import SUBMIT, read_pressed
from wakeloop.errors import NotFound
from wakeloop.events import Attachment, Message, dump_event
from wakeloop.links import InvalidLink, Links
from wakeloop.status import RequestStatus
from wakeloop.store import inbox, outbox, received, verifications
from wakeloop.store import requests as request_store
from wakeloop.store.records import NewMessage, Post
from wakeloop.world import World

LISTED = 10
"""So many open requests are named when somebody must say which one they mean."""

SENDERS_ADDRESS = "sender's address"
SIGNED_BY_PROVIDER = "provider's signature, sender's address"
FETCHED_FROM_PROVIDER = "fetched from the provider, sender's address"
"""How it is known, as a rule, who sent a message."""

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])
# A code stands first or last; longer ones are made when the short ones have run out.
_FIRST = re.compile(r"^\W*((?:[A-Za-z]\d){1,6})\b[\s:,;.)\-]*(.*)$", re.DOTALL)
_LAST = re.compile(r"^(.*?)[\s:,;.(\-]+((?:[A-Za-z]\d){1,6})\W*$", re.DOTALL)
AUTOMATIC = "[automatic reply] "
"""What a machine's words begin with in a conversation."""
_ADDRESSED = re.compile(r"[:,\s]+(.+)$", re.DOTALL)
"""What follows the name of who is addressed."""


@dataclass(frozen=True, kw_only=True)
class Replies:
    """What people are told when nobody takes their message; None says nothing."""

    unknown_sender: str | None = None
    unrouted: str | None = None


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A message that is recorded and not routed yet. id: under which it stands in conversations. auth: how it is known
    who sent it. attachments: all that came with it, the files that are kept here too. amends: what its channel sent can
    be changed afterwards."""

    connection: Connection
    id: UUID
    channel: str
    address: str
    incoming: Incoming
    now: datetime
    auth: str = SENDERS_ADDRESS
    attachments: tuple[Attachment, ...] = ()
    amends: bool = False

    @property
    def text(self) -> str:
        """What it says, without what no database keeps."""
        return cleaned(self.incoming.text).strip()

    @property
    def subject(self) -> str | None:
        """Its subject, likewise, in a line."""
        return " ".join(cleaned(self.incoming.subject or "").split()) or None

    @property
    def values(self) -> dict[str, str]:
        """What was filled in, likewise."""
        return {cleaned(name): cleaned(value) for name, value in (self.incoming.values or {}).items()}

    def event(self, contact: str, text: str) -> Message:
        """The event that it is for a session."""
        return Message(
            id=str(self.id), text=text, from_=contact, channel=self.channel, at=self.now, subject=self.subject,
            attachments=self.attachments, vouched=self.incoming.vouched,
        )  # fmt: skip

    @property
    def pressed(self) -> tuple[UUID, str, str | None] | None:
        """The request whose button was pressed, what that stands for, and the call that its message showed, if it is one."""
        return read_pressed(self.incoming.pressed or "")


def cleaned(text: str) -> str:
    """A text without what no database keeps."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def _told_apart(sessions: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The sessions, by what a person calls them: the agent's name, with the key where several are of that agent."""
    many = Counter(agent for agent, _ in sessions)
    return {agent if many[agent] == 1 else f"{agent}/{key}": (agent, key) for agent, key in sessions}


def _addressed(text: str, names: Iterable[str]) -> tuple[str, str] | None:
    """The name that a text begins with, and what follows it; the longest of several, as a key may begin like another."""
    said = text.removeprefix("@")
    found = [
        (len(name), name, after[1])
        for name in names
        if said[: len(name)].casefold() == name.casefold() and (after := _ADDRESSED.match(said, len(name)))
    ]
    longest = [one for one in found if one[0] == max(found)[0]]
    return longest[0][1:] if len(longest) == 1 else None


class Routing:
    """Finds where messages go, in the caller's transaction; what became of each, in words.

    A reply belongs to the request whose button was pressed, whose message it answers, whose signed token it carries or
    whose code it names; else to the only open one of its sender, unless it answers another message by the provider's own
    word. If there are several, the sender is asked. What answers
    no request goes to the session in whose thread it stands; else to the run that waits for a message of the sender,
    else to the agent that takes such messages; if that fits several, the sender is asked. What then is left over and
    came after a request of theirs had ended is answered with what happened to that.
    """

    def __init__(
        self, *, world: World, decisions: Decisions, links: Links, replies: Replies = Replies()
    ) -> None:
        self._world = world
        self._decisions = decisions
        self._links = links
        self._replies = replies

    def stranger(self, message: Arrived, contacts: list[str]) -> str:
        """A sender who is nobody's contact, or whose address several contacts share: never taken for one of them."""
        self._keep(message, None, None)
        if self._opt(message):
            out = message.incoming.opt_out
            return "an opt-out of an unknown sender" if out else "an opt-in of an unknown sender"
        if self._verifies(message):
            return "verified an address that several contacts share"
        if contacts:
            return f"an address that several contacts share: {', '.join(contacts)}"
        if self._replies.unknown_sender is not None and message.incoming.vouched:
            self._say(message, self._replies.unknown_sender, contact=message.address)
            return "an unknown sender, answered"
        return "an unknown sender, ignored"

    def automatic(self, message: Arrived, contact: str | None) -> str:
        """What a machine answered for somebody: it says nothing for them, and nobody answers it."""
        answered = self._answered(message)
        session, request = (
            (answered.session_id, answered.request_id) if answered is not None else (None, None)
        )
        self._keep(message, contact, session, request, text=f"{AUTOMATIC}{message.text}")
        return "an automatic reply; kept"

    def person(self, message: Arrived, contact: str) -> str:
        """A contact: their word on a request, a message for a session that waits, or one that begins something."""
        if self._opt(message):
            self._keep(message, contact, None)
            return "opted out" if message.incoming.opt_out else "opted in"
        if message.incoming.help:
            self._keep(message, contact, None)
            return "asked for help; the provider answers that"
        if self._verifies(message):
            self._keep(message, contact, None)
            self._say(message, "Thank you, this is confirmed.", contact=contact)
            return "verified"
        if message.pressed is not None:
            return self._reply(message, contact, message.pressed[0], message.text)
        named = self._named(message, contact)
        if named is not None:
            return self._reply(message, contact, *named)
        open_ones = request_store.open_of_contact(message.connection, contact)
        coded = self._coded(message, contact, {row.code: row.id for row in open_ones})
        if coded is not None:
            return self._reply(message, contact, *coded)
        # By the provider's own word it answers something, and that was no request of ours.
        elsewhere = message.incoming.reply_to is not None
        if len(open_ones) == 1 and not elsewhere:
            return self._reply(message, contact, open_ones[0].id, message.text)
        if open_ones and not (elsewhere and self._is_wanted(message, contact)):
            return self._ask_which(message, contact, open_ones)
        return self._to_session(message, contact)

    def answer(self, message: Arrived, contact: str, id: UUID, *, locked: Any) -> str:
        """Words of a contact whose only open request this is; see `Decisions.reply` on `locked`."""
        return self._reply(message, contact, id, message.text, locked=locked)

    def _verifies(self, message: Arrived) -> bool:
        """Whether it is the code by which an operator asked whose address this is."""
        return verifications.take(
            message.connection, message.channel, message.address, message.text, message.now
        )

    # ------------------------------------------------------------------ requests

    def _named(self, message: Arrived, contact: str) -> tuple[UUID, str] | None:
        """The request that a message names by what cannot be mistaken, and what it says to it."""
        row = self._answered(message)
        if row is not None and row.request_id is not None:
            return row.request_id, message.text
        if message.incoming.token is not None:
            try:
                named, id = self._links.read_reply(message.incoming.token)
            except InvalidLink:
                return None
            if named == contact:
                return id, message.text
        return None

    def _answered(self, message: Arrived) -> Any:
        """The message of ours that this one answers, by the provider's own word."""
        reply_to = message.incoming.reply_to
        if reply_to is None:
            return None
        return outbox.message_of(message.connection, message.channel, reply_to)

    def _coded(self, message: Arrived, contact: str, by_code: dict[str, UUID]) -> tuple[UUID, str] | None:
        """The request whose code a text names. Codes are used again: an open request comes before one that has ended."""
        found = codes(message.text)
        for code, rest in found:
            if code in by_code:
                return by_code[code], rest
        for code, rest in found:
            past = request_store.latest_of_contact(message.connection, contact, code)
            if past is not None and len(rest.split()) <= 5:
                return past.id, rest
        return None

    def _reply(self, message: Arrived, contact: str, id: UUID, text: str, *, locked: Any = None) -> str:
        asked = locked if locked is not None else request_store.find(message.connection, id)
        said = message.text or self._pressed_words(message, asked)
        self._keep(message, contact, asked.session_id if asked is not None else None, id, text=said)
        if not text and message.pressed is None:
            row = request_store.one_of_contact(message.connection, contact, id)
            if row is not None and row.open:
                title = RequestSpec.model_validate_json(row.spec).title
                self._say(message, f"What is your answer to {row.code}: {title}", contact=contact, request=id)
                return f"named request {id} without an answer; asked for it"
        try:
            attempt = self._attempt(message, contact, id, text, locked)
        except NotFound:
            return f"names request {id}, which is not there"
        # A press that ended something shows in the message that was pressed.
        is_shown = message.pressed is not None and message.amends and _has_settled(attempt)
        if attempt.say is not None and not is_shown:
            self._say(message, attempt.say, contact=contact, request=id)
        return _of_session(attempt, asked)

    def _pressed_words(self, message: Arrived, asked: Any) -> str:
        """What somebody said who only pressed a button: its label, or what they filled in."""
        if message.pressed is None:
            return ""
        _, word, _ = message.pressed
        if word == SUBMIT:
            return "\n".join(f"{name}: {value}" for name, value in message.values.items())
        labels = () if asked is None else choices(RequestSpec.model_validate_json(asked.spec))
        return next((label for label, stands_for, _ in labels if stands_for == word), cleaned(word))

    def _attempt(self, message: Arrived, contact: str, id: UUID, text: str, locked: Any) -> Attempt:
        """Have a word judged: a filled in form, a pressed button with what was said besides, or a text."""
        connection, now = message.connection, message.now
        actor = Actor(
            contact=contact, channel=message.channel, auth=message.auth, vouched=message.incoming.vouched
        )
        if message.pressed is None:
            return self._decisions.reply(connection, id, actor, text, now=now, locked=locked)
        _, word, seen = message.pressed
        if word == SUBMIT:
            return self._decisions.fill_in(connection, id, actor, message.values, now=now)
        return self._decisions.press(connection, id, actor, word, seen=seen, comment=text, now=now)

    def _ask_which(self, message: Arrived, contact: str, open_ones: list[Any]) -> str:
        self._keep(message, contact, None)
        told = [(row.id, contact) for row in open_ones[:LISTED] if not row.code_told]
        request_store.note_told(message.connection, told)
        lines = [
            f"{row.code}: {RequestSpec.model_validate_json(row.spec).title}" for row in open_ones[:LISTED]
        ]
        if len(open_ones) > LISTED:
            lines.append(f"… and {len(open_ones) - LISTED} more")
        count = "1 question is" if len(open_ones) == 1 else f"{len(open_ones)} questions are"
        head = f"{count} open. Reply with a code and your answer:"
        self._say(message, "\n".join([head, *lines]), contact=contact)
        if len(open_ones) == 1:
            return "answers another message than the open question's; asked whether it is meant"
        return f"could answer {len(open_ones)} questions; asked which"

    # ------------------------------------------------------------------ sessions

    def _to_session(self, message: Arrived, contact: str) -> str:
        """The session that waits for this person, or the agents that take messages."""
        connection = message.connection
        event = message.event(contact, message.text)
        candidates = self._threads(message) or self._waiting(message, contact)
        candidates = candidates or [(agent.name, key) for agent, key in self._world.registry.takers(event)]
        names = _told_apart(candidates)
        if len(candidates) > 1 and (addressed := _addressed(message.text, names)) is not None:
            name, text = addressed
            candidates = [names[name]]
            event = message.event(contact, text)
        if len(candidates) > 1:
            self._keep(message, contact, None)
            listed = ", ".join(sorted(names)[:LISTED])
            if len(names) > LISTED:
                listed += f", … and {len(names) - LISTED} more"
            self._say(message, f"Who is this for? Begin with one of these names: {listed}.", contact=contact)
            return f"could be for {listed}; asked which"
        if not candidates:
            return self._left_over(message, contact)
        agent, key = candidates[0]
        known, made = inbox.ensure_recipients(connection, [(agent, key)], now=message.now)
        self._keep(message, contact, known[agent, key], text=event.text)
        post = Post(
            agent=agent, key=key, kind="message", dedupe=f"message:{message.id}", body=dump_event(event)
        )
        posted = inbox.post(connection, [post], known, now=message.now)
        inbox.touch(connection, posted - made, now=message.now)
        return f"message for {agent}/{key}"

    def _threads(self, message: Arrived) -> list[tuple[str, str]]:
        """The session whose message this one answers, by the provider's own word."""
        row = self._answered(message)
        if row is None or row.session_id is None:
            return []
        session = received.session(message.connection, row.session_id)
        return [] if session is None else [(session.agent, session.key)]

    def _waiting(self, message: Arrived, contact: str) -> list[tuple[str, str]]:
        """The sessions whose runs wait for a message: for this person's if there are any, else for anyone's."""
        found = {
            (row.agent, row.key): row.contact for row in received.waiting_for(message.connection, contact)
        }
        return [name for name, wanted in found.items() if wanted is not None] or list(found)

    def _is_wanted(self, message: Arrived, contact: str) -> bool:
        """Whether a run waits for what this contact writes, or an agent takes it."""
        event = message.event(contact, message.text)
        return bool(self._waiting(message, contact) or self._world.registry.takers(event))

    def _left_over(self, message: Arrived, contact: str) -> str:
        """Nobody takes it: perhaps it came too late, else it is kept and shown."""
        last = outbox.last_message(message.connection, contact, message.channel)
        if last is not None and last.request_id is not None:
            row = request_store.one_of_contact(message.connection, contact, last.request_id)
            if row is not None and not row.open:
                return self._reply(message, contact, row.id, message.text)
        self._keep(message, contact, None)
        if self._replies.unrouted is not None:
            self._say(message, self._replies.unrouted, contact=contact)
            return "nobody takes it; answered"
        return "nobody takes it; kept"

    # ------------------------------------------------------------------ small things

    def _opt(self, message: Arrived) -> bool:
        out = message.incoming.opt_out
        if out is None:
            return False
        outbox.set_opt_out(message.connection, message.channel, message.address, out, now=message.now)
        return True

    def _keep(
        self, message: Arrived, contact: str | None, session: int | None, request: UUID | None = None, *,
        text: str | None = None,
    ) -> None:  # fmt: skip
        attachments = message.attachments
        received.add_message(
            message.connection, id=message.id, session_id=session, request_id=request, contact=contact,
            channel=message.channel, subject=message.subject, text=message.text if text is None else text, now=message.now,
            attachments=_ATTACHMENTS.dump_json(attachments).decode() if attachments else None,
        )  # fmt: skip

    def _say(self, message: Arrived, text: str, *, contact: str, request: UUID | None = None) -> None:
        """Answer the sender at once, where they wrote."""
        said = NewMessage(
            id=self._world.ids.new_id(), contact=contact, channel=message.channel, address=message.address,
            via=message.channel, subject=None, text=text, request_id=request, interactive=True,
        )  # fmt: skip
        outbox.put(message.connection, None, [said], now=message.now)


def _has_settled(attempt: Attempt) -> bool:
    return attempt.accepted and attempt.status is not RequestStatus.OPEN


def _of_session(attempt: Attempt, asked: Any) -> str:
    return attempt.words if asked.agent is None else f"{attempt.words} of {asked.agent}/{asked.key}"


def codes(text: str) -> list[tuple[str, str]]:
    """The codes that a text may name, each with what it says besides: "A7 yes", "yes a7!", "A7"."""
    found = []
    first = _FIRST.match(text)
    if first is not None:
        found.append((first[1].upper(), first[2].strip()))
    last = _LAST.match(text)
    if last is not None:
        found.append((last[2].upper(), last[1].strip()))
    return found
