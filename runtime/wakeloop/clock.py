"""The only place that reads the time or makes a random id."""

from __future__ import annotations

import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import uuid_utils.compat


class Clock(Protocol):
    """What the runtime asks for the time and for new ids. Every implementation is safe to share by threads."""

    def now(self) -> datetime:
        """The present instant, aware, in UTC, to the microsecond."""
        ...

    def new_id(self) -> UUID:
        """A fresh time-ordered id (UUID version 7, RFC 9562)."""
        ...


class SystemClock:
    """This machine's clock: right for SQLite, whose database lives on the same machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def new_id(self) -> UUID:
        return uuid_utils.compat.uuid7()


class OffsetClock:
    """Another machine's clock, followed through this machine's monotonic one.

    A database server's time is learned with `learn`; between two lessons it is carried on by the monotonic clock, so
    that neither a step of this machine's wall clock nor a wrong one moves a timer. The network's delay counts as
    time already passed there, so the clock is behind the server's by up to that delay and never ahead: a timer is
    late by it, never early.
    """

    def __init__(self) -> None:
        self._lesson = (datetime.now(UTC), time.monotonic())

    def learn(self, there: datetime) -> None:
        """Note that the other clock stood at `there` when its answer was sent."""
        self._lesson = (there.astimezone(UTC), time.monotonic())

    def now(self) -> datetime:
        there, here = self._lesson
        return there + timedelta(seconds=time.monotonic() - here)

    def new_id(self) -> UUID:
        return uuid_utils.compat.uuid7()


class VirtualClock:
    """A clock that moves only when it is told to; its ids are reproducible from `seed`, and in order."""

    def __init__(self, start: datetime, *, seed: int | str = 0) -> None:
        if start.tzinfo is None:
            raise ValueError(f"a virtual clock starts at an aware datetime; {start!r} has no zone")
        self._now = start.astimezone(UTC)
        self._random = random.Random(seed)
        self._count = 0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._now

    def move(self, to: datetime) -> None:
        """Set the time. It never goes back."""
        if to < self._now:
            raise ValueError(
                f"the clock stands at {self._now.isoformat()} and cannot go back to {to.isoformat()}"
            )
        self._now = to.astimezone(UTC)

    def new_id(self) -> UUID:
        with self._lock:
            self._count += 1
            low = self._count << 46 | self._random.getrandbits(46)
        milliseconds = int(self._now.timestamp() * 1000) & ((1 << 48) - 1)
        return UUID(int=milliseconds << 80 | 7 << 76 | (low >> 62) << 64 | 2 << 62 | low & ((1 << 62) - 1))
