"""Catches real I/O and blocking calls in handlers, where a replay would repeat them."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from wakeloop.errors import OutsideStep

_BLOCKING = {"builtins.input", "time.sleep"}
_REAL_IO = {
    "ftplib.connect", "http.client.connect", "imaplib.open", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
    "os.spawn", "os.system", "smtplib.connect", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname",
    "socket.sendto", "sqlite3.connect", "subprocess.Popen", "urllib.Request",
}  # fmt: skip

_place = threading.local()
_installed = False
_lock = threading.Lock()


class inside_handler:
    """While this is entered, audited I/O of the present thread raises OutsideStep (PEP 578 audit events)."""

    __slots__ = ("_run",)

    def __init__(self, run: str) -> None:
        self._run = run

    def __enter__(self) -> None:
        if not _installed:
            _install()
        _place.run = self._run

    def __exit__(self, *_: object) -> None:
        _place.run = None


def _install() -> None:
    global _installed
    if not _installed:
        with _lock:
            if not _installed:
                sys.addaudithook(_hook)
                if sys.version_info < (3, 13):
                    time.sleep = _audited(time.sleep)  # Python itself audits it from 3.13 on
                _installed = True


def _audited(sleep: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(sleep)
    def audited(seconds: Any, /) -> None:
        if getattr(_place, "run", None) is not None:
            _hook("time.sleep", (seconds,))
        sleep(seconds)

    return audited


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if (event in _BLOCKING or event in _REAL_IO) and getattr(_place, "run", None) is not None:
        if event in _BLOCKING:
            raise OutsideStep(
                f"{event.removeprefix('builtins.')}() in the handler of run {_place.run} would block every run of this worker; "
                "use `await asyncio.sleep(...)` or `await ctx.sleep(...)`, which is durable"
            )
        raise OutsideStep(
            f"{event} in the handler of run {_place.run} is real I/O, and a handler is replayed; put the call into a "
            'step: `@step def fetch(...)`, or `await step(function, name="fetch")(...)`'
        )
