"""Steps in a run: what is recorded is never computed again, and what failed is tried again as promised."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from pydantic import BaseModel
from tests.integration.engine_kit import ENGINE_POINTS, PEOPLE

from wakeloop import Context, Retry, agent, crashpoints, step
from wakeloop.errors import ConfigurationError, NotPossible, StepFailed
from wakeloop.testing import Simulation
from wakeloop.testing.simulation import SimulatedCrash

EFFECTS: list[Any] = []


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    EFFECTS.clear()


class Invoice(BaseModel):
    number: str
    total: Decimal
    due: datetime


INVOICE = Invoice(number="A7", total=Decimal("12.50"), due=datetime(2026, 3, 1, tzinfo=UTC))


@step
def fetch(number: int) -> int:
    EFFECTS.append(number)
    return number * 10


@step
async def fetch_invoice(number: str) -> Invoice:
    EFFECTS.append(number)
    return INVOICE


# What may be a step


class Bank:
    def __init__(self, name: str) -> None:
        self.name = name

    @step
    def balance(self, currency: str) -> str:
        return f"{self.name} {currency}"

    @step
    async def balance_async(self, currency: str, *, digits: int = 2) -> str:
        await asyncio.sleep(0)
        return f"{self.name} {currency} {digits}"

    @staticmethod
    @step
    def rate() -> float:
        return 1.5

    @classmethod
    @step
    def make(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    def plain(self, currency: str) -> str:
        return f"plain {self.name} {currency}"

    def __call__(self, number: int) -> int:
        return number + 1


class AsyncCallable:
    async def __call__(self, number: int) -> int:
        await asyncio.sleep(0)
        return number + 2


def add(first: int, second: int) -> int:
    return first + second


async def add_async(first: int, second: int) -> int:
    await asyncio.sleep(0)
    return first + second


async def gives_invoice(number: str, *, total: Decimal) -> Invoice:
    return INVOICE.model_copy(update={"number": number, "total": total})


def returns_awaitable(number: int) -> Any:
    return add_async(number, 1)


BANK = Bank("B")
SHAPES: dict[str, tuple[Callable[[], Any], Any]] = {
    "sync": (lambda: step(add)(1, 2), 3),
    "async": (lambda: step(add_async)(1, second=2), 3),
    "lambda": (lambda: step(lambda x: [x])(4), [4]),
    "async lambda": (lambda: step(lambda x: add_async(x, 1))(4), 5),
    "gives an awaitable": (lambda: step(returns_awaitable)(4), 5),
    "partial": (lambda: step(functools.partial(add, 1))(5), 6),
    "async partial": (
        lambda: step(functools.partial(gives_invoice, total=Decimal("1")))("X"),
        INVOICE.model_copy(update={"number": "X", "total": Decimal("1")}),
    ),
    "method": (lambda: BANK.balance("EUR"), "B EUR"),
    "async method": (lambda: BANK.balance_async("EUR", digits=0), "B EUR 0"),
    "static method": (Bank.rate, 1.5),
    "class method": (lambda: Bank.make("x"), "Bank x"),
    "bound method inline": (lambda: step(BANK.plain, name="plain")("EUR"), "plain B EUR"),
    "callable object": (lambda: step(BANK)(1), 2),
    "async callable object": (lambda: step(AsyncCallable())(1), 3),
    "builtin": (lambda: step(len)("abc"), 3),
    "step of a step": (lambda: step(fetch, retries=1, name="again")(2), 20),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_can_be_called_can_be_a_step(shape: str) -> None:
    """Functions, lambdas, partials, methods and callable objects, sync and async, give their value live and in replay."""
    call, expected = SHAPES[shape]
    seen: list[Any] = []

    @agent()
    async def worker(ctx: Context[None]) -> None:
        seen.append(await call())
        await ctx.sleep(10)

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.crash()
        sim.advance(10)
        status = sim.run(run).status

    assert status == "completed"
    assert seen == [expected, expected]


@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "builtin"])
def test_outside_a_run_a_step_is_a_plain_call(shape: str) -> None:
    """A test or a script calls a step as the function that it is: sync ones give a value, async ones a coroutine."""
    call, expected = SHAPES[shape]

    async def outside() -> Any:
        value = call()
        return await value if asyncio.iscoroutine(value) else value

    assert asyncio.run(outside()) == expected


def test_a_step_within_a_step_is_a_plain_call() -> None:
    """Only the outer call is journaled: the inner one runs inside it, once."""

    @step
    async def outer() -> list[Any]:
        inner = fetch(1)
        return [inner, (await fetch_invoice("A7")).number]

    @agent()
    async def worker(ctx: Context[None]) -> list[Any]:
        found = await outer()
        await ctx.sleep(5)
        return found

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.crash()
        sim.advance(5)
        view = sim.run(run)

    assert view.result == [10, "A7"]
    assert EFFECTS == [1, "A7"]


def test_the_handler_sees_the_same_value_live_and_in_replay() -> None:
    """What a step gave is loaded from the journal's text already the first time: equal, and of the same types."""
    seen: list[Any] = []

    @step
    def mixed() -> dict[str, Invoice | list[bytes] | None]:
        return {"a": INVOICE, "b": [b"\xff"], "c": None}

    @agent()
    async def worker(ctx: Context[None]) -> None:
        value = await mixed()
        seen.append((value, {key: type(one) for key, one in value.items()}, id(value)))
        await ctx.sleep(5)

    with Simulation([worker]) as sim:
        sim.start(worker)
        sim.crash()
        sim.advance(5)

    live, replayed = seen
    assert live[:2] == replayed[:2]
    assert live[0] == {"a": INVOICE, "b": [b"\xff"], "c": None}


