"""The API's operations on requests, grants and contacts."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]
from starlette.concurrency import run_in_threadpool

from wakeloop.answers import Unreadable
from wakeloop.asking import EscalationStep, RequestSpec, schema_like
from wakeloop.decisions import Actor, Attempt, Grant
from wakeloop.errors import NotFound, NotPossible
from wakeloop.forms import Form, check, read_text
from wakeloop.forms.reasons import misfits
from wakeloop.forms.text import choose
from wakeloop.status import RequestStatus
from wakeloop.store import listing
from wakeloop.store import requests as store
from wakeloop.tokens import Scope
from wakeloop.views import request_view
from wakeloop.web.api_access import Caller, needs, runtime_of
from wakeloop.web.api_models import (
    PAGE_LIMIT,
    WAIT_LIMIT_SECONDS,
    AttemptOut,
    Audit,
    AuditEntry,
    Cancellation,
    ContactOut,
    Contacts,
    GrantOut,
    Grants,
    Name,
    NewAnswer,
    NewApproval,
    NewComment,
    NewDenial,
    NewRequest,
    RequestOut,
    RequestPage,
)
from wakeloop.web.api_problems import Refused, problems
from wakeloop.web.api_waiting import Waiting
from wakeloop.wiring import Runtime

router = APIRouter()

Reads = Annotated[Caller, Depends(needs(Scope.REQUESTS_READ))]
Writes = Annotated[Caller, Depends(needs(Scope.REQUESTS_WRITE))]
Decides = Annotated[Caller, Depends(needs(Scope.REQUESTS_DECIDE))]
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="At most so many.")]
Wait = Annotated[
    float, Query(ge=0, le=WAIT_LIMIT_SECONDS, allow_inf_nan=False, description="Seconds to wait for its end.")
]
SAME: dict[int | str, dict[str, Any]] = {
    200: {"model": RequestOut, "description": "It was there already, just so."}
}


# ---------------------------------------------------------------------- made, read and cancelled


@router.post("/requests", status_code=201, responses={**SAME, **problems(409)})
def create_request(new: NewRequest, caller: Writes, request: Request, response: Response) -> RequestOut:
    """Ask people a question, or for an approval. Scope `requests:write`.

    With an `id` of your own it can be sent again: the same content gives the same request (200), another a 409. Make it
    a UUID of version 7 (or 4)."""
    runtime = runtime_of(request)
    spec = spec_of(new, runtime)
    try:
        view, is_new = runtime.requests.make(
            spec, maker=caller.name, id=new.id, state=new.state, callback=new.callback_url
        )
    except NotFound as error:
        raise Refused(422, str(error), errors=[(["body", "to"], str(error))]) from error
    except NotPossible as error:
        if "request" in vars(error):
            raise
        raise Refused(422, str(error), errors=[(["body", "to"], str(error))]) from error
    response.status_code = 201 if is_new else 200
    response.headers["location"] = f"/api/v1/requests/{view.id}"
    return RequestOut.model_validate(view)


@router.get("/requests", responses=problems())
def list_requests(
    caller: Reads,
    request: Request,
    status: Annotated[RequestStatus | None, Query(description="Only those that stand like this.")] = None,
    contact: Annotated[Name | None, Query(description="Only those that this contact was asked.")] = None,
    limit: Limit = 50,
    before: Annotated[UUID | None, Query(description="Only those made before this one.")] = None,
) -> RequestPage:
    """The requests of everybody, newest first. Scope `requests:read`."""
    with runtime_of(request).database.read() as connection:
        rows = listing.requests_page(
            connection, status=status, contact=contact, before=before, limit=limit + 1
        )
        asked = store.recipients_of_all(connection, [row.id for row in rows[:limit]])
    page = [RequestOut.model_validate(request_view(row, asked[row.id])) for row in rows[:limit]]
    return RequestPage(requests=page, next=page[-1].id if len(rows) > limit else None)


@router.get("/requests/{id}", responses=problems(404))
async def get_request(id: UUID, caller: Reads, request: Request, wait: Wait = 0) -> RequestOut:
    """One request. With `wait` the answer comes when it has ended, or as it is after so many seconds: ask again then.
    Scope `requests:read`."""
    get = runtime_of(request).requests.get
    view = await run_in_threadpool(get, id)
    if view.status == RequestStatus.OPEN and wait > 0:
        waiting: Waiting = request.app.state.requests
        await waiting.wait(id, wait, request)
        view = await run_in_threadpool(get, id)
    return RequestOut.model_validate(view)


@router.get("/requests/{id}/audit", responses=problems(404))
def get_request_audit(id: UUID, caller: Reads, request: Request) -> Audit:
    """Every attempt to decide a request, and what else happened to it, oldest first. Scope `requests:read`."""
    runtime = runtime_of(request)
    runtime.requests.get(id)
    return Audit(audit=[AuditEntry.model_validate(line) for line in runtime.requests.audit(id)])


@router.post("/requests/{id}/cancel", responses=problems(404, 409))
def cancel_request(
    id: UUID, caller: Writes, request: Request, body: Cancellation | None = None
) -> AttemptOut:
    """End a request undecided; those who were asked are told. Scope `requests:write`, and only by the token that made
    it, or one with the scope `admin`."""
    runtime = runtime_of(request)
    view = runtime.requests.get(id)
    if view.maker != caller.name and not caller.allows(Scope.ADMIN):
        raise Refused(403, f"request {id} was not made with token {caller.name}: only that may cancel it")
    reason = body.reason if body is not None else ""
    return _counted(runtime.requests.cancel(id, _actor(caller, None), reason=reason))


# ---------------------------------------------------------------------- decided


@router.post("/requests/{id}/answer", responses=problems(404, 409))
def answer_request(id: UUID, new: NewAnswer, caller: Decides, request: Request) -> AttemptOut:
    """Answer a question for a contact. Scope `requests:decide`."""
    runtime = runtime_of(request)
    if (new.text is None) == ("value" not in new.model_fields_set):
        raise Refused.field("text", "give either text or value")
    value = new.value if new.text is None else _read(runtime, id, new.text)
    actor = _actor(caller, new.contact)
    return _counted(runtime.requests.answer(id, actor, value, text=new.text))


@router.post("/requests/{id}/approve", responses=problems(404, 409))
def approve_request(id: UUID, new: NewApproval, caller: Decides, request: Request) -> AttemptOut:
    """Approve a call for a contact. Scope `requests:decide`."""
    grant = None if new.grant is None else Grant(seconds=new.grant.seconds, limits=new.grant.limits)
    return _counted(
        runtime_of(request).requests.approve(
            id,
            _actor(caller, new.contact),
            comment=new.comment,
            args=new.args,
            grant=grant,
            digest=new.digest,
        )
    )


@router.post("/requests/{id}/deny", responses=problems(404, 409))
def deny_request(id: UUID, new: NewDenial, caller: Decides, request: Request) -> AttemptOut:
    """Deny a call for a contact. Scope `requests:decide`."""
    actor = _actor(caller, new.contact)
    return _counted(runtime_of(request).requests.deny(id, actor, comment=new.comment, option=new.option))


@router.post("/requests/{id}/comment", responses=problems(404, 409))
def comment_request(id: UUID, new: NewComment, caller: Decides, request: Request) -> AttemptOut:
    """Put a contact's remark on record; it decides nothing. Scope `requests:decide`."""
    return _counted(runtime_of(request).requests.comment(id, _actor(caller, new.contact), new.text))


