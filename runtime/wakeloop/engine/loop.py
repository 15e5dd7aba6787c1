"""The deterministic event loop: ordinary asyncio on it behaves the same in every replay."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

from wakeloop.errors import OutsideStep, WakeloopError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CALLBACKS_BEFORE_REST = 1_000_000
"""Callbacks that may run before the loop must have come to rest; a handler that spins is stopped there."""


class DeterministicLoop(asyncio.AbstractEventLoop):
    """An event loop without I/O and without threads, whose time stands still while it runs.

    Callbacks run in the order in which they were scheduled. `time()` is the seconds since the run began and only
    changes when `advance` says so. A timer never fires by itself: `on_timer` is told of each one that is set, and
    whoever drives the loop fires it with `fire`. So the same deliveries in the same order give the same execution.
    """

    def __init__(self, on_timer: Callable[[asyncio.TimerHandle], None]) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._time = 0.0
        self._on_timer = on_timer
        self._closed = False
        self._running = False
        self._cancelled: Callable[[asyncio.TimerHandle], None] = lambda handle: None
        self.unhandled: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ driving

    def on_timer_cancelled(self, callback: Callable[[asyncio.TimerHandle], None]) -> None:
        """Be told of timers that the code no longer wants."""
        self._cancelled = callback

    def advance(self, to: float) -> None:
        """Set the time, in seconds since the run began. It never goes back."""
        self._time = max(self._time, to)

    def fire(self, handle: asyncio.TimerHandle) -> None:
        """Make a timer's callback ready to run."""
        self._ready.append(handle)

    def run_until_quiet(self) -> None:
        """Run everything that is ready, and what that makes ready, until nothing is.

        Raises WakeloopError if the code does not come to rest."""
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
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
            asyncio._set_running_loop(previous)

    def discard(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Drop these tasks where they stand. Their `finally` blocks see GeneratorExit; nothing they schedule runs."""
        self._closed = True
        self._ready.clear()
        previous = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                if coroutine is not None:
                    try:
                        coroutine.close()
                    except Exception:
                        pass  # its cleanup awaited, or asked for something: nobody is listening any more
        finally:
            self._ready.clear()
            asyncio._set_running_loop(previous)

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
        return asyncio.Task(coro, loop=self, name=name or "task", context=context, **options)  # type: ignore[arg-type,unused-ignore]

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
