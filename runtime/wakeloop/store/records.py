"""What the store hands out and takes in: plain records, one per table that the runtime works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from wakeloop import tracing
from wakeloop.engine.journal import Record
from wakeloop.status import RunStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRow:
    """A session as a worker holds it: `token` and `version` prove in every commit that it still does."""

    id: int
    agent: str
    key: str
    state: str | None
    token: int
    version: int
    arrivals: int
    takeovers: int

    @property
    def name(self) -> str:
        return f"{self.agent}/{self.key}"


@dataclass(kw_only=True, slots=True)
class RunRow:
    """A run, without its journal. Not frozen: whoever holds the session changes it in place as the run goes on."""

    id: UUID
    session_id: int
    status: RunStatus
    event: str
    created_at: datetime
    schedule_id: int | None = None
    nominal: datetime | None = None
    skipped: str | None = None
    skip_count: int | None = None
    parent_id: UUID | None = None
    parent_session_id: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    applied: int = -1
    waits: str | None = None
    wake_at: datetime | None = None
    cancelling: bool = False
    result: str | None = None
    failure: str | None = None
    trace: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InboxRow:
    """Something that arrived for a session and is not consumed. kind: message, signal, reply, child, cancel or
    undeliverable. target: the run, or for a reply the request, that it is for."""

    id: int
    session_id: int
    kind: str
    target: UUID | None
    body: str | None
    arrived_at: datetime
    trace: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Post:
    """Something to put into a session's inbox, once per (session, dedupe). The session is made if there is none.

    trace: here and below, the trace that it belongs to; by default the current span's."""

    agent: str
    key: str
    kind: str
    dedupe: str
    body: str | None = None
    target: UUID | None = None
    trace: str | None = field(default_factory=tracing.carried)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A run to queue, once per id and per (schedule, nominal). The session is made if there is none.

    wake_at: it is not to begin before that, if it is queued ahead of its time."""

    id: UUID
    agent: str
    key: str
    event: str
    schedule_id: int | None = None
    nominal: datetime | None = None
    skipped: str | None = None
    skip_count: int | None = None
    parent_id: UUID | None = None
    parent_session_id: int | None = None
    wake_at: datetime | None = None
    trace: str | None = field(default_factory=tracing.carried)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewMessage:
    """A message to put into the outbox. channel, address: tried first; the recipient's others if it fails for good.

    urgent: it goes in the recipient's quiet hours too. interactive: it answers what they just wrote, so it goes at
    once. attachments: the files that go with it, as JSON."""

    id: UUID
    contact: str
    channel: str
    address: str
    via: str | None
    subject: str | None
    text: str
    run_id: UUID | None = None
    request_id: UUID | None = None
    urgent: bool = False
    interactive: bool = False
    attachments: str | None = None
    trace: str | None = field(default_factory=tracing.carried)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEntry:
    """Something to put at the end of a session's conversation. content: as JSON; None if it is the message `source`.
    contact: who said it, or to whom it was said, where no message tells."""

    role: str
    contact: str | None = None
    content: str | None = None
    source: UUID | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRequest:
    """A request to record. spec: what is asked of whom (`wakeloop.asking.RequestSpec` as JSON). maker, state, callback:
    of a program outside, who it is, what it gets back as it was, and where it is told of the end."""

    id: UUID
    kind: str
    spec: str
    run_id: UUID | None = None
    expires_at: datetime | None = None
    action: str | None = None
    args: str | None = None
    digest: str | None = None
    maker: str | None = None
    state: str | None = None
    callback: str | None = None
    trace: str | None = field(default_factory=tracing.carried)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settlement:
    """A request to end, if it is still open. outcome: `wakeloop.asking.Settled` as JSON."""

    id: UUID
    status: str
    outcome: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewWakeup:
    """A schedule that a session set for itself."""

    ref: str
    spec: str
    anchor: datetime
    nominal: datetime | None
    due_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildEnd:
    """What a spawned run came to, for the run that spawned it."""

    session: int
    parent: UUID
    run: UUID
    body: str
    trace: str | None = field(default_factory=tracing.carried)


class Receiver(NamedTuple):
    """What a run waits for, by one of its operations: a message of a contact, or of anyone; or, if it names one, a signal of
    that type, or of any ("*")."""

    op: int
    contact: str | None = None
    signal: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Emitted:
    """A signal for the runs of these agents that wait for one of its type, in whatever session. wide: those agents for whose
    runs that wait for any signal it is, too."""

    type: str
    agents: frozenset[str]
    wide: frozenset[str] = frozenset()
    dedupe: str
    body: str
    trace: str | None = field(default_factory=tracing.carried)


@dataclass(kw_only=True, slots=True)
class SessionCommit:
    """All that one session changes, applied in one transaction or not at all.

    release: let go of the session; it is next due at `due_at`. It is kept all the same if something arrived for it
    since it was loaded.
    closed_runs: runs whose open requests end with them. retargeted: inbox items that are kept for one run, as (item,
    run). signals: for the runs that wait for one. answers: what spawned runs came to. struck: runs that were queued ahead, and whose time has come."""

    session: SessionRow
    state: str | None = None
    release: bool = False
    due_at: datetime | None = None
    lease_until: datetime
    records: dict[UUID, list[Record]] = field(default_factory=dict)
    new_runs: list[RunRow] = field(default_factory=list)
    runs: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    consumed: list[int] = field(default_factory=list)
    messages: list[NewMessage] = field(default_factory=list)
    requests: list[NewRequest] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    spawned: list[NewRun] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    signals: list[Emitted] = field(default_factory=list)
    wakeups: list[NewWakeup] = field(default_factory=list)
    cancelled_wakeups: list[str] = field(default_factory=list)
    receivers: dict[UUID, list[Receiver]] = field(default_factory=dict)
    closed_runs: list[UUID] = field(default_factory=list)
    retargeted: list[tuple[int, UUID]] = field(default_factory=list)
    answers: list[ChildEnd] = field(default_factory=list)
    struck: list[UUID] = field(default_factory=list)
    entries: list[NewEntry] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """What became of a SessionCommit. fenced: another worker holds the session, or what it was about was taken back:
    nothing was written. released: it was let go. arrived: something new is in its inbox. has_settled: requests ended with runs of the same transaction."""

    session_id: int
    fenced: bool = False
    released: bool = False
    arrived: bool = False
    version: int = 0
    has_settled: bool = False


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """What a transaction has marked as dispatched of what it made due, each session with its agent and key. is_all: nothing
    that it made due is left to be claimed."""

    sessions: Sequence[tuple[int, str, str]] = ()
    is_all: bool = True


@dataclass(frozen=True, kw_only=True)
class TakenUp:
    """What sessions need whose turns begin or go on. claimed: whose leases were had. known: the others, as they are; by their
    ids. runs: the open ones, oldest first. inbox: what is not consumed, oldest first. schedules: the live ones, soonest
    first."""

    claimed: Sequence[SessionRow] = ()
    known: Mapping[int, SessionRow] = field(default_factory=dict)
    runs: Sequence[RunRow] = ()
    inbox: Sequence[InboxRow] = ()
    schedules: Sequence[Any] = ()
