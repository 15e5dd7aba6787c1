"""What the stand-ins for providers share: a real HTTP server on loopback, its faults, and waiting for what it took."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

WEBHOOK_TIMEOUT_SECONDS = 15.0

T = TypeVar("T")


class Answer(NamedTuple):
    """What the webhook answered."""

    status: int
    body: str


class Upload(NamedTuple):
    """A file that came with a request."""

    name: str
    content_type: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request to the provider. target: the path with its query, as it came. Header names are lower-case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target's path."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The target's query; of a name that stands there several times, the last."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def json(self) -> Any:
        """What the body says, as JSON."""
        return json.loads(self.body)

    def form(self) -> tuple[dict[str, str], dict[str, Upload]]:
        """The fields and files of a form, of either kind, or of the query."""
        kind = self.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            return {**self.query, **dict(parse_qsl(self.body.decode(), keep_blank_values=True))}, {}
        fields: dict[str, str] = {}
        files: dict[str, Upload] = {}
        for part in message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + self.body).walk():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            if not isinstance(name, str) or not isinstance(data, bytes):
                continue
            file = part.get_filename()
            if file is None:
                fields[name] = data.decode()
            else:
                files[name] = Upload(file, part.get_content_type(), data)
        return fields, files


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the provider answers. then: called once it has been sent."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    then: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What goes wrong with one request. code: the provider's own for it, if it has any. retry_after: seconds, or an HTTP
    date. page: the answer is a gateway's page, not the provider's own."""

    kind: Literal["fail", "drop", "slow"]
    status: int = 0
    code: int | None = None
    retry_after: float | str | None = None
    page: bool = False
    seconds: float = 0.0

    @property
    def headers(self) -> dict[str, str]:
        """When to come again, if that is told."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class StandIn:
    """What a stand-in inherits: it says itself what it answers (`answer`), and how it refuses (`fail`)."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """`faults_at`: only requests whose path ends like this go wrong."""
        self.requests = 0
        self.faults_at = ""
        self._address = (host, port)
        self._faults: deque[Failure] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def answer(self, asked: Asked) -> Given:
        """Do what a request asks for."""
        raise NotImplementedError

    def fail(self, fault: Failure) -> Given:
        """How the provider says that it does not do it."""
        raise NotImplementedError

    # Life

    def start(self) -> Self:
        """Listen; the port is known from here on."""
        self._stopping.clear()
        self._server = Server(self._address, self.handle)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection and wait for what is under way. What was taken stays readable."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.close_connections()
            server.server_close()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The API's base URL: the setting `api_url`."""
        if self._server is None:
            raise RuntimeError(
                "The stand-in is not running: use it in a `with` block, or call start() first."
            )
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    # What goes wrong: each applies to one request to the API, in the order in which they were asked for

    def fail_next(
        self,
        status: int,
        code: int | None = None,
        *,
        retry_after: float | str | None = None,
        page: bool = False,
    ) -> None:
        """Refuse the next request with this status and the provider's own error `code`; `page`: with the HTML page of a
        gateway. `retry_after`: seconds, or an HTTP date."""
        fault = Failure(kind="fail", status=status, code=code, retry_after=retry_after, page=page)
        self._faults.append(fault)

    def drop_next_after_taking(self) -> None:
        """Do what the next request asks for, then close the connection without an answer."""
        self._faults.append(Failure(kind="drop"))

    def slow_next(self, seconds: float) -> None:
        """Do what the next request asks for, and answer `seconds` later."""
        self._faults.append(Failure(kind="slow", seconds=seconds))

    def handle(self, asked: Asked) -> Given | None:
        """Answer one request; None closes the connection instead."""
        with self._changed:
            self.requests += 1
            fault = self._faults.popleft() if self._faults and asked.path.endswith(self.faults_at) else None
        if fault is not None and fault.kind == "fail":
            return gateway_page(fault) if fault.page else self.fail(fault)
        given = self.answer(asked)
        if fault is not None and fault.kind == "slow":
            self._stopping.wait(fault.seconds)
        return None if fault is not None and fault.kind == "drop" else given

    # Inside

    def _wait(self, found: Callable[[], list[T]], count: int, timeout: float) -> list[T]:
        """What `found` gives, once there are `count` of them. Raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, timeout):
                raise TimeoutError(f"{len(found())} came in {timeout} s; {count} were awaited.")
            return found()

    def _tell(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()


class Server(ThreadingHTTPServer):
    """Answers each request with `handle(asked)`, in a thread of its own; None closes the connection instead. It knows its
    connections, so that a stop need not wait until idle clients let go of theirs."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handle: Callable[[Asked], Given | None]) -> None:
        self.handle = handle
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close every connection, also those that wait for another request."""
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the server's `handle` answer it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        given = server.handle(
            Asked(
                method=self.command,
                target=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self._body(),
            )
        )
        if given is None:
            self.close_connection = True
            return
        self.send_response(given.status)
        for name, value in {"Content-Type": given.content_type, **given.headers}.items():
            self.send_header(name, value)
        if given.status != 204:
            self.send_header("Content-Length", str(len(given.body)))
        self.end_headers()
        self.wfile.write(given.body)
        self.wfile.flush()
        if given.then is not None:
            given.then()

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what was taken is in the stand-in's lists."""


def gateway_page(fault: Failure) -> Given:
    """The answer of a gateway that stands before the provider."""
    page = f"<html><h1>{HTTPStatus(fault.status).phrase}</h1></html>".encode()
    return Given(status=fault.status, body=page, content_type="text/html", headers=fault.headers)


def as_json(status: int, payload: Any, **headers: str) -> Given:
    """An answer in JSON; in the names of headers `_` stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Given(status=status, body=json.dumps(payload).encode(), headers=named)


def post(url: str, payload: Any, headers: Mapping[str, str]) -> Answer:
    """Post JSON to a webhook; bytes go as they are. Raises OSError if nobody answers."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return post_bytes(url, body, {"Content-Type": "application/json", **headers})


def post_bytes(
    url: str, body: bytes, headers: Mapping[str, str], timeout: float = WEBHOOK_TIMEOUT_SECONDS
) -> Answer:
    """Post to a webhook, past any proxy of the environment. Raises OSError if nobody answers in `timeout` seconds."""
    request = Request(url, data=body, headers=dict(headers), method="POST")
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, response.read().decode("utf-8", "replace"))
    except HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode("utf-8", "replace"))
