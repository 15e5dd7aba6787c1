"""How often Python looks for garbage: seldom in our processes, and as they like in those that have an idea of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from wakeloop.garbage import THRESHOLD, collect_seldom


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_garbage_is_looked_for_seldom_and_not_among_what_is_there() -> None:
    """At the start, and again when the first turn comes and more is there."""
    gc.set_threshold(700, 10, 10)

    collect_seldom()
    first = gc.get_freeze_count()
    held = [[] for _ in range(1000)]
    collect_seldom()

    assert gc.get_threshold()[0] == THRESHOLD
    assert first > 0
    assert gc.get_freeze_count() > first + len(held) / 2


@pytest.mark.parametrize("threshold", [0, THRESHOLD + 1])
def test_a_process_with_an_idea_of_its_own_keeps_it(threshold: int) -> None:
    """Such as one that looks for garbage by itself, between two pieces of work."""
    gc.set_threshold(threshold, 7, 7)
    frozen = gc.get_freeze_count()

    collect_seldom()

    assert gc.get_threshold() == (threshold, 7, 7)
    assert gc.get_freeze_count() <= frozen
