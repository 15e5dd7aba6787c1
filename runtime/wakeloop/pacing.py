"""When a person may be written to: quiet hours, so many messages an hour, and bursts that go together. Pure.

Of all that waits for a person, `plan` says what goes now and in which parcels, and what is put off until when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

HOUR = timedelta(hours=1)
SEPARATOR = "\n\n"
"""What stands between texts that go together."""

Order = tuple[datetime, UUID]
"""When a message was said, and its id: messages are sent in this order."""


class Why(StrEnum):
    """Why a delivery is put off: the person's quiet hours, their messages in an hour, or a burst."""

    QUIET = "quiet"
    CAP = "cap"
    BURST = "burst"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a person is written to; 0 is no limit.

    coalesce_seconds: for how long after a message what else is said on that channel waits, to go together."""

    messages_per_hour: int = 60
    coalesce_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A delivery to be made. is_due: it may be made now, if nothing here forbids it; else it is `held`.

    is_begun: an earlier sender did not get to record what came of it. is_retry: it was tried, and certainly not taken.
    is_hopeless: it cannot be made, and only has to be recorded so. is_request: it asks or reminds. has_attachments: it
    goes by itself, as nobody could tell which of several texts a file belongs to."""

    id: UUID
    contact: str
    channel: str
    address: str
    order: Order
    text: str = ""
    subject: str | None = None
    held: str | None = None
    is_due: bool = True
    is_begun: bool = False
    is_retry: bool = False
    is_hopeless: bool = False
    is_request: bool = False
    urgent: bool = False
    interactive: bool = False
    has_attachments: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Recent:
    """A message that a provider took over, or may be taking over, with when that began. is_plain: it could have been
    put off for a burst, so it begins one."""

    contact: str
    channel: str
    address: str
    order: Order
    is_plain: bool
    interactive: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """Deliveries that go to the provider now, as one message. not_before: it is only looked whether it left already;
    if not, it is not sent before that time."""

    ids: tuple[UUID, ...]
    contact: str
    channel: str
    address: str
    order: Order
    not_before: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """A delivery that is put off."""

    id: UUID
    until: datetime
    why: Why


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of what waits. The parcels are in the order in which those to one address are sent."""

    parcels: list[Parcel] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a plan goes by. heard: by contact and channel, the last message of theirs. quiet_until: of a contact, the
    end of the quiet hours that it is within. max_length: of a channel, how many characters a message may have."""

    now: datetime
    pace: Pace
    recent: Sequence[Recent] = ()
    heard: Mapping[tuple[str, str], Order] = field(default_factory=dict)
    quiet_until: Callable[[str], datetime | None] = lambda contact: None
    max_length: Callable[[str], int | None] = lambda channel: None


def plan(waiting: Iterable[Waiting], at: Circumstances) -> Plan:
    """What goes now, in which parcels, and what is put off until when. Nothing that is due is left out, and a delivery
    that is put off is put off to a time later than now."""
    made = Plan()
    people: dict[str, list[Waiting]] = defaultdict(list)
    for one in waiting:
        people[one.contact].append(one)
    for contact, theirs in people.items():
        _Person(contact, at, made).plan(sorted(theirs, key=lambda one: one.order))
    made.parcels.sort(key=lambda parcel: parcel.order)
    return made


