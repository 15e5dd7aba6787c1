"""People's own pages: what they are asked, deciding it, and talking to the agents; everything by a signed link."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic_core import from_json
from starlette.concurrency import run_in_threadpool

from wakeloop.answers import Unreadable
from wakeloop.asking import RequestSpec
from wakeloop.channel import Incoming
from wakeloop.composing import file_name
from wakeloop.decisions import Actor, Attempt, Grant
from wakeloop.errors import NotFound
from wakeloop.forms import FormErrors, read_fields
from wakeloop.links import InvalidLink
from wakeloop.people import Contact
from wakeloop.status import RequestStatus
from wakeloop.store import received, timeline
from wakeloop.views import message_view
from wakeloop.web.guarding import page_route
from wakeloop.web.live import RETRY_SECONDS, Live, version
from wakeloop.web.person_view import FIELD_PREFIX, Failed, person_page
from wakeloop.web.rendering import Pages
from wakeloop.web.security import CSRF_FIELD, PostedForm, Refusal, check_form, proof, read_form
from wakeloop.wiring import WEB_CHANNEL, Runtime

AUTH = "signed link"
GRANT_HOURS = 24
COMMENT_LIMIT, MESSAGE_LIMIT = 2000, 5000
NOTICE_LIFE = timedelta(minutes=10)
ACTS = ("answer", "approve", "deny", "comment")

_NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}")
_NOTHING = Refusal(
    404, "There is nothing to decide here",
    "You were not asked this, or it does not exist. Nothing has been decided. What you are asked is on your own page.",
)  # fmt: skip

_NO_FILE = Refusal(404, "There is no such file", "It was not sent to you, or it does not exist.")


def people_router(runtime: Runtime, pages: Pages, live: Live) -> APIRouter:
    """The routes under /people. A GET or HEAD changes nothing."""
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    desk = _PageDesk(runtime, pages)

    @router.api_route("/people/{token}", methods=["GET", "HEAD"])
    def page(token: str, before: str = "", notice: str = "") -> Response:
        return desk.page(token, before=_id(before) if before else None, notice=notice)

    @router.get("/people/{token}/events")
    async def events(token: str) -> Response:
        contact = await run_in_threadpool(desk.contact, token)
        stream = live.open(contact.id)
        if stream is not None:
            return stream
        answer = pages.refusal(
            503, "Too many pages are open", "This page goes on without telling what is new."
        )
        answer.headers["retry-after"] = str(RETRY_SECONDS)
        return answer

    @router.get("/people/{token}/files/{message}/{number}")
    def file(token: str, message: str, number: str) -> Response:
        return desk.file(token, message, number)

    @router.post("/people/{token}/requests/{id}/{act}")
    async def decide(token: str, id: str, act: str, request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(desk.decide, token, id, act, form, request)

    @router.post("/people/{token}/messages")
    async def write(token: str, request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(desk.write, token, form, request)

    return router


class _PageDesk:
    """Shows people their pages, and takes what they send from there."""

    def __init__(self, runtime: Runtime, pages: Pages) -> None:
        self._runtime = runtime
        self._pages = pages
        self._links = runtime.links

    def contact(self, token: str) -> Contact:
        """Whose page a link is. Raises Refusal."""
        try:
            return self._runtime.world.people.get(self._links.read_page(token))
        except InvalidLink as error:
            if error.expired:
                raise Refusal(
                    410, "This link is too old", "Links work for a while only. The next message that you get has a new one."
                ) from None  # fmt: skip
        except NotFound:
            pass
        raise Refusal(
            403, "This link does not work",
            "It is not complete, or not valid any more. Please open it again from the message that it came with.",
        ) from None  # fmt: skip

    # ------------------------------------------------------------------ shown

    def page(self, token: str, *, before: UUID | None = None, notice: str = "") -> Response:
        """A contact's page."""
        return self._show(self.contact(token), token, before=before, notice=self._noticed(notice))

    def _show(
        self, contact: Contact, token: str, *, before: UUID | None = None, notice: tuple[str, str] | None = None,
        failed: Failed | None = None, problem: str = "",
    ) -> Response:  # fmt: skip
        database = self._runtime.database
        with database.read() as connection:
            shown = person_page(
                connection, self._runtime.world.people, contact.id, before=before, failed=failed
            )
        facts: dict[str, Any] = {
            "contact": contact, "page": shown, "now": database.now(), "here": self._path(token),
            "csrf_field": CSRF_FIELD, "proof": proof(self._links, "person", contact.id),
            "nonce": secrets.token_urlsafe(12), "notice": notice, "is_old": before is not None,
            "version": version(shown.standing), "problem": problem, "prefix": FIELD_PREFIX,
            "comment_limit": COMMENT_LIMIT, "message_limit": MESSAGE_LIMIT, "grant_hours": GRANT_HOURS,
        }  # fmt: skip
        is_wrong = failed is not None or problem
        return self._pages.page("person.html", facts, status=422 if is_wrong else 200)

    def file(self, token: str, message: str, number: str) -> Response:
        """A file that went with a message to this contact, to be saved: a browser never shows it. Raises Refusal."""
        contact = self.contact(token)
        try:
            id, place = UUID(message), int(number) if number.isdecimal() else -1
            with self._runtime.database.read() as connection:
                row = received.message(connection, id)
            found = message_view(row).attachments[place] if row is not None and place >= 0 else None
        except (ValueError, IndexError):
            raise _NO_FILE from None
        if found is None or row is None or row.inbound or row.contact != contact.id or found.data is None:
            raise _NO_FILE
        headers = {"content-disposition": f"attachment; filename*=utf-8''{quote(file_name(found), safe='')}"}
        return Response(found.data, media_type="application/octet-stream", headers=headers)

    def _path(self, token: str) -> str:
        return f"{self._pages.root}/people/{quote(token, safe='')}"

    def _noticed(self, notice: str) -> tuple[str, str] | None:
        """What a form's answer left to be told; sealed, so that no link can put words on the page."""
        try:
            kind, words = self._links.unseal("notice", notice, life=NOTICE_LIFE)
        except (InvalidLink, TypeError, ValueError):
            return None
        return str(kind), str(words)

    def _back(self, token: str, kind: str, words: str) -> Response:
        notice = self._links.seal("notice", [kind, words])
        return RedirectResponse(f"{self._path(token)}?notice={notice}", status_code=303)

    # ------------------------------------------------------------------ decided

    def decide(self, token: str, id: str, act: str, form: PostedForm, request: Request) -> Response:
        """Take a decision or comment, and lead back to the page, which says what became of it. Raises Refusal."""
        contact = self.contact(token)
        check_form(self._runtime.settings, self._links, request, form, "person", contact.id)
        request_id = _id(id)
        if act not in ACTS:
            raise _NOTHING
        with self._runtime.database.read() as connection:
            row = timeline.one_asked(connection, contact.id, request_id)
        deciding = _Deciding(self._runtime, contact.id, request_id, act, form, row)
        try:
            attempt = deciding.attempt()
        except NotFound:
            raise _NOTHING from None
        except Unreadable as problem:
            if row is None:
                raise _NOTHING from None
            reasons = problem.reasons if isinstance(problem, FormErrors) else {"": str(problem)}
            return self._show(contact, token, failed=deciding.failed(reasons))
        if row is None:
            raise _NOTHING
        return self._back(token, *_told(deciding.act, attempt))

    def write(self, token: str, form: PostedForm, request: Request) -> Response:
        """Take a message to the agents. It is routed like one on any channel, but its sender is known by the link, also
        if they have no address on the web channel."""
        contact = self.contact(token)
        check_form(self._runtime.settings, self._links, request, form, "person", contact.id)
        text = form.text("text", limit=MESSAGE_LIMIT)
        if not text:
            return self._show(contact, token, problem="Write something first.")
        sent = form.text("nonce", limit=100)
        nonce = sent if _NONCE.fullmatch(sent) else secrets.token_urlsafe(12)
        incoming = Incoming(provider_id=f"{contact.id}:{nonce}", address=contact.id, text=text)
        self._runtime.intake.incoming(WEB_CHANNEL, incoming, contact=contact.id, auth=AUTH)
        return RedirectResponse(f"{self._path(token)}#write", status_code=303)