def test_a_result_that_cannot_be_kept_fails_the_step_by_name_and_type() -> None:
    """The error names the step and the type, the handler may catch it, and it is the same in a replay."""

    @step
    def picture() -> Any:
        EFFECTS.append("drawn")
        return {"pixels": {1, 2}}

    seen: list[str] = []

    @agent()
    async def worker(ctx: Context[None]) -> None:
        try:
            await picture()
        except TypeError as error:
            seen.append(f"{type(error).__name__}: {error}")
        await ctx.sleep(5)

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.crash()
        sim.advance(5)
        status = sim.run(run).status

    assert status == "completed"
    assert seen[0] == seen[1]
    assert seen[0].startswith("NotSerializable: the result of step picture is a dict")
    assert EFFECTS == ["drawn"]


def test_a_result_over_a_mebibyte_fails_the_step_with_advice() -> None:
    """A value over the limit is refused, and the run fails with a sentence on what to do."""

    @step
    def download() -> str:
        return "x" * 2_000_000

    @agent()
    async def worker(ctx: Context[None]) -> None:
        await download()

    with Simulation([worker]) as sim:
        view = sim.run(sim.start(worker))

    assert view.status == "failed"
    assert (view.error or "").startswith("ValueTooLarge: the result of step download is 2,000,002 bytes")
    assert "return its key" in (view.error or "")


# Failures


def test_the_exception_of_a_step_is_caught_by_its_class_live_and_in_replay() -> None:
    """`except ValueError` and `except*` work in both, and so does telling two classes apart."""

    @step
    def parse(text: str) -> int:
        return int(text)

    @step
    async def several() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.wait_for(asyncio.sleep(1), 0))
            group.create_task(asyncio.wait_for(asyncio.sleep(1), 0))

    seen: list[Any] = []

    @agent()
    async def worker(ctx: Context[None]) -> str:
        found: list[Any] = []
        try:
            await parse("seven")
        except KeyError:
            found.append("wrong")
        except ValueError as error:
            found.append(str(error))
        try:
            await several()
        except* TimeoutError as group:
            found.append(len(group.exceptions))
        seen.append(found)
        await ctx.sleep(5)
        return "went on"

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.crash()
        sim.advance(5)
        result = sim.run(run).result

    assert result == "went on"
    assert seen == [["invalid literal for int() with base 10: 'seven'", 2]] * 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, StopIteration])
def test_a_step_that_exits_has_failed_and_the_worker_goes_on(kind: type[BaseException]) -> None:
    """SystemExit and its like in a step are failures of that step."""

    @step
    def quits() -> None:
        raise kind

    @agent()
    async def worker(ctx: Context[None]) -> str:
        try:
            await quits()
        except (StepFailed, RuntimeError):
            return "went on"
        return "no"

    with Simulation([worker]) as sim:
        view = sim.run(sim.start(worker))

    assert (view.status, view.result) == ("completed", "went on")


