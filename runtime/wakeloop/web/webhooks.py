"""`GET|POST /webhooks/{channel}`: what channels' providers send, answered once it is recorded."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from wakeloop import meters
from wakeloop.channel import Channel, RawRequest, RawResponse
from wakeloop.errors import InvalidWebhook
from wakeloop.logs import get_logger
from wakeloop.store.database import is_outage
from wakeloop.web.access import peer_of
from wakeloop.web.address import networks, public_url
from wakeloop.web.limits import FailureLimit, RateLimit, whose
from wakeloop.web.security import HEADERS
from wakeloop.webhooks import MOST, Rest, Webhook, take
from wakeloop.wiring import Runtime

log = get_logger("wakeloop.web")

PATH = "/webhooks/"
RETRY_AFTER_SECONDS = 5
TOGETHER_BYTES = 64 * 1024
"""Requests that are no larger are taken together; it takes long to read a mail with its files."""
BESIDE_SECONDS = 0.1
"""Those who wait for a batch that takes longer are taken beside it."""

_REFUSED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}
"""What a forged or malformed webhook is answered with."""
_METHODS = ("GET", "POST")
_TEXT = "text/plain; charset=utf-8"
_SECURE = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in HEADERS.items()]


class _Route:
    path = f"{PATH}{{channel}}"


_ROUTE = _Route()
"""What ASGI's scope says of a webhook, as it does of the routes of an app."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str = _TEXT
    headers: Mapping[str, str] | None = None
    reacts: RawRequest | None = None
    """What was recorded, and may be reacted to."""

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", self.content_type.encode("latin-1")),
            *[(name.encode("latin-1"), value.encode("latin-1")) for name, value in (self.headers or {}).items()],
            *_SECURE,
        ]  # fmt: skip
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Webhooks:
    """Takes webhooks, before the routes of the app are looked through; every other request goes on to it."""

    def __init__(self, app: ASGIApp, *, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        settings = runtime.settings
        self._rates = RateLimit(settings.webhooks_per_minute)
        self._refusals = FailureLimit(settings.refused_webhooks_per_minute, 60)
        self._trusted = networks(settings.trusted_proxies)
        self._batches: dict[str, _Batches] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith(PATH):
            await self._app(scope, receive, send)
            return
        name = scope["path"][len(PATH) :]
        if not name or "/" in name:
            await self._app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        if scope["method"] not in _METHODS:
            answer = _Answer(
                HTTPStatus.METHOD_NOT_ALLOWED, b'{"detail":"Method Not Allowed"}', "application/json",
                {"allow": ", ".join(_METHODS)},
            )  # fmt: skip
        else:
            answer = await self._answer(name, Request(scope, receive))
        await answer.send(send)
        if answer.reacts is not None:
            self._runtime.react(name, answer.reacts)

    async def _answer(self, channel: str, request: Request) -> _Answer:
        known = self._runtime.channels.get(channel)
        if known is None:
            log.warning("webhook of a channel that is not set up", channel=channel)
            return _line(HTTPStatus.NOT_FOUND, "there is no such channel here")
        sender = f"{channel} {whose(peer_of(self._runtime.settings, request))}"
        if wait := self._rates.take(sender) or self._refusals.refusal_seconds(sender):
            answer = _too_many(wait)
        else:
            answer = await self._taken(channel, known, request)
            if answer.status in _REFUSED:
                answer = _too_many(wait) if (wait := self._refusals.wait_seconds(sender)) else answer
                self._refusals.fail(sender)
            elif answer.status < HTTPStatus.BAD_REQUEST:
                self._refusals.passed(sender)
        meters.series(meters.WEBHOOKS, channel, str(int(answer.status))).inc()
        return answer

    async def _taken(self, channel: str, known: Channel, request: Request) -> _Answer:
        limit = known.capabilities.body_limit
        try:
            body = await _read_body(request, limit)
        except ClientDisconnect:
            return _line(HTTPStatus.BAD_REQUEST, "the request ended early")
        if body is None:
            log.warning("webhook refused", channel=channel, status=413)
            return _line(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a webhook is at most {limit:,} bytes")
        scope = request.scope
        headers = _headers(scope)
        peer = scope.get("client")
        url = public_url(
            configured=self._runtime.settings.public_url,
            trusted=self._trusted,
            peer=peer[0] if peer else None,
            scheme=scope["scheme"],
            headers=headers,
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
        )
        raw = RawRequest(method=scope["method"], url=url, headers=headers, body=body)
        try:
            said = await self._record(channel, raw)
        except Exception as error:
            return _refusal(channel, error)
        return _Answer(said.status, said.body, said.content_type, reacts=raw)

    async def _record(self, channel: str, request: RawRequest) -> RawResponse:
        webhook = Webhook(request=request, context=contextvars.copy_context())
        result: RawResponse | Exception | Rest
        if len(request.body) <= TOGETHER_BYTES:
            result = await self._together(channel).take(webhook)
        else:
            (result,) = await run_in_threadpool(take, self._runtime.intake, channel, [webhook])
        if isinstance(result, Exception):
            raise result
        return result if isinstance(result, RawResponse) else await run_in_threadpool(result)

    def _together(self, channel: str) -> _Batches:
        found = self._batches.get(channel)
        if found is None:
            found = self._batches[channel] = _Batches(partial(take, self._runtime.intake, channel))
        return found


class _Batches:
    """Has webhooks taken in a thread: one that finds none at work at once, those that come meanwhile as the next batch."""

    def __init__(self, work: Callable[[Sequence[Webhook]], list[RawResponse | Exception | Rest]]) -> None:
        self._work = work
        self._waiting: deque[tuple[Webhook, asyncio.Future[RawResponse | Exception | Rest]]] = deque()
        self._awaited: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, webhook: Webhook) -> RawResponse | Exception | Rest:
        """See `wakeloop.webhooks.take`."""
        future: asyncio.Future[RawResponse | Exception | Rest] = asyncio.get_running_loop().create_future()
        self._waiting.append((webhook, future))
        if self._awaited is None:
            self._begin()
        return await future

    def _begin(self) -> None:
        self._awaited = None
        if self._waiting:
            # Outside of the span of whoever came first.
            task = contextvars.Context().run(asyncio.create_task, self._do())
            self._awaited = task
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._go_on(task)

    def _go_on(self, task: asyncio.Task[None] | None) -> None:
        if self._awaited is task:
            self._begin()

    async def _do(self) -> None:
        # Those that were read in the same round of the loop are here by now.
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]
        beside = asyncio.get_running_loop().call_later(BESIDE_SECONDS, self._go_on, asyncio.current_task())
        try:
            results = await run_in_threadpool(self._work, [webhook for webhook, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        finally:
            beside.cancel()
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)


def _refusal(channel: str, error: Exception) -> _Answer:
    """What is said of a request that was not taken. Raises what nobody reckoned with."""
    if isinstance(error, InvalidWebhook):
        log.warning("webhook refused", channel=channel, status=error.status, reason=str(error))
        return _line(error.status, str(error))
    if isinstance(error, PoolTimeout) or (isinstance(error, SQLAlchemyError) and is_outage(error)):
        cause = str(getattr(error, "orig", None) or error).partition("\n")[0]
        log.error("webhook not recorded: the database is away", channel=channel, error=cause)
        return _line(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not recorded; send it again",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )
    raise error


def _too_many(wait: int) -> _Answer:
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


def _headers(scope: Scope) -> Mapping[str, str]:
    """By lower-case name; one that came several times has its values joined, as RFC 9110 section 5.3 has it."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _line(status: int, text: str, *, headers: Mapping[str, str] | None = None) -> _Answer:
    """A plain answer of one line."""
    return _Answer(status, f"{' '.join(text.split())}\n".encode(), headers=headers)
