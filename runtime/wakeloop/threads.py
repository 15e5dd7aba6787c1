"""Which of the messages of a conversation stand in one thread: by what they answer, and by their subjects. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

LONGEST = 20
"""So many ids of a thread are told: its first, and the latest."""

_PREFIXES = re.compile(r"^(?:(?:re|aw|sv|antw|fwd?|wg)(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A message of a conversation, by its provider's ids. is_ours: we said it. subject: that it was given, if any.
    text: what it said, if it is the first of its conversation. thread, reply_to: of theirs, the thread that it stands in
    and the message that it answers, where the provider told."""

    provider_id: str
    at: datetime
    is_ours: bool
    subject: str | None = None
    text: str | None = None
    thread: str | None = None
    reply_to: str | None = None


def thread_of(said: Iterable[Said], subject: str | None = None) -> list[Said]:
    """The messages of the thread in which one with this subject comes next, oldest first.

    What has no subject goes on where the last message stands, in either direction; one that has a subject goes on with
    the thread of that subject, or begins it. A reply stands where the message stands that it answers."""
    threads: dict[str, list[Said]] = {}
    places: dict[str, str] = {}
    latest: str | None = None
    for one in sorted(said, key=lambda one: one.at):
        if one.provider_id in places:
            continue
        answered = places.get(one.reply_to or "", places.get(one.thread or ""))
        if answered is not None:
            place = answered
        elif one.subject is not None or latest is None:
            place = plain_subject(one.subject or "")
        else:
            place = latest
        places[one.provider_id] = latest = place
        threads.setdefault(place, []).append(one)
    wanted = latest if subject is None else plain_subject(subject)
    return threads.get(wanted or "", [])


def ids_of(thread: Iterable[Said]) -> tuple[str, ...]:
    """The ids of these messages, oldest first, after those that the first of them names: at most LONGEST."""
    found: dict[str, None] = {}
    for one in thread:
        if not found and not one.is_ours:
            found |= dict.fromkeys(id for id in (one.thread, one.reply_to) if id)
        found[one.provider_id] = None
    ids = tuple(found)
    return ids if len(ids) <= LONGEST else (ids[0], *ids[1 - LONGEST :])


def topic_of(thread: Sequence[Said]) -> str | None:
    """The subject under which a thread goes on: the latest that is in it."""
    return next((one.subject for one in reversed(thread) if one.subject), None)


def plain_subject(subject: str) -> str:
    """A subject without what mail programs put before it, for comparison."""
    return " ".join(_PREFIXES.sub("", subject.strip()).split()).casefold()