@pytest.mark.parametrize("words", ["\ud800", "a\x00b", "x" * 3_000_000], ids=["surrogate", "nul", "huge"])
def test_no_words_of_an_exception_can_stop_a_worker(words: str) -> None:
    """What an exception says may be too odd or too long for a journal, and its run goes on all the same."""

    @step
    def fails() -> None:
        raise ValueError(words)

    @agent()
    async def worker(ctx: Context[None]) -> str:
        try:
            await fails()
        except ValueError:
            return "caught"
        return "no"

    @agent()
    async def unlucky(ctx: Context[None]) -> None:
        raise ValueError(words)

    with Simulation([worker, unlucky]) as sim:
        caught = sim.run(sim.start(worker))
        failed = sim.run(sim.start(unlucky))

    assert (caught.status, caught.result) == ("completed", "caught")
    assert failed.status == "failed"


# Retries


def _times(sim: Simulation, run: str, seconds: int) -> list[float]:
    """When attempts were made, in seconds from the start, as the clock goes on in steps of half a second."""
    begin = sim.now
    found = [0.0] * len(EFFECTS)
    for _ in range(2 * seconds):
        sim.advance(0.5)
        found += [(sim.now - begin).total_seconds()] * (len(EFFECTS) - len(found))
    return found


@pytest.mark.parametrize("crash", [False, True])
def test_retries_wait_exponentially_on_the_virtual_clock_and_survive_crashes(crash: bool) -> None:
    """One, two, four, then at most five seconds; attempts made before a crash count after it."""

    @step(retries=5, backoff=Retry(first=1, factor=2, longest=5, jitter=0))
    def flaky() -> None:
        EFFECTS.append("try")
        raise ConnectionError("refused")

    @agent()
    async def worker(ctx: Context[None]) -> None:
        await flaky()

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        begin, times = sim.now, [0.0]
        for _ in range(60):
            if crash:
                sim.crash()
            sim.advance(0.5)
            times += [(sim.now - begin).total_seconds()] * (len(EFFECTS) - len(times))
        view = sim.run(run)

    assert times == [0, 1, 3, 7, 12, 17]
    assert (view.status, view.error) == ("failed", "ConnectionError: refused")


def test_jitter_only_takes_off_and_differs_from_step_to_step() -> None:
    """With jitter a wait is shorter than without by up to the share given, and not the same for all."""

    @step(retries=1, backoff=Retry(first=100, jitter=0.5))
    def flaky(number: int) -> int:
        EFFECTS.append(number)
        if EFFECTS.count(number) == 1:
            raise ConnectionError
        return number

    @agent()
    async def worker(ctx: Context[None]) -> list[int]:
        return await asyncio.gather(*(flaky(number) for number in range(8)))

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.advance(49.9)
        early = len(EFFECTS)
        times = set()
        for _ in range(51):
            before = len(EFFECTS)
            sim.advance(1)
            if len(EFFECTS) > before:
                times.add(sim.now)
        view = sim.run(run)

    assert early == 8
    assert len(times) > 1
    assert view.result == list(range(8))


@pytest.mark.parametrize(
    ("policy", "error", "attempts"),
    [
        (Retry(first=1, jitter=0), ValueError, 3),
        (Retry(first=1, jitter=0, on=(ConnectionError,)), ValueError, 1),
        (Retry(first=1, jitter=0, on=(ConnectionError,)), ConnectionResetError, 3),
        (Retry(first=1, jitter=0, unless=(LookupError,)), KeyError, 1),
        (Retry(first=1, jitter=0, unless=(LookupError,)), ValueError, 3),
        (Retry(first=0, jitter=0), ValueError, 3),
        (0.5, ValueError, 3),
        (timedelta(seconds=1), ValueError, 3),
    ],
)
def test_only_failures_that_are_worth_it_are_tried_again(
    policy: Any, error: type[Exception], attempts: int
) -> None:
    """`on` and `unless` choose by class; a number or a timedelta is the first wait."""

    @step(retries=2, backoff=policy)
    async def flaky() -> None:
        EFFECTS.append("try")
        raise error("no")

    @agent()
    async def worker(ctx: Context[None]) -> None:
        await flaky()

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.advance(30)
        status = sim.run(run).status

    assert status == "failed"
    assert len(EFFECTS) == attempts


