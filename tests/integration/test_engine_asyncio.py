"""Ordinary asyncio in a handler is durable: whatever is in the middle of it when memory is lost goes on as if nothing
had happened."""

# ruff: noqa: ASYNC110, ASYNC210, ASYNC221, ASYNC251

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.integration.engine_kit import ALICE, ENGINE_POINTS, PEOPLE, Story, later, tell

from wakeloop import Context, agent, step
from wakeloop.agent import Handler
from wakeloop.testing import Simulation


@step
async def double(number: int) -> int:
    return 2 * number


@step
def fails(text: str) -> int:
    raise ValueError(text)


async def napper(ctx: Context[None], seconds: float, value: Any) -> Any:
    await asyncio.sleep(seconds)
    return await double(value)


HANDLERS: dict[str, tuple[Handler, Any]] = {}


def gives(expected: Any) -> Callable[[Handler], Handler]:
    """Put a handler into the catalogue, with its result after 20 seconds."""

    def keep(handler: Handler) -> Handler:
        HANDLERS[handler.__name__] = (handler, expected)
        return handler

    return keep


@gives([2, 4, 6, 8])
async def gather(ctx: Context[None]) -> list[int]:
    return await asyncio.gather(*(napper(ctx, 5 - n, n) for n in (1, 2, 3, 4)))


@gives([2, "ValueError: b", 6])
async def gather_with_exceptions(ctx: Context[None]) -> list[Any]:
    async def b() -> None:
        await ctx.sleep(2)
        await fails("b")

    found = await asyncio.gather(napper(ctx, 1, 1), b(), napper(ctx, 3, 3), return_exceptions=True)
    return [f"{type(one).__name__}: {one}" if isinstance(one, Exception) else one for one in found]


@gives([2, 4, 6])
async def task_group(ctx: Context[None]) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(napper(ctx, n, n)) for n in (1, 2, 3)]
    return [task.result() for task in tasks]


@gives(["a", "b"])
async def exception_group(ctx: Context[None]) -> list[str]:
    async def after(seconds: float, text: str) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            await fails(text)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(after(2, "a"))
            group.create_task(after(9, "b"))
    except* ValueError as errors:
        found = sorted(str(one) for one in errors.exceptions)
    return found


@gives(["bye 0", "bye 1", "bye 2", "bye 3", "bye 4", "bye 5"])
async def cancelled_siblings_say_goodbye_in_order(ctx: Context[None]) -> list[str]:
    log = []

    async def sibling(number: int) -> None:
        try:
            await ctx.sleep(100)
        finally:
            message = await ctx.send("alice", f"bye {number}")
            log.append(message.text)

    async def failing() -> None:
        await ctx.sleep(3)
        raise ValueError

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(sibling(number))
            group.create_task(failing())
    except* ValueError:
        pass
    await ctx.sleep(2)
    return log


@gives("too slow")
async def timeout(ctx: Context[None]) -> str:
    try:
        async with asyncio.timeout(3):
            await ctx.sleep(10)
    except TimeoutError:
        return "too slow"
    return "fast"


@gives(["inner", "outer"])
async def nested_timeouts(ctx: Context[None]) -> list[str]:
    log = []
    try:
        async with asyncio.timeout(5):
            try:
                async with asyncio.timeout(2):
                    await asyncio.sleep(50)
            except TimeoutError:
                log.append("inner")
            await asyncio.sleep(50)
    except TimeoutError:
        log.append("outer")
    return log


@gives("the outer one")
async def outer_timeout_is_sooner(ctx: Context[None]) -> str:
    try:
        async with asyncio.timeout(2):
            try:
                async with asyncio.timeout(5):
                    await asyncio.sleep(50)
            except TimeoutError:
                return "the inner one"
    except TimeoutError:
        return "the outer one"
    return "neither"


@gives([4.0, True])
async def timeout_at_and_reschedule(ctx: Context[None]) -> list[Any]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(loop.time() + 2) as limit:
            await asyncio.sleep(1)
            limit.reschedule(loop.time() + 3)
            await asyncio.sleep(50)
    except TimeoutError:
        return [loop.time(), limit.expired()]
    return []


