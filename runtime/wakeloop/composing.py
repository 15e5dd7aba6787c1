"""What a channel gets of a message beside its text: the thread it stands in, what may be pressed or filled in, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy.engine import Connection

from wakeloop.channel import Capabilities, DeliveryStatus, Sender
from wakeloop.desk import Desk
from wakeloop.events import Attachment, Message, load_event
from wakeloop.store import outbox
from wakeloop.store import threads as thread_store
from wakeloop.threads import Said, ids_of, thread_of, topic_of

_ATTACHMENTS = TypeAdapter(tuple[Attachment, ...])


@dataclass(frozen=True, kw_only=True)
class Composed:
    """lines: what is to be said after the text. extras: what `Outgoing` has beside it."""

    lines: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """The whole that is said."""
        return "\n".join(part for part in (text, *self.lines) if part)


class Composer:
    """Finds what goes with deliveries, as far as each one's channel can show it. Everything is read in the caller's
    transaction, in few statements for all of them."""

    def __init__(self, *, desk: Desk, channels: Mapping[str, Sender]) -> None:
        self._desk = desk
        self._channels = channels

    def compose(self, connection: Connection, rows: Sequence[Any]) -> dict[UUID, Composed]:
        """By the ids of these deliveries (rows of `store.claims.waiting`), what goes with each."""
        known = [row for row in rows if row.channel in self._channels]
        heard = thread_store.last_heard(connection, [row.id for row in known if self._can(row).inbound])
        threads = self._threads(connection, [row for row in known if self._can(row).threads], heard)
        attached = outbox.attachments_of(connection, [row.message_id for row in known if row.has_attachments])
        found = {}
        for row in known:
            thread = threads.get(row.id, [])
            extras: dict[str, Any] = {"thread": ids_of(thread), "topic": topic_of(thread)}
            extras["opening"] = thread[0].text if thread else None
            if row.id in heard:
                extras["heard_at"] = heard[row.id].at
            if row.request_id is not None and not row.interactive:
                extras |= self._of_request(connection, row)
            lines: tuple[str, ...] = ()
            if row.message_id in attached:
                files = _ATTACHMENTS.validate_json(attached[row.message_id])
                if self._can(row).media:
                    extras["attachments"] = files
                else:
                    page = self._desk.page(row.contact, at=row.at)
                    lines = tuple(file_line(file, page) for file in files)
            found[row.id] = Composed(lines=lines, extras=extras)
        return found

    def _can(self, row: Any) -> Capabilities:
        return self._channels[row.channel].capabilities

    def _of_request(self, connection: Connection, row: Any) -> dict[str, Any]:
        """What a channel may show of an open request, as far as it can."""
        can = self._can(row)
        left_out = {name for name, able in (("buttons", can.buttons), ("token", can.tokens)) if not able}
        left_out |= set() if can.forms else {"fields", "submit"}
        found = self._desk.extras(connection, row.request_id, row.contact)
        return {name: value for name, value in found.items() if name not in left_out}

    def _threads(
        self, connection: Connection, rows: Sequence[Any], heard: Mapping[UUID, Any]
    ) -> dict[UUID, list[Said]]:
        if not rows:
            return {}
        woken = self._woken_by(connection, [row.run_id for row in rows if row.run_id is not None])
        said: dict[UUID, list[Said]] = {row.id: [] for row in rows}
        for one in thread_store.said(connection, list(said)):
            said[one.delivery].append(_said(one, is_ours=bool(one.is_ours)))
        threads = {}
        for row in rows:
            first = woken.get(row.run_id)
            theirs = said[row.id]
            if first is not None and (first.channel, first.address) == (row.channel, row.address):
                theirs = [_said(first, is_ours=False), *theirs]
            if row.status != DeliveryStatus.PENDING and row.claimed_at is not None:
                theirs = [one for one in theirs if one.at < row.claimed_at]  # as it was at the first attempt
            threads[row.id] = thread_of(theirs, row.subject)
            # What answers a message at once, and is about nothing else, stands with that message.
            if row.interactive and row.request_id is None and row.run_id is None and row.id in heard:
                threads[row.id] = [_said(heard[row.id], is_ours=False)]
        return threads

    def _woken_by(self, connection: Connection, run_ids: Sequence[UUID]) -> dict[UUID, Any]:
        """By run, the message of a person that woke it, as its provider told it."""
        events = thread_store.woken_by(connection, set(run_ids))
        messages = {}
        for run_id, text in events.items():
            event = load_event(text)
            if isinstance(event, Message):
                messages[run_id] = UUID(event.id)
        told = thread_store.received_as(connection, set(messages.values()))
        return {run_id: told[id] for run_id, id in messages.items() if id in told}


def _said(row: Any, *, is_ours: bool) -> Said:
    return Said(
        provider_id=row.provider_id, at=row.at, is_ours=is_ours, subject=row.subject, text=row.text,
        thread=row.thread, reply_to=row.reply_to,
    )  # fmt: skip


def file_line(file: Attachment, page: str | None) -> str:
    """A file in words, for who cannot be sent it: where it is. page: of the person, where there is one."""
    if file.url.startswith("data:"):
        return f"{file_name(file)} (on your page{f': {page}' if page else ''})"
    return f"{file_name(file)}: {file.url}"


def file_name(file: Attachment) -> str:
    """What a file is called: its name, else what its address ends with, else its type."""
    if file.name:
        return " ".join(file.name.split())
    path = "" if file.url.startswith("data:") else urlsplit(file.url).path
    return unquote(path.rpartition("/")[2]) or file.content_type
