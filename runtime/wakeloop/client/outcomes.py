"""How a request ended, as what a program gets: an answer, an approval, or the error that says what came instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wakeloop.asking import Settled
from wakeloop.calls import digest
from wakeloop.client.wire import Request
from wakeloop.errors import ApprovalExpired, Denied, NoAnswer, NotPossible, RequestCancelled, Undeliverable
from wakeloop.gates import Approval
from wakeloop.status import RequestStatus


def answered(request: Request) -> Settled:
    """The outcome of a question that somebody answered. Raises NoAnswer, Undeliverable or RequestCancelled."""
    outcome, to = _outcome(request), ", ".join(request.to)
    if request.status is RequestStatus.EXPIRED:
        raise NoAnswer(f"{to} did not answer request {request.id} in time", request=request.id, to=to)
    _refuse_undecided(request, outcome, to)
    if request.status is not RequestStatus.ANSWERED:
        raise NotPossible(f"request {request.id} is no question: it is {request.status}", request=request.id)
    return outcome


def approved(request: Request, action: str, arguments: Mapping[str, Any], *, edit: bool) -> Approval:
    """The approval that was given, of exactly the arguments in it, which are those asked about unless people may edit.

    Raises Denied, ApprovalExpired, Undeliverable, RequestCancelled; NotPossible for an approval of anything else."""
    outcome, to = _outcome(request), ", ".join(request.to)
    if request.status is RequestStatus.EXPIRED:
        raise ApprovalExpired(
            f"nobody decided about {action} in time (request {request.id})", request=request.id, action=action
        )
    if request.status is RequestStatus.DENIED:
        why = ": ".join(filter(None, [outcome.option, outcome.comment]))
        raise Denied(
            f"{outcome.by} denied {action}{f' ({why})' if why else ''}",
            comment=outcome.comment, option=outcome.option, by=outcome.by or "", request=request.id, action=action,
        )  # fmt: skip
    _refuse_undecided(request, outcome, to)
    given = outcome.args or {}
    if request.status is not RequestStatus.APPROVED or digest(action, given) != outcome.digest:
        raise NotPossible(
            f"request {request.id} is no approval of {action} with the arguments that came with it: nothing was called",
            request=request.id,
        )
    if not (edit and outcome.edited) and digest(action, given) != digest(action, arguments):
        raise NotPossible(
            f"request {request.id} is an approval of {action} with other arguments than those asked about: nothing was "
            "called; give this call an id of its own",
            request=request.id,
        )
    return Approval(
        args=given, by=outcome.by or "", approvers=outcome.approvers, comment=outcome.comment, option=outcome.option,
        channel=outcome.channel or "", at=outcome.at, request=request.id, edited=outcome.edited,
    )  # fmt: skip


def _outcome(request: Request) -> Settled:
    if request.outcome is None:
        raise NotPossible(
            f"request {request.id} is {request.status}, but the server does not say how it ended: nothing was called",
            request=request.id,
        )
    return request.outcome


def _refuse_undecided(request: Request, outcome: Settled, to: str) -> None:
    """Raise for a request that ended without anybody's word."""
    if outcome.undeliverable:
        raise Undeliverable(
            f"request {request.id} to {to} reached nobody: {outcome.reason}",
            request=request.id, to=to, reason=outcome.reason or "",
        )  # fmt: skip
    if request.status in (RequestStatus.CANCELLED, RequestStatus.SUPERSEDED):
        raise RequestCancelled(
            f"request {request.id} to {to} was cancelled: {outcome.reason or 'no reason given'}",
            request=request.id, to=to, reason=outcome.reason or "",
        )  # fmt: skip
