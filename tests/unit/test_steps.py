"""Steps outside of a run: definitions, options, and the waits between attempts."""

from __future__ import annotations

import asyncio
import functools
import inspect
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeloop import Retry, step
from wakeloop.errors import ConfigurationError
from wakeloop.steps import Step


@step
def plain(number: int, *, by: int = 1) -> int:
    """Adds."""
    return number + by


@step(retries=3, backoff=2, timeout=timedelta(minutes=1), idempotent=False, name="slow-add")
async def slow(number: int) -> int:
    """Adds slowly."""
    return number + 1


def test_outside_a_run_a_step_is_the_function_itself() -> None:
    """Values, coroutines, exceptions and signatures are the function's own."""
    assert plain(1, by=2) == 3  # type: ignore[comparison-overlap]
    assert asyncio.run(slow(1)) == 2
    assert plain.__name__ == "plain"
    assert plain.__doc__ == "Adds."
    assert "by" in inspect.signature(plain).parameters
    with pytest.raises(TypeError):
        plain("x", by=None)  # type: ignore[arg-type]


def test_the_options_are_what_was_written() -> None:
    """Name, retries, timeout in seconds, idempotence, and a first wait that doubles."""
    options = slow.options

    assert (
        options.name, options.retries, options.timeout, options.idempotent,
    ) == ("slow-add", 3, 60.0, False)  # fmt: skip
    assert [options.backoff.wait_seconds(attempt, 0) for attempt in (1, 2, 3)] == [2, 4, 8]
    assert repr(slow) == "<step slow-add>"


@pytest.mark.parametrize(
    ("function", "name", "is_async"),
    [
        (plain.function, "plain", False),
        (slow.function, "slow", True),
        (lambda: 1, "<lambda>", False),
        (functools.partial(slow.function, 1), "partial", True),
        (functools.partial(plain.function, 1), "partial", False),
        (slow, "slow", True),
        (len, "len", False),
        (int, "int", False),
    ],
)
def test_a_step_knows_its_name_and_whether_it_is_async(function: Any, name: str, is_async: bool) -> None:
    """The function's own name, or its type's; partials and steps are looked through."""
    made = step(function)

    assert isinstance(made, Step)
    assert (made.name, made.is_async) == (name, is_async)


class Holder:
    def __init__(self) -> None:
        self.calls: list[int] = []

    @step
    def method(self, number: int) -> int:
        self.calls.append(number)
        return number


def test_a_step_can_be_a_method() -> None:
    """Called on an instance it gets the instance; on the class it is the step."""
    first, second = Holder(), Holder()

    assert first.method(1) == 1
    assert Holder.method(second, 2) == 2
    assert isinstance(Holder.method, Step)
    assert (first.calls, second.calls) == ([1], [2])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: step(5), "step() takes a function, not 5"),
        (lambda: step(retries=-1)(plain), "retries must be a whole number from 0"),
        (lambda: step(retries="3")(plain), "retries must be a whole number from 0"),
        (lambda: step(timeout=0)(plain), "timeout must be more than zero seconds"),
        (lambda: step(timeout=timedelta(0))(plain), "timeout must be more than zero seconds"),
        (lambda: step(timeout="1m")(plain), "step plain: timeout must be seconds or a timedelta, not '1m'"),
        (lambda: step(timeout=True)(plain), "timeout must be seconds or a timedelta"),
        (lambda: step(backoff=-1)(plain), "not negative"),
        (
            lambda: step(backoff="2s")(plain),
            "step plain: backoff must be a Retry, seconds or a timedelta, not '2s'",
        ),
        (lambda: step(backoff=True)(plain), "backoff must be a Retry, seconds or a timedelta"),
        (lambda: Retry(first=-1), "not negative"),
        (lambda: Retry(factor=0.5), "factor is at least 1"),
        (lambda: Retry(jitter=1.5), "jitter between 0 and 1"),
        (lambda: Retry(longest=-1), "not negative"),
    ],
)
def test_an_impossible_option_is_refused_with_the_step_s_name(make: Any, words: str) -> None:
    """A definition that cannot work is a ConfigurationError, which no handler swallows as a WakeloopError."""
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert words in str(caught.value)


@given(
    first=st.floats(0, 1e6),
    factor=st.floats(1, 1e3),
    longest=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    attempt=st.integers(1, 10_000),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_is_negative_or_longer_than_the_longest(
    first: float, factor: float, longest: float, jitter: float, attempt: int, chance: float
) -> None:
    """Whatever is configured and however often it failed, the wait stays within its bounds."""
    policy = Retry(first=first, factor=factor, longest=longest, jitter=jitter)

    wait = policy.wait_seconds(attempt, chance)

    assert 0 <= wait <= longest
    assert policy.wait_seconds(attempt, 0) * (1 - jitter) <= wait or wait == pytest.approx(0)


@pytest.mark.parametrize(
    ("policy", "error", "wanted"),
    [
        (Retry(), ValueError(), True),
        (Retry(), KeyboardInterrupt(), False),
        (Retry(on=(OSError,)), ConnectionError(), True),
        (Retry(on=(OSError,)), ValueError(), False),
        (Retry(unless=(OSError,)), TimeoutError(), False),
        (Retry(on=(LookupError,), unless=(KeyError,)), IndexError(), True),
        (Retry(on=(LookupError,), unless=(KeyError,)), KeyError(), False),
    ],
)
def test_a_policy_wants_what_it_names(policy: Retry, error: BaseException, wanted: bool) -> None:
    """`on` says what is worth another attempt, `unless` what is not; what ends programs never is."""
    assert policy.wants(error) is wanted
