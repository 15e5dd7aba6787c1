"""Waits for the end of requests and runs for any number of callers at once, with one question to the store for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from wakeloop.logs import get_logger

log = get_logger("wakeloop.api")

POLL_SECONDS = 0.25


class Waiting:
    """Callers that wait for things to end. They hold a future each and no thread: while there are any, the store is
    asked every POLL_SECONDS which of all that are waited for have ended. While it is away they wait on."""

    def __init__(self, ended: Callable[[Collection[UUID]], Collection[UUID]]) -> None:
        """`ended`: those of these that have ended, asked in a thread."""
        self._ended = ended
        self._waiters: dict[UUID, set[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def count(self) -> int:
        """How many are waiting."""
        return sum(map(len, self._waiters.values()))

    async def wait(self, id: UUID, seconds: float, request: Request) -> None:
        """Return when it has ended, after `seconds`, when the caller has gone, or when the process is to stop."""
        if self._stopped or seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()
        gone = loop.create_task(_gone(request))
        self._waiters.setdefault(id, set()).add(end)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._poll())
        try:
            await asyncio.wait({end, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            self._waiters[id].discard(end)
            if not self._waiters[id]:
                del self._waiters[id]

    def stop(self) -> None:
        """Let everybody go, and nobody wait any more. To be called in the loop."""
        self._stopped = True
        self._release(list(self._waiters))

    async def _poll(self) -> None:
        while self._waiters and not self._stopped:
            try:
                self._release(await run_in_threadpool(self._ended, list(self._waiters)))
            except SQLAlchemyError as error:
                log.warning("the store cannot be asked what has ended", error=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)

    def _release(self, ids: Collection[UUID]) -> None:
        for id in ids:
            for end in self._waiters.get(id, ()):
                if not end.done():
                    end.set_result(None)


async def _gone(request: Request) -> None:
    """Return when the caller has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
