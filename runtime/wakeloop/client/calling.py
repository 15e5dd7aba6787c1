"""One call until it is answered: what is tried again, after how long, and for how long altogether."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wakeloop.client.wire import JSON_TYPE, Lost, Pause, Plan, Reply, Send, body_of, read
from wakeloop.errors import Unreachable
from wakeloop.logs import get_logger

log = get_logger("wakeloop.client")

WAITED_OUT = frozenset({408, 425, 429, 502, 503, 504})
"""What a proxy or a server that starts, stops or is too busy says; the same call will do later."""
BROKEN_TRIES = 5
"""How often in a row a server may break (other 5xx) before its problem is the caller's."""
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
LOG_EVERY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Makes calls that survive a server's restart. Every call may be sent again: it changes nothing, or carries an id.

    url: the API's, for messages. seconds: how long a reply may take, besides what the call waits for. patience: seconds
    that the server may be away, None for as long as it takes.
    """

    url: str
    seconds: float
    patience: float | None = None
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    random: random.Random = field(default_factory=random.Random)

    def call(
        self, method: str, path: str, *, scope: str, body: Any = None, content_type: str = JSON_TYPE, wait: float = 0.0
    ) -> Plan[Any]:  # fmt: skip
        """Send until there is an answer, and give what it says as JSON values.

        wait: seconds that the server itself may take, in a long poll. Raises ApiError or its like at once for what will
        not change by waiting, and Unreachable when the patience is over."""
        send = Send(
            method=method, path=path, scope=scope, seconds=self.seconds + wait,
            body=None if body is None else body_of(body), content_type=content_type,
        )  # fmt: skip
        tries = broken = 0
        since: float | None = None
        told = 0.0
        while True:
            reply = yield send
            assert reply is not None
            reason = self._reason(reply, broken)
            if reason is None:
                assert isinstance(reply, Reply)
                return read(send, reply)
            broken = broken + 1 if isinstance(reply, Reply) and reply.status not in WAITED_OUT else 0
            now = self.monotonic()
            since = now if since is None else since
            pause = self._pause(reply, tries)
            tries += 1
            is_final = isinstance(reply, Lost) and reply.is_final
            if is_final or (self.patience is not None and now + pause - since > self.patience):
                raise Unreachable(
                    f"the wakeloop server at {self.url} cannot be reached ({reason})",
                    url=self.url,
                    reason=reason,
                )
            if tries == 1 or now - told >= LOG_EVERY_SECONDS:
                told = now
                log.warning("the server cannot be reached; it is tried again", url=self.url, reason=reason)
            yield Pause(pause)

    def _reason(self, reply: Reply | Lost, broken: int) -> str | None:
        """Why this is to be waited out; None if it is an answer."""
        if isinstance(reply, Lost):
            return reply.reason
        if reply.status in WAITED_OUT or (reply.status >= 500 and broken < BROKEN_TRIES):
            return f"it answered {reply.status}"
        return None

    def _pause(self, reply: Reply | Lost, tries: int) -> float:
        """Seconds until the next try: twice as long each time, jittered so that many clients do not come at once."""
        wanted = reply.retry_after(self.now()) if isinstance(reply, Reply) else None
        if wanted is not None:
            return min(wanted, LONGEST_RETRY_AFTER_SECONDS) + self.random.uniform(0, FIRST_PAUSE_SECONDS)
        most = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(tries, 10))
        return self.random.uniform(most / 2, most)
