"""Who calls the API, and what they may do: a token's scopes, or everything for whoever sits at this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from wakeloop.settings import Settings
from wakeloop.tokens import Scope
from wakeloop.web.api_problems import Refused
from wakeloop.wiring import Runtime, is_loopback

LOCAL = "local"
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")

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
            if "authorization" not in request.headers and is_local(runtime.settings, request):
                return Caller(name=LOCAL, scopes=frozenset({Scope.ADMIN}), auth=LOCAL)
            raise Refused(
                401,
                "this needs a token: send `Authorization: Bearer wl_…`; `wakeloop tokens create` makes one",
                headers={"www-authenticate": 'Bearer realm="wakeloop"'},
            )
        token = runtime.tokens.check(credentials.credentials)
        if token is None:
            raise Refused(
                401,
                "this token does not work: it is unknown, revoked or over",
                headers={"www-authenticate": 'Bearer realm="wakeloop", error="invalid_token"'},
            )
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


def is_local(settings: Settings, request: Request) -> bool:
    """Whether a request comes from somebody at this machine, and from no web page of somebody else's.

    Nothing else can reach the server: it listens on a loopback address and has no public one, and no proxy stands
    before it. The Host header names this machine, so that a name which an attacker points here (DNS rebinding) is not
    believed; and if a browser says which page made the request (Origin and Sec-Fetch-Site, by the Fetch standard), it
    is one of ours."""
    if settings.public_url is not None or not is_loopback(settings.host):
        return False
    headers = request.headers
    host = headers.get("host", "")
    if not is_loopback(_host_of(host)) or any(name in headers for name in _FORWARDED):
        return False
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _host_of(header: str) -> str:
    """The host of a Host header, without its port and without the brackets of an IPv6 address."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    host = header.partition(":")[0]
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()
