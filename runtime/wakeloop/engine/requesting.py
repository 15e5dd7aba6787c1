"""What a run asks of people: its requests, from their opening to what their end is to the handler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from wakeloop.answers import Answer
from wakeloop.asking import EscalationStep, RequestSpec, Settled, schema_like
from wakeloop.calls import digest
from wakeloop.engine.commands import CancelRequest, Command, OpenRequest, seconds, sendable
from wakeloop.engine.journal import Kind
from wakeloop.engine.values import JSON_CODEC, codec_for, plain
from wakeloop.errors import (
    ApprovalExpired,
    Denied,
    InvalidArguments,
    NoAnswer,
    NotPossible,
    RequestCancelled,
    Undeliverable,
)
from wakeloop.events import Message
from wakeloop.forms import Form, form_of
from wakeloop.gates import Approval, Gate, escalations
from wakeloop.status import RequestStatus

if TYPE_CHECKING:
    from wakeloop.engine.execution import Execution


async def question(
    run: Execution, to: str | Sequence[str], text: str, *, options: Sequence[Any] | None, answer: Any,
    timeout: float | timedelta | None, remind: float | timedelta | None, escalate: Sequence[Any], via: str | None,
    subject: str | None, urgent: bool,
) -> Answer[Any]:  # fmt: skip
    """Ask until the reply fits or nobody answers: see Context.ask."""
    limit, every = _limits(timeout, remind)
    names = _names(to)
    deadline = None if limit is None else run.now + timedelta(seconds=limit)
    said = text
    while True:

        def spec(names: tuple[str, ...] = names, said: str = said) -> RequestSpec:
            form = form_of(
                answer,
                options if isinstance(options, str) else tuple(_words(option) for option in options or ()),
            )
            return RequestSpec(
                kind="question", to=names, text=sendable(said), subject=subject, via=via, urgent=urgent,
                options=tuple(choice.label for choice in form.choices),
                form=None if form.is_plain else form.dump(), remind=every, escalate=_steps(escalate),
                timeout=None if deadline is None else (deadline - run.now).total_seconds(),
            )  # fmt: skip

        request, settled = await _request(run, Kind.ASK, ", ".join(names), spec)
        if settled.status == RequestStatus.EXPIRED:
            raise NoAnswer(
                f"{' and '.join(names)} did not answer request {request} within {timeout}",
                request=request, to=", ".join(names),
            )  # fmt: skip
        _refuse_unanswered(request, settled, names)
        try:
            value = TypeAdapter(answer).validate_json(JSON_CODEC.dump(settled.value, "an answer"))
        except ValidationError as error:
            reasons = "; ".join(
                problem["msg"].removeprefix("Value error, ") for problem in error.errors()[:3]
            )
            said = f"That could not be taken ({reasons}). {text}"
            names = (settled.by,) if settled.by is not None else names
            continue
        return Answer(
            text=settled.text, value=value, by=settled.by or names[0], channel=settled.channel or "",
            at=settled.at,
        )  # fmt: skip


async def approval(
    run: Execution, by: str | Sequence[str], action: str, args: Mapping[str, Any] | BaseModel, *, text: str | None,
    timeout: float | timedelta | None, quorum: int, edit: bool, reject_options: Sequence[str], escalate: Sequence[Any],
    remind: float | timedelta | None, via: str | None, subject: str | None, urgent: bool, four_eyes: bool,
) -> Approval:  # fmt: skip
    """Wait until people approve: see Context.approve."""
    given = plain(args)
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(f"approve({action!r}): args are values by name, not {args!r}")
    arguments = JSON_CODEC.load(JSON_CODEC.dump(dict(given), f"the arguments of {action}"))
    limit, every = _limits(timeout, remind)
    names = _names(by)

    def spec() -> RequestSpec:
        return RequestSpec(
            kind="approval", to=names, text=sendable(text or f"May I {action}?"), subject=subject, via=via,
            urgent=urgent, options=tuple(reject_options), action=action, args=arguments,
            args_form=Form(schema=schema_like(arguments)).dump() if edit else None, quorum=quorum,
            requester=_requester(run) if four_eyes else None, timeout=limit, remind=every,
            escalate=_steps(escalate),
        )  # fmt: skip

    return await _decision(run, action, names, spec)


async def gated(run: Execution, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function that runs only with a person's approval: see `wakeloop.require_approval`."""
    action = gate.action
    arguments = gate.arguments.bind(args, kwargs)
    if gate.when is not None and not run.perform(
        Kind.GATE, action, lambda: (gate.needs_approval(arguments), [])
    ):
        positional, named = gate.arguments.call_with(arguments)
        return await run.run_step(gate.step, positional, named)
    note = ""
    while True:

        def spec(note: str = note) -> RequestSpec:
            return RequestSpec(
                kind="approval", to=gate.by, text=sendable(f"{note}May I {action}?"), via=gate.via,
                urgent=gate.urgent, options=gate.reject_options, action=action, args=arguments,
                args_form=Form(schema=gate.arguments.schema).dump() if gate.edit else None,
                quorum=gate.quorum, requester=_requester(run) if gate.four_eyes else None,
                timeout=gate.timeout, remind=gate.remind, escalate=_steps(gate.escalate),
            )  # fmt: skip

        decided = await _decision(run, action, gate.by, spec)
        if not decided.edited and digest(action, arguments) != digest(action, decided.args):
            run.diverge(
                f"an approval of {action} with {digest(action, decided.args)}",
                f"{action} with other arguments ({digest(action, arguments)})",
            )
        try:
            approved = gate.arguments.validate(decided.args)
        except InvalidArguments as problem:
            note = f"The arguments that you chose cannot be used ({problem}). "
            continue
        positional, named = gate.arguments.call_with(approved)
        return await run.run_step(gate.step, positional, named)


