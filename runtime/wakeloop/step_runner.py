"""Carries out steps: async ones on the process's real event loop, sync ones in its thread pool."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from wakeloop.logs import get_logger
from wakeloop.open_run import StepJob, StepKey
from wakeloop.tracing import Span

log = get_logger("wakeloop.step_runner")

Key = StepKey
Done = Callable[[Key, Any, BaseException | None], None]


class StepRunner(Protocol):
    """Starts steps and reports how they ended, from any thread."""

    def start(self, jobs: Sequence[StepJob], done: Done) -> None:
        """Begin attempts; `done(key, value, error)` is called once for each when it ended, unless it was cancelled."""
        ...

    def cancel(self, key: Key) -> None:
        """Stop caring about an attempt. An async one is cancelled, a sync one runs on unheard."""
        ...

    def close(self) -> None:
        """Cancel everything."""
        ...


class RealLoop:
    """The process's real event loop, in a thread of its own, started when it is first needed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def submit(self, make: Callable[[], Any]) -> Future[Any]:
        """Run the coroutine that `make` makes."""
        return asyncio.run_coroutine_threadsafe(make(), self._started())

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function in the loop's thread, soon."""
        self._started().call_soon_threadsafe(function)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop

    def run_all(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        """Run these coroutines, if the loop was ever used, and log those that fail."""
        if self._loop is not None:
            for name, make in makers.items():
                try:
                    self.submit(make).result(timeout=5)
                except Exception as error:
                    log.warning("could not be closed", name=name, error=repr(error))

    def close(self) -> None:
        """Cancel what is running, and end the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(timeout=5)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class ThreadedSteps:
    """Steps of a worker: as many async ones at once as there are, and `threads` sync ones."""

    def __init__(self, loop: RealLoop, *, threads: int) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="wakeloop-step")
        # None: asked for, and not begun yet.
        self._running: dict[Key, asyncio.Future[Any] | None] = {}

    def start(self, jobs: Sequence[StepJob], done: Done) -> None:
        for job in jobs:
            self._running[job.key] = None

        def begin() -> None:  # all at once: each wake-up of the other thread costs as much as a small step
            for job in jobs:
                if job.key in self._running:
                    self._running[job.key] = asyncio.ensure_future(self._attempt(job, done))

        self._loop.call(begin)

    async def _attempt(self, job: StepJob, done: Done) -> None:
        try:
            value = await call_step(job, self._pool)
        except asyncio.CancelledError:
            if job.key not in self._running:
                return
            done(job.key, None, RuntimeError("the step was cancelled from inside"))
        except BaseException as error:
            done(job.key, None, error)
        else:
            done(job.key, value, None)
        finally:
            self._running.pop(job.key, None)

    def cancel(self, key: Key) -> None:
        task = self._running.pop(key, None)
        if task is not None:
            self._loop.call(task.cancel)

    def close(self) -> None:
        for key in list(self._running):
            self.cancel(key)
        self._pool.shutdown(wait=False, cancel_futures=True)


async def call_step(job: StepJob, pool: ThreadPoolExecutor | None) -> Any:
    """One attempt at a step, within its timeout. Without a pool a sync function runs right here, and to its end."""
    if job.span is not None:
        return await _call_traced(replace(job, span=None), job.span, pool)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(job.step.options.timeout) as limit:
        if job.step.is_async:
            return await job.step.function(*job.args, **job.kwargs)
        if pool is None:
            value = job.step.function(*job.args, **job.kwargs)
            if (end := limit.when()) is not None and loop.time() >= end:
                raise TimeoutError
        else:
            # In the context of this task, which has the step's span.
            context = contextvars.copy_context()
            value, error = await loop.run_in_executor(pool, lambda: context.run(_call, job))
            if error is not None:
                raise error
        return await value if inspect.isawaitable(value) else value


async def _call_traced(job: StepJob, run: Span, pool: ThreadPoolExecutor | None) -> Any:
    """The same in a span within the run's: the current one for what the step does, in whichever thread."""
    facts = {
        "wakeloop.agent": job.agent,
        "wakeloop.run": str(job.key[2]),
        "wakeloop.step": job.step.name,
        "wakeloop.attempt": job.attempt,
    }
    span = run.child(f"step {job.step.name}", "internal", facts)
    try:
        with span.current():
            return await call_step(job, pool)
    except BaseException as error:
        span.fail(error)
        raise
    finally:
        span.end()


def _call(job: StepJob) -> tuple[Any, BaseException | None]:
    try:
        return job.step.function(*job.args, **job.kwargs), None
    except BaseException as error:
        return None, error
