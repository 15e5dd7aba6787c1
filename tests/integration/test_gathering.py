"""Things that are wanted at the same time are done together, each once, in the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servers import poll

from wakeloop.gathering import Gathering


class Work:
    """Doubles numbers, batch by batch; holds the first batch until told to go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.go_on.wait(20)
        if bad := [item for item in items if item < 0]:
            raise ValueError(str(bad))
        if 13 in items:
            raise ConnectionError
        return [item * 2 for item in items]


def do_all(work: Work, items: Sequence[int], *, most: int = 100) -> list[object]:
    """The first item alone, then all others while it is at work; what each came to, or raised."""
    gathering = Gathering(work, most=most, concerns_all=lambda error: isinstance(error, ConnectionError))

    def outcome(item: int) -> object:
        try:
            return gathering.do(item)
        except (ValueError, ConnectionError) as error:
            return type(error)

    with ThreadPoolExecutor(len(items)) as pool:
        futures = []
        for number, item in enumerate(items):
            futures.append(pool.submit(outcome, item))
            for _ in poll(20):
                if gathering.waiting == number and work.batches:
                    break
        work.go_on.set()
        return [future.result(20) for future in futures]


def test_who_comes_alone_is_not_kept_waiting() -> None:
    """There is nobody to wait for."""
    work = Work()
    work.go_on.set()

    assert Gathering(work, most=10, concerns_all=lambda error: True).do(4) == 8


def test_those_who_come_meanwhile_share_the_next_batch() -> None:
    """In the order in which they came, and no more than are allowed at once."""
    work = Work()

    assert do_all(work, [1, 2, 3, 4, 5, 6], most=3) == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[1], [2, 3, 4], [5, 6]]


def test_an_error_meets_only_who_caused_it() -> None:
    """The others of its batch are done by themselves."""
    work = Work()

    assert do_all(work, [1, 2, -3, 4]) == [2, 4, ValueError, 8]
    assert work.batches == [[1], [2, -3, 4], [2], [-3], [4]]


def test_an_outage_meets_everybody_at_once() -> None:
    """None of them tries for itself again; the next batch does."""
    work = Work()

    assert do_all(work, [1, 2, 13, 4, 5], most=3) == [
        2,
        ConnectionError,
        ConnectionError,
        ConnectionError,
        10,
    ]
    assert work.batches == [[1], [2, 13, 4], [5]]


@pytest.mark.parametrize("threads", [2, 16])
def test_under_load_each_gets_its_own_result(threads: int) -> None:
    """Whoever leads, nobody gets another's, and nobody is left behind."""
    work = Work()
    work.go_on.set()
    gathering = Gathering(work, most=5, concerns_all=lambda error: True)
    numbers = range(100, 1100)

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(gathering.do, numbers))

    assert results == [number * 2 for number in numbers]
    assert sorted(item for batch in work.batches for item in batch) == list(numbers)
    assert gathering.waiting == 0
