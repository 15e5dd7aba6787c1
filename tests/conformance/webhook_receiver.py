"""A web server that treats webhooks as the runtime does: verify, parse, and only then answer."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from wakeloop.channel import Channel, DeliveryUpdate, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook


class Receiver:
    """What came, in `events`; the requests that were taken, in `requests`."""

    def __init__(self, channel: Channel) -> None:
        self.events: list[Incoming | DeliveryUpdate] = []
        self.requests: list[RawRequest] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = RawRequest(method="POST", url=receiver.url, headers=headers, body=body)
                try:
                    channel.verify(request)
                    receiver.events += channel.parse(request)
                    response = channel.respond(request)
                    receiver.requests.append(request)
                    status, content, content_type = response.status, response.body, response.content_type
                except InvalidWebhook as error:
                    status, content, content_type = error.status, str(error).encode(), "text/plain"
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hooks/{channel.name}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
