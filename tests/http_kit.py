"""An HTTP server on loopback for tests: it keeps what came, and can fail, be slow and hang up."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from wakeloop.testing.stand_in import Asked, Given, Server


@dataclass(frozen=True, kw_only=True)
class Reply(Given):
    hang_up: bool = False


def json_reply(payload: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body=json.dumps(payload).encode(), headers=named)


HANG_UP = Reply(hang_up=True)


class Peer:
    """Answers each request with `handle(request)`, in a thread of its own. `faults` answer the next ones instead: a
    Reply does so before the request is handled, a number makes the answer that many seconds late, and `hang_up` is no
    answer, after it was handled."""

    def __init__(self, handle: Callable[[Asked], Reply]) -> None:
        self.came: list[Asked] = []
        self.faults: deque[Reply | float] = deque()
        self._handle = handle
        self._stopping = threading.Event()
        self._server = Server(("127.0.0.1", 0), self._give)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
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
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def _give(self, asked: Asked) -> Given | None:
        self.came.append(asked)
        fault = self.faults.popleft() if self.faults else None
        reply = fault if isinstance(fault, Reply) and not fault.hang_up else self._handle(asked)
        if isinstance(fault, float | int):
            self._stopping.wait(fault)
        return None if reply.hang_up or (isinstance(fault, Reply) and fault.hang_up) else reply