class _Person:
    """The plan for one person."""

    def __init__(self, contact: str, at: Circumstances, made: Plan) -> None:
        self._contact = contact
        self._at = at
        self._made = made
        self._quiet_until = at.quiet_until(contact)
        self._recent = [one for one in at.recent if one.contact == contact]
        # What answers a person's own message neither waits for the cap nor counts towards it.
        self._taken = sorted(
            one.order[0] for one in self._recent if not one.interactive and one.order[0] > at.now - HOUR
        )

    def plan(self, waiting: Sequence[Waiting]) -> None:
        paced: list[Waiting] = []
        plain: dict[tuple[str, str], list[Waiting]] = defaultdict(list)
        for one in waiting:
            if one.is_hopeless or one.interactive or one.is_begun:
                if one.is_due:
                    self._go([one], None if one.urgent or not one.is_begun else self._quiet_until)
            elif self._quiet_until is not None and not one.urgent:
                if one.is_due:
                    self._hold([one], self._quiet_until, Why.QUIET)
            elif self._is_plain(one):
                plain[one.channel, one.address].append(one)
            elif one.is_due:
                paced.append(one)
        # What asks comes before what only tells, if there is not room for both; it is still sent after it.
        asked: dict[tuple[str, str], Order] = {}
        for one in paced:
            if self._send([one]) and one.is_request:
                asked[one.channel, one.address] = one.order
        for (channel, address), theirs in plain.items():
            self._plan_burst(channel, address, theirs, asked.get((channel, address)))

    def _is_plain(self, one: Waiting) -> bool:
        is_bound = one.is_request or one.urgent or one.is_retry or one.has_attachments
        return not is_bound and self._at.pace.coalesce_seconds > 0

    def _plan_burst(
        self, channel: str, address: str, waiting: Sequence[Waiting], asked: Order | None
    ) -> None:
        """Messages to one address that only tell: the first of a burst goes, the others wait to go together. A question
        does not wait, and takes along what was said before it."""
        before = [one for one in waiting if asked is not None and one.order < asked]
        after = [one for one in waiting if asked is None or one.order > asked]
        window = timedelta(seconds=self._at.pace.coalesce_seconds)
        went = self._send_together(channel, before)
        end = self._at.now + window if went else self._burst_end(channel, address, window)
        due = [one for one in after if one.is_due]
        if not due:
            return
        if end is not None:
            self._hold(due, end, Why.BURST)
        elif any(one.held for one in after):
            self._send_together(channel, after)
        elif self._send(due[:1]):
            self._hold(due[1:], self._at.now + window, Why.BURST)
        else:
            self._hold(due[1:], self._room_at(), Why.CAP)

    def _burst_end(self, channel: str, address: str, window: timedelta) -> datetime | None:
        """The end of the burst that the last message of this kind began, unless the person has answered since."""
        began = max(
            (
                one.order for one in self._recent
                if one.is_plain and (one.channel, one.address) == (channel, address)
                and one.order[0] > self._at.now - window
            ),
            default=None,
        )  # fmt: skip
        if began is None:
            return None
        heard = self._at.heard.get((self._contact, channel))
        return began[0] + window if heard is None or heard < began else None

    def _send_together(self, channel: str, waiting: Sequence[Waiting]) -> bool:
        """Whether any of these went."""
        sent = [self._send(parcel) for parcel in pack(waiting, self._at.max_length(channel))]
        return any(sent)

    def _send(self, together: Sequence[Waiting]) -> bool:
        most = self._at.pace.messages_per_hour
        if most and len(self._taken) >= most:
            self._hold(together, self._room_at(), Why.CAP)
            return False
        self._taken.append(self._at.now)
        self._go(together)
        return True

    def _room_at(self) -> datetime:
        """When one of the messages that fill the hour falls out of it."""
        return self._taken[-self._at.pace.messages_per_hour] + HOUR

    def _go(self, together: Sequence[Waiting], not_before: datetime | None = None) -> None:
        first = together[0]
        self._made.parcels.append(
            Parcel(
                ids=tuple(one.id for one in together), contact=first.contact, channel=first.channel,
                address=first.address, order=first.order, not_before=not_before,
            )
        )  # fmt: skip

    def _hold(self, waiting: Sequence[Waiting], until: datetime, why: Why) -> None:
        self._made.holds.extend(Hold(id=one.id, until=until, why=why) for one in waiting)


def pack(waiting: Sequence[Waiting], most: int | None) -> list[list[Waiting]]:
    """Messages in order, as few as can be: each with one subject, and with at most so many characters."""
    parcels: list[list[Waiting]] = []
    size = 0
    for one in waiting:
        size += len(SEPARATOR) + len(one.text)
        if not parcels or parcels[-1][0].subject != one.subject or (most is not None and size > most):
            parcels.append([])
            size = len(one.text)
        parcels[-1].append(one)
    return parcels


def joined(texts: Iterable[str]) -> str:
    """The text of a parcel."""
    return SEPARATOR.join(texts)
