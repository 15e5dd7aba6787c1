"""What the API lets in: bodies that are small enough, JSON that can be kept, and no character that a database refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wakeloop.web.api_problems import problem

BODY_LIMIT_BYTES = 1024 * 1024
DEPTH_LIMIT = 60
NUMBER_LIMIT = 10**300


class BodyGuard:
    """Reads a body whole before the app gets it, and refuses what could not be worked on.

    At most 1 MiB (413), nothing beyond is kept in memory. JSON is read strictly (RFC 8259): no NaN, no half surrogate
    pairs, nested at most 60 deep, no number of more than 300 digits and no NUL characters, which PostgreSQL does not
    keep (400). A body that is neither JSON nor a CloudEvent in binary mode is refused (415): so nothing that a web page
    can make a browser send without asking first (the Fetch standard's CORS-safelisted types) is taken.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if _has_nul(scope):
            await problem(400, "the address has a NUL character in it")(scope, receive, send)
            return
        declared = headers.get("content-length", "")
        too_large = declared.isdecimal() and (len(declared) > 18 or int(declared) > BODY_LIMIT_BYTES)
        body = None if too_large else await _read(receive)
        if body is None:
            refusal = problem(413, f"a body is at most {BODY_LIMIT_BYTES:,} bytes")
            await refusal(scope, receive, send)
            return
        refused = _refusal(headers, bytes(body)) if body else None
        if refused is not None:
            await problem(*refused)(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)


async def _read(receive: Receive) -> bytearray | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if len(body) > BODY_LIMIT_BYTES:
            return None
        if not message.get("more_body", False):
            return body


def _has_nul(scope: Scope) -> bool:
    return "\x00" in scope["path"] or b"\x00" in unquote_to_bytes(scope["query_string"])


def _refusal(headers: Mapping[str, str], body: bytes) -> tuple[int, str] | None:
    kind = media_type(headers.get("content-type", ""))
    if not is_json(kind):
        if "ce-specversion" in headers:
            return None  # its reader knows what to make of it
        return 415, f"a body must be JSON (Content-Type: application/json), not {kind or 'of no type'}"
    try:
        read_json(body)
    except ValueError as error:
        return 400, f"the body is no JSON that can be taken: {error}"
    return None


def media_type(content_type: str) -> str:
    """The type of a Content-Type header, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON: application/json, or anything with the suffix +json (RFC 6839)."""
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def read_json(body: bytes) -> Any:
    """A JSON text as a value that can be kept. Raises ValueError with what is wrong."""
    value = from_json(body, allow_inf_nan=False)
    keep(value)
    return value


def keep(value: Any) -> None:
    """Raises ValueError if a JSON value cannot be kept."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > DEPTH_LIMIT:
            raise ValueError(f"it is nested more than {DEPTH_LIMIT} deep")
        if isinstance(part, str):
            if "\x00" in part:
                raise ValueError("it has a NUL character in it")
        elif isinstance(part, dict):
            waiting += [(one, depth + 1) for pair in part.items() for one in pair]
        elif isinstance(part, list):
            waiting += [(one, depth + 1) for one in part]
        elif isinstance(part, int | float) and not (math.isfinite(part) if isinstance(part, float) else abs(part) < NUMBER_LIMIT):  # fmt: skip
            raise ValueError("it has a number in it that is too large")