class _Deciding:
    """One form that decides a request, or remarks on it."""

    def __init__(
        self, runtime: Runtime, contact: str, id: UUID, act: str, form: PostedForm, row: Any | None
    ) -> None:
        self._requests = runtime.requests
        self._id = id
        self._act = act
        self._form = form
        self._row = row
        self._actor = Actor(contact=contact, channel=WEB_CHANNEL, auth=AUTH)
        now = runtime.database.now()
        # What does not count is not read either: it goes on record as it came.
        self._counts = (
            row is not None
            and row.status == RequestStatus.OPEN
            and (row.expires_at is None or now < row.expires_at)
        )
        self._comment = form.text("comment", limit=COMMENT_LIMIT)

    def attempt(self) -> Attempt:
        """Try it. Raises NotFound, or Unreadable for what does not fit."""
        if self._counts and self._form.text("enter"):
            raise Unreadable("press the button that you mean")
        match self._act:
            case "answer":
                return self._answer()
            case "approve":
                return self._approve()
            case "deny":
                option = self._form.text("option") or None
                return self._requests.deny(self._id, self._actor, comment=self._comment, option=option)
            case _:
                if self._counts and not self._comment:
                    raise Unreadable("write a comment first")
                return self._requests.comment(self._id, self._actor, self._comment)

    @property
    def act(self) -> str:
        """What the form is for: an approval may change the arguments, or be for calls to come, too."""
        return "edit" if self._form.text("edit") else "grant" if self._form.text("grant") else self._act

    def failed(self, reasons: Mapping[str, str]) -> Failed:
        """The form as it was sent, to be shown again."""
        form = self._form
        texts = {"comment": self._comment, "option": form.text("option")}
        return Failed(
            request=self._id, act=self.act, fields=form.under(FIELD_PREFIX), texts=texts, reasons=reasons
        )

    def _answer(self) -> Attempt:
        sent = self._form.under(FIELD_PREFIX)
        if self._row is None or not self._counts:
            words = "\n".join(value for values in sent.values() for value in values)[:COMMENT_LIMIT]
            return self._requests.answer(self._id, self._actor, None, text=words.replace("\x00", ""))
        spec = RequestSpec.model_validate_json(self._row.spec)
        return self._requests.answer(self._id, self._actor, read_fields(sent, spec.answer_form))

    def _approve(self) -> Attempt:
        digest = self._form.text("digest", limit=200)
        args, grant = None, None
        if self._row is not None and self._counts:
            if not digest:
                raise Unreadable("open the page again: it must be known which arguments you have seen")
            # Of other arguments than those seen nothing is read: the attempt is refused, and on record.
            if digest == self._row.digest:
                args, grant = self._edited(), self._grant()
        return self._requests.approve(
            self._id, self._actor, comment=self._comment, args=args, grant=grant, digest=digest
        )

    def _edited(self) -> dict[str, Any] | None:
        if not self._form.text("edit") or self._row is None:
            return None
        form = RequestSpec.model_validate_json(self._row.spec).edit_form
        if form is None:
            raise Unreadable("the arguments of this call cannot be changed: approve it as it is, or deny it")
        shown = from_json(self._row.args or "{}")
        value = read_fields(self._form.under(FIELD_PREFIX), form, shown)
        return dict(value) if isinstance(value, dict) else None

    def _grant(self) -> Grant | None:
        if not self._form.text("grant"):
            return None
        limits = {name: values[-1] for name, values in self._form.under("limit.").items()}
        return Grant(seconds=GRANT_HOURS * 3600, limits=limits)


def _told(act: str, attempt: Attempt) -> tuple[str, str]:
    """What a person reads after they have sent a form: "good", "part" or "late", and the words."""
    if attempt.accepted:
        match act:
            case "answer":
                return "good", "Thank you. Your answer has been recorded."
            case "deny":
                return "good", "Denied. It will not be done."
            case "comment":
                return "good", "Your comment has been recorded. Nothing has been decided by it."
            case _ if attempt.status == RequestStatus.APPROVED:
                words = {
                    "edit": "with your changes",
                    "grant": f"and so are calls like it for {GRANT_HOURS} hours",
                }
                return "good", f"Approved, {words.get(act, 'exactly as you saw it')}."
            case _:
                return "part", f"Your approval has been recorded: {attempt.words}."
    if attempt.say is None:
        return "late", "Nothing has been changed: you may not decide this."
    if attempt.status == RequestStatus.OPEN:
        return "late", (
            "Not approved: the arguments have been changed since you saw them. Please look at them again below."
        )
    return "late", attempt.say


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _NOTHING from None
