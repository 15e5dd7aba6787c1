"""The web app: webhooks of the channels' providers, pages, the API, and the probes of whatever runs the process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.routing import Mount

from wakeloop import meters
from wakeloop.channel import Channel, RawRequest
from wakeloop.errors import ConfigurationError, InvalidWebhook
from wakeloop.logs import get_logger
from wakeloop.store.database import is_outage
from wakeloop.web.access import peer_of
from wakeloop.web.address import networks, public_url
from wakeloop.web.api import PREFIX, make_api
from wakeloop.web.limits import FailureLimit, RateLimit, whose
from wakeloop.web.metrics import metrics_router
from wakeloop.web.site import add_pages
from wakeloop.web.traced import OURS_ALONE, Traced
from wakeloop.wiring import Runtime

log = get_logger("wakeloop.web")

RETRY_AFTER_SECONDS = 5
_REFUSED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
"""What a forged or malformed webhook is answered with."""


def make_app(runtime: Runtime) -> FastAPI:
    """The ASGI app of a runtime.

    `GET|POST /webhooks/{channel}` takes what a channel's provider sends, and answers 2xx only after it is recorded;
    while the database is away it answers 503, for the provider to send it again. Once the answer is sent, the channel may
    react to the request, one that repeats another included. `GET /healthz` says that the process
    runs, `GET /readyz` that it can record something. `/api/v1` is the API (`wakeloop.web.api`); people's pages and the
    operator's: see `wakeloop.web.site`.

    `state.on_stop` has what is to be called, in the loop, when the process is to stop.
    """
    app = FastAPI(title="wakeloop", openapi_url=None, telemetry=OURS_ALONE)
    rates = RateLimit(runtime.settings.webhooks_per_minute)
    refusals = FailureLimit(runtime.settings.refused_webhooks_per_minute, 60)
    api = make_api(runtime)
    mounted = Mount(PREFIX, api)
    # Starlette's pattern ends at a line end in the path (%0A); such a path is the API's to refuse, too.
    mounted.path_regex = re.compile(mounted.path_regex.pattern, re.DOTALL)
    app.router.routes.append(mounted)
    app.state.api = api
    app.state.on_stop = [api.state.stop]
    trusted = networks(runtime.settings.trusted_proxies)

    @app.api_route("/webhooks/{channel}", methods=["GET", "POST"])
    async def webhook(channel: str, request: Request) -> Response:
        known = runtime.channels.get(channel)
        if known is None:
            log.warning("webhook of a channel that is not set up", channel=channel)
            return _line(HTTPStatus.NOT_FOUND, "there is no such channel here")
        sender = f"{channel} {whose(peer_of(runtime.settings, request))}"
        if wait := rates.take(sender) or refusals.refusal_seconds(sender):
            answer = _too_many(wait)
        else:
            answer = await taken(channel, known, request)
            if answer.status_code in _REFUSED:
                answer = _too_many(wait) if (wait := refusals.wait_seconds(sender)) else answer
                refusals.fail(sender)
            elif answer.status_code < HTTPStatus.BAD_REQUEST:
                refusals.passed(sender)
        meters.WEBHOOKS.labels(channel, str(answer.status_code)).inc()
        return answer

    async def taken(channel: str, known: Channel, request: Request) -> Response:
        limit = known.capabilities.body_limit
        try:
            body = await _read_body(request, limit)
        except ClientDisconnect:
            return _line(HTTPStatus.BAD_REQUEST, "the request ended early")
        if body is None:
            log.warning("webhook refused", channel=channel, status=413)
            return _line(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a webhook is at most {limit:,} bytes")
        headers = _headers(request)
        scope = request.scope
        url = public_url(
            configured=runtime.settings.public_url,
            trusted=trusted,
            peer=request.client.host if request.client is not None else None,
            scheme=request.url.scheme,
            headers=headers,
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
        )
        raw = RawRequest(method=request.method, url=url, headers=headers, body=body)
        return await run_in_threadpool(_take, runtime, channel, raw)

    @app.get("/healthz")
    async def healthz() -> Response:
        return _line(HTTPStatus.OK, "ok")

    @app.get("/readyz")
    async def readyz() -> Response:
        try:
            await run_in_threadpool(runtime.database.check_schema)
        except (ConfigurationError, PoolTimeout) as error:
            log.warning("not ready", error=str(error))
            return _line(HTTPStatus.SERVICE_UNAVAILABLE, "the database cannot be used; the log says why")
        return _line(HTTPStatus.OK, "ok")

    app.include_router(metrics_router(runtime, api.state.wrong_tokens))
    add_pages(app, runtime)
    runtime.begin_traces()
    app.add_middleware(Traced, api=PREFIX, trusted=trusted)
    return app


def _take(runtime: Runtime, channel: str, request: RawRequest) -> Response:
    """Have a webhook recorded, and say what came of it."""
    try:
        answer = runtime.intake.webhook(channel, request)
    except InvalidWebhook as error:
        log.warning("webhook refused", channel=channel, status=error.status, reason=str(error))
        return _line(error.status, str(error))
    except SQLAlchemyError as error:
        if not (is_outage(error) or isinstance(error, PoolTimeout)):
            raise
        cause = str(getattr(error, "orig", None) or error).partition("\n")[0]
        log.error("webhook not recorded: the database is away", channel=channel, error=cause)
        return _line(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not recorded; send it again",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )
    return Response(
        answer.body,
        status_code=answer.status,
        headers={"content-type": answer.content_type},
        background=BackgroundTask(_react, runtime, channel, request),
    )


async def _react(runtime: Runtime, channel: str, request: RawRequest) -> None:
    """Once the answer is sent."""
    runtime.react(channel, request)


def _too_many(wait: int) -> Response:
    return _line(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too many requests came from this address; send it again later",
        headers={"retry-after": str(wait)},
    )


async def _read_body(request: Request, limit: int) -> bytes | None:
    """The raw body, or None if it is over the limit (bytes); nothing beyond the limit is kept in memory."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _headers(request: Request) -> Mapping[str, str]:
    """By lower-case name; one that came several times has its values joined, as RFC 9110 section 5.3 has it."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _line(status: int, text: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """A plain answer of one line."""
    one = " ".join(text.split())
    return Response(f"{one}\n", status_code=status, headers=headers, media_type="text/plain")
