"""How much is handed over at a time: which sessions share a message, and when a sweep waits for company."""

from __future__ import annotations

import math
import time

FEW = 20
"""Up to so many due sessions of an agent get a message each within FLOW_SECONDS, so that Flower shows them one by one."""
MANY = 50
"""Beyond that, up to so many share one, or more if there would be over SHARES messages: Celery takes longer over each than
a worker over ten turns."""
SHARES = 8
FLOW_SECONDS = 1.0

APART_SECONDS = 0.02
"""Many sweeps begin so far apart."""
AT_ONCE = 5
"""After a rest, so many need not."""


class Flow:
    """Counts the sessions of each agent that were handed over lately. For one thread."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, int, int]] = {}

    def share(self, agent: str, count: int) -> int:
        """How many of `count` sessions of an agent that are handed over now have a message together."""
        if self._passed(agent, count) <= FEW:
            return 1
        return max(MANY, math.ceil(count / SHARES))

    def _passed(self, agent: str, count: int) -> int:
        """How many were handed over within FLOW_SECONDS, so many more among them; of those in the span before the present
        one, the share that is not longer ago."""
        now = time.monotonic()
        began, within, before = self._counts.get(agent, (now, 0, 0))
        spans = int((now - began) / FLOW_SECONDS)
        if spans:
            began, within, before = began + spans * FLOW_SECONDS, 0, within if spans == 1 else 0
        self._counts[agent] = (began, within + count, before)
        return within + count + math.floor(before * (1 - (now - began) / FLOW_SECONDS))


class Spacing:
    """Lets a few sweeps begin when they like, and many no closer than APART_SECONDS: what becomes due meanwhile shares a
    statement, a message, a worker's cycle and a transaction. For one thread."""

    def __init__(self) -> None:
        self._ahead = float("-inf")

    def wait(self) -> float:
        """How many seconds the sweep that is to begin now has to wait."""
        now = time.monotonic()
        ahead = max(self._ahead, now)
        self._ahead = ahead + APART_SECONDS
        return max(0.0, ahead - now - (AT_ONCE - 1) * APART_SECONDS)

    def go_on(self) -> None:
        """The sweep found so much that there may be more: the next need not wait for company."""
        self._ahead = float("-inf")
