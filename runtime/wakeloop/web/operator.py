"""The operator's pages: everything that wants a human, each request with its record, logging in and out."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from wakeloop.decisions import Actor
from wakeloop.errors import NotFound
from wakeloop.status import PARKED_RUN
from wakeloop.store import queries
from wakeloop.store import requests as request_store
from wakeloop.views import request_view, run_view
from wakeloop.web.access import COOKIE, Logins, Operator
from wakeloop.web.guarding import page_route
from wakeloop.web.person_view import arguments_of
from wakeloop.web.rendering import Pages
from wakeloop.web.security import CSRF_FIELD, PostedForm, Refusal, check_form, proof, read_form
from wakeloop.wiring import WEB_CHANNEL, Runtime

SHOWN = 100
_AWAY = ("/inbox", "/requests/")


class NotLoggedIn(Refusal):
    """Only an operator may see this."""

    def __init__(self) -> None:
        super().__init__(
            403, "Please log in", "Your login has ended. Log in again; nothing has been changed."
        )


def operator_router(runtime: Runtime, pages: Pages) -> APIRouter:
    """The routes of the operator's pages. A GET or HEAD changes nothing."""
    router = APIRouter(route_class=page_route(pages), include_in_schema=False)
    logins = Logins(settings=runtime.settings, tokens=runtime.tokens, links=runtime.links)
    office = _Office(runtime, pages, logins)

    @router.api_route("/", methods=["GET", "HEAD"])
    def start() -> Response:
        return RedirectResponse(f"{pages.root}/inbox", status_code=307)

    @router.api_route("/inbox", methods=["GET", "HEAD"])
    def inbox(request: Request) -> Response:
        operator = logins.operator(request)
        return office.inbox(operator) if operator else office.to_login(request)

    @router.api_route("/requests/{id}", methods=["GET", "HEAD"])
    def one(id: str, request: Request) -> Response:
        operator = logins.operator(request)
        return office.request(operator, id) if operator else office.to_login(request)

    @router.post("/requests/{id}/cancel")
    async def cancel(id: str, request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(office.cancel, id, form, request)

    @router.post("/grants/{id}/revoke")
    async def revoke(id: str, request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(office.revoke, id, form, request)

    @router.api_route("/login", methods=["GET", "HEAD"])
    def login_page(next: str = "") -> Response:
        return office.login_page(next)

    @router.post("/login")
    async def login(request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(office.login, form, request)

    @router.post("/logout")
    async def logout(request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(office.logout, form, request)

    return router


class _Office:
    """Shows operators what there is, and takes what they send."""

    def __init__(self, runtime: Runtime, pages: Pages, logins: Logins) -> None:
        self._runtime = runtime
        self._pages = pages
        self._links = runtime.links
        self._logins = logins

    # ------------------------------------------------------------------ shown

    def inbox(self, operator: Operator) -> Response:
        """Everything that wants a human, of each kind the first hundred."""
        database = self._runtime.database
        with database.read() as connection:
            rows = queries.list_requests(connection, status="open", limit=SHOWN)
            asked = request_store.recipients_of_all(connection, [row.id for row in rows])
            facts = {
                "requests": [request_view(row, asked[row.id]) for row in rows],
                "runs": [
                    run_view(row, None)
                    for row in queries.list_runs(connection, statuses=PARKED_RUN, limit=SHOWN)
                ],
                "undelivered": list(queries.failed_deliveries(connection, limit=SHOWN)),
                "unrouted": list(queries.unrouted(connection, limit=SHOWN)),
            }
        active = [grant for grant in self._runtime.requests.grants() if grant.is_active]
        return self._page("inbox.html", operator, {**facts, "grants": active, "limit": SHOWN})

    def request(self, operator: Operator, id: str) -> Response:
        """One request with its record."""
        try:
            view = self._runtime.requests.get(_id(id))
        except NotFound:
            raise _missing() from None
        settled = view.outcome
        arguments = settled.args if settled is not None and settled.args is not None else view.args
        facts = {
            "request": view,
            "arguments": arguments_of(arguments or {}),
            "audit": self._runtime.requests.audit(_id(id)),
            "grants": [grant for grant in self._runtime.requests.grants() if grant.request == view.id],
        }
        return self._page("request.html", operator, facts)

    def _page(self, template: str, operator: Operator, facts: dict[str, Any]) -> Response:
        common = {
            "operator": operator, "now": self._runtime.database.now(), "name": self._name, "csrf_field": CSRF_FIELD,
            "proof": proof(self._links, "operator", operator.session),
        }  # fmt: skip
        return self._pages.page(template, {**common, **facts})

    def _name(self, contact: str | None) -> str:
        try:
            return self._runtime.world.people.get(contact or "").name
        except NotFound:
            return contact or ""

    # ------------------------------------------------------------------ changed

    def cancel(self, id: str, form: PostedForm, request: Request) -> Response:
        """End a request undecided. If it has ended meanwhile its page says how."""
        operator = self._checked(form, request)
        actor = Actor(contact=None, channel=WEB_CHANNEL, auth=operator.auth)
        try:
            self._runtime.requests.cancel(_id(id), actor, reason=form.text("reason", limit=500))
        except NotFound:
            raise _missing() from None
        return RedirectResponse(f"{self._pages.root}/requests/{_id(id)}", status_code=303)

    def revoke(self, id: str, form: PostedForm, request: Request) -> Response:
        """Take an approval in advance back."""
        operator = self._checked(form, request)
        try:
            grant = self._runtime.requests.revoke_grant(_id(id), operator.auth)
        except NotFound:
            raise _missing() from None
        return RedirectResponse(f"{self._pages.root}/requests/{grant.request}", status_code=303)

    def _checked(self, form: PostedForm, request: Request) -> Operator:
        operator = self._logins.operator(request)
        if operator is None:
            raise NotLoggedIn
        check_form(self._runtime.settings, self._links, request, form, "operator", operator.session)
        return operator

    # ------------------------------------------------------------------ in and out

    def to_login(self, request: Request) -> Response:
        """Lead somebody who is not logged in to where they can be, and from there to where they wanted to go."""
        return RedirectResponse(
            f"{self._pages.root}/login?next={quote(request.url.path, safe='')}", status_code=303
        )

    def login_page(self, next: str, *, problem: str = "", status: int = 200) -> Response:
        """Asks for a token."""
        facts = {
            "next": next, "problem": problem, "csrf_field": CSRF_FIELD, "proof": proof(self._links, "login"),
        }  # fmt: skip
        return self._pages.page("login.html", facts, status=status)

    def login(self, form: PostedForm, request: Request) -> Response:
        """Let an operator in by a token. After too many failures a peer must wait."""
        check_form(self._runtime.settings, self._links, request, form, "login")
        wait = self._logins.wait_seconds(request)
        if wait:
            refused = self._pages.refusal(
                429, "Too many attempts", f"Please wait {max(1, wait // 60)} minutes, then try again."
            )
            refused.headers["retry-after"] = str(wait)
            return refused
        next = form.text("next", limit=500)
        cookie = self._logins.login(request, form.text("token", limit=500))
        if cookie is None:
            problem = "That token does not work here. It must be one of scope admin that is still valid."
            return self.login_page(next, problem=problem, status=403)
        target = next if next.startswith(_AWAY) and "\\" not in next else "/inbox"
        answer = RedirectResponse(f"{self._pages.root}{target}", status_code=303)
        self._logins.set_cookie(request, answer, cookie, self._cookie_path)
        return answer

    def logout(self, form: PostedForm, request: Request) -> Response:
        """End the login in this browser."""
        self._checked(form, request)
        answer = RedirectResponse(f"{self._pages.root}/login", status_code=303)
        answer.delete_cookie(COOKIE, path=self._cookie_path)
        return answer

    @property
    def _cookie_path(self) -> str:
        return self._pages.root or "/"


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _missing() from None


def _missing() -> Refusal:
    return Refusal(404, "There is no such thing here", "It does not exist. The inbox lists what is open.")
