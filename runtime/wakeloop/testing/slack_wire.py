"""The wire of Slack's stand-in: an HTTP and WebSocket server on a thread of its own, and the signature of a webhook."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

START_SECONDS = 10.0


@dataclass(frozen=True)
class Reply:
    """An answer of the API. delay: seconds until it is sent. drop: close the connection instead."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


@dataclass(frozen=True)
class Call:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


def sign(body: bytes, secret: str, timestamp: int) -> str:
    """The X-Slack-Signature of a body."""
    text = f"v0:{timestamp}:".encode() + body
    return "v0=" + hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


class Server:
    """Serves `answer` for HTTP, and sockets whose ticket `admit` takes, until `stop`.

    waiting: what a new socket is sent at once. acknowledged: called with the envelope's id and what came with it."""

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[Call], Reply],
        admit: Callable[[str], bool],
        waiting: Callable[[], Sequence[Mapping[str, Any]]],
        acknowledged: Callable[[str, Any], None],
    ) -> None:
        self._address = address
        self._answer = answer
        self._admit = admit
        self._waiting = waiting
        self._acknowledged = acknowledged
        self._sockets: list[web.WebSocketResponse] = []
        self._started = threading.Event()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="slack-stand-in", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen; the port is known from here on. Raises OSError if it is taken."""
        self._thread.start()
        if not self._started.wait(START_SECONDS) or not self.port:
            raise OSError(f"The stand-in could not listen on {self._address}.")

    def stop(self) -> None:
        """Close every connection."""
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()

    @property
    def connections(self) -> int:
        """How many sockets are open."""
        return len(self._sockets)

    def wait_for_connections(self, count: int, timeout: float) -> bool:
        """Whether that many sockets are open within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._sockets) == count, timeout)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send JSON over the newest socket; whether there was one."""
        return bool(self._on_loop(self._send(json.dumps(message))))

    def close_sockets(self) -> None:
        """Close every socket, as Slack does when it restarts one."""
        self._on_loop(self._close_sockets())

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    async def _send(self, text: str) -> bool:
        if not self._sockets:
            return False
        await self._sockets[-1].send_str(text)
        return True

    async def _close_sockets(self) -> None:
        for socket in list(self._sockets):
            await socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("GET", "/link", self._link)
        app.router.add_route("*", "/{path:.*}", self._http)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, *self._address)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._done.wait()
        await self._close_sockets()
        await runner.cleanup()

    async def _http(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        reply = self._answer(Call(request.method, request.path, request.query, headers, body))
        if reply.delay:
            try:
                await asyncio.wait_for(self._done.wait(), reply.delay)
            except TimeoutError:
                pass
        if reply.drop and request.transport is not None:
            request.transport.abort()
        return web.Response(
            status=reply.status, body=reply.body, content_type=reply.content_type, headers=reply.headers
        )

    async def _link(self, request: web.Request) -> web.StreamResponse:
        if not self._admit(request.query.get("ticket", "")):
            return web.Response(status=403)
        socket = web.WebSocketResponse(autoping=True)
        await socket.prepare(request)
        await socket.send_str(json.dumps({"type": "hello", "num_connections": len(self._sockets) + 1}))
        for envelope in self._waiting():
            await socket.send_str(json.dumps(envelope))
        with self._changed:
            self._sockets.append(socket)
            self._changed.notify_all()
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    answer = json.loads(message.data)
                    self._acknowledged(str(answer.get("envelope_id")), answer.get("payload"))
        finally:
            with self._changed:
                self._sockets.remove(socket)
                self._changed.notify_all()
        return socket
