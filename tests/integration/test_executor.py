"""The executor with its threads, on a real store: leases, fencing, stopping, and handlers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tests.servers import poll

from wakeloop import Agent, Context, agent, step
from wakeloop.clock import SystemClock
from wakeloop.events import Message, dump_event
from wakeloop.executor import Executor
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.step_runner import RealLoop, ThreadedSteps
from wakeloop.store import inbox, leases, queries, received
from wakeloop.store.database import Database
from wakeloop.store.records import NewRun, Post
from wakeloop.world import World

released = threading.Event()
effects: list[str] = []


@step
def wait_for_release(name: str) -> str:
    effects.append(name)
    released.wait(20)
    return name


@agent()
async def blocked(ctx: Context[None]) -> str:
    """Is in a step until the test lets it go."""
    return await wait_for_release("once")


@agent()
async def both(ctx: Context[None]) -> list[str]:
    """Waits for a message while it is in a step."""
    message, name = await asyncio.gather(ctx.receive(), wait_for_release("meanwhile"))
    return [message.text, name]


@agent()
async def busy(ctx: Context[None]) -> None:
    """Computes where it should not."""
    end = time.monotonic() + 1.8
    while time.monotonic() < end:
        sum(range(1000))  # this line is named


@agent()
async def napper(ctx: Context[None]) -> float:
    """Has a timeout around a step that takes longer."""
    try:
        async with asyncio.timeout(0.2):
            await wait_for_release("slow")
    except TimeoutError:
        return 1.0
    return 2.0


class Rig:
    """A store, and executors on it."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder}/store.db")
        self.database.upgrade()
        self.world = World(
            registry=Registry([blocked, both, busy, napper]), people=People({}), ids=SystemClock()
        )
        self._loops: list[RealLoop] = []
        self._executors: list[Executor] = []

    def executor(self, lease_seconds: float = 15.0) -> Executor:
        loop = RealLoop("test-steps")
        steps = ThreadedSteps(loop, threads=4)
        executor = Executor(
            database=self.database, world=self.world, steps=steps, lease_seconds=lease_seconds
        )
        executor.start()
        self._loops.append(loop)
        self._executors.append(executor)
        return executor

    def queue(self, of: Agent) -> int:
        """Queue a run; its session, which is due."""
        run = NewRun(id=self.world.ids.new_id(), agent=of.name, key="default", event='{"kind":"call"}')
        with self.database.begin() as connection:
            now = self.database.now()
            known = inbox.ensure_sessions(connection, [(of.name, "default")], now=now)
            inbox.touch(connection, inbox.queue_runs(connection, [run], known, now=now), now=now)
        return known[of.name, "default"]

    def runs(self) -> list[tuple[str, str | None]]:
        with self.database.read() as connection:
            return [(row.status, row.result) for row in queries.list_runs(connection)]

    def make_due(self, seconds: float) -> None:
        """What a sweep does once a lease has run out."""
        for _ in poll(seconds):
            with self.database.begin() as connection:
                if leases.claim_due(
                    connection, now=self.database.now(), agents=self.world.registry.names, limit=10
                ):
                    return
        raise AssertionError("nothing came due")

    def close(self) -> None:
        released.set()
        for executor in self._executors:
            executor.stop(0.5)
        for loop in self._loops:
            loop.close()
        self.database.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    released.clear()
    effects.clear()
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_a_stale_worker_is_refused_when_another_has_taken_its_session_over(rig: Rig) -> None:
    """Two workers in the same step: the one with the newer fencing token commits, the other's result is dropped."""
    stale = rig.executor(lease_seconds=0.05)
    session = rig.queue(blocked)
    first = stale.submit([session])
    for _ in poll(10):
        if effects:
            break
    # Its lease runs out unseen, as if the machine had stood still.
    with rig.database.begin() as connection:
        leases.recover(connection, now=rig.database.now())
    rig.make_due(5)
    heir = rig.executor()
    second = heir.submit([session])
    for _ in poll(10):
        if len(effects) == 2:
            break

    released.set()

    assert first.wait(10)
    assert second.wait(10)
    assert rig.runs() == [("completed", '"once"')]
    assert effects == ["once", "once"]


