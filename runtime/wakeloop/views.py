"""Runs, sessions, messages and requests as people and programs see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from wakeloop.agent import Agent
from wakeloop.engine.commands import Wakeup
from wakeloop.engine.values import JSON_CODEC, result_codec
from wakeloop.events import Event, Message, load_event
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
    conversation: list[Message]
    wakeups: list[Wakeup]


@dataclass(frozen=True, kw_only=True)
class RequestView:
    """A request to a person. `args` is what an approval is for; a question has none."""

    id: str
    kind: str
    code: str
    to: str
    text: str
    options: tuple[str, ...]
    status: str
    answer: str | None
    by: str | None
    agent: str
    key: str
    run: str
    args: dict[str, Any] | None = None


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
    attachments = JSON_CODEC.load(row.attachments) if row.attachments else ()
    return Message.model_validate(
        {
            "id": str(row.id),
            "text": row.text,
            "from_": row.contact if row.inbound else None,
            "to": None if row.inbound else row.contact,
            "channel": row.channel,
            "at": row.at,
            "subject": row.subject,
            "attachments": attachments,
        }
    )


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


def request_view(row: Any) -> RequestView:
    """A row of `queries.list_requests` as a view."""
    return RequestView(
        id=str(row.id),
        kind=row.kind,
        code=row.code,
        to=row.contact,
        text=row.text,
        options=tuple(JSON_CODEC.load(row.options)) if row.options else (),
        status=row.status,
        answer=row.answer,
        by=row.by,
        agent=row.agent,
        key=row.key,
        run=str(row.run_id),
    )
