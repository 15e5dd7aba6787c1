"""Which sessions share a message, and when a sweep waits for company."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from wakeloop import flow
from wakeloop.flow import APART_SECONDS, AT_ONCE, FEW, FLOW_SECONDS, MANY, SHARES, Flow, Spacing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the time is: `now`, in seconds."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(flow, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_lone_sweep_never_waits_and_of_many_each_waits_for_its_turn(clock: SimpleNamespace) -> None:
    """The first few begin at once; from there on they keep apart, however often something becomes due."""
    spacing = Spacing()
    began = []
    for _ in range(100):
        clock.now += spacing.wait()
        began.append(clock.now)
        clock.now += 0.001
    clock.now += AT_ONCE * APART_SECONDS
    rested = [spacing.wait() for _ in range(AT_ONCE)]

    gaps = [after - before for before, after in pairwise(began)]
    assert gaps[: AT_ONCE - 1] == pytest.approx([0.001] * (AT_ONCE - 1))
    assert gaps[AT_ONCE:] == pytest.approx([APART_SECONDS] * (99 - AT_ONCE))
    assert rested == [0.0] * AT_ONCE


def test_replies_now_and_then_never_wait(clock: SimpleNamespace) -> None:
    """As long as there are fewer than a paced stream would have, none is kept for company."""
    spacing = Spacing()
    waits = []
    for _ in range(200):
        waits.append(spacing.wait())
        clock.now += APART_SECONDS * 1.1

    assert waits == [0.0] * 200


def test_after_a_full_sweep_the_next_begins_at_once(clock: SimpleNamespace) -> None:
    """Ten thousand that are due at one instant are not kept waiting for more."""
    spacing = Spacing()
    waits = [spacing.wait() for _ in range(AT_ONCE * 2)]
    spacing.go_on()

    assert waits[-1] > 0
    assert spacing.wait() == 0.0


def test_a_stream_shares_messages_in_every_second_of_it(clock: SimpleNamespace) -> None:
    """What went over in the second before counts, too: a new second does not begin with a message for each."""
    steady = Flow()
    sizes = []
    for _ in range(60):
        sizes.append(steady.share("standup", 5))
        clock.now += FLOW_SECONDS / 20

    assert sizes[: FEW // 5] == [1] * (FEW // 5)
    assert sizes[FEW // 5 :] == [MANY] * (60 - FEW // 5)


def test_each_agent_has_a_flow_of_its_own_that_ends(clock: SimpleNamespace) -> None:
    """A lone session of another agent, or after a while, has a message to itself; many at once share a few."""
    counts = Flow()
    many = counts.share("standup", 1000)
    other = counts.share("billing", 1)
    clock.now += FLOW_SECONDS
    soon = counts.share("standup", 1)
    clock.now += 2 * FLOW_SECONDS
    later = counts.share("standup", 1)

    assert (many, other, soon, later) == (1000 // SHARES, 1, MANY, 1)