def test_a_step_that_comes_back_after_failures_gives_its_value() -> None:
    """The handler sees nothing of the attempts that failed."""

    @step(retries=3, backoff=1)
    def flaky() -> int:
        EFFECTS.append("try")
        if len(EFFECTS) < 3:
            raise ConnectionError
        return len(EFFECTS)

    @agent()
    async def worker(ctx: Context[None]) -> int:
        return await flaky()

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.advance(10)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", 3)


def test_an_attempt_that_takes_too_long_fails_with_timeout_error_and_is_tried_again() -> None:
    """`timeout` bounds each attempt of an async step in real time; `except TimeoutError` finds the last."""

    @step(timeout=0.005, retries=1, backoff=1)
    async def slow() -> None:
        EFFECTS.append("try")
        await asyncio.sleep(10)

    @agent()
    async def worker(ctx: Context[None]) -> str:
        try:
            await slow()
        except TimeoutError:
            return "too slow"
        return "no"

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.advance(5)
        view = sim.run(run)

    assert view.result == "too slow"
    assert len(EFFECTS) == 2


def test_a_sync_step_that_takes_too_long_fails_in_a_simulation_as_in_a_worker() -> None:
    """It cannot be stopped: it runs to its end, and its result is dropped."""

    @step(timeout=0.005)
    def slow() -> str:
        time.sleep(0.02)
        EFFECTS.append("done")
        return "in time"

    @step(timeout=60)
    def quick() -> str:
        return "in time"

    @agent()
    async def worker(ctx: Context[None]) -> list[str]:
        try:
            return [await quick(), await slow()]
        except TimeoutError:
            return ["too slow"]

    with Simulation([worker]) as sim:
        view = sim.run(sim.start(worker))

    assert view.result == ["too slow"]
    assert EFFECTS == ["done"]