def _actor(caller: Caller, contact: str | None) -> Actor:
    return Actor(contact=contact, channel="api", auth=caller.auth)


def _counted(attempt: Attempt) -> AttemptOut:
    """The answer to an attempt that counted; one that did not is refused with 409 and the same facts."""
    facts: dict[str, Any] = {
        "accepted": attempt.accepted,
        "request_status": attempt.status,
        "words": attempt.words,
    }
    if not attempt.accepted:
        raise Refused(409, attempt.words, **facts)
    return AttemptOut(status=attempt.status, request_status=attempt.status, words=attempt.words)


def _read(runtime: Runtime, id: UUID, text: str) -> Any:
    """What a person's words say, by the question's form. Of one that is closed it does not matter any more."""
    with runtime.database.read() as connection:
        row = store.find(connection, id)
    if row is None or row.status != RequestStatus.OPEN or row.kind != "question":
        return text
    return read_text(text, RequestSpec.model_validate_json(row.spec).answer_form)


# ---------------------------------------------------------------------- grants and contacts


@router.get("/grants", responses=problems())
def list_grants(caller: Reads, request: Request, limit: Limit = 50) -> Grants:
    """Approvals in advance, newest first, those that are over too. Scope `requests:read`."""
    found = runtime_of(request).requests.grants(limit=limit)
    return Grants(grants=[GrantOut.model_validate(one) for one in found])


