"""The wire of Twilio's stand-in: its HTTP server, the API's error answers, and signed posts to a webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

WEBHOOK_TIMEOUT_SECONDS = 15.0  # Twilio's own for messaging webhooks

# https://www.twilio.com/docs/api/errors: HTTP status and words of what the API refuses.
ERRORS: Mapping[int, tuple[int, str]] = {
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource {path} was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service Unavailable"),
    21211: (400, "The 'To' number {to} is not a valid phone number."),
    21212: (
        400,
        "The 'From' number {from_} is not a valid phone number, shortcode, or alphanumeric sender ID.",
    ),
    21408: (
        400,
        "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {to}",
    ),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' phone number is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (
        400,
        "The From phone number {from_} is not a valid, SMS-capable inbound phone number for your account.",
    ),
    21609: (400, "The 'StatusCallback' URL {callback} is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (429, "This 'From' number has exceeded the maximum number of queued messages"),
    21612: (
        400,
        "The 'To' phone number: {to}, is not currently reachable using the 'From' phone number: {from_}",
    ),
    21614: (400, "'To' number {to} is not a valid mobile number"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    21620: (400, "Invalid media URL(s)"),
    21623: (400, "Number of media files exceeds allowed limit"),
    21655: (400, "The ContentSid Parameter is Invalid"),
    21656: (400, "The ContentVariables Parameter is invalid"),
    21658: (400, "Parameter exceeded character limit"),
    21910: (400, "Invalid 'From' and 'To' pair. 'From' and 'To' should be of the same channel"),
    63007: (400, "Twilio could not find a Channel with the specified 'From' address"),
}

# Magic numbers of the test credentials: what the API answers to a message to them.
MAGIC_RECIPIENTS: Mapping[str, int] = {
    "+15005550001": 21211,
    "+15005550002": 21612,
    "+15005550003": 21408,
    "+15005550004": 21610,
    "+15005550009": 21614,
}


class Answer(NamedTuple):
    """What the webhook answered."""

    status: int
    body: str


@dataclass(frozen=True, kw_only=True)
class StatusCallback:
    """A status callback that was made; `answer` is None if nobody could be reached."""

    sid: str
    status: str
    answer: Answer | None


@dataclass(frozen=True)
class Reply:
    """An answer of the API. `then` is called once it has been sent."""

    status: int
    body: bytes
    content_type: str = "application/json;charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    then: Callable[[], None] | None = None


# (method, target, Authorization, body) to the answer, or None to close the connection without one.
Handle = Callable[[str, str, str, bytes], Reply | None]


class Server(ThreadingHTTPServer):
    """Knows its connections, so that a stop need not wait until idle clients let go of theirs."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handle: Handle) -> None:
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
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the stand-in answer it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        authorization = self.headers.get("Authorization", "")
        server = self.server
        assert isinstance(server, Server)
        reply = server.handle(self.command, self.path, authorization, body)
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"Content-Type": reply.content_type, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)
        self.wfile.flush()
        if reply.then is not None:
            reply.then()

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what was taken is in `messages`."""


def sign(
    url: str,
    parameters: Iterable[tuple[str, str]],
    secret: str,
    algorithm: Literal["SHA1", "SHA256"] = "SHA1",
) -> str:
    """The X-Twilio-Signature of a request: the URL, then each parameter's name and value in the order of the names
    (a name's different values in their own order), HMAC with the secret, base64."""
    by_name: dict[str, set[str]] = {}
    for name, value in parameters:
        by_name.setdefault(name, set()).add(value)
    text = url
    for name in sorted(by_name):
        for value in sorted(by_name[name]):
            text += name + value
    digest = hashlib.sha256 if algorithm == "SHA256" else hashlib.sha1
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), digest).digest()).decode()


class Refusal(Exception):
    """The API says no, with this error code."""

    def __init__(self, code: int, **facts: str) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


def dump(payload: Mapping[str, Any]) -> bytes:
    """JSON, as the body of an answer."""
    return json.dumps(payload).encode()


def error_reply(status: int, code: int, words: str, headers: Mapping[str, str] | None = None) -> Reply:
    """The API's error body."""
    payload = {
        "code": code,
        "message": words,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }
    return Reply(status, dump(payload), headers=headers or {})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one request to the API."""

    kind: Literal["fail", "drop", "slow"]
    status: int = 0
    code: int | None = None
    retry_after: str | None = None
    seconds: float = 0.0


def fault_reply(fault: Fault) -> Reply:
    """The answer of an API that fails: its own error, or without a code the page of a gateway before it."""
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    words = HTTPStatus(fault.status).phrase
    if fault.code is None:
        return Reply(fault.status, f"<html><h1>{words}</h1></html>".encode(), "text/html", headers)
    return error_reply(fault.status, fault.code, ERRORS.get(fault.code, (0, words))[1], headers)


def is_callback(url: str) -> bool:
    """Whether Twilio takes this URL: a host, and no underscore in it."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "_" not in (parts.hostname or "")


def segments(text: str) -> int:
    """Near enough for a stand-in: ASCII for the GSM alphabet."""
    single, part = (160, 153) if text.isascii() else (70, 67)
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    return 1 if units <= single else math.ceil(units / part)


def post_form(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    """Post to a webhook, past any proxy of the environment. Raises OSError if nobody answers."""
    request = Request(url, data=body, headers=dict(headers), method="POST")
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(request, timeout=WEBHOOK_TIMEOUT_SECONDS) as response:
            return Answer(response.status, response.read().decode("utf-8", "replace"))
    except HTTPError as error:
        with error:
            return Answer(error.code, error.read().decode("utf-8", "replace"))
