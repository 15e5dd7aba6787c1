"""Waits for the signals that end a program."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_SECONDS = 0.5
SAME_SECONDS = 0.3
"""Two signals within this time are one: a wrapper passes on what the terminal has sent to both."""


class Interrupts:
    """Notes the first signal; for the main thread.

    A handler runs between any two steps of the main thread, also while that holds the lock of the event that it waits for;
    there `Event.set` would wait for ever. A SimpleQueue's `put` may come at any moment (docs of `queue`: it is reentrant)."""

    def __init__(
        self, again: Callable[[int], None] = lambda number: None, *, look: float = LOOK_SECONDS
    ) -> None:
        """Args: again: called with a further signal's number. look: the kernel may give a signal to another thread, and the
        main one has to look every so many seconds."""
        self._again = again
        self._look = look
        self._first: float | None = None
        self._noted: queue.SimpleQueue[int] = queue.SimpleQueue()

    def note(self, number: int, frame: object = None) -> None:
        """The handler."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._noted.put(number)
        elif now - self._first > SAME_SECONDS:
            self._again(number)

    def wait(self) -> int:
        """Wait for the first one; its number."""
        while True:
            try:
                return self._noted.get(timeout=self._look)
            except queue.Empty:
                continue


@contextmanager
def interrupts(again: Callable[[int], None] = lambda number: None) -> Iterator[Interrupts]:
    """Note SIGINT and SIGTERM within the block, instead of what they did before it."""
    noted = Interrupts(again)
    before = {number: signal.signal(number, noted.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
