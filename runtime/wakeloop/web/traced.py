"""The span of a request that leads to work: to a webhook, to the API, or of a form that somebody sent."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.telemetry import TelemetryConfig
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wakeloop import tracing
from wakeloop.web.address import Network, is_trusted

OURS_ALONE: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI by itself would tell whole addresses, and the words of exceptions."""

_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}


class Traced:
    """Puts requests into spans, named by their route: an address may have a signed token in it, and is never told.

    A caller of the API brings the trace that it goes on in; so does whatever comes through a trusted proxy. What else
    comes from outside begins a trace of its own, with a link to the one it brought. If whoever runs the app traces its
    requests already, nothing is added."""

    def __init__(self, app: ASGIApp, *, api: str, trusted: Sequence[Network]) -> None:
        """Args: api: where the API is. trusted: the networks of trusted proxies."""
        self._app = app
        self._api = api
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        tracer = tracing.tracer
        if tracer is None or not self._leads_to_work(scope) or tracing.carried() is not None:
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        facts = {"http.request.method": method, "url.scheme": scope["scheme"]}
        brought = tracer.received(Headers(scope=scope))
        peer = (scope.get("client") or (None,))[0]
        is_believed = self._is_api(scope) or is_trusted(peer, self._trusted)
        parent, link = (brought, None) if is_believed else (None, brought)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        name = method if method in _METHODS else "HTTP"
        with tracing.span(name, "server", facts, parent=parent, links=[link], is_root=parent is None) as span:
            await self._app(scope, receive, sending)
            assert span is not None
            if (route := self._route(scope)) is not None:
                span.rename(f"{name} {route}")
            span.note({"http.route": route, "http.response.status_code": status})
            if status >= 500:
                span.fail(str(status))

    def _leads_to_work(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        return scope["method"] == "POST" or self._is_api(scope) or scope["path"].startswith("/webhooks/")

    def _is_api(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return path.startswith(f"{self._api}/")

    def _route(self, scope: Scope) -> str | None:
        """The pattern that the address fitted, if any."""
        path = getattr(scope.get("route"), "path", None)
        return None if path is None else f"{self._api}{path}" if self._is_api(scope) else path
