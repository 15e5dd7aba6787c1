"""What keeps pages safe in a browser: headers on every answer, and the proof that a form was sent from its own page."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wakeloop.links import LINK_DAYS, InvalidLink, Links
from wakeloop.settings import Settings
from wakeloop.web.address import networks, public_url

FORM_LIMIT_BYTES = 1024 * 1024
FORM_LIMIT_FIELDS = 1000
CSRF_FIELD = "proof"

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ]
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    # The address of a person's page lets whoever has it decide: it must not go along to where a link leads.
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-robots-tag": "noindex, nofollow",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Refusal(Exception):
    """A page cannot be shown, or a form not taken: what the person is told instead."""

    def __init__(self, status: int, title: str, words: str) -> None:
        super().__init__(status, title, words)
        self.status = status
        self.title = title
        self.words = words


class SecurityHeaders:
    """Puts HEADERS on every answer of an app that does not have them of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class PostedForm:
    """The fields of a form as they were sent; of a name that came several times, all."""

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def text(self, name: str, *, limit: int = 5000) -> str:
        """One field without the white space around it, and without what no database keeps; empty if it is not there.

        Raises Refusal if it is longer than `limit` characters."""
        text = self._values.get(name, [""])[-1].replace("\r\n", "\n").replace("\x00", "").strip()
        if len(text) > limit:
            raise Refusal(413, "That is too long", f"At most {limit:,} characters can be taken at a time.")
        return text

    def under(self, prefix: str) -> dict[str, list[str]]:
        """The fields whose names begin so, by the rest of their names."""
        return {
            name.removeprefix(prefix): values
            for name, values in self._values.items()
            if name.startswith(prefix)
        }


async def read_form(request: Request) -> PostedForm:
    """The form that a request carries. Nothing beyond the limit is kept in memory. Raises Refusal."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT_BYTES:
            raise Refusal(413, "That is too long", "What you have sent is more than can be taken at a time.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "That is no form", "Please use the form on the page.")
    try:
        pairs = parse_qsl(
            body.decode("ascii", "replace"), keep_blank_values=True, errors="replace", max_num_fields=FORM_LIMIT_FIELDS,
        )  # fmt: skip
    except ValueError:
        raise Refusal(400, "That is no form", "Please use the form on the page.") from None
    return PostedForm(pairs)


# ---------------------------------------------------------------------- where a form comes from


def proof(links: Links, *owner: str) -> str:
    """What a form carries to show that it was on a page of this owner: a contact, or a login."""
    return links.seal("form", list(owner))


def check_form(settings: Settings, links: Links, request: Request, form: PostedForm, *owner: str) -> None:
    """Raises Refusal unless a form was sent from a page that we made for this owner.

    A browser says where a form comes from in Sec-Fetch-Site and Origin. With our Referrer-Policy the latter is "null"
    for our own forms, too, and Sec-Fetch-Site is left out where there is no TLS: then the sealed proof in the form
    decides, which it must carry in any case."""
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    strange = site is not None and site not in ("same-origin", "none")
    strange |= origin not in (None, "null") and not _is_ours(settings, request, origin or "")
    if strange or not _is_proven(links, form.text(CSRF_FIELD), list(owner)):
        raise Refusal(
            403, "This form cannot be taken",
            "It was not sent from its own page, or the page is too old. Nothing has been decided. Open the page again "
            "and send it from there.",
        )  # fmt: skip


def _is_ours(settings: Settings, request: Request, origin: str) -> bool:
    ours, theirs = urlsplit(own_url(settings, request)), urlsplit(origin)
    return (ours.scheme, ours.netloc.lower()) == (theirs.scheme, theirs.netloc.lower())


def _is_proven(links: Links, text: str, owner: list[str]) -> bool:
    try:
        sealed: Any = links.unseal("form", text, life=timedelta(days=LINK_DAYS))
    except InvalidLink:
        return False
    return isinstance(sealed, list) and hmac.compare_digest("\n".join(sealed), "\n".join(owner))


def own_url(settings: Settings, request: Request) -> str:
    """The address by which the sender of a request knows us, without its path."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return public_url(
        configured=settings.public_url, trusted=networks(settings.trusted_proxies),
        peer=request.client.host if request.client is not None else None, scheme=request.url.scheme, headers=headers,
        path="", query="",
    )  # fmt: skip
