"""Events, waits and lines of a journal in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import from_json

from wakeloop.calls import shown
from wakeloop.engine.failures import Failure
from wakeloop.engine.journal import Kind, Record, Wait
from wakeloop.events import Event, Message, Signal, Tick
from wakeloop.store.erasure import MARKER
from wakeloop.terminal import distance, moment, short

SHORT_ID = 8


def short_id(id: object) -> str:
    """The end of an id, which tells runs apart; commands take it as well as the whole."""
    return str(id)[-SHORT_ID:]


def event_words(event: Event) -> str:
    """Why a run was woken: `tick of 09:00`, `message from alice`, `signal invoice.paid`, `call`."""
    if isinstance(event, Tick):
        missed = f", for {event.missed_count} missed" if event.missed_count else ""
        return f"tick of {moment(event.nominal)}{missed}"
    if isinstance(event, Message):
        return f"message from {event.from_}"
    if isinstance(event, Signal):
        return f"signal {event.type}"
    return "call" if event.by is None else f"call by run {short_id(event.by)}"


def wait_words(waits: Sequence[Wait], now: datetime, requests: Mapping[str, Any]) -> str:
    """What a run waits for, the soonest of several times only: `me's reply, or Mon 3 Nov 17:00 (in 2 h)`.

    requests: those that it waits for, by id; their time runs out, too."""
    asked = [requests[id] for id in map(request_of, waits) if id is not None and id in requests]
    others = [_wait_word(wait, requests) for wait in waits if wait.kind is not Kind.TIMER]
    dues = [wait.due for wait in waits if wait.kind is Kind.TIMER and wait.due is not None]
    dues += [one.expires_at for one in asked if one.expires_at is not None]
    times = [f"{moment(min(dues), now)} ({distance(min(dues), now)})"] if dues else []
    return ", or ".join([*dict.fromkeys(others), *times])


def request_of(wait: Wait) -> str | None:
    """The id of the request whose end this waits for."""
    return None if wait.kind is not Kind.REPLY or wait.match is None else wait.match["request"]


def _wait_word(wait: Wait, requests: Mapping[str, Any]) -> str:
    match = wait.match or {}
    if wait.kind is Kind.REPLY:
        request = requests.get(request_of(wait) or "")
        is_approval = request is not None and request.kind == "approval"
        return f"approval of {wait.name}" if is_approval else f"{wait.name}'s reply"
    if wait.kind is Kind.RECEIVE:
        if match.get("type") == "signal":
            return f"a signal {match.get('signal', '*')}"
        return f"a message from {match.get('from') or 'anyone'}"
    if wait.kind is Kind.CHILD:
        return f"the run of {wait.name}"
    if wait.kind is Kind.STEP and wait.due is not None:
        return f"the next attempt at step {wait.name}, {moment(wait.due)}"
    return f"{wait.kind} {wait.name}".rstrip()


def record_words(record: Record, requests: Mapping[str, Any]) -> tuple[str, str]:
    """A line of a journal: what it is about, and what came of it. `requests`: the run's, by id."""
    value: Any = None if record.value is None else from_json(record.value)
    if value == MARKER:
        return _title(record), MARKER
    if not record.ok and record.kind is not Kind.ATTEMPT:
        return _title(record), f"✗ {short(Failure.model_validate(value).title, 120)}"
    match record.kind:
        case Kind.SEND:
            return f"send to {record.name}", _quoted(value["text"])
        case Kind.ASK:
            request = requests.get(value)
            code = f" ({request.code})" if request is not None else ""
            return f"ask {record.name}{code}", _quoted(request.text) if request is not None else ""
        case Kind.APPROVE:
            request = requests.get(value)
            people = f" of {', '.join(request.asked)} ({request.code})" if request is not None else ""
            return f"approval of {record.name}{people}", arguments_words(request.args if request else None)
        case Kind.GATE:
            return f"{record.name}", "needs approval" if value else "needs no approval"
        case Kind.REPLY:
            said = value.get("text") or value.get("comment") or value.get("reason")
            by = f" by {value['by']}" if value.get("by") else ""
            return f"{value['status']}{by}", _quoted(said) if said else ""
        case Kind.RECEIVE:
            said = value.get("text", value.get("data"))
            return "receive", f"{value.get('from_') or value.get('type') or ''} {_quoted(said)}".strip()
        case Kind.SETTLE:
            return "question closed", record.name
        case Kind.TIMER:
            return f"timer {record.name}".rstrip(), "due"
        case Kind.ATTEMPT:
            again = value.get("again")
            then = f"; again {moment(datetime.fromisoformat(again))}" if again else ""
            return f"attempt at {record.name}", f"✗ {short(value.get('error') or '', 100)}{then}"
        case Kind.STARTED:
            return f"step {record.name}", "begun"
        case Kind.STATE:
            return "state", short(value)
        case Kind.CANCEL:
            return "cancelled", ""
        case _:
            return _title(record), "" if value is None else f"→ {short(value)}"


def arguments_words(args: Mapping[str, Any] | None) -> str:
    """A call's arguments in a line."""
    return ", ".join(f"{name} = {short(text, 60)}" for name, text, _ in shown(args or {}))


def _title(record: Record) -> str:
    return f"{record.kind} {record.name}".rstrip()


def _quoted(value: Any) -> str:
    return f"“{short(value)}”" if isinstance(value, str) else short(value)
