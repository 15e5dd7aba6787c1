"""Poison on the queue: what a broken or malicious program may put where workers take their work from."""

from __future__ import annotations

import base64
import json
import pickle
import random
import uuid
from collections.abc import Callable
from typing import Any

from tests.servers import Redis

QUEUE = "wakeloop"
PRIORITIES = ("", ":5", ":9")
LARGE_BYTES = 10_000_000


class _Bomb:
    """Unpickled, it would end the process."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        import os

        return os._exit, (66,)


def envelope(
    task: str,
    kwargs: Any,
    *,
    body: bytes | None = None,
    content_type: str = "application/json",
    **headers: Any,
) -> bytes:
    """A message as Celery's protocol 2 has it on Redis."""
    id = str(uuid.uuid4())
    said = json.dumps(
        [[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    ).encode()
    return json.dumps(
        {
            "body": base64.b64encode(said if body is None else body).decode(),
            "content-encoding": "utf-8" if body is None else "binary",
            "content-type": content_type,
            "headers": {
                "lang": "py", "task": task, "id": id, "root_id": id, "parent_id": None, "group": None, **headers
            },
            "properties": {
                "correlation_id": id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "priority": 0,
                "delivery_info": {"exchange": "", "routing_key": QUEUE}, "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()  # fmt: skip


def make(chance: random.Random, sessions: int) -> dict[str, Callable[[], bytes]]:
    """Each kind of poison by its name. sessions: how many there are, to name those of others."""
    known = max(1, sessions)

    def turn(ids: Any, agent: str = "chain") -> bytes:
        return envelope(f"wakeloop.agents.{agent}", {"sessions": ids})

    return {
        "garbage bytes": lambda: chance.randbytes(200),
        "JSON that is no message": lambda: b'{"hello": ["world"]}',
        "an envelope without a tag": lambda: json.dumps({"body": "", "headers": {}, "properties": {}}).encode(),
        "a pickle": lambda: envelope(
            "wakeloop.agents.chain", {}, body=pickle.dumps(_Bomb()), content_type="application/x-python-serialize"
        ),
        "an unknown content type": lambda: envelope(
            "wakeloop.agents.chain", {}, body=b"\x00\xff", content_type="application/x-nothing"
        ),
        "a body that is no JSON": lambda: envelope("wakeloop.agents.chain", {}, body=b"{[", content_type="application/json"),
        "an unknown task": lambda: envelope("shop.refund_everything", {"amount": 1}),
        "a turn of an unknown agent": lambda: turn([1], agent="nobody"),
        "turns of sessions that are not there": lambda: turn([10**12, 10**15, -1]),
        "turns of any sessions": lambda: turn([chance.randint(1, known) for _ in range(50)]),
        "turns of what is no id": lambda: turn(["1; DROP TABLE runs", None, {"a": 1}]),
        "wrong arguments": lambda: envelope("wakeloop.agents.chain", {"session": [1]}),
        "unknown deliveries": lambda: envelope("wakeloop.deliver", {"deliveries": [str(uuid.uuid4())]}),
        "deliveries of what is no id": lambda: envelope("wakeloop.deliver", {"deliveries": ["no id", 7]}),
        "a body of 10 MB": lambda: envelope("wakeloop.agents.chain", {"sessions": [], "more": "x" * LARGE_BYTES}),
        "an ETA in a year": lambda: envelope("wakeloop.agents.chain", {"sessions": [1]}, eta="2030-01-01T00:00:00+00:00"),
    }  # fmt: skip


def put(redis: Redis, poison: bytes, chance: random.Random) -> None:
    """Put it on the queue, at any priority."""
    with redis.client() as client:
        client.lpush(f"{QUEUE}{chance.choice(PRIORITIES)}", poison)