@router.post("/grants/{id}/revoke", responses=problems(404))
def revoke_grant(id: UUID, caller: Decides, request: Request) -> GrantOut:
    """Take an approval in advance back: calls are asked about again. Scope `requests:decide`."""
    return GrantOut.model_validate(runtime_of(request).requests.revoke_grant(id, by=caller.auth))


@router.get("/contacts", responses=problems())
def list_contacts(
    caller: Annotated[Caller, Depends(needs(Scope.REQUESTS_READ, Scope.REQUESTS_WRITE))], request: Request
) -> Contacts:
    """The people who can be asked, without their addresses. Scope `requests:read` or `requests:write`."""
    people = runtime_of(request).world.people
    return Contacts(contacts=[ContactOut.model_validate(people.card(id)) for id in people.ids])


# ---------------------------------------------------------------------- from a body to a request


def spec_of(new: NewRequest, runtime: Runtime) -> RequestSpec:
    """What is to be asked. Raises Refused with the field that is wrong."""
    if new.requester is not None:
        _check_known(runtime, new.requester)
    facts: dict[str, Any] = {
        "kind": new.kind, "to": (new.to,) if isinstance(new.to, str) else tuple(new.to), "subject": new.subject,
        "via": new.via, "urgent": new.urgent, "timeout": new.timeout, "remind": new.remind,
        "escalate": tuple(EscalationStep(after=one.after, to=one.to, via=one.via) for one in new.escalate),
    }  # fmt: skip
    if new.kind == "approval":
        return _approval(new, facts)
    for field in ("action", "args", "args_schema", "edit", "requester"):
        if getattr(new, field):
            raise Refused.field(field, "is of approvals only")
    if new.quorum != 1:
        raise Refused.field("quorum", "is of approvals only")
    if new.text is None:
        raise Refused.field("text", "a question needs its words")
    form = _answer_form(new)
    return RequestSpec(
        **facts, text=new.text, options=tuple(choice.label for choice in form.choices),
        form=None if form.is_plain else form.dump(),
    )  # fmt: skip


def _approval(new: NewRequest, facts: dict[str, Any]) -> RequestSpec:
    if new.action is None:
        raise Refused.field("action", "an approval names the function that is to be called")
    if new.answer_schema is not None:
        raise Refused.field("answer_schema", "is of questions only")
    arguments = new.args or {}
    form = None
    if new.args_schema is not None:
        form = Form(schema=_schema("args_schema", new.args_schema))
        try:
            check(arguments, form)
        except Unreadable as reason:
            raise Refused.field("args", f"does not fit args_schema: {reason}") from reason
    if new.edit and form is None:
        form = Form(schema=schema_like(arguments))
    return RequestSpec(
        **facts, text=new.text or f"May I {new.action}?", options=tuple(new.options), action=new.action,
        args=arguments, args_form=form.dump() if new.edit and form is not None else None, quorum=new.quorum,
        requester=new.requester,
    )  # fmt: skip


def _answer_form(new: NewRequest) -> Form:
    schema = None if new.answer_schema is None else _schema("answer_schema", new.answer_schema)
    form = Form(schema=schema, options=tuple(option.strip() for option in new.options))
    if not new.options:
        return Form(schema=schema, options=tuple(choice.label for choice in form.choices))
    for option in form.options:
        try:
            choice = choose(option, form.choices)
            if choice.label != option:
                raise Unreadable("another option reads the same")
            if schema is not None and misfits(choice.value, Form(schema=schema).shape):
                raise Unreadable("it does not fit answer_schema")
        except Unreadable as reason:
            raise Refused.field("options", f"{option!r} cannot be an answer: {reason}") from reason
    return form


def _schema(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path))
        raise Refused.field(field, f"is no JSON Schema: {where}: {error.message[:200]}") from error
    return schema


def _check_known(runtime: Runtime, contact: str) -> None:
    try:
        runtime.world.people.get(contact)
    except NotFound as error:
        raise Refused.field("requester", str(error)) from error
