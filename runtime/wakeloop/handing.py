"""Hands over what a process without a worker has just made due: a web process, whose replies should not wait for a look."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from wakeloop import crashpoints
from wakeloop.dispatch import Dispatcher, Handed
from wakeloop.flow import Spacing
from wakeloop.logs import get_logger
from wakeloop.timers import Swept, Timers, dispatching

log = get_logger("wakeloop.handing")

PAUSE_SECONDS = 30.0
"""How long it is left to the workers after the broker or the database failed."""


class Handing:
    """Sends to the workers, in a thread, what this process has marked as dispatched where it made it due; and when it is
    nudged, claims what else is due.

    Workers look by themselves, at least once a second; so this may fail, and a nudge may be lost. What a broker does
    not take is given back, for a worker that perhaps reaches it."""

    def __init__(self, *, timers: Timers, dispatcher: Dispatcher) -> None:
        self._timers = timers
        self._dispatcher = dispatcher
        self._spacing = Spacing()
        self._nudged = threading.Event()
        self._lock = threading.Lock()
        self._taken: list[Handed] = []
        self._may_be_more = False
        self._stopping = False
        self._pause_until = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="wakeloop-handing", daemon=True)

    @property
    def is_paused(self) -> bool:
        """Whether everything is left to the workers for now."""
        return time.monotonic() < self._pause_until

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def nudge(self) -> None:
        """Something was made due. From any thread."""
        self._may_be_more = True
        self._nudged.set()

    def take(self, sessions: Sequence[Handed]) -> None:
        """Sessions were marked as dispatched, and that is committed. From any thread."""
        crashpoints.reach("handing.taken")
        with self._lock:
            self._taken += sessions
        self._nudged.set()

    def stop(self, timeout: float = 5.0) -> None:
        """Hand over nothing more; waits at most `timeout` seconds for what is under way."""
        self._stopping = True
        self._nudged.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._nudged.wait()
            # To sleep for no time at all would let others have the interpreter.
            if not self._stopping and (wait := self._spacing.wait()) > 0:
                time.sleep(wait)
            self._nudged.clear()
            with self._lock:
                taken, self._taken = self._taken, []
            try:
                if taken:
                    self._send_taken(taken)
                if self._may_be_more and not self.is_paused and not self._stopping:
                    self._may_be_more = False
                    self._look()
            except Exception as error:
                self._pause_until = time.monotonic() + PAUSE_SECONDS
                cause = str(getattr(error, "orig", None) or error)
                log.warning(
                    "left to the workers for a while, which look once a second",
                    error=cause, kind=type(error).__name__, seconds=PAUSE_SECONDS,
                )  # fmt: skip
            if self._stopping and not self._taken:
                return

    def _send_taken(self, sessions: Sequence[Handed]) -> None:
        swept = self._timers.handed(sessions)
        if self.is_paused:
            self._timers.take_back(swept)
        else:
            self._send(swept)

    def _look(self) -> None:
        # First what somebody waits for, as a rule: the sessions.
        for claim in (self._timers.claim, self._timers.sweep):
            swept = claim()
            self._send(swept)
            if swept.is_full:
                self._spacing.go_on()
                self.nudge()

    def _send(self, swept: Swept) -> None:
        try:
            if swept.turns:
                with dispatching(swept.turns):
                    self._dispatcher.turns(swept.turns)
            if swept.deliveries:
                self._dispatcher.deliveries(swept.deliveries)
        except Exception:
            self._timers.take_back(swept)
            raise
