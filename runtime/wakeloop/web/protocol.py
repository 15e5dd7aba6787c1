"""How requests are read off a connection: by uvicorn's protocol on httptools, which is C, within bounds of our own."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES = 64 * 1024
"""So much may come of the head of a request before it is whole. What the system hands over at once is looked at first."""


JOINED_BYTES = 16 * 1024
"""So much of an answer is held back, at most, until the loop has done what it is at."""


class _Joined:
    """A transport that sends in one piece what is written in one round of the loop, such as the head of an answer and its
    body: sending takes longer than making them."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > JOINED_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held, self._size = self._held, [], 0
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """The parser takes heads and trailers of any length, and any number of Host fields. Here whoever sends more than
    HEAD_LIMIT_BYTES that come to nothing, neither the end of a head nor a part of a body, is answered 400; so is a
    request that does not say exactly once for which host it is (RFC 9112 section 3.2). Trailers are left out: a proxy that
    takes away headers which it does not believe may let them pass."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pending = 0
        self._came_to_something = False
        self._in_head = True

    def connection_made(self, transport: Any) -> None:
        """Somebody has connected."""
        joined: Any = _Joined(transport, self.loop)
        super().connection_made(joined)

    def data_received(self, data: bytes) -> None:
        """Take what came in."""
        self._came_to_something = False
        super().data_received(data)
        self._pending = 0 if self._came_to_something else self._pending + len(data)
        if self._pending > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer field."""
        if self._in_head:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """The head is whole. What is raised here is answered 400."""
        self._in_head, self._came_to_something = False, True
        assert self.parser is not None
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        if version not in ("1.0", "1.1") or hosts > 1 or (not hosts and version == "1.1"):
            raise ValueError(f"HTTP {version} with {hosts} Host fields")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._came_to_something = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._came_to_something = True
        super().on_message_complete()
