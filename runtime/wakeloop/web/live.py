"""Tells open pages that something has changed: one watcher for a whole process, however many pages are open."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping

from sqlalchemy.exc import SQLAlchemyError
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from wakeloop.logs import get_logger
from wakeloop.store import timeline
from wakeloop.wiring import Runtime

log = get_logger("wakeloop.web")

POLL_SECONDS = 1.0
PAUSE_SECONDS = 0.1
"""However much happens, the store is not asked more often."""
HEARTBEAT_SECONDS = 15
STREAM_SECONDS = 1800
"""A stream ends then and is opened again, whereby its link is checked again."""
STREAMS_LIMIT = 2000
STREAMS_OF_ONE_LIMIT = 20
SEND_SECONDS = 20
RETRY_SECONDS = 5


def version(standing: str) -> str:
    """A short name of what there is to be seen on a page."""
    return hashlib.sha256(standing.encode()).hexdigest()[:16]


class _Listener:
    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.version: str | None = None


class Live:
    """The streams of server-sent events of one app. Each says `version` when it begins and whenever something is new
    for its contact; the page asks for the rest itself, so that a stream that breaks off has lost nothing.

    While there are streams one task asks the store, for all of them together, once a second and at once when this
    process has changed something itself."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._listeners: dict[str, set[_Listener]] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        runtime.watch(self._nudged)

    @property
    def streams(self) -> int:
        """How many are open."""
        return sum(map(len, self._listeners.values()))

    def versions(self, contacts: Collection[str]) -> Mapping[str, str]:
        """What there is to be seen on these contacts' pages now."""
        with self._runtime.database.read() as connection:
            found = timeline.standing(connection, contacts)
        return {contact: version(standing) for contact, standing in found.items()}

    def open(self, contact: str) -> EventSourceResponse | None:
        """A stream for a page of a contact; None if there are too many, or the process is about to end."""
        of_one = len(self._listeners.get(contact, ()))
        if self._closed or self.streams >= STREAMS_LIMIT or of_one >= STREAMS_OF_ONE_LIMIT:
            return None
        return EventSourceResponse(
            self._stream(contact), ping=HEARTBEAT_SECONDS, send_timeout=SEND_SECONDS
        )  # fmt: skip

    def close(self) -> None:
        """End every stream, and open no more. Called in the thread of the app's event loop."""
        self._closed = True
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.changed.set()
        self._wake.set()

    async def _stream(self, contact: str) -> AsyncIterator[ServerSentEvent]:
        listener = _Listener()
        self._listeners.setdefault(contact, set()).add(listener)
        self._loop = asyncio.get_running_loop()
        self._wake.set()
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        told = None
        end = self._loop.time() + STREAM_SECONDS
        try:
            while not self._closed:
                await asyncio.wait_for(listener.changed.wait(), end - self._loop.time())
                listener.changed.clear()
                if not self._closed and listener.version != told:
                    told = listener.version
                    yield ServerSentEvent(event="version", data=told, retry=RETRY_SECONDS * 1000)
        except TimeoutError:
            return
        finally:
            self._listeners[contact].discard(listener)
            if not self._listeners[contact]:
                del self._listeners[contact]
            if not self._listeners:
                self._wake.set()

    async def _watch(self) -> None:
        is_away = False
        while self._listeners and not self._closed:
            self._wake.clear()
            try:
                found = await run_in_threadpool(self.versions, list(self._listeners))
                is_away = False
            except SQLAlchemyError as error:
                found = {}
                if not is_away:
                    log.error("open pages cannot be told what is new: the database is away", error=str(error))
                is_away = True
            for contact, new in found.items():
                for listener in self._listeners.get(contact, ()):
                    if listener.version != new:
                        listener.version = new
                        listener.changed.set()
            await asyncio.sleep(PAUSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)

    def _nudged(self) -> None:
        loop = self._loop
        if loop is not None and self._listeners:
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(self._wake.set)
