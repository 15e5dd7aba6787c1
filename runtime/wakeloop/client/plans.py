"""What a client can do, as plans: every call, wait and decision, without the doing of any I/O."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid5

import uuid_utils.compat
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from wakeloop.answers import Answer
from wakeloop.asking import Settled, schema_like
from wakeloop.calls import digest
from wakeloop.client.calling import Caller
from wakeloop.client.outcomes import answered, approved
from wakeloop.client.wire import EVENT_TYPE, Pause, Plan, Reply, Request, Run, Send, Session, body_of, read
from wakeloop.errors import InvalidArguments, NoAnswer, NotPossible, NotSerializable, WakeloopError
from wakeloop.forms import form_of
from wakeloop.gates import Approval, Gate, escalations
from wakeloop.people import Card

POLL_SECONDS = 30.0
SHORTEST_POLL_SECONDS = 1.0
"""A server that answers long polls at once, as one that stops does, is asked no oftener than this."""
LAST_WORD_SECONDS = 2.0
IDS = UUID("6d2f6c52-0e4c-5c0e-9a0b-6d1c3f0e8a57")
"""The namespace of the ids that are made from a caller's words."""

Names = str | Sequence[str]
Span = float | timedelta
Id = UUID | str


class Plans:
    """The plans of one client. Their arguments are told at `Client`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._call = caller.call

    # ------------------------------------------------------------------ requests

    def create(
        self, to: Names, text: str, *, kind: str = "question", options: Sequence[str] = (),
        answer_schema: Mapping[str, Any] | None = None, action: str | None = None,
        args: Mapping[str, Any] | None = None, args_schema: Mapping[str, Any] | None = None, edit: bool = False,
        quorum: int = 1, requester: str | None = None, timeout: Span | None = None, remind: Span | None = None,
        escalate: Any = (), via: str | None = None, subject: str | None = None, urgent: bool = False,
        id: Id | None = None, state: Any = None, callback_url: str | None = None,
    ) -> Plan[Request]:  # fmt: skip
        """Make a request, or get the one that is there with this id."""
        names = names_of(to)
        steps = [
            given(after=step.after.total_seconds(), to=step.to, via=step.via)
            for step in escalations(escalate)
        ]
        body = given(
            id=str(request_id(id)), kind=kind, to=names[0] if len(names) == 1 else list(names), text=text,
            subject=subject, via=via, urgent=urgent or None, options=list(options) or None, action=action,
            answer_schema=None if answer_schema is None else dict(answer_schema),
            args=None if args is None else plain(args, f"the arguments of {action}"),
            args_schema=None if args_schema is None else dict(args_schema), edit=edit or None,
            quorum=quorum if quorum != 1 else None, requester=requester, timeout=seconds(timeout, "timeout"),
            remind=seconds(remind, "remind"), escalate=steps or None, state=plain(state, "the state"),
            callback_url=callback_url,
        )  # fmt: skip
        made = yield from self._call("POST", "/requests", scope="requests:write", body=body)
        return Request.model_validate(made)

    def get(self, id: Id, *, wait: float = 0.0) -> Plan[Request]:
        """A request; with `wait`, as soon as it has ended within so many seconds."""
        path = _path("requests", str(request_id(id)), wait=_whole(wait) or None)
        found = yield from self._call("GET", path, scope="requests:read", wait=wait)
        return Request.model_validate(found)

    def wait(self, id: Id, timeout: Span | None = None) -> Plan[Request]:
        """A request when it has ended, or as it is after `timeout`."""
        return self._until(partial(self.get, id), seconds(timeout, "timeout"))

    def cancel(self, id: Id, reason: str = "") -> Plan[Request]:
        """End a request undecided; one that has ended stays as it is."""
        path = _path("requests", str(request_id(id)), "cancel")
        try:
            yield from self._call("POST", path, scope="requests:write", body=given(reason=reason or None))
        except NotPossible:  # it has ended, be it by this very call, whose answer was lost
            pass
        return (yield from self.get(id))

    def requests(
        self, *, status: str | None, contact: str | None, limit: int, before: str | None
    ) -> Plan[list[Request]]:
        """Requests of a page."""
        path = _path("requests", status=status, contact=contact, limit=limit, before=before)
        found = yield from self._call("GET", path, scope="requests:read")
        return [Request.model_validate(one) for one in found["requests"]]

    # ------------------------------------------------------------------ asking

    def ask(
        self, to: Names, text: str, *, options: Sequence[Any] | None, answer: Any, timeout: Span | None,
        remind: Span | None, escalate: Any, via: str | None, subject: str | None, urgent: bool, id: Id | None, state: Any,
    ) -> Plan[Answer[Any]]:  # fmt: skip
        """Ask until the answer is of the type that was asked for."""
        form = form_of(
            answer, options if isinstance(options, str) else tuple(_words(option) for option in options or ())
        )
        adapter: TypeAdapter[Any] = TypeAdapter(answer)
        chosen, names, said, limit = request_id(id), names_of(to), text, seconds(timeout, "timeout")
        for round in itertools.count(1):
            request = yield from self._decided(
                chosen,
                self.create(
                    names, said, options=[choice.label for choice in form.choices], answer_schema=form.schema,
                    timeout=limit, remind=remind, escalate=escalate, via=via, subject=subject, urgent=urgent, id=chosen,
                    state=state,
                ),
                keep=id is not None,
            )  # fmt: skip
            outcome = answered(request)
            try:
                value = adapter.validate_json(to_json(outcome.value))
            except ValidationError as error:
                reasons = "; ".join(
                    problem["msg"].removeprefix("Value error, ") for problem in error.errors()[:3]
                )
                said = f"That could not be taken ({reasons}). {text}"
                names = (outcome.by,) if outcome.by else names
                limit = _time_left(request, outcome, names)
                chosen = again(chosen, round)
                continue
            return Answer(
                text=outcome.text, value=value, by=outcome.by or names[0], channel=outcome.channel or "",
                at=outcome.at,
            )  # fmt: skip
        raise AssertionError("unreachable")

    def approve(
        self, by: Names, action: str, args: Mapping[str, Any] | BaseModel, *, text: str | None, timeout: Span | None,
        quorum: int, edit: bool, reject_options: Sequence[str], escalate: Any, remind: Span | None, via: str | None,
        subject: str | None, urgent: bool, id: Id | None, state: Any,
    ) -> Plan[Approval]:  # fmt: skip
        """Ask for an approval of exactly these arguments."""
        arguments = plain(args, f"the arguments of {action}")
        if not isinstance(arguments, dict):
            raise TypeError(f"approve({action!r}): args are values by name, not {args!r}")
        digest(action, arguments)  # what cannot be named cannot be approved
        chosen = request_id(id)
        request = yield from self._decided(
            chosen,
            self.create(
                by, text or f"May I {action}?", kind="approval", options=reject_options, action=action, args=arguments,
                args_schema=schema_like(arguments) if edit else None, edit=edit, quorum=quorum, timeout=timeout,
                remind=remind, escalate=escalate, via=via, subject=subject, urgent=urgent, id=chosen, state=state,
            ),
            keep=id is not None,
        )  # fmt: skip
        return approved(request, action, arguments, edit=edit)

    def gated(
        self,
        gate: Gate,
        key: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        named: Callable[[Callable[..., Any], Mapping[str, Any]], Any],
    ) -> Plan[Callable[[], Any]]:
        """A call of a gated function with the arguments that were approved, to be made once.

        key: what the caller's id for this call is made with, if anything; `named` calls it."""
        gate, rest = gate.for_call(args)
        arguments = gate.arguments.bind(rest, kwargs)
        if not gate.needs_approval(arguments):
            return _prepared(gate, arguments)
        id = None if key is None else named(key, gate.arguments.typed(arguments))
        chosen, note = request_id(id, of=gate.action), ""
        for round in itertools.count(1):
            request = yield from self._decided(
                chosen,
                self.create(
                    gate.by, f"{note}May I {gate.action}?", kind="approval", options=gate.reject_options,
                    action=gate.action, args=arguments, args_schema=gate.arguments.schema if gate.edit else None,
                    edit=gate.edit, quorum=gate.quorum, timeout=gate.timeout, remind=gate.remind,
                    escalate=gate.escalate, via=gate.via, urgent=gate.urgent, id=chosen,
                ),
                keep=id is not None,
            )  # fmt: skip
            approval = approved(request, gate.action, arguments, edit=gate.edit)
            try:
                return _prepared(gate, gate.arguments.validate(approval.args))
            except InvalidArguments as problem:
                if not approval.edited:
                    raise
                note = f"The arguments that you chose cannot be used ({problem}). "
                chosen = again(chosen, round)
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------ the rest

    def start(self, agent: str, input: Any, *, key: str | None, id: Id | None) -> Plan[str]:
        """Start a run."""
        body = given(id=str(request_id(id)), input=plain(input, f"the input of {agent}"), key=key)
        path = _path("agents", agent, "runs")
        made = yield from self._call("POST", path, scope="agents:start", body=body)
        return str(made["run"])

    def signal(self, type: str, data: Any, *, id: Id | None, subject: str | None, source: str) -> Plan[str]:
        """Publish a signal."""
        chosen = str(id) if id is not None else str(request_id(None))
        event = given(
            specversion="1.0", id=chosen, source=source, type=type, subject=subject,
            datacontenttype="application/json", data=plain(data, f"the data of signal {type}"),
        )  # fmt: skip
        yield from self._call("POST", "/signals", scope="signals:send", body=event, content_type=EVENT_TYPE)
        return chosen

    def run(self, id: str, *, wait: Span | None) -> Plan[Run]:
        """A run, when it has ended or is parked, or as it is after `wait`."""

        def look(*, wait: float) -> Plan[Run]:
            found = yield from self._call(
                "GET", _path("runs", str(id), wait=_whole(wait) or None), scope="runs:read", wait=wait
            )
            return Run.model_validate(found)

        return self._until(look, seconds(wait, "wait") or 0.0)

    def session(self, agent: str, key: str) -> Plan[Session]:
        """A session."""
        found = yield from self._call("GET", _path("sessions", agent, key), scope="runs:read")
        return Session.model_validate(found)

    def contacts(self) -> Plan[list[Card]]:
        """Who can be asked."""
        found = yield from self._call("GET", "/contacts", scope="requests:read")
        return _cards(found)

    def known_contacts(self) -> Plan[list[Card] | None]:
        """Who can be asked, by one short try; None if that does not tell."""
        send = Send(method="GET", path="/contacts", scope="requests:read", seconds=LAST_WORD_SECONDS)
        reply = yield send
        try:
            return _cards(read(send, reply)) if isinstance(reply, Reply) else None
        except WakeloopError:
            return None

    # ------------------------------------------------------------------ waiting

    def _until(self, look: Callable[..., Plan[Any]], limit: float | None) -> Plan[Any]:
        """What `look` sees when it is not open any more, or after `limit` seconds; by long polls."""
        clock = self._caller.monotonic
        end = None if limit is None else clock() + limit
        while True:
            since = clock()
            left = POLL_SECONDS if end is None else min(POLL_SECONDS, end - since)
            found = yield from look(wait=max(0.0, left))
            now = clock()
            if not found.is_open or (end is not None and now >= end):
                return found
            rest = SHORTEST_POLL_SECONDS - (now - since)
            if rest > 0:
                yield Pause(rest if end is None else min(rest, end - now))

    def _decided(self, id: UUID, create: Plan[Request], *, keep: bool) -> Plan[Request]:
        """Make a request and wait for its end. If the caller gives up and will not come back for it (`keep`), it is
        cancelled, so that nobody answers in vain."""
        try:
            request = yield from create
            if request.is_open:
                request = yield from self.wait(id)
            return request
        except (WakeloopError, GeneratorExit):
            raise
        except BaseException:
            if not keep:
                yield from self._give_up(id)
            raise

    def _give_up(self, id: UUID) -> Plan[None]:
        """Cancel by one try; if that does not get through, the request ends at its timeout."""
        body = body_of({"reason": "the program that asked has given up"})
        yield Send(
            method="POST", path=_path("requests", str(id), "cancel"), scope="requests:write", body=body,
            seconds=LAST_WORD_SECONDS, is_last=True,
        )  # fmt: skip


