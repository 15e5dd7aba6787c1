"""Runs, sessions, messages and requests as people and programs see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from wakeloop.agent import Agent
from wakeloop.asking import RequestSpec, Settled
from wakeloop.conversation import message_of
from wakeloop.engine.commands import Wakeup
from wakeloop.engine.values import JSON_CODEC, result_codec
from wakeloop.entries import Entry
from wakeloop.events import Event, Message, load_event
from wakeloop.granting import limit_words
from wakeloop.open_run import RunError
from wakeloop.triggers import load_schedule


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run. result: what the handler returned. error: why it failed or got stuck, in a line; traceback: in full.
    skipped: the reason, for an occurrence of a schedule that was not run ("overlap", "misfire" or "catchup")."""

    id: str
    agent: str
    key: str
    status: str
    event: Event
    result: Any
    error: str | None
    traceback: str | None
    skipped: str | None
    skip_count: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    wake_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class SessionView:
    """A session: its state (of the agent's model, if it has one), conversation, and coming wakeups."""

    agent: str
    key: str
    state: Any
    conversation: list[Entry]
    wakeups: list[Wakeup]


@dataclass(frozen=True, kw_only=True)
class RequestView:
    """A request to people.

    to: whom it was made for, one name or several; asked: the contacts who were asked so far, with escalations. title:
    what it is about, in a line that tells it from others. args, digest: of an approval, the arguments as they are now.
    votes: who has approved those. outcome: how it ended. agent, key, run: whose it is, if a run's; else `maker` made
    it, and `state` is what it gets back.
    """

    id: str
    kind: str
    code: str
    to: str | tuple[str, ...]
    asked: tuple[str, ...]
    text: str
    title: str
    subject: str | None
    options: tuple[str, ...]
    status: str
    action: str | None
    args: dict[str, Any] | None
    digest: str | None
    quorum: int
    votes: tuple[str, ...]
    is_editable: bool
    outcome: Settled | None
    agent: str | None
    key: str | None
    run: str | None
    maker: str | None
    state: Any
    created_at: datetime
    expires_at: datetime | None
    settled_at: datetime | None

    @property
    def answer(self) -> str | None:
        """The words of the answer, or beside the verdict."""
        return None if self.outcome is None else self.outcome.text or self.outcome.comment or None

    @property
    def by(self) -> str | None:
        """Who decided."""
        return None if self.outcome is None else self.outcome.by


@dataclass(frozen=True, kw_only=True)
class AuditLine:
    """One attempt to decide a request, or something that happened to it: what, what came of it, by whom, how that was
    known, when, and the digest of the call that it was about."""

    at: datetime
    act: str
    result: str
    contact: str | None
    channel: str | None
    auth: str | None
    digest: str | None
    comment: str | None


@dataclass(frozen=True, kw_only=True)
class GrantView:
    """An approval in advance. limits: what a call must be like, in words. is_active: whether it covers calls now."""

    id: str
    action: str
    origin: str
    contact: str
    limits: str
    request: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None
    is_active: bool


def run_view(row: Any, agent: Agent | None) -> RunView:
    """A row of `queries.list_runs` as a view; the result is of the handler's return type if the agent is known."""
    result = None
    if row.result is not None:
        codec = result_codec(agent.handler) if agent is not None else JSON_CODEC
        try:
            result = codec.load(row.result)
        except ValidationError:  # the handler returned something else in those days
            result = JSON_CODEC.load(row.result)
    error = RunError.model_validate_json(row.failure) if row.failure else None
    return RunView(
        id=str(row.id),
        agent=row.agent,
        key=row.key,
        status=row.status,
        event=load_event(row.event),
        result=result,
        error=error.failure.title if error else None,
        traceback=error.failure.trace if error else None,
        skipped=row.skipped,
        skip_count=row.skip_count,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        wake_at=row.wake_at,
    )


def message_view(row: Any) -> Message:
    """A row of the messages table as a Message."""
    return message_of(row)


def state_view(text: str | None, agent: Agent | None) -> BaseModel | Any:
    """A session's state: of the agent's model if the agent is known and has one, else plain JSON."""
    if agent is not None and agent.state is not None:
        try:
            return agent.state() if text is None else agent.state.model_validate_json(text)
        except ValidationError:  # the model has changed since: plain JSON shows at least what is there
            return JSON_CODEC.load(text or "null")
    return None if text is None else JSON_CODEC.load(text)


def wakeup_view(row: Any) -> Wakeup:
    """A row of the schedules table as a Wakeup."""
    return Wakeup(id=row.ref, schedule=load_schedule(row.spec), next=row.nominal, own=row.own)


def request_view(row: Any, asked: Sequence[Any]) -> RequestView:
    """A row of `queries.list_requests` with its recipients as a view."""
    spec = RequestSpec.model_validate_json(row.spec)
    return RequestView(
        id=str(row.id), kind=row.kind, code=asked[0].code if asked else "",
        to=spec.to[0] if len(spec.to) == 1 else spec.to, asked=tuple(one.contact for one in asked), text=spec.text,
        title=spec.title,
        subject=spec.subject, options=spec.options, status=row.status, action=row.action,
        args=None if row.args is None else JSON_CODEC.load(row.args), digest=row.digest, quorum=spec.quorum,
        votes=tuple(one.contact for one in asked if one.vote is not None and one.vote == row.digest),
        is_editable=spec.args_form is not None,
        outcome=None if row.outcome is None else Settled.model_validate_json(row.outcome), agent=row.agent, key=row.key,
        run=None if row.run_id is None else str(row.run_id), maker=row.maker,
        state=None if row.state is None else JSON_CODEC.load(row.state), created_at=row.created_at,
        expires_at=row.expires_at, settled_at=row.settled_at,
    )  # fmt: skip


def audit_line(row: Any) -> AuditLine:
    """A row of the audit table as a view."""
    names = ("at", "act", "result", "contact", "channel", "auth", "digest", "comment")
    return AuditLine(**{name: getattr(row, name) for name in names})


def grant_view(row: Any, now: datetime) -> GrantView:
    """A row of the grants table as a view."""
    return GrantView(
        id=str(row.id), action=row.action, origin=row.origin, contact=row.contact,
        limits=limit_words(JSON_CODEC.load(row.limits)), request=str(row.request_id), created_at=row.created_at,
        expires_at=row.expires_at, revoked_at=row.revoked_at, revoked_by=row.revoked_by,
        is_active=row.revoked_at is None and now < row.expires_at,
    )  # fmt: skip
