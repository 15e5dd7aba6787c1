"""Fetches messages through channels that are not called: for each of them one process listens, for all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from wakeloop import crashpoints
from wakeloop.channel import DeliveryUpdate, Incoming, Listening
from wakeloop.errors import ChannelError
from wakeloop.intake import Intake
from wakeloop.logs import get_logger
from wakeloop.routing import FETCHED_FROM_PROVIDER
from wakeloop.store import listeners as store
from wakeloop.store.database import Database, is_outage

log = get_logger("wakeloop.listeners")

T = TypeVar("T")

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
STOP_SECONDS = 5.0
LOOK_SECONDS = 5.0
"""How often, at the most, a process that does not listen looks whether the lease is free."""


def listening(channels: Mapping[str, Any]) -> dict[str, Listening]:
    """Those of these channels whose messages are fetched."""
    return {name: one for name, one in channels.items() if isinstance(one, Listening) and one.listens}


class Listeners:
    """Keeps one process listening on each channel that fetches its messages, as long as any works.

    Who listens has a lease in the store, which it extends while it listens. If it cannot, it stops listening before
    the lease has run out by its own clock, and so before anybody else begins. What a channel hands in is recorded as
    a webhook's would be, then how far that goes; whoever takes over begins there. What a provider gives a second time
    counts once, by its id.
    """

    def __init__(
        self, *, database: Database, intake: Intake, channels: Mapping[str, Any], lease_seconds: float,
        first_wait: float = FIRST_WAIT_SECONDS, longest_wait: float = LONGEST_WAIT_SECONDS,
    ) -> None:  # fmt: skip
        """Args: channels: all that there are. first_wait, longest_wait: seconds between a failure to listen and the next
        attempt, doubling from one to the other; an attempt that lasted longer than the longest begins anew."""
        self._database = database
        self._intake = intake
        self._channels = listening(channels)
        self._lease_seconds = lease_seconds
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._waits: dict[str, float] = {}
        self._stopping: asyncio.Event | None = None

    @property
    def names(self) -> list[str]:
        """The channels that are listened on."""
        return sorted(self._channels)

    def recover(self) -> None:
        """Take the leases of a dead predecessor at once. Only for a process that is alone."""
        if self._channels:
            with self._database.begin() as connection:
                store.recover(connection)

    async def run(self) -> None:
        """Listen until `stop` is called, then let go: another process takes over at once."""
        self._stopping = asyncio.Event()
        tasks = [asyncio.ensure_future(self._keep(name, channel)) for name, channel in self._channels.items()]
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End `run`. In its loop."""
        if self._stopping is not None:
            self._stopping.set()

    async def _keep(self, name: str, channel: Listening) -> None:
        """Have one process listen on a channel, this one if it can get the lease."""
        in_trouble = False
        while True:
            wait = min(LOOK_SECONDS, self._lease_seconds / 3)
            try:
                tenure = await self._try_to_take(name)
                in_trouble = False
                if tenure is not None and not await self._hold(tenure, channel):
                    wait = self._longest_wait  # perhaps another process can
            except Exception as error:
                if not in_trouble:
                    log.warning("nobody listens here meanwhile", channel=name, error=_told(error))
                in_trouble = True
            await asyncio.sleep(wait)

    async def _try_to_take(self, name: str) -> _Tenure | None:
        owner = f"{self._process}:{random.SystemRandom().getrandbits(32):08x}"
        since = time.monotonic()

        def take() -> Any:
            with self._database.read() as connection:
                if store.is_held(connection, name, now=self._database.now()):
                    return None
            with self._database.begin() as connection:
                now = self._database.now()
                until = now + timedelta(seconds=self._lease_seconds)
                return store.take(connection, name, owner=owner, now=now, until=until)

        try:
            row = await _in_thread(take)
        except asyncio.CancelledError:
            await self._hand_back(name, owner)
            raise
        if row is None:
            return None
        return _Tenure(
            database=self._database, intake=self._intake, channel=name, owner=owner, cursor=row.cursor,
            lease_seconds=self._lease_seconds, since=since,
        )  # fmt: skip

    async def _hold(self, tenure: _Tenure, channel: Listening) -> bool:
        """Listen until the lease is lost or this is cancelled; False if listening has failed so often that another
        process should try it."""
        log.info("listening", channel=tenure.channel)
        listening = asyncio.ensure_future(self._listen(tenure, channel))
        keeping = asyncio.ensure_future(tenure.keep())
        both = {listening, keeping}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if keeping.done() or listening.cancelled():
                log.warning("the lease is lost; another process may listen now", channel=tenure.channel)
            return not listening.done() or listening.cancelled()
        finally:
            # First all is quiet here, then somebody else may begin.
            for task in both:
                task.cancel()
            _, deaf = await asyncio.wait(both, timeout=STOP_SECONDS)
            if deaf:
                log.error("listening does not end; others wait for the lease's end", channel=tenure.channel)
            else:
                await self._hand_back(tenure.channel, tenure.owner)

    async def _hand_back(self, name: str, owner: str) -> None:
        """Let another process take the lease at once."""

        def work() -> None:
            with self._database.begin() as connection:
                store.hand_back(connection, name, owner=owner)

        with contextlib.suppress(DBAPIError, PoolTimeout):  # then it runs out
            await _in_thread(work)

    async def _listen(self, tenure: _Tenure, channel: Listening) -> None:
        """Listen again and again; over when the longest wait is reached."""
        name = tenure.channel
        while True:
            since = time.monotonic()
            try:
                await channel.listen(tenure)
                told = "it returned"
            except Exception as error:
                told = _told(error)
            if time.monotonic() - since > self._longest_wait:
                self._waits.pop(name, None)
            wait = self._waits.get(name, self._first_wait)
            self._waits[name] = min(2 * wait, self._longest_wait)
            log.warning("listening ended; it begins again", channel=name, seconds=wait, error=told)
            if wait >= self._longest_wait:
                return
            await asyncio.sleep(wait)


