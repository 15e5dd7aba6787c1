"""The deterministic loop alone: order, time, timers, and what is left when it is dropped."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeloop.engine.loop import DeterministicLoop
from wakeloop.errors import OutsideStep, WakeloopError


class Driver:
    """A loop whose timers fire in the order of their times, when told to."""

    def __init__(self) -> None:
        self.timers: list[asyncio.TimerHandle] = []
        self.loop = DeterministicLoop(self.timers.append)
        self.loop.on_timer_cancelled(self.forget)

    def forget(self, timer: asyncio.TimerHandle) -> None:
        if timer in self.timers:
            self.timers.remove(timer)

    def run(self, main: Any) -> Any:
        """Run a coroutine to its end."""
        task = self.loop.create_task(main)
        self.loop.run_until_quiet()
        while not task.done() and self.timers:
            self.fire_next()
        self.loop.discard()
        return task.result()

    def fire_next(self) -> None:
        timer = min(self.timers, key=lambda one: one.when())
        self.timers.remove(timer)
        self.loop.fire(timer)
        self.loop.run_until_quiet()


def test_callbacks_run_in_the_order_in_which_they_were_scheduled() -> None:
    """First come, first served, also for those scheduled meanwhile; cancelled ones are left out."""
    driver = Driver()
    order: list[str] = []

    def first() -> None:
        order.append("first")
        driver.loop.call_soon(order.append, "third")

    driver.loop.call_soon(first)
    driver.loop.call_soon(order.append, "second")
    driver.loop.call_soon(order.append, "never").cancel()
    driver.loop.run_until_quiet()

    assert order == ["first", "second", "third"]


def test_time_stands_still_until_a_timer_fires_and_never_goes_back() -> None:
    """The loop's time is moved by its driver only, and by a timer to its own time at the least."""
    driver = Driver()
    loop = driver.loop
    times: list[float] = []

    loop.call_later(0.1000004, lambda: times.append(loop.time()))
    loop.run_until_quiet()
    loop.advance(0.1)
    loop.advance(0.05)
    times.append(loop.time())
    driver.fire_next()

    assert times == [0.1, 0.1000004]


def test_a_cancelled_timer_is_told_to_the_driver_once() -> None:
    """Whoever drives the loop learns that nobody wants a timer any more."""
    driver = Driver()

    handle = driver.loop.call_later(5, print)
    before = list(driver.timers)
    handle.cancel()
    handle.cancel()

    assert before == [handle]
    assert driver.timers == []


def test_sets_of_tasks_have_the_same_order_every_time() -> None:
    """Tasks are told apart by number and not by address, so whatever iterates over a set of them is deterministic."""

    async def crowd() -> list[int]:
        async def one(number: int) -> int:
            return number

        tasks = {asyncio.create_task(one(number)) for number in range(50)}
        await asyncio.wait(tasks)
        return [task.result() for task in tasks]

    orders = set()
    ballast = []
    for _ in range(10):
        orders.add(tuple(Driver().run(crowd())))
        ballast.append([object() for _ in range(1013)])

    assert len(orders) == 1


def test_as_completed_starts_coroutines_in_the_order_given() -> None:
    """Not in that of a set of them; the same coroutine given twice is waited for once, as ever."""

    async def main() -> list[Any]:
        started = []

        async def one(number: int) -> int:
            started.append(number)
            await asyncio.sleep(10 - number)
            return number

        found = [await each for each in asyncio.as_completed([one(number) for number in range(9)])]
        return [started, found]

    assert Driver().run(main()) == [list(range(9)), list(reversed(range(9)))]


def test_as_completed_elsewhere_is_asyncio_s_own() -> None:
    """On an ordinary loop nothing has changed, errors included."""

    async def main() -> list[int]:
        async def one(number: int) -> int:
            return number

        coroutine = one(1)
        with pytest.raises(TypeError):
            next(iter(asyncio.as_completed(coroutine)))  # type: ignore[arg-type]
        coroutine.close()
        return sorted([await each for each in asyncio.as_completed([one(1), one(2)], timeout=5)])

    assert asyncio.run(main()) == [1, 2]


def test_a_loop_that_does_not_come_to_rest_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of callbacks without an end raises, with advice, and leaves the outer world as it was."""
    monkeypatch.setattr("wakeloop.engine.loop.CALLBACKS_BEFORE_REST", 100)
    driver = Driver()

    def again() -> None:
        driver.loop.call_soon(again)

    driver.loop.call_soon(again)
    with pytest.raises(WakeloopError, match="does not come to rest"):
        driver.loop.run_until_quiet()

    assert asyncio._get_running_loop() is None


def test_an_exception_in_a_callback_is_kept_and_the_rest_runs() -> None:
    """As in asyncio, one callback's failure does not stop the others; it is there to be logged."""
    driver = Driver()
    order: list[str] = []

    def fails() -> None:
        raise ValueError("x")

    driver.loop.call_soon(fails)
    driver.loop.call_soon(order.append, "next")
    driver.loop.run_until_quiet()

    assert order == ["next"]
    assert [str(one["exception"]) for one in driver.loop.unhandled] == ["x"]


