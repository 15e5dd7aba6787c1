"""The span of a request that leads to work: to a webhook, to the API, or of a form that somebody sent."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wakeloop import tracing
from wakeloop.web.address import Network, is_trusted
from wakeloop.web.api import PREFIX

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}


class Traced:
    """Puts requests into spans, named by their route: an address may have a signed token in it, and is never told.

    A caller of the API brings the trace that it goes on in; so does whatever comes through a trusted proxy. What else
    comes from outside begins a trace of its own, with a link to the one it brought. If whoever runs the app traces its
    requests already, nothing is added."""

    def __init__(self, app: ASGIApp, trusted: Sequence[Network]) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        tracer = tracing.tracer
        if (
            tracer is None
            or scope["type"] != "http"
            or not _leads_to_work(scope)
            or tracing.carried() is not None
        ):
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        facts = {"http.request.method": method, "url.scheme": scope["scheme"]}
        brought = tracer.received(Headers(scope=scope))
        is_believed = _is_of(scope, PREFIX) or is_trusted((scope.get("client") or [None])[0], self._trusted)
        parent, link = (brought, None) if is_believed else (None, brought)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with tracing.span(
            method, "server", facts, parent=parent, links=[link], is_root=parent is None
        ) as span:
            await self._app(scope, receive, sending)
            assert span is not None
            if (route := _route(scope)) is not None:
                span.rename(f"{method} {route}")
            span.note({"http.route": route, "http.response.status_code": status})
            if status >= 500:
                span.fail(str(status))


def _leads_to_work(scope: Scope) -> bool:
    return _is_of(scope, "/webhooks") or _is_of(scope, PREFIX) or scope["method"] == "POST"


def _is_of(scope: Scope, prefix: str) -> bool:
    path: str = scope["path"]
    return path.startswith(f"{prefix}/")


def _route(scope: Scope) -> str | None:
    """The pattern that the address fitted, if any."""
    path = getattr(scope.get("route"), "path", None)
    return None if path is None else f"{PREFIX}{path}" if _is_of(scope, PREFIX) else path
