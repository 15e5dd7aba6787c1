"""The deterministic event loop: ordinary asyncio on it behaves the same in every replay."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from wakeloop.errors import OutsideStep, WakeloopError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

UNWINDINGS = 1000
"""How often a coroutine that awaits while it is dropped is told again."""

CALLBACKS_BEFORE_REST = 1_000_000
"""Callbacks that may run before the loop must have come to rest; a handler that spins is stopped there."""


class Halt(BaseException):
    """Ends a task of a handler that is dropped, or does not come to rest, whatever it catches."""


class DurableTask(asyncio.Task[T]):
    """A task whose hash is its number on its loop, so that sets of tasks have the same order in every replay: those that
    a TaskGroup cancels, and those that `asyncio.wait` gives. Numbers begin at the loop's own: asyncio keeps all tasks of
    the process in one set."""

    def __init__(
        self, coro: Any, *, loop: DeterministicLoop, number: int, context: contextvars.Context, **options: Any
    ) -> None:
        self._number = number
        self._of = context
        super().__init__(coro, loop=loop, context=context, **options)

    def __hash__(self) -> int:
        return self._number

    def drop(self) -> None:
        """End its coroutine where it stands, in its own context: what it does then still knows whose it is."""
        self._log_destroy_pending = False
        self._of.run(_unwind, self.get_coro())
        # What it waits for would call it, and so each of the two keeps the other. The loop is closed: nothing is called.
        waits_for = getattr(self, "_fut_waiter", None)
        if waits_for is not None:
            asyncio.Future.cancel(waits_for)


class DeterministicLoop(asyncio.AbstractEventLoop):
    """An event loop without I/O and without threads, whose time stands still while it runs.

    Callbacks run in the order in which they were scheduled. `time()` is the seconds since the run began and only
    changes when `advance` says so. A timer never fires by itself: `on_timer` is told of each one that is set, and
    whoever drives the loop fires it with `fire`. So the same deliveries in the same order give the same execution.
    """

    def __init__(self, on_timer: Callable[[asyncio.TimerHandle], None], *, first_task: int = 0) -> None:
        """Args: first_task: below the number of its first task; the same in every replay of a run, and far from those
        of other runs."""
        self._ready: deque[asyncio.Handle] = deque()
        self._time = 0.0
        self._on_timer = on_timer
        self._closed = False
        self._running = False
        self._cancelled: Callable[[asyncio.TimerHandle], None] = _nothing
        self._tasks: set[DurableTask[Any]] = set()
        self._tasks_made = first_task
        self._prune_at = 64
        self.unhandled: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ driving

    def on_timer_cancelled(self, callback: Callable[[asyncio.TimerHandle], None]) -> None:
        """Be told of timers that the code no longer wants."""
        self._cancelled = callback

    def advance(self, to: float) -> None:
        """Set the time, in seconds since the run began. It never goes back."""
        self._time = max(self._time, to)

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """Make a timer's callback ready to run. The time is its time at the least, whatever was rounded on the way."""
        self.advance(handle.when())
        self._ready.append(handle)

    def run_until_quiet(self) -> None:
        """Run everything that is ready, and what that makes ready, until nothing is.

        Raises WakeloopError if the code does not come to rest."""
        previous = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        asyncio._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._close_generator)
        self._running = True
        budget = CALLBACKS_BEFORE_REST
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle._cancelled:
                    handle._run()
                budget -= 1
                if budget <= 0:
                    raise WakeloopError(
                        "the handler does not come to rest: it loops without waiting for anything; "
                        "put an `await asyncio.sleep(seconds)` or `await ctx.receive()` in its loop"
                    )
        finally:
            self._running = False
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(previous)
            if len(self._tasks) > self._prune_at:
                self._tasks = {task for task in self._tasks if not task.done()}
                self._prune_at = 2 * len(self._tasks) + 64

    def discard(self) -> None:
        """Drop all tasks where they stand. Their `finally` blocks see Halt; nothing that they ask for is done."""
        self._closed = True
        self._ready.clear()
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while self._tasks:  # cleanup may make more of them
                task = self._tasks.pop()
                if not task.done():
                    task.drop()
        finally:
            self._ready.clear()
            asyncio._set_running_loop(previous)
            self._on_timer = self._cancelled = _nothing

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Let an asynchronous generator that nobody iterates any more clean up, which may await: as asyncio does."""
        if self._running and asyncio._get_running_loop() is self:
            self.create_task(generator.aclose())

    # ------------------------------------------------------------------ what asyncio needs of a loop

    def time(self) -> float:
        return self._time

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._closed:
            self._on_timer(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: Unpack[Ts],
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time + delay, callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled(handle)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        self._tasks_made += 1
        task: DurableTask[T] = DurableTask(
            coro,
            loop=self,
            number=self._tasks_made,
            context=contextvars.copy_context() if context is None else context,
            name=name or "task",
            **options,
        )
        self._tasks.add(task)
        return task

    def set_task_factory(self, factory: Any) -> NoReturn:
        raise OutsideStep("a task factory cannot be set on the loop that makes a handler durable")

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    async def shutdown_asyncgens(self) -> None:
        pass

    def stop(self) -> NoReturn:
        raise OutsideStep("a handler cannot stop the loop that it runs on; return from the handler instead")

    def close(self) -> None:
        self._closed = True


def _nothing(handle: asyncio.TimerHandle) -> None:
    """What becomes of a timer that nobody drives."""


def _unwind(coroutine: Any) -> None:
    """End a coroutine where it stands.

    `close()` would do for one, but what awaits in its cleanup ignores it, and those it awaits are then left to the
    garbage collector. So Halt is raised in the innermost, again wherever that awaits, until all have ended."""
    for _ in range(UNWINDINGS):
        try:
            coroutine.throw(Halt())
        except KeyboardInterrupt:
            raise
        except BaseException:
            return  # it has ended: whatever of, nobody is listening any more


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(self: DeterministicLoop, *args: object, **options: object) -> NoReturn:
        raise OutsideStep(
            f"{name}() is real I/O, and a handler is replayed: put the call into a step, such as "
            '`@step async def fetch(...)` or `await step(function, name="fetch")(...)`'
        )

    refused.__name__ = name
    return refused


_REAL_IO = [
    "add_reader", "add_signal_handler", "add_writer", "call_soon_threadsafe", "connect_accepted_socket",
    "connect_read_pipe", "connect_write_pipe", "create_connection", "create_datagram_endpoint", "create_server",
    "create_unix_connection", "create_unix_server", "getaddrinfo", "getnameinfo", "remove_reader",
    "remove_signal_handler", "remove_writer", "run_forever", "run_in_executor", "run_until_complete", "sendfile",
    "set_default_executor", "shutdown_default_executor", "sock_accept", "sock_connect", "sock_recv", "sock_recv_into",
    "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendfile", "sock_sendto", "start_tls",
    "subprocess_exec", "subprocess_shell",
]  # fmt: skip
for _name in _REAL_IO:
    setattr(DeterministicLoop, _name, _refuse(_name))
DeterministicLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


_as_completed: Any = asyncio.as_completed


@functools.wraps(_as_completed)
def _as_completed_in_order(fs: Any, *, timeout: float | None = None) -> Any:
    # asyncio's own starts coroutines in the order of a set of them, which is that of their addresses in memory.
    loop = asyncio._get_running_loop()
    if isinstance(loop, DeterministicLoop) and not (asyncio.isfuture(fs) or asyncio.iscoroutine(fs)):
        fs = [asyncio.ensure_future(one, loop=loop) for one in dict.fromkeys(fs)]
    return _as_completed(fs, timeout=timeout)


asyncio.as_completed = asyncio.tasks.as_completed = _as_completed_in_order
