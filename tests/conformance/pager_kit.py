"""A stand-in for the paging service of the example, and what the conformance suite wants to know of it."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conformance.pager_channel import PagerChannel

from wakeloop.channel import DeliveryStatus, RawRequest
from wakeloop.testing.channels.provider import Fault, Provider, Took

TOKEN = "pager-token"
SECRET = b"pager-secret"


class PagerProvider(Provider):
    """Takes pages on real HTTP, and refuses what the real service would."""

    address = "5550100"
    secrets = (TOKEN, SECRET.decode())

    def __init__(self, adapter: type[PagerChannel] = PagerChannel) -> None:
        self.pages: dict[str, Took] = {}
        self.fault: tuple[Fault, int | None] | None = None
        self.calls = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                provider.answer(self, body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.settings = {
            "api_url": f"http://127.0.0.1:{self.server.server_address[1]}",
            "token": TOKEN,
            "signing_secret": SECRET.decode(),
            "timeout": 1.5,
        }
        self.channel = adapter.from_settings(self.settings, self.services)

    def answer(self, request: BaseHTTPRequestHandler, body: dict[str, str]) -> None:
        """Take the page, or do what `fail_next` asked for."""
        (fault, retry_after), self.fault = self.fault or (None, None), None
        if request.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.say(request, 401, {"error": "unauthorized"})
        if fault == Fault.BUSY:
            return self.say(request, 429, {"error": "busy"}, retry_after)
        if fault == Fault.REFUSED or not 1 <= len(body["text"]) <= 500:
            return self.say(request, 400, {"error": "refused", "why": f"no page to {body['to']}"})
        key = request.headers["Idempotency-Key"]
        page = Took(provider_id=f"pg-{len(self.pages) + 1}", address=body["to"], text=body["text"])
        page = self.pages.setdefault(key, page)
        if fault == Fault.SLOW:
            time.sleep(4)
        if fault != Fault.LOST:
            self.say(request, 201, {"id": page.provider_id})
        return None

    def say(
        self, request: BaseHTTPRequestHandler, status: int, answer: Any, retry_after: int | None = None
    ) -> None:
        """Answer with JSON."""
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            request.send_header("Retry-After", str(retry_after))
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()

    def sent(self) -> Sequence[Took]:
        return list(self.pages.values())

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        self.fault = (fault, retry_after)
        if fault == Fault.DOWN:
            self.close()

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        self.calls += 1
        page = {"kind": "page", "id": f"in-{self.calls}", "from": sender or self.address, "text": text}
        return self.webhook(json.dumps(page).encode())

    def receipt(self, provider_id: str, status: DeliveryStatus) -> RawRequest | None:
        report = {"kind": "status", "id": provider_id, "status": status.value}
        return self.webhook(json.dumps({**report, **({"why": "off"} if status == "failed" else {})}).encode())

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        return self.webhook(body)

    def repeated(self, request: RawRequest) -> RawRequest:
        return self.webhook(request.body, age=-1)

    def replayed_old(self, request: RawRequest) -> RawRequest:
        return self.webhook(request.body, age=3600)

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        signature = request.headers["x-pager-signature"]
        later = "t=" + str(int(time.time()) + 60) + signature[signature.index(",") :]
        return [
            replace(request, headers={}),
            replace(request, body=request.body + b" "),
            replace(request, headers={"x-pager-signature": later}),
            self.webhook(request.body, secret=b"another secret"),
        ]

    def webhook(self, body: bytes, *, age: int = 0, secret: bytes = SECRET) -> RawRequest:
        """A request signed as the service signs, `age` seconds ago."""
        at = str(int(time.time()) - age)
        digest = hmac.digest(secret, at.encode() + b"." + body, hashlib.sha256).hex()
        headers = {"content-type": "application/json", "x-pager-signature": f"t={at},v1={digest}"}
        return RawRequest(
            method="POST", url="https://agents.example.com/hooks/pager", headers=headers, body=body
        )
