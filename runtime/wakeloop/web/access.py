"""Who may use the operator's pages and the API: everybody on this machine if only they can connect, else tokens."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from fastapi import Request, Response

from wakeloop.links import InvalidLink, Links
from wakeloop.settings import Settings
from wakeloop.tokens import Scope, Tokens
from wakeloop.web.address import is_trusted, networks
from wakeloop.web.limits import FailureLimit, whose
from wakeloop.web.security import own_url
from wakeloop.wiring import is_loopback

COOKIE = "wakeloop_login"
LOGIN_LIFE = timedelta(hours=12)
TRIES_SECONDS = 300.0

_FORWARDING = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-forwarded-server",
)  # fmt: skip


def is_local(settings: Settings, request: Request) -> bool:
    """Whether nobody but programs on this machine can have made this request, and it was meant for us.

    That is so if we listen on a loopback address only, are not published under any other, the connection comes from a
    loopback address, no proxy has passed it on, and the Host header names a loopback address: a page in a browser
    here that reaches us by a name of its own (DNS rebinding) sends that name."""
    return (
        settings.public_url is None
        and not settings.trusted_proxies
        and is_loopback(settings.host)
        and request.client is not None
        and is_loopback(request.client.host)
        and not any(name in request.headers for name in _FORWARDING)
        and is_loopback(_host_name(request.headers.get("host", "")))
    )


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def peer_of(settings: Settings, request: Request) -> str:
    """The address that a request came from; behind trusted proxies the one that they tell."""
    peer = request.client.host if request.client is not None else ""
    trusted = networks(settings.trusted_proxies)
    if not trusted or not is_trusted(peer, trusted):
        return peer
    told = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()]
    return next((one for one in reversed(told) if not is_trusted(one, trusted)), peer)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Who uses the operator's pages. auth: how that is known, for the record. session: what their forms are bound to.
    name: of the token they logged in with; None on this machine itself."""

    auth: str
    session: str
    name: str | None = None


class Logins:
    """Lets operators in. A login is a sealed cookie with the token's name; each request asks whether that token still
    works and may do everything, so that revoking it ends the login at once."""

    def __init__(self, *, settings: Settings, tokens: Tokens, links: Links) -> None:
        self._settings = settings
        self._tokens = tokens
        self._links = links
        self._limit = FailureLimit(settings.wrong_tokens, TRIES_SECONDS)

    def operator(self, request: Request) -> Operator | None:
        """Who makes a request, if they may use the operator's pages."""
        if is_local(self._settings, request):
            return Operator(auth="local operator", session="local")
        cookie = request.cookies.get(COOKIE)
        if cookie is None:
            return None
        try:
            name, session = self._links.unseal("login", cookie, life=LOGIN_LIFE)
        except (InvalidLink, TypeError, ValueError):
            return None
        token = self._tokens.find(name)
        if token is None or not token.allows(Scope.ADMIN):
            return None
        return Operator(auth=f"token {name}", session=session, name=name)

    def login(self, request: Request, secret: str) -> str | None:
        """The value of the cookie for whoever knows the secret of a token that may do everything."""
        token = self._tokens.check(secret)
        if token is None or not token.allows(Scope.ADMIN):
            self._limit.fail(whose(peer_of(self._settings, request)))
            return None
        return self._links.seal("login", [token.name, secrets.token_urlsafe(16)])

    def wait_seconds(self, request: Request) -> int:
        """For how long a peer may not try to log in; 0 if it may."""
        return self._limit.wait_seconds(whose(peer_of(self._settings, request)))

    def set_cookie(self, request: Request, response: Response, value: str, path: str) -> None:
        """Keep a login in the browser: out of reach of scripts and of other sites."""
        response.set_cookie(
            COOKIE, value, max_age=int(LOGIN_LIFE.total_seconds()), path=path, httponly=True, samesite="strict",
            secure=own_url(self._settings, request).startswith("https:"),
        )  # fmt: skip
