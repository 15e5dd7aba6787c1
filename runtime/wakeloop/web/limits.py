"""Who has failed too often must wait: counts failures by whom they came from, in bounded memory."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

KEYS_LIMIT = 10_000
"""Of so many it is known how often they failed; who failed longest ago is forgotten first."""
TRUST_SECONDS = 3600.0
NETWORK_BITS = 64
"""Of an IPv6 address so many bits say whose it is: one customer has all the addresses below."""


class FailureLimit:
    """Lets a key fail so often in any stretch of so many seconds; after that it must wait.

    A key is whatever tells callers apart. One that has `passed` within the last hour is not made to wait before it is
    looked at: others that share its address, such as behind one proxy, could keep it out otherwise. Its failures are
    answered with 429 all the same.
    """

    def __init__(
        self,
        limit: int,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        keys: int = KEYS_LIMIT,
    ) -> None:
        """limit: 0 is no limit."""
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._keys = keys
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._passed: OrderedDict[str, float] = OrderedDict()

    def wait_seconds(self, key: str) -> int:
        """How long it is until a key may fail again; 0 if it may now."""
        if not self._limit:
            return 0
        with self._lock:
            times = self._failed.get(key)
            if times is None or len(times) < self._limit:
                return 0
            left = times[0] + self._seconds - self._clock()
        return int(left) + 1 if left > 0 else 0

    def refusal_seconds(self, key: str) -> int:
        """The same before anything is known of a request: 0 as well for a key that has passed lately."""
        wait = self.wait_seconds(key)
        if not wait:
            return 0
        with self._lock:
            passed = self._passed.get(key)
            return 0 if passed is not None and self._clock() - passed < TRUST_SECONDS else wait

    def fail(self, key: str) -> None:
        """Note a failure."""
        if self._limit:
            with self._lock:
                times = self._failed.setdefault(key, deque(maxlen=self._limit))
                times.append(self._clock())
                self._failed.move_to_end(key)
                while len(self._failed) > self._keys:
                    self._failed.popitem(last=False)

    def passed(self, key: str) -> None:
        """Note that it did well. Its failures stay what they are."""
        if self._limit:
            with self._lock:
                self._passed[key] = self._clock()
                self._passed.move_to_end(key)
                while len(self._passed) > self._keys:
                    self._passed.popitem(last=False)

    def __len__(self) -> int:
        """How many keys are kept."""
        return len(self._failed) + len(self._passed)


class RateLimit:
    """Lets a key have so many requests in a minute, good ones or bad, all of them at once if it likes: a bucket that fills
    up again steadily."""

    def __init__(
        self, per_minute: int, *, clock: Callable[[], float] = time.monotonic, keys: int = KEYS_LIMIT
    ) -> None:
        """per_minute: 0 is no limit."""
        self._size = per_minute
        self._clock = clock
        self._keys = keys
        self._lock = threading.Lock()
        # How much is left, and when that was so.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Take one; how many seconds to wait if there is none left, else 0."""
        if not self._size:
            return 0
        with self._lock:
            now = self._clock()
            left, at = self._left.get(key, (float(self._size), now))
            left = min(float(self._size), left + (now - at) * self._size / 60)
            taken = left >= 1
            self._left[key] = (left - 1 if taken else left, now)
            self._left.move_to_end(key)
            while len(self._left) > self._keys:
                self._left.popitem(last=False)
        return 0 if taken else int((1 - left) * 60 / self._size) + 1

    def __len__(self) -> int:
        """How many keys are kept."""
        return len(self._left)


def whose(address: str) -> str:
    """Under what an address is counted: itself, and of IPv6 the network that a customer gets."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, NETWORK_BITS), strict=False))
    return str(found)