class _Tenure:
    """The time in which this process has the lease of a channel: its inlet. See `wakeloop.channel.Inlet`."""

    def __init__(
        self, *, database: Database, intake: Intake, channel: str, owner: str, cursor: str | None, lease_seconds: float,
        since: float,
    ) -> None:  # fmt: skip
        self.channel = channel
        self.cursor = cursor
        self._database = database
        self._intake = intake
        self.owner = owner
        self._lease_seconds = lease_seconds
        self._ends = since + lease_seconds

    async def keep(self) -> None:
        """Extend the lease until it is lost, or can be for all that is known here."""
        while True:
            await asyncio.sleep(max(0.0, min(self._lease_seconds / 3, self._ends - time.monotonic())))
            if time.monotonic() >= self._ends:
                return
            since = time.monotonic()
            extending = asyncio.ensure_future(_in_thread(self._extend))
            try:
                # Not for longer: a connection may hang, and the lease run out meanwhile.
                await asyncio.wait({extending}, timeout=self._ends - since)
            except asyncio.CancelledError:
                extending.cancel()
                await asyncio.wait({extending}, timeout=STOP_SECONDS)
                raise
            if not extending.done():
                extending.cancel()
                return
            try:
                if not extending.result():
                    return
            except (DBAPIError, PoolTimeout):
                await asyncio.sleep(min(0.5, self._lease_seconds / 10))
                continue
            self._ends = since + self._lease_seconds

    def _extend(self) -> bool:
        with self._database.begin() as connection:
            until = self._database.now() + timedelta(seconds=self._lease_seconds)
            return store.extend(connection, self.channel, owner=self.owner, until=until)

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        if items and not await _in_thread(lambda: self._move(None)):
            raise asyncio.CancelledError
        for item in items:
            await _in_thread(functools.partial(self._record, item))
        crashpoints.reach("listeners.recorded")
        if not await _in_thread(lambda: self._move(cursor)):
            raise asyncio.CancelledError
        self.cursor = self.cursor if cursor is None else cursor

    def _move(self, cursor: str | None) -> bool:
        with self._database.begin() as connection:
            return store.move(connection, self.channel, owner=self.owner, cursor=cursor)

    def _record(self, item: Incoming | DeliveryUpdate) -> None:
        """Record one item. While the database is away nothing is recorded, nor is the cursor; but what it refuses for
        good must not keep out what comes after it."""
        try:
            self._intake.take(self.channel, item, auth=FETCHED_FROM_PROVIDER)
        except PoolTimeout:
            raise
        except Exception as error:
            if isinstance(error, DBAPIError) and is_outage(error):
                raise
            log.error(
                "a message could not be recorded, and was left out", channel=self.channel, id=item.provider_id,
                error=_told(error),
            )  # fmt: skip


def _told(error: Exception) -> str:
    """What went wrong, without what people wrote: a driver's error is quoted with its parameters."""
    if isinstance(error, ChannelError):
        return f"{error.code}: {error}" if error.code else str(error)
    cause = getattr(error, "orig", None) if isinstance(error, DBAPIError) else error
    return type(cause).__name__


async def _in_thread(work: Callable[[], T]) -> T:
    """Do this in a thread. Whoever is cancelled meanwhile is so when it is done: it cannot be taken back."""
    doing = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.gather(doing, return_exceptions=True)
        raise