def test_a_lease_is_extended_while_a_step_takes_longer_than_it(rig: Rig) -> None:
    """A long step is not taken for a dead worker."""
    executor = rig.executor(lease_seconds=1.5)
    ticket = executor.submit([rig.queue(blocked)])
    for _ in poll(10):
        if effects:
            break
    with pytest.raises(AssertionError, match="nothing came due"):
        rig.make_due(4)

    released.set()

    assert ticket.wait(10)
    assert effects == ["once"]


def test_a_message_is_for_a_run_that_waits_for_it_while_a_step_is_under_way(rig: Rig) -> None:
    """The run is with a worker, and gets it there, before the step is over."""
    executor = rig.executor()
    session = rig.queue(both)
    ticket = executor.submit([session])
    for _ in poll(10):
        with rig.database.read() as connection:
            found = received.waiting_for(connection, "alice")
        if effects and found:
            break

    with rig.database.begin() as connection:
        now = rig.database.now()
        event = Message(id=str(rig.world.ids.new_id()), text="hello", from_="alice", channel="sms", at=now)
        post = Post(agent="both", key="default", kind="message", dedupe="m1", body=dump_event(event))
        known = {(row.agent, row.key): row.id for row in found}
        inbox.touch(connection, inbox.post(connection, [post], known, now=now), now=now)
    for _ in poll(10):
        with rig.database.read() as connection:
            if not received.waiting_for(connection, "alice"):
                break
    assert not released.is_set()
    released.set()

    assert ticket.wait(10)
    assert rig.runs() == [("completed", '["hello","meanwhile"]')]


def test_a_lease_is_extended_again_after_no_connection_was_to_be_had(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For so long that the pool refused to wait any more: others of the process had all of them."""
    executor = rig.executor(lease_seconds=3)
    ticket = executor.submit([rig.queue(blocked)])
    for _ in poll(10):
        if effects:
            break
    monkeypatch.setattr(rig.database.engine.pool, "_timeout", 0.01)
    with contextlib.ExitStack() as others:
        with contextlib.suppress(PoolTimeout):
            while True:
                others.enter_context(rig.database.engine.connect())
        time.sleep(1)
    monkeypatch.undo()
    with pytest.raises(AssertionError, match="nothing came due"):
        rig.make_due(4)

    released.set()

    assert ticket.wait(10)
    assert effects == ["once"]


def test_stopping_hands_back_what_is_under_way_at_once(rig: Rig) -> None:
    """Another worker needs to wait for no lease."""
    executor = rig.executor(lease_seconds=60)
    ticket = executor.submit([rig.queue(blocked)])
    for _ in poll(10):
        if effects:
            break

    executor.stop(0.1)

    assert ticket.wait(1)
    rig.make_due(1)
    released.set()
    heir = rig.executor()
    with rig.database.read() as connection:
        ids = [row.id for row in queries.list_sessions(connection)]
    assert heir.submit(ids).wait(10)
    assert rig.runs() == [("completed", '"once"')]


def test_a_timeout_around_a_step_fires_while_the_step_goes_on(rig: Rig) -> None:
    """Timers of a session that is held need no sweep, and no polling interval."""
    executor = rig.executor()
    began = time.monotonic()

    assert executor.submit([rig.queue(napper)]).wait(10)

    assert rig.runs() == [("completed", "1.0")]
    assert time.monotonic() - began < 10


def test_a_handler_that_blocks_is_warned_of_by_file_and_line(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Computing for longer than a second holds up everybody on this worker."""
    executor = rig.executor()
    with caplog.at_level(logging.WARNING, logger="wakeloop.watch"):
        assert executor.submit([rig.queue(busy)]).wait(20)

    warnings = [record.message for record in caplog.records if record.name == "wakeloop.watch"]
    assert len(warnings) == 1
    source = Path(__file__).read_text().splitlines()
    lines = [number for number, line in enumerate(source, start=1) if "def busy" in line]
    place = next(part for part in warnings[0].split() if part.startswith("line="))
    assert f"file={__file__}" in warnings[0]
    assert lines[0] < int(place.removeprefix("line=")) <= lines[0] + 5


def test_a_ticket_for_a_session_that_needs_nothing_is_over_at_once(rig: Rig) -> None:
    """A message that the broker delivered twice does no harm."""
    executor = rig.executor()
    session = rig.queue(busy)

    assert executor.submit([session]).wait(20)
    assert executor.submit([session, session, 999_999]).wait(10)

    assert len(rig.runs()) == 1
