"""Hands over what a process without a worker has just made due: a web process, whose replies should not wait for a look."""

from __future__ import annotations

import threading
import time

from wakeloop.dispatch import Dispatcher
from wakeloop.flow import Pace
from wakeloop.logs import get_logger
from wakeloop.timers import Timers, dispatching

log = get_logger("wakeloop.handing")

PAUSE_SECONDS = 30.0
"""How long it is left to the workers after the broker or the database failed."""


class Handing:
    """Claims what is due when it is nudged, and sends it to the workers, in a thread.

    Workers look by themselves, at least once a second; so this may fail, and a nudge may be lost. What a broker does
    not take is given back, for a worker that perhaps reaches it."""

    def __init__(self, *, timers: Timers, dispatcher: Dispatcher) -> None:
        self._timers = timers
        self._dispatcher = dispatcher
        self._pace = Pace()
        self._nudged = threading.Event()
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
        self._nudged.set()

    def stop(self, timeout: float = 5.0) -> None:
        """Hand over nothing more; waits at most `timeout` seconds for what is under way."""
        self._stopping = True
        self._nudged.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            self._nudged.wait()
            time.sleep(self._pace.wait())
            if self._stopping:
                return
            self._nudged.clear()
            if not self.is_paused:
                try:
                    self._hand_over()
                except Exception as error:
                    self._pause_until = time.monotonic() + PAUSE_SECONDS
                    cause = str(getattr(error, "orig", None) or error)
                    log.warning(
                        "left to the workers for a while, which look once a second",
                        error=cause, kind=type(error).__name__, seconds=PAUSE_SECONDS,
                    )  # fmt: skip

    def _hand_over(self) -> None:
        # First what somebody waits for, as a rule: the sessions.
        for claim in (self._timers.claim, self._timers.sweep):
            swept = claim()
            try:
                if swept.turns:
                    with dispatching(swept.turns):
                        self._dispatcher.turns(swept.turns)
                if swept.deliveries:
                    self._dispatcher.deliveries(swept.deliveries)
            except Exception:
                self._timers.take_back(swept)
                raise
            if swept.is_full:
                self._pace.go_on()
                self._nudged.set()