def test_what_requests_fetched_is_kept_and_reads_the_same_in_a_replay() -> None:
    """`step(requests.get)` needs no function around it; a body that was not read, or no response, is refused."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            EFFECTS.append(self.path)
            body = '{"price": "5 €"}'.encode()
            self.send_response(201)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    @step
    def nothing() -> requests.Response:
        return None  # type: ignore[return-value]

    @agent()
    async def worker(ctx: Context[None]) -> list[Any]:
        response = await step(requests.get, name="fetch")(f"{ctx.event.input}/price")  # type: ignore[union-attr]
        await ctx.sleep(10)
        response.raise_for_status()
        kind = response.headers["content-type"]
        return [response.status_code, response.reason, response.json(), response.text, kind]

    @agent()
    async def careless(ctx: Context[None]) -> None:
        if ctx.event.input is None:  # type: ignore[union-attr]
            await nothing()
        await step(requests.get, name="fetch")(str(ctx.event.input), stream=True)  # type: ignore[union-attr]

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server, Simulation([worker, careless]) as sim:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        run = sim.start(worker, url)
        sim.crash()
        sim.advance(10)
        view = sim.run(run)
        fetched = list(EFFECTS)
        errors = [sim.run(sim.start(careless, input)).error or "" for input in (url, None)]
        server.shutdown()

    assert view.error is None
    assert view.result == [201, "Created", {"price": "5 €"}, '{"price": "5 €"}', "application/json"]
    assert fetched == ["/price"]
    assert "NotSerializable: the result of step fetch" in errors[0]
    assert "leave stream=True out" in errors[0]
    assert "NotSerializable: the result of step nothing is a NoneType" in errors[1]


def test_a_retry_that_nobody_waits_for_any_more_is_not_made() -> None:
    """A timeout around a step ends its further attempts."""

    @step(retries=10, backoff=Retry(first=10, jitter=0, factor=1))
    def flaky() -> None:
        EFFECTS.append("try")
        raise ConnectionError

    @agent()
    async def worker(ctx: Context[None]) -> str:
        try:
            async with asyncio.timeout(25):
                await flaky()
        except TimeoutError:
            await ctx.sleep(100)
        return "over"

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        for _ in range(15):
            sim.advance(10)
            sim.crash()
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", "over")
    assert len(EFFECTS) == 3


@pytest.mark.parametrize(
    "options",
    [{"retries": -1}, {"retries": 1.5}, {"timeout": 0}, {"timeout": timedelta(seconds=-1)}, {"backoff": -1}],
)
def test_a_step_with_an_impossible_option_is_refused_where_it_is_defined(options: dict[str, Any]) -> None:
    """A wrong option is a ConfigurationError at once, and not at three in the morning."""
    with pytest.raises(ConfigurationError):
        step(**options)(add)


# Guarantee 1: a recorded result is never computed again


@pytest.mark.parametrize("point", ENGINE_POINTS)
@pytest.mark.parametrize("number", range(1, 5))
def test_a_recorded_result_is_never_computed_again_wherever_the_worker_dies(point: str, number: int) -> None:
    """A worker is killed at each crash point, before each step: only one whose result was not committed runs again."""
    committed: list[int] = []

    @agent()
    async def worker(ctx: Context[None]) -> list[int]:
        found = []
        for one in range(1, 6):
            found.append(await fetch(one))
            committed.append(one)
            await ctx.sleep(1)
        return found

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        for moment in range(1, 8):
            if moment == number:
                sim.kill_at(point)
            sim.advance(1)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", [10, 20, 30, 40, 50])
    twice = {one for one in EFFECTS if EFFECTS.count(one) > 1}
    assert all(EFFECTS.count(one) <= 2 for one in EFFECTS)
    if point in ("engine.step_committed", "engine.committed"):
        assert twice == set()
    assert len(twice) <= 1


@pytest.mark.parametrize("point", ENGINE_POINTS)
def test_parallel_steps_are_each_computed_once_but_for_those_not_committed(point: str) -> None:
    """Of ten steps at once, a death after the commit repeats none."""

    @agent()
    async def worker(ctx: Context[None]) -> list[int]:
        return await asyncio.gather(*(fetch(number) for number in range(10)))

    with Simulation([worker]) as sim:
        sim.kill_at(point)
        run = sim.start(worker)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", [10 * number for number in range(10)])
    if point == "engine.step_committed":
        assert sorted(EFFECTS) == list(range(10))
    assert set(EFFECTS) == set(range(10))


def test_a_worker_that_dies_again_and_again_gets_its_run_parked() -> None:
    """After five deaths in a row in the middle of the same work, the run is parked and says so."""

    @agent()
    async def worker(ctx: Context[None]) -> int:
        return await fetch(1)

    def always(point: str) -> None:
        if point == "engine.step_done":
            raise SimulatedCrash(point)

    with Simulation([worker]) as sim:
        crashpoints.arm(always)
        try:
            run = sim.start(worker)
        finally:
            crashpoints.arm(None)
        parked = sim.run(run)
        attempts = len(EFFECTS)
        sim.retry(run)
        view = sim.run(run)

    assert parked.status == "stuck"
    assert "5 workers in a row died" in (parked.error or "")
    assert attempts == 5
    assert (view.status, view.result) == ("completed", 10)


# idempotent=False


@step(idempotent=False)
def charge(amount: int) -> str:
    EFFECTS.append(amount)
    return f"charged {amount}"


@agent()
async def shop(ctx: Context[None]) -> str:
    try:
        receipt = await charge(5)
    except Exception as error:
        receipt = f"{type(error).__name__}: {error}"
    await ctx.send("alice", receipt)
    return receipt


def _stuck_charge(sim: Simulation) -> str:
    sim.kill_at("engine.step_done")
    run = sim.start(shop)
    view = sim.run(run)
    assert view.status == "stuck"
    assert "was under way when its worker died" in (view.error or "")
    assert "step charge" in (view.error or "")
    assert EFFECTS == [5]
    return run


def test_a_step_that_may_not_be_repeated_is_stuck_after_a_crash_in_its_middle() -> None:
    """Its outcome is unknown, so the run is parked; nothing but a decision moves it on."""
    with Simulation([shop], contacts=PEOPLE) as sim:
        run = _stuck_charge(sim)

        with pytest.raises(NotPossible, match=r"--repeat, --result JSON or --fail REASON"):
            sim.retry(run)
        with pytest.raises(NotPossible):
            sim.retry(run, repeat=True, fail="both")
        sim.crash()
        sim.advance(timedelta(days=3))

        assert sim.run(run).status == "stuck"
        assert EFFECTS == [5]
        assert sim.outbox() == []


@pytest.mark.parametrize(
    ("decision", "result", "effects"),
    [
        ({"repeat": True}, "charged 5", [5, 5]),
        ({"result": {"value": "receipt 9"}}, "receipt 9", [5]),
        ({"fail": "the bank says no"}, "WakeloopError: the bank says no", [5]),
    ],
    ids=["repeat", "result", "fail"],
)
def test_a_decision_about_an_unknown_outcome_is_what_the_handler_sees(
    decision: dict[str, Any], result: str, effects: list[int]
) -> None:
    """Repeated, told its result, or told that it failed; the handler goes on, also after another crash."""
    with Simulation([shop], contacts=PEOPLE) as sim:
        run = _stuck_charge(sim)

        sim.retry(run, **decision)
        sim.crash()
        sim.advance(1)
        view = sim.run(run)
        said = [message.text for message in sim.outbox()]

    assert (view.status, view.result) == ("completed", result)
    assert effects == EFFECTS
    assert said == [result]


def test_a_repetition_that_dies_again_is_unknown_again() -> None:
    """A decision to repeat holds for one attempt."""
    with Simulation([shop], contacts=PEOPLE) as sim:
        run = _stuck_charge(sim)

        sim.kill_at("engine.step_done")
        sim.retry(run, repeat=True)
        again = sim.run(run).status
        sim.retry(run, result={"value": "twice"})
        view = sim.run(run)

    assert again == "stuck"
    assert (view.status, view.result) == ("completed", "twice")
    assert EFFECTS == [5, 5]


def test_a_death_after_the_commit_of_its_result_leaves_nothing_unknown() -> None:
    """Once its result is in the journal, a step that may not be repeated is over."""
    with Simulation([shop], contacts=PEOPLE) as sim:
        commits = 0

        def after_its_commit(point: str) -> None:
            nonlocal commits
            commits += point == "engine.committed" and EFFECTS == [5]
            if commits == 1:
                crashpoints.arm(None)
                raise SimulatedCrash(point)

        crashpoints.arm(after_its_commit)
        run = sim.start(shop)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", "charged 5")
    assert EFFECTS == [5]


def test_a_death_between_the_note_of_its_begin_and_the_begin_is_taken_for_unknown() -> None:
    """Nobody can tell whether it began, so a person is asked; it has not run then, and can be repeated."""
    passed: list[str] = []

    def at_the_second_commit(point: str) -> None:
        passed.append(point)
        if passed.count("engine.committed") == 2:
            crashpoints.arm(None)
            raise SimulatedCrash(point)

    with Simulation([shop], contacts=PEOPLE) as sim:
        crashpoints.arm(at_the_second_commit)
        run = sim.start(shop)
        status, effects = sim.run(run).status, list(EFFECTS)
        sim.retry(run, repeat=True)
        view = sim.run(run)

    assert (status, effects) == ("stuck", [])
    assert (view.status, view.result) == ("completed", "charged 5")


def test_a_failure_of_a_step_that_may_not_be_repeated_is_an_outcome() -> None:
    """Attempts that failed are known; retries go on counting, and nothing is stuck."""

    @step(idempotent=False, retries=2, backoff=Retry(first=5, jitter=0, factor=1))
    def pay() -> str:
        EFFECTS.append("pay")
        if len(EFFECTS) < 3:
            raise ConnectionError("refused")
        return "paid"

    @agent()
    async def worker(ctx: Context[None]) -> str:
        return await pay()

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        for _ in range(5):
            sim.crash()
            sim.advance(3)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", "paid")
    assert EFFECTS == ["pay"] * 3


def test_two_unknown_outcomes_are_decided_one_by_one() -> None:
    """A crash in the middle of two such steps asks twice, and repeats neither."""

    @agent()
    async def worker(ctx: Context[None]) -> list[str]:
        return await asyncio.gather(charge(1), charge(2))

    with Simulation([worker]) as sim:
        sim.kill_at("engine.step_done")
        run = sim.start(worker)
        first = sim.run(run).status
        sim.retry(run, result={"value": "second"})
        second = sim.run(run).status
        sim.retry(run, result={"value": "first"})
        view = sim.run(run)

    assert (first, second) == ("stuck", "stuck")
    assert (view.status, view.result) == ("completed", ["first", "second"])
    assert sorted(EFFECTS) == [1, 2]
