"""Serves the web app: a socket that says why it cannot be opened, and uvicorn in a thread or in the foreground."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterable

import uvicorn
from fastapi import FastAPI

from wakeloop.errors import ConfigurationError
from wakeloop.web.protocol import BoundedProtocol

STOP_SECONDS = 1


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes any that is free. Raises ConfigurationError, saying why not."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(
            f"host {host!r} is no address of this machine ({error.strerror}); correct --host or WAKELOOP_HOST"
        ) from None
    found = socket.socket(family, kind, proto)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            what = "is in use; stop the program that has it, or choose another with --port (0: any free one)"
        else:
            what = f"cannot be used: {error.strerror}; choose others with --host and --port"
        raise ConfigurationError(f"{host}:{port} {what}") from None
    return found


def url_of(listening: socket.socket) -> str:
    """The address by which this machine reaches a listening socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, which tells the app before it waits for the requests under way: long polls end then."""

    def __init__(self, config: uvicorn.Config, on_stop: Iterable[Callable[[], None]]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving."""
        for stop in self._on_stop:
            stop()
        await super().shutdown(sockets)


class WebServer:
    """uvicorn on a listening socket. Forwarded headers are not its business: the app sees who really connected."""

    def __init__(self, app: FastAPI, listening: socket.socket) -> None:
        self.app = app
        self._listening = listening
        self._server = _Server(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            ),
            getattr(app.state, "on_stop", ()),
        )
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve in this thread until SIGINT or SIGTERM."""
        self._server.run(sockets=[self._listening])

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread = threading.Thread(target=self.run, name="wakeloop-web", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Take no new request, and give those under way a moment; returns after `timeout` seconds at the latest."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout)