@gives(["done", "late"])
async def wait_for(ctx: Context[None]) -> list[str]:
    async def slow(seconds: float, text: str) -> str:
        await asyncio.sleep(seconds)
        return text

    first = await asyncio.wait_for(slow(2, "done"), timeout=3)
    try:
        second = await asyncio.wait_for(slow(9, "not reached"), timeout=3)
    except TimeoutError:
        second = "late"
    return [first, second]


@gives(["timeout", 14])
async def shield(ctx: Context[None]) -> list[Any]:
    task = asyncio.ensure_future(napper(ctx, 4, 7))
    log: list[Any] = []
    try:
        await asyncio.wait_for(asyncio.shield(task), 2)
    except TimeoutError:
        log.append("timeout")
    return [*log, await task]


@gives([0, 2, 3, 5])
async def wait_first_completed(ctx: Context[None]) -> list[int]:
    tasks = [asyncio.create_task(napper(ctx, 5 if n % 2 else 2, n), name=str(n)) for n in range(6)]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        if task.get_name() in "14":
            task.cancel()
    await asyncio.wait(pending)
    return sorted(task.result() // 2 for task in tasks if not task.cancelled())


@gives([7, 6, 5, 4, 3, 2, 1, 0])
async def as_completed(ctx: Context[None]) -> list[int]:
    waits = [napper(ctx, 8 - n, n) for n in range(8)]
    return [await one // 2 for one in asyncio.as_completed(waits)]


@gives(["a set", "b saw it", "c saw it"])
async def event_(ctx: Context[None]) -> list[str]:
    log = []
    event = asyncio.Event()

    async def waiter(name: str) -> None:
        await event.wait()
        log.append(f"{name} saw it")

    async def setter() -> None:
        await asyncio.sleep(3)
        log.append("a set")
        event.set()

    await asyncio.gather(waiter("b"), waiter("c"), setter())
    return log


@gives([0, 1, 2, 3])
async def lock(ctx: Context[None]) -> list[int]:
    order = []
    lock = asyncio.Lock()

    async def worker(number: int) -> None:
        async with lock:
            await asyncio.sleep(1)
            order.append(await double(number) // 2)

    await asyncio.gather(*(worker(number) for number in range(4)))
    return order


@gives([2, [0, 1, 2, 3, 4]])
async def semaphore(ctx: Context[None]) -> list[Any]:
    busy = most = 0
    order = []
    semaphore = asyncio.Semaphore(2)

    async def worker(number: int) -> None:
        nonlocal busy, most
        async with semaphore:
            busy += 1
            most = max(most, busy)
            await ctx.sleep(1 + number % 2)
            order.append(number)
            busy -= 1

    await asyncio.gather(*(worker(number) for number in range(5)))
    return [most, sorted(order)]


@gives([0, 2, 4, 6, 8])
async def queue(ctx: Context[None]) -> list[int]:
    found = []
    queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)

    async def producer() -> None:
        for number in range(5):
            await queue.put(await double(number))
            await asyncio.sleep(0.5)
        await queue.put(None)

    async def consumer() -> None:
        while (item := await queue.get()) is not None:
            await asyncio.sleep(1)
            found.append(item)

    await asyncio.gather(producer(), consumer())
    return found


@gives(["ready", "go"])
async def condition(ctx: Context[None]) -> list[str]:
    log: list[str] = []
    condition = asyncio.Condition()

    async def waiter() -> None:
        async with condition:
            await condition.wait_for(lambda: bool(log))
            log.append("go")

    async def notifier() -> None:
        await asyncio.sleep(2)
        async with condition:
            log.append("ready")
            condition.notify_all()

    await asyncio.gather(waiter(), notifier())
    return log


@gives([10])
async def fire_and_forget(ctx: Context[None]) -> list[int]:
    found = []

    async def aside() -> None:
        found.append(await napper(ctx, 2, 5))

    asyncio.create_task(aside())  # noqa: RUF006
    gc.collect()
    await ctx.sleep(6)
    return found


@gives([[0, 2], "closed"])
async def async_generator(ctx: Context[None]) -> list[Any]:
    log = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(9):
                await asyncio.sleep(1)
                yield await double(number)
        finally:
            await asyncio.sleep(1)
            log.append("closed")

    found = []
    async for number in numbers():
        found.append(number)
        if number == 2:
            break
    await ctx.sleep(3)
    return [found, *log]


WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@gives([["a", "a2"], ["b", "b2"], "nobody"])
async def context_variables(ctx: Context[None]) -> list[Any]:
    async def person(name: str) -> list[str]:
        WHO.set(name)
        await asyncio.sleep(len(name))
        first = WHO.get()
        WHO.set(name + "2")
        await double(1)
        return [first, WHO.get()]

    return [*await asyncio.gather(person("a"), person("b")), WHO.get()]


@gives(["cleaned 8", "CancelledError"])
async def cancellation_in_finally_may_wait(ctx: Context[None]) -> list[str]:
    log = []

    async def worker() -> None:
        try:
            await ctx.sleep(100)
        finally:
            await asyncio.sleep(2)
            log.append(f"cleaned {await double(4)}")

    task = asyncio.create_task(worker())
    await asyncio.sleep(1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        log.append(type(error).__name__)
    return log


@gives("still here")
async def a_task_may_refuse_to_be_cancelled(ctx: Context[None]) -> str:
    async def stubborn() -> str:
        try:
            await ctx.sleep(100)
        except asyncio.CancelledError:
            await ctx.sleep(2)
        return "still here"

    task = asyncio.create_task(stubborn())
    await ctx.sleep(1)
    task.cancel()
    return await task


@gives([1.5, 1.5, 3.0])
async def loop_time_and_call_later(ctx: Context[None]) -> list[float]:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    done = loop.create_future()
    loop.call_later(1.5, lambda: times.append(loop.time()))
    loop.call_later(1.5, lambda: times.append(loop.time()))
    loop.call_later(1, lambda: times.append(-1)).cancel()
    loop.call_at(3, done.set_result, None)
    await done
    return [*times, loop.time()]


@gives("woken")
async def an_endless_sleep_can_be_ended(ctx: Context[None]) -> str:
    try:
        async with asyncio.timeout(4):
            await asyncio.sleep(math.inf)
    except TimeoutError:
        return "woken"
    return "never"


@gives([1, 0])
async def waiting_for_a_deadline_never_spins(ctx: Context[None]) -> list[int]:
    loop = asyncio.get_running_loop()
    turns = 0
    end = loop.time() + 0.1000004
    while loop.time() < end and turns < 50:
        turns += 1
        await asyncio.sleep(end - loop.time())
    await asyncio.sleep(-5)
    await asyncio.sleep(0)
    return [turns, 0]


@gives(["SystemExit", "tidy"])
async def an_exit_in_a_task_ends_that_task_only(ctx: Context[None]) -> list[str]:
    async def quits() -> None:
        await ctx.sleep(1)
        sys.exit(3)

    task = asyncio.create_task(quits())
    await asyncio.wait([task])
    await ctx.sleep(1)
    return [type(task.exception()).__name__, "tidy"]


SECONDS = 20


@pytest.mark.parametrize("name", HANDLERS)
def test_asyncio_in_a_handler_survives_the_loss_of_memory_after_every_event(name: str) -> None:
    """What asyncio's own tools do in a handler is the same with a crash between any two events as without one."""
    handler, expected = HANDLERS[name]
    agent_ = agent(name=name)(handler)
    events = [later(0.5)] * (2 * SECONDS)

    calm = tell(agent_, events)
    rough = tell(agent_, events, crashes=range(len(events) + 1))

    assert ("completed", expected, None) == (calm.status, calm.result, calm.error)
    assert calm == rough


@pytest.mark.parametrize("crash", range(12))
def test_one_crash_at_any_moment_changes_nothing(crash: int) -> None:
    """A single crash, at each place in turn, leaves the story as it is: nested groups, timeouts, steps and messages."""

    @agent()
    async def busy(ctx: Context[None]) -> list[Any]:
        async def one(number: int) -> int:
            try:
                async with asyncio.timeout(number):
                    await asyncio.sleep(4)
            except TimeoutError:
                await ctx.send("alice", f"{number} was slow")
            return await double(number)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in (3, 5, 2)]
            answer = group.create_task(ctx.ask("bob", "How many?", answer=int, timeout=8))
        return [*(task.result() for task in tasks), answer.result().value]

    events = [later(1), later(1.5), lambda sim: sim.reply("bob", "a few"), later(1), later(1.5)]
    events += [lambda sim: sim.reply("bob", "12"), later(1), later(1)]

    assert tell(busy, events) == tell(busy, events, crashes=[crash])
    assert tell(busy, events, crashes=[crash]).result == [6, 10, 4, 12]


def test_a_run_may_be_replayed_in_the_same_process_any_number_of_times() -> None:
    """Memory addresses, which differ from one replay to the next, decide nothing about what a handler does."""

    @agent()
    async def crowd(ctx: Context[None]) -> list[int]:
        async def one(number: int) -> int:
            try:
                await ctx.sleep(100)
            finally:
                await double(number)
            return number

        tasks = {asyncio.create_task(one(number)) for number in range(30)}
        await ctx.sleep(1)
        order = []
        for task in tasks:
            task.cancel()
            order.append(task)
        await asyncio.wait(tasks)
        await ctx.sleep(1)
        return [len(order)]

    ballast: list[Any] = []
    with Simulation([crowd]) as sim:
        run = sim.start(crowd)
        for _ in range(6):
            ballast.append([object() for _ in range(997)])
            sim.advance(0.5)
            sim.crash()
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", [30])


async def _connects(ctx: Context[None]) -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _creates_connection(ctx: Context[None]) -> None:
    await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", 9)


async def _serves(ctx: Context[None]) -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def _uses_a_thread(ctx: Context[None]) -> None:
    await asyncio.to_thread(len, "x")


async def _uses_an_executor(ctx: Context[None]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, len, "x")


async def _starts_a_process(ctx: Context[None]) -> None:
    await asyncio.create_subprocess_exec("true")


async def _resolves(ctx: Context[None]) -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _calls_from_another_thread(ctx: Context[None]) -> None:
    asyncio.get_running_loop().call_soon_threadsafe(print)


async def _connects_a_socket(ctx: Context[None]) -> None:
    with socket.socket() as plug:
        plug.connect(("127.0.0.1", 9))


async def _looks_up_a_name(ctx: Context[None]) -> None:
    socket.gethostbyname("localhost")


async def _fetches(ctx: Context[None]) -> None:
    urllib.request.urlopen("http://127.0.0.1:9/")


async def _runs_a_program(ctx: Context[None]) -> None:
    subprocess.run(["true"], check=True)


async def _sleeps_for_real(ctx: Context[None]) -> None:
    time.sleep(5)


@pytest.mark.parametrize(
    ("handler", "named"),
    [
        (_connects, "create_connection() is real I/O"),
        (_creates_connection, "create_connection() is real I/O"),
        (_serves, "is real I/O"),
        (_uses_a_thread, "run_in_executor() is real I/O"),
        (_uses_an_executor, "run_in_executor() is real I/O"),
        (_starts_a_process, "subprocess_exec() is real I/O"),
        (_resolves, "getaddrinfo() is real I/O"),
        (_calls_from_another_thread, "call_soon_threadsafe() is real I/O"),
        (_connects_a_socket, "socket.connect in the handler of run"),
        (_looks_up_a_name, "socket.gethostbyname in the handler of run"),
        (_fetches, "urllib.Request in the handler of run"),
        (_runs_a_program, "subprocess.Popen in the handler of run"),
        (_sleeps_for_real, "await ctx.sleep(...)"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_real_io_outside_a_step_fails_and_says_how_to_do_it(handler: Handler, named: str) -> None:
    """A handler that does real I/O, or blocks, fails with an error that names the call and the way out."""
    agent_ = agent(name="io")(handler)

    with Simulation([agent_]) as sim:
        view = sim.run(sim.start(agent_))

    assert view.status == "failed"
    assert view.error is not None
    assert view.error.startswith("OutsideStep: ")
    assert named in view.error
    assert re.search("a handler is replayed[:;] put the call into a step|which is durable", view.error)


def test_a_step_may_do_all_that_a_handler_may_not() -> None:
    """Inside a step, sync or async, real I/O is what it is for."""

    @step
    async def threaded() -> int:
        time.sleep(0.001)
        return await asyncio.to_thread(len, "abc")

    @step
    def program() -> int:
        return subprocess.run([sys.executable, "-c", "raise SystemExit(7)"], check=False).returncode

    @agent()
    async def worker(ctx: Context[None]) -> list[int]:
        return [await threaded(), await program()]

    with Simulation([worker]) as sim:
        view = sim.run(sim.start(worker))

    assert (view.status, view.result) == ("completed", [3, 7])


def test_other_threads_may_do_io_while_a_handler_runs() -> None:
    """The guard looks at the handler's own thread only."""
    caught: list[BaseException] = []

    def outside() -> None:
        try:
            with socket.socket() as plug:
                plug.settimeout(0.2)
                plug.connect_ex(("127.0.0.1", 9))
        except BaseException as error:
            caught.append(error)

    @agent()
    async def starts_a_thread(ctx: Context[None]) -> None:
        thread = threading.Thread(target=outside)
        thread.start()
        thread.join()

    with Simulation([starts_a_thread]) as sim:
        view = sim.run(sim.start(starts_a_thread))

    assert (view.status, caught) == ("completed", [])


async def _spins_on_the_loop(ctx: Context[None]) -> None:
    while True:
        await asyncio.sleep(0)


async def _spins_on_a_message(ctx: Context[None]) -> None:
    while True:
        await ctx.send("alice", "again")


async def _spins_and_catches_everything(ctx: Context[None]) -> None:
    while True:
        try:
            await ctx.emit("again")
        except Exception:
            continue


@pytest.mark.parametrize("handler", [_spins_on_the_loop, _spins_on_a_message, _spins_and_catches_everything])
def test_a_handler_that_spins_is_parked_and_nothing_it_asked_for_is_done(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop without a wait in it is stopped, and the run is parked with advice; it floods nobody."""
    monkeypatch.setattr("wakeloop.engine.loop.CALLBACKS_BEFORE_REST", 1000)
    monkeypatch.setattr("wakeloop.engine.execution.OPERATIONS_BEFORE_REST", 1000)
    spinner = agent(name="spinner")(handler)

    with Simulation([spinner], contacts=ALICE) as sim:
        view = sim.run(sim.start(spinner))
        sent = sim.outbox()

    assert view.status == "stuck"
    assert "does not come to rest" in (view.error or "")
    assert "asyncio.sleep" in (view.error or "")
    assert sent == []


def test_a_spinner_is_stopped_within_the_real_limits_too() -> None:
    """The limits are reached in seconds, and other sessions go on after that."""
    spinner = agent(name="spinner")(_spins_on_a_message)

    @agent()
    async def other(ctx: Context[None]) -> str:
        return "fine"

    with Simulation([spinner, other], contacts=ALICE) as sim:
        stuck = sim.run(sim.start(spinner))
        fine = sim.run(sim.start(other))

    assert (stuck.status, fine.status) == ("stuck", "completed")


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("stop", "a handler cannot stop the loop"),
        ("set_task_factory", "a task factory cannot be set"),
        ("run_forever", "is real I/O"),
    ],
)
def test_the_loop_cannot_be_meddled_with(code: str, named: str) -> None:
    """What would take the loop away from the engine is refused by name."""

    @agent()
    async def meddler(ctx: Context[None]) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(None) if code == "set_task_factory" else getattr(loop, code)()

    with Simulation([meddler]) as sim:
        view = sim.run(sim.start(meddler))

    assert view.status == "failed"
    assert named in (view.error or "")


def test_what_is_left_running_when_a_handler_returns_ends_with_it() -> None:
    """Tasks that a handler leaves behind are dropped, as asyncio.run drops them; what they asked people is closed."""

    @agent()
    async def leaver(ctx: Context[None]) -> str:
        asyncio.create_task(ctx.ask("alice", "Still there?"))  # noqa: RUF006
        asyncio.create_task(napper(ctx, 5, 1))  # noqa: RUF006
        await asyncio.sleep(0)
        return "gone"

    with Simulation([leaver], contacts=PEOPLE) as sim:
        run = sim.start(leaver)
        sim.advance(60)
        view = sim.run(run)
        statuses = [one.status for one in sim.requests(status=None)]
        gc.collect()

    assert (view.status, view.result) == ("completed", "gone")
    assert statuses == ["cancelled"]


def test_dropping_a_run_disturbs_nobody_whatever_its_cleanup_does() -> None:
    """Cleanup that awaits, gathers, shields or starts tasks while its run is dropped leaves no warning and no effect."""
    effects: list[int] = []

    @step
    def effect(number: int) -> None:
        effects.append(number)

    @agent()
    async def tidy(ctx: Context[None]) -> None:
        async def cleanup(number: int) -> None:
            await effect(number)

        try:
            await ctx.sleep(100)
        finally:
            await asyncio.gather(cleanup(1), asyncio.shield(cleanup(2)))
            await ctx.send("alice", "bye")

    with Simulation([tidy], contacts=ALICE) as sim:
        run = sim.start(tidy)
        for _ in range(3):
            sim.crash()
            gc.collect()
        before = list(effects), sim.outbox()
        sim.cancel(run)
        after = sorted(effects), [message.text for message in sim.outbox()]
        status = sim.run(run).status

    assert before == ([], [])
    assert after == ([1, 2], ["bye"])
    assert status == "cancelled"


def test_two_runs_on_two_loops_do_not_see_each_other() -> None:
    """Runs of different sessions share a thread, and nothing else: neither time, nor tasks, nor context variables."""

    @agent()
    async def counter(ctx: Context[None]) -> list[Any]:
        WHO.set(ctx.key)
        await asyncio.sleep(int(ctx.key))
        return [WHO.get(), asyncio.get_running_loop().time(), len(asyncio.all_tasks())]

    with Simulation([counter]) as sim:
        first, second = sim.start(counter, key="2"), sim.start(counter, key="3")
        sim.advance(5)
        results = [sim.run(first).result, sim.run(second).result]

    assert results == [["2", 2.0, 1], ["3", 3.0, 1]]


@pytest.mark.parametrize("point", ENGINE_POINTS)
@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_handler_that_ends_with_the_first_of_two_results_ends_so_wherever_the_worker_dies(
    point: str, ending: str
) -> None:
    """A result that was recorded together with the one that ended the handler is no riddle afterwards."""

    @agent()
    async def hasty(ctx: Context[None]) -> str:
        tasks = [asyncio.create_task(double(1)), asyncio.create_task(double(2))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if ending == "raises":
            raise ValueError("first")
        return "first"

    with Simulation([hasty]) as sim:
        sim.kill_at(point)
        run = sim.start(hasty)
        view = sim.run(run)

    assert (view.status, view.result or view.error) == (
        ("completed", "first") if ending == "returns" else ("failed", "ValueError: first")
    )


def test_a_story_is_told_with_its_times() -> None:
    """A message has the virtual time at which it was sent, to the second, with a crash or without."""

    @agent()
    async def clock(ctx: Context[None]) -> None:
        for _ in range(3):
            await ctx.sleep(60)
            await ctx.send("alice", ctx.now().strftime("%H:%M:%S"))

    told = tell(clock, [later(45)] * 5, crashes=[1, 3])

    assert [text for _, text, _ in told.said] == ["00:01:00", "00:02:00", "00:03:00"]
    assert isinstance(told, Story)
