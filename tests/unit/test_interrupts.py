"""The signals that end a program."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from wakeloop.interrupts import SAME_SECONDS, Interrupts, interrupts

TRIALS = 300


@pytest.fixture
def alarms() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarms")
@pytest.mark.timeout(60)
def test_a_signal_may_come_between_any_two_steps_of_the_wait() -> None:
    """The main thread looks all the time here, so that it is nearly always within the wait's own code; waiting for an event
    that the handler sets stands still for ever within the first few trials."""
    for trial in range(TRIALS):
        noted = Interrupts(look=0.000_001)
        signal.signal(signal.SIGALRM, noted.note)
        signal.setitimer(signal.ITIMER_REAL, 0.000_2 + trial % 50 * 0.000_01)
        assert noted.wait() == signal.SIGALRM


def test_a_signal_that_another_thread_sends_ends_the_wait_and_what_was_before_is_restored() -> None:
    """SIGINT and SIGTERM alike."""
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)
        with interrupts() as ending:
            threading.Timer(0.05, signal.raise_signal, [number]).start()
            assert ending.wait() == number
        assert signal.getsignal(number) is before


def test_two_at_once_are_one_and_a_later_one_is_told() -> None:
    """What a wrapper passes on counts once; who asks again is in earnest."""
    told: list[int] = []
    with interrupts(told.append) as ending:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        assert ending.wait() == signal.SIGINT
        assert told == []
        time.sleep(SAME_SECONDS + 0.1)
        signal.raise_signal(signal.SIGTERM)
    assert told == [signal.SIGTERM]