def test_a_loop_can_be_driven_while_another_one_runs() -> None:
    """Driving a deterministic loop inside a coroutine of an ordinary one gives the ordinary one back afterwards."""

    async def outer() -> bool:
        before = asyncio.get_running_loop()
        assert Driver().run(asyncio.sleep(5, "slept")) == "slept"
        return asyncio.get_running_loop() is before

    assert asyncio.run(outer())


def test_an_abandoned_generator_cleans_up_and_may_wait_while_it_does() -> None:
    """A generator that nobody iterates any more is closed at once, by a task of the loop."""

    async def main() -> list[str]:
        log = []

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(1)
                log.append("closed")

        async for _ in numbers():
            break
        await asyncio.sleep(2)
        return log

    assert Driver().run(main()) == ["closed"]


def test_dropping_a_loop_ends_all_of_its_tasks_and_runs_nothing_that_they_ask_for() -> None:
    """Whatever awaits, gathers, locks or catches everything in its cleanup: it ends, no callback runs, nothing warns."""
    log: list[str] = []

    async def stubborn() -> None:
        lock = asyncio.Lock()
        await lock.acquire()

        async def nested() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                try:
                    async with lock:
                        log.append("locked")
                except Exception:
                    log.append("caught")
                finally:
                    await asyncio.gather(asyncio.sleep(1), asyncio.shield(asyncio.sleep(1)))
                    log.append("gathered")

        async def generating() -> AsyncIterator[int]:
            try:
                yield 1
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                log.append("generated")

        async def iterating() -> None:
            async for _ in generating():
                pass

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(nested())
                group.create_task(iterating())
        except BaseException:
            asyncio.create_task(nested())  # noqa: RUF006
            await asyncio.sleep(0)
            log.append("went on")

    driver = Driver()
    driver.loop.create_task(stubborn())
    driver.loop.run_until_quiet()
    driver.loop.discard()
    gc.collect()

    assert log == []
    assert driver.loop.is_closed()
    assert asyncio._get_running_loop() is None


def test_finished_tasks_are_not_kept() -> None:
    """A handler that starts a task a minute for a year does not fill the memory with them."""

    async def main() -> int:
        for _ in range(2000):
            await asyncio.create_task(asyncio.sleep(1))
        return 0

    driver = Driver()
    task = driver.loop.create_task(main())
    driver.loop.run_until_quiet()
    most = 0
    while not task.done():
        driver.fire_next()
        most = max(most, len(driver.loop._tasks))
    driver.loop.discard()

    assert most < 200


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.run_in_executor(None, print),
        lambda loop: loop.add_reader(0, print),
        lambda loop: loop.call_soon_threadsafe(print),
        lambda loop: loop.stop(),
        lambda loop: loop.set_task_factory(None),
        lambda loop: loop.add_signal_handler(2, print),
        lambda loop: loop.run_forever(),
    ],
)
def test_what_is_not_deterministic_is_refused(call: Any) -> None:
    """Threads, sockets, signals and control over the loop raise OutsideStep, which is a RuntimeError too."""
    with pytest.raises(OutsideStep) as caught:
        call(Driver().loop)

    assert isinstance(caught.value, RuntimeError)


PLANS = st.recursive(
    st.tuples(st.just("sleep"), st.integers(0, 5)),
    lambda parts: (
        st.tuples(
            st.sampled_from(["gather", "seq", "group", "first"]), st.lists(parts, min_size=1, max_size=4)
        )
        | st.tuples(st.just("timeout"), st.integers(0, 5), parts)
    ),
    max_leaves=15,
)


async def _follow(plan: Any, log: list[str], place: str) -> str:
    kind, *rest = plan
    if kind == "sleep":
        try:
            await asyncio.sleep(rest[0])
        except asyncio.CancelledError:
            log.append(f"{place} cancelled")
            raise
    elif kind == "timeout":
        try:
            async with asyncio.timeout(rest[0]):
                await _follow(rest[1], log, place + "t")
        except TimeoutError:
            log.append(f"{place} timed out")
    elif kind == "seq":
        for number, part in enumerate(rest[0]):
            await _follow(part, log, f"{place}{number}")
    else:
        parts = [_follow(part, log, f"{place}{number}") for number, part in enumerate(rest[0])]
        if kind == "gather":
            await asyncio.gather(*parts)
        elif kind == "group":
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(part)
        else:
            tasks = [asyncio.create_task(part) for part in parts]
            _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
    log.append(f"{place} at {asyncio.get_running_loop().time():g}")
    return place


@given(PLANS)
def test_any_handler_of_sleeps_groups_and_timeouts_runs_the_same_twice(plan: Any) -> None:
    """The same code and the same firing of timers give the same execution, step by step."""
    first: list[str] = []
    second: list[str] = []

    one, other = Driver(), Driver()
    result = one.run(_follow(plan, first, ""))
    again = other.run(_follow(plan, second, ""))

    assert result == again
    assert first == second
    assert one.timers == other.timers == []