# ---------------------------------------------------------------------- parts of calls


def request_id(id: Id | None, *, of: str = "") -> UUID:
    """The id of a request: a new one, the UUID that was given, or one made from any other text (UUID version 5, always
    the same for the same text `of` the same thing)."""
    if id is None:
        return uuid_utils.compat.uuid7()
    if isinstance(id, UUID):
        return id
    if not isinstance(id, str) or not id:
        raise TypeError(f"an id is a UUID or a text that is not empty, not {id!r}")
    try:
        return UUID(id)
    except ValueError:
        return uuid5(IDS, f"{of}\n{id}")


def again(id: UUID, round: int) -> UUID:
    """The id under which a request is made once more; the same after a restart."""
    return uuid5(id, f"again {round}")


def names_of(to: Names) -> tuple[str, ...]:
    """Those who are asked: one, or several."""
    names = (to,) if isinstance(to, str) else tuple(to)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{to!r}: give the id of a contact or group, or several")
    return names


def seconds(value: Span | None, what: str) -> float | None:
    """A duration in seconds."""
    if value is None:
        return None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"{what} is a number of seconds or a timedelta, not {value!r}")


def plain(value: Any, what: str) -> Any:
    """A value as JSON. Raises NotSerializable for what JSON does not have."""
    try:
        made = from_json(to_json(value))
        digest("", {"value": made})
    except (PydanticSerializationError, ValueError, NotSerializable) as error:
        raise NotSerializable(
            f"{what} cannot be written as JSON ({error}); give JSON values or a pydantic model",
            where=what, type_name=type(value).__name__,
        ) from error  # fmt: skip
    return made