async def _decision(
    run: Execution, action: str, names: tuple[str, ...], spec: Callable[[], RequestSpec]
) -> Approval:
    """Wait for the approval of what a request names, with exactly the arguments that it covers."""
    request, settled = await _request(run, Kind.APPROVE, action, spec)
    if settled.status == RequestStatus.EXPIRED:
        raise ApprovalExpired(
            f"nobody decided about {action} in time (request {request})",
            request=request, action=action,
        )  # fmt: skip
    if settled.status == RequestStatus.DENIED:
        why = ": ".join(filter(None, [settled.option, settled.comment]))
        raise Denied(
            f"{settled.by} denied {action}{f' ({why})' if why else ''}",
            comment=settled.comment, option=settled.option, by=settled.by or "", request=request, action=action,
        )  # fmt: skip
    _refuse_unanswered(request, settled, names)
    arguments = settled.args or {}
    if digest(action, arguments) != settled.digest:
        raise NotPossible(
            f"the approval {request} of {action} does not name the arguments that came with it: they were changed "
            "in the store",
            request=request,
        )  # fmt: skip
    return Approval(
        args=arguments, by=settled.by or "", approvers=settled.approvers, comment=settled.comment,
        channel=settled.channel or "", at=settled.at, request=request, edited=settled.edited,
    )  # fmt: skip


async def _request(
    run: Execution, kind: Kind, name: str, spec: Callable[[], RequestSpec]
) -> tuple[str, Settled]:
    """Open a request and wait for its end. If the wait is given up, so is the request."""

    def effect() -> tuple[str, list[Command]]:
        made = spec()
        run.surroundings.check_request(made)
        id = str(run.surroundings.new_id())
        return id, [OpenRequest(id=id, spec=made, at=run.now)]

    request = cast(str, run.perform(kind, name, effect))
    is_over = False
    try:
        settled = await run.wait(Kind.REPLY, name, {"request": request}, codec_for(Settled))
        is_over = True
    finally:
        if not is_over and not run.loop.is_closed():
            command = CancelRequest(id=request, at=run.now)
            run.perform(Kind.SETTLE, "cancelled", lambda: (None, [command]))
    return request, cast(Settled, settled)


def _refuse_unanswered(request: str, settled: Settled, names: tuple[str, ...]) -> None:
    """Raise for a request that ended without anybody's word."""
    to = ", ".join(names)
    if settled.undeliverable:
        raise Undeliverable(
            f"request {request} to {to} reached nobody: {settled.reason}",
            request=request, to=to, reason=settled.reason or "",
        )  # fmt: skip
    if settled.status in (RequestStatus.CANCELLED, RequestStatus.SUPERSEDED):
        raise RequestCancelled(
            f"request {request} to {to} was cancelled: {settled.reason or 'no reason given'}",
            request=request, to=to, reason=settled.reason or "",
        )  # fmt: skip


def _requester(run: Execution) -> str | None:
    return run.facts.event.from_ if isinstance(run.facts.event, Message) else None


def _names(to: str | Sequence[str]) -> tuple[str, ...]:
    """Those who are asked: one, or several."""
    names = (to,) if isinstance(to, str) else tuple(to)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"{to!r}: give the id of a contact or group, or several")
    return names


def _limits(
    timeout: float | timedelta | None, remind: float | timedelta | None
) -> tuple[float | None, float | None]:
    limit = None if timeout is None else seconds(timeout, "a timeout")
    every = None if remind is None else seconds(remind, "a reminder's interval")
    if every is not None and every <= 0:
        raise ValueError(f"remind={remind!r}: reminders need more than zero seconds between them")
    return limit, every


def _steps(given: Sequence[Any]) -> tuple[EscalationStep, ...]:
    return tuple(
        EscalationStep(after=one.after.total_seconds(), to=one.to, via=one.via) for one in escalations(given)
    )


def _words(option: Any) -> str:
    """An option as a person reads it: the value of an enum's member, else its text."""
    return str(option.value if isinstance(option, Enum) else option)
