"""An HTTP server on loopback for providers' stand-ins: it keeps what came, and can fail, be slow and hang up."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Came:
    """A request. `target` is the path with its query as it came; header names are lower-case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False


def json_reply(payload: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        status=status,
        body=json.dumps(payload).encode(),
        headers={"content-type": "application/json", **named},
    )


HANG_UP = Reply(hang_up=True)


class Peer:
    """Answers each request with `handle(request)`, in a thread of its own. `faults` answer the next ones instead: a
    Reply does so before the request is handled, a number makes the answer that many seconds late, and `hang_up` is no
    answer, after it was handled."""

    def __init__(self, handle: Callable[[Came], Reply]) -> None:
        self.came: list[Came] = []
        self.faults: deque[Reply | float] = deque()
        self._connections: set[socket.socket] = set()
        self._stopping = threading.Event()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Came(method=self.command, target=self.path, headers=headers, body=body)
                peer.came.append(request)
                fault = peer.faults.popleft() if peer.faults else None
                reply = fault if isinstance(fault, Reply) and not fault.hang_up else handle(request)
                if isinstance(fault, float | int):
                    peer._stopping.wait(fault)
                if reply.hang_up or (isinstance(fault, Reply) and fault.hang_up):
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            request_queue_size = 128

            def process_request(self, request: Any, client_address: Any) -> None:
                peer._connections.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request: Any) -> None:
                peer._connections.discard(request)
                super().shutdown_request(request)

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more; idle clients lose their connections."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.shutdown()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._server.server_close()
        self._thread.join()


def eventually(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait until it is so; AssertionError if it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)
