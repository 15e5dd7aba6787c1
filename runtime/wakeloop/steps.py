"""Steps: calls with side effects whose recorded result is never computed twice."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from wakeloop.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


class CurrentRun(Protocol):
    """The run on whose loop the present code executes."""

    async def run_step(self, step: Step[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...

    async def run_gated(self, gate: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


current_run: ContextVar[CurrentRun | None] = ContextVar("wakeloop_current_run", default=None)


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How long to wait before a failed step is tried again, and which failures are worth it.

    The wait before attempt n+1 is `first * factor**(n-1)` seconds, at most `longest`, of which a random share up to
    `jitter` (0 to 1) is taken off, so that many steps that failed together do not come back together. The wait is
    durable: it holds no process. Only exceptions of the classes in `on` and not of those in `unless` are retried.
    """

    first: float = 1.0
    factor: float = 2.0
    longest: float = 300.0
    jitter: float = 0.25
    on: tuple[type[Exception], ...] = (Exception,)
    unless: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if self.first < 0 or self.longest < 0 or self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ConfigurationError(
                f"Retry(first={self.first}, factor={self.factor}, longest={self.longest}, jitter={self.jitter}): "
                "waits are seconds and not negative, the factor is at least 1, the jitter between 0 and 1"
            )

    def wait_seconds(self, attempt: int, chance: float) -> float:
        """Seconds to wait after `attempt` (from 1) failed; `chance` is a random number in [0, 1)."""
        try:
            wait = self.first * self.factor ** (attempt - 1)
        except OverflowError:
            wait = self.longest
        return min(wait, self.longest) * (1 - self.jitter * chance)

    def wants(self, error: BaseException) -> bool:
        """Whether this failure is worth another attempt."""
        return isinstance(error, self.on) and not isinstance(error, self.unless)


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """How a step is carried out: see `step`."""

    name: str
    retries: int = 0
    backoff: Retry = field(default_factory=Retry)
    timeout: float | None = None
    idempotent: bool = True


class Step(Generic[P, R]):
    """A function whose calls within a run are journaled. Outside a run a call is plain."""

    def __init__(self, function: Callable[P, Any], options: StepOptions) -> None:
        self.function = function
        self.options = options
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function)) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004
        )
        functools.update_wrapper(self, function, updated=())

    @property
    def name(self) -> str:
        return self.options.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        run = current_run.get()
        if run is None or not is_on_its_loop(run):
            return cast("Coroutine[Any, Any, R]", self.function(*args, **kwargs))
        return run.run_step(self, args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<step {self.name}>"


def is_on_its_loop(run: CurrentRun) -> bool:
    """Whether the code that asks executes on the run's own loop, not in a step or a thread."""
    return asyncio._get_running_loop() is getattr(run, "loop", None)


def _seconds(value: float | timedelta | None, what: str, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise ConfigurationError(f"step {name}: {what} must be seconds or a timedelta, not {value!r}")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not seconds > 0:
        raise ConfigurationError(f"step {name}: {what} must be more than zero seconds, not {value!r}")
    return seconds


@overload
def step(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
@overload
def step(fn: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    fn: Callable[P, Coroutine[Any, Any, R]],
    /,
    *,
    retries: int = 0,
    backoff: Retry | float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    idempotent: bool = True,
    name: str | None = None,
) -> Step[P, R]: ...
@overload
def step(
    fn: Callable[P, R],
    /,
    *,
    retries: int = 0,
    backoff: Retry | float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    idempotent: bool = True,
    name: str | None = None,
) -> Step[P, R]: ...
@overload
def step(
    fn: None = None,
    /,
    *,
    retries: int = 0,
    backoff: Retry | float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    idempotent: bool = True,
    name: str | None = None,
) -> StepDecorator: ...
def step(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    retries: int = 0,
    backoff: Retry | float | timedelta | None = None,
    timeout: float | timedelta | None = None,
    idempotent: bool = True,
    name: str | None = None,
) -> Any:
    """Make a sync or async function a step, as a decorator or inline: `await step(requests.get, name="fetch")(url)`.

    Within a run, a call must be awaited; its result is committed to the journal before the handler sees it, and is
    never computed again. A step runs at least once: a crash between its effect and its commit may repeat it.
    Outside a run, and within another step, it is a plain call.

    retries: further attempts after a failure. backoff: a `Retry`, or the first wait (seconds or timedelta), which
    doubles. timeout: seconds (or timedelta) for one attempt, after which it failed with TimeoutError; a sync function
    cannot be stopped, so its thread runs on and its result is dropped. idempotent: with False, a crash in the middle
    leaves the outcome *unknown*: the run is parked as stuck and a human decides; it is not repeated.
    name: what the journal calls it; the function's own name by default.

    Results are journaled by the function's return annotation (see `wakeloop.engine.values`).
    Raises ConfigurationError if an option is out of range.
    """

    def make(function: Callable[..., Any]) -> Step[Any, Any]:
        if not callable(function):
            raise ConfigurationError(f"step() takes a function, not {function!r}")
        chosen = name or getattr(function, "__name__", None) or type(function).__name__
        if not isinstance(retries, int) or retries < 0:
            raise ConfigurationError(f"step {chosen}: retries must be a whole number from 0, not {retries!r}")
        policy = backoff if isinstance(backoff, Retry) else Retry()
        if isinstance(backoff, bool) or not isinstance(backoff, Retry | int | float | timedelta | None):
            raise ConfigurationError(
                f"step {chosen}: backoff must be a Retry, seconds or a timedelta, not {backoff!r}"
            )
        if isinstance(backoff, int | float | timedelta):
            first = backoff.total_seconds() if isinstance(backoff, timedelta) else float(backoff)
            policy = Retry(first=first, longest=max(first, policy.longest))
        options = StepOptions(
            name=chosen,
            retries=retries,
            backoff=policy,
            timeout=_seconds(timeout, "timeout", chosen),
            idempotent=idempotent,
        )
        return Step(function, options)

    return make if fn is None else make(fn)


class StepDecorator(Protocol):
    """What `step(...)` without a function gives."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...
