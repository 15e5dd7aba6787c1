"""Has what several threads want at the same time done at once, by one of them: nobody waits for company."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Place(Generic[T, R]):
    def __init__(self, item: T) -> None:
        self.item = item
        self.woken = threading.Event()
        self.results: list[R] = []
        self.error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return bool(self.results) or self.error is not None

    def result(self) -> R:
        if self.error is not None:
            raise self.error
        return self.results[0]


class Gathering(Generic[T, R]):
    """Does items in the order in which they came. A thread that finds nobody at work does its own at once; those that come
    meanwhile wait, and the first of them then does all of theirs."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        most: int,
        concerns_all: Callable[[Exception], bool],
    ) -> None:
        """Args: work: does items, and gives a result for each. most: so many at once. concerns_all: whether an error is
        nobody's in particular; after any other, each item is done by itself, so that only who caused it gets it."""
        self._work = work
        self._most = most
        self._concerns_all = concerns_all
        self._lock = threading.Lock()
        self._waiting: list[_Place[T, R]] = []
        self._busy = False

    @property
    def waiting(self) -> int:
        """How many items wait while others are done."""
        return len(self._waiting)

    def do(self, item: T) -> R:
        """The result of one item; raises what `work` raises for it."""
        (result,) = self.do_all([item])
        return result()

    def do_all(self, items: Sequence[T]) -> list[Callable[[], R]]:
        """Do several items, no more than `most`; for each what gives its result, or raises what `work` raises for it."""
        mine: list[_Place[T, R]] = [_Place(item) for item in items]
        if not mine:
            return []
        with self._lock:
            self._waiting += mine
            leads, self._busy = not self._busy, True
        if leads:
            self._lead()
        for place in mine:
            place.woken.wait()
            # Whoever led before has left this one to lead, and with it all of these that are not done.
            if not place.is_over:
                self._lead()
        return [place.result for place in mine]

    def _lead(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            self._do(batch)
        finally:
            with self._lock:
                following = self._waiting[:1]
                self._busy = bool(following)
            for place in [*batch, *following]:
                place.woken.set()

    def _do(self, batch: Sequence[_Place[T, R]]) -> None:
        try:
            results = self._work([place.item for place in batch])
        except Exception as error:
            if len(batch) == 1 or self._concerns_all(error):
                for place in batch:
                    place.error = error
            else:
                for place in batch:
                    self._do([place])
        except BaseException as error:
            for place in batch:
                place.error = error
            raise
        else:
            for place, result in zip(batch, results, strict=True):
                place.results.append(result)