def given(**values: Any) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def _cards(found: Any) -> list[Card]:
    return [
        Card(
            id=one["id"], name=one.get("name") or one["id"], description=one.get("description") or "",
            languages=tuple(one.get("languages") or ()), tz=one.get("tz") or "UTC",
        )
        for one in found["contacts"]
    ]  # fmt: skip


def _prepared(gate: Gate, arguments: Mapping[str, Any]) -> Callable[[], Any]:
    positional, named = gate.arguments.call_with(arguments)
    return partial(gate.function, *positional, **named)


def _time_left(request: Request, outcome: Settled, names: tuple[str, ...]) -> float | None:
    """What an answer that could not be taken leaves of the timeout, by the server's clock."""
    if request.expires_at is None:
        return None
    left = (request.expires_at - outcome.at).total_seconds()
    if left <= 0:
        raise NoAnswer(
            f"the answer to request {request.id} could not be taken, and its time has run out",
            request=request.id, to=", ".join(names),
        )  # fmt: skip
    return left


def _words(option: Any) -> str:
    """An option as a person reads it: the value of an enum's member, else its text."""
    return str(option.value if isinstance(option, Enum) else option)


def _whole(wait: float) -> int:
    """The seconds of a long poll, of which the server takes whole ones."""
    return int(wait) if wait >= 1 or wait <= 0 else 1


def _path(*parts: str, **query: Any) -> str:
    """A path from its parts, which may hold anything, with those queries that have a value."""
    path = "".join(f"/{quote(part, safe='')}" for part in parts)
    asked = urlencode({name: value for name, value in query.items() if value is not None})
    return f"{path}?{asked}" if asked else path
