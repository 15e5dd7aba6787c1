"""Who calls the API, and what they may do: a token's scopes, or everything for whoever sits at this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from wakeloop.tokens import Scope
from wakeloop.web.access import is_local, peer_of
from wakeloop.web.api_problems import Refused
from wakeloop.web.limits import FailureLimit, whose
from wakeloop.wiring import Runtime

LOCAL = "local"

BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    bearerFormat="wl_…",
    description="A token that `wakeloop tokens create` made. Each operation names the scope that it needs.",
)


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A program that calls. name: of its token, which is the maker of its requests. auth: how it is known."""

    name: str
    scopes: frozenset[Scope]
    auth: str

    def allows(self, scope: Scope) -> bool:
        """Whether it may do this."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def runtime_of(request: Request) -> Runtime:
    """The runtime that the app serves."""
    return cast(Runtime, request.app.state.runtime)


def needs(*scopes: Scope) -> Callable[..., Caller]:
    """A dependency that gives the caller, who must have one of these scopes.

    Without a token that works the answer is 401, with one that is not good for this 403, both with the challenge of
    RFC 6750."""

    given: Any = Security(BEARER, scopes=[str(scope) for scope in scopes])

    def caller(request: Request, credentials: HTTPAuthorizationCredentials | None = given) -> Caller:
        runtime = runtime_of(request)
        if credentials is None:
            is_at_home = is_local(runtime.settings, request) and _is_no_strangers_page(request)
            if is_at_home and "authorization" not in request.headers:
                return Caller(name=LOCAL, scopes=frozenset({Scope.ADMIN}), auth=LOCAL)
            raise Refused(
                401,
                "this needs a token: send `Authorization: Bearer wl_…`; `wakeloop tokens create` makes one",
                headers={"www-authenticate": 'Bearer realm="wakeloop"'},
            )
        limit, peer = _limit_of(request), whose(peer_of(runtime.settings, request))
        if wait := limit.refusal_seconds(peer):
            raise _too_many(wait)
        token = runtime.tokens.check(credentials.credentials)
        if token is None:
            if wait := limit.wait_seconds(peer):
                raise _too_many(wait)
            limit.fail(peer)
            raise Refused(
                401,
                "this token does not work: it is unknown, revoked or over",
                headers={"www-authenticate": 'Bearer realm="wakeloop", error="invalid_token"'},
            )
        limit.passed(peer)
        if not any(token.allows(scope) for scope in scopes):
            wanted = " or ".join(scopes)
            raise Refused(
                403,
                f"token {token.name} is not good for this: it needs the scope {wanted}",
                headers={
                    "www-authenticate": f'Bearer realm="wakeloop", error="insufficient_scope", scope="{" ".join(scopes)}"'
                },
            )
        return Caller(name=token.name, scopes=token.scopes, auth=f"token {token.name}")

    return caller


def _limit_of(request: Request) -> FailureLimit:
    return cast(FailureLimit, request.app.state.wrong_tokens)


def _too_many(wait: int) -> Refused:
    return Refused(
        429, "too many wrong tokens came from this address; wait", headers={"retry-after": str(wait)}
    )


def _is_no_strangers_page(request: Request) -> bool:
    """Whether no web page of somebody else's had a browser send this: if one says which page did (Origin and
    Sec-Fetch-Site, by the Fetch standard), it is one of ours."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        return False
    return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
