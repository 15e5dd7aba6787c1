"""Posts to a server of this machine over connections that are kept. Standard library only: peers use it, too."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ANSWER_SECONDS = 120.0
JSON = {"Content-Type": "application/json", "Accept": "application/json"}

Post = Callable[..., bytes]
"""Posts (path, body, headers) and returns what was answered. Raises RuntimeError if that is no success."""


@contextlib.contextmanager
def poster(port: int) -> Iterator[Post]:
    """A connection, for one thread."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)

    def post(path: str, body: bytes, headers: Mapping[str, str] = JSON) -> bytes:
        connection.request("POST", path, body, dict(headers))
        answer = connection.getresponse()
        said = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{path} answered {answer.status}: {said[:200]!r}")
        return said

    with contextlib.closing(connection):
        yield post


def post_json(port: int, path: str, body: Any) -> Any:
    """Post one value and return the answer's, None if there is none."""
    with poster(port) as post:
        said = post(path, json.dumps(body).encode())
    return json.loads(said) if said else None


def post_all(port: int, path: str, bodies: Iterable[Any], at_once: int) -> list[Any]:
    """Post these values, so many at once, each when one before has been answered; the answers' values, in no order."""
    left, lock, answers = iter(bodies), threading.Lock(), []
    nothing = object()

    def work() -> None:
        with poster(port) as post:
            while True:
                with lock:
                    body = next(left, nothing)
                if body is nothing:
                    return
                said = post(path, json.dumps(body).encode())
                answers.append(json.loads(said) if said else None)

    with ThreadPoolExecutor(at_once) as pool:
        for working in [pool.submit(work) for _ in range(at_once)]:
            working.result()
    return answers
