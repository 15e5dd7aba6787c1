"""Crowds of sessions are handed over before their time, so that their runs are replayed by then; nothing runs early."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.conformance.store_kit import EVERY_STORE, Store, claim, make_stores
from tests.servers import poll

from wakeloop import Context, agent
from wakeloop.desk import Desk
from wakeloop.events import Call, Message, dump_event
from wakeloop.executor import Executor
from wakeloop.links import Links
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.step_runner import RealLoop, ThreadedSteps
from wakeloop.store import inbox, leases
from wakeloop.store.records import NewRun, Post
from wakeloop.timers import AHEAD, CROWD, CROWD_SHARE, Swept, Timers
from wakeloop.world import World

MANY = CROWD + 60
INSTANT = timedelta(minutes=10)
awake: list[tuple[str, datetime]] = []


@agent()
async def sleeper(ctx: Context[None]) -> str:
    """Sleeps until an instant, or until somebody writes."""
    until = datetime.fromisoformat(ctx.event.input)
    message = await ctx.sleep_until(until, or_message=True)
    awake.append((ctx.key, ctx.now()))
    return "slept" if message is None else "woken"


class Rig:
    """A store on a clock of the test's own, with a sweep and one executor that look ahead, and sleepers in it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.world = World(
            registry=Registry([sleeper]), people=People({"ann": {"sms": "+15550100"}}), ids=store.clock
        )
        links = Links(keys=lambda: ["k"], base_url=None, now=store.database.now)
        desk = Desk(world=self.world, links=links, amending=[])
        self.timers = Timers(database=store.database, world=self.world, desk=desk, ahead=AHEAD)
        self.instant = store.now + INSTANT
        self._loop = RealLoop("test-steps")
        self._steps = ThreadedSteps(self._loop, threads=1)
        self.executor = self.worker()
        self.executor.start()

    def worker(self) -> Executor:
        """An executor without a thread of its own."""
        return Executor(
            database=self.store.database, world=self.world, steps=self._steps, lease_seconds=15, ahead=AHEAD
        )

    def lull(self, count: int) -> None:
        """Put so many to sleep until the instant."""
        event = dump_event(Call(input=self.instant.isoformat()))
        new = [NewRun(id=self.store.id(), agent="sleeper", key=str(n), event=event) for n in range(count)]
        with self.store.database.begin() as connection:
            now = self.store.now
            known = inbox.ensure_sessions(connection, [("sleeper", run.key) for run in new], now=now)
            inbox.touch(connection, inbox.queue_runs(connection, new, known, now=now), now=now)
        assert self.executor.submit(self.timers.sweep().sessions).wait(30)

    def until(self, holds: Callable[[], bool]) -> None:
        for _ in poll(30):
            if holds():
                return
        raise AssertionError("it did not come about")

    def statuses(self) -> dict[str, int]:
        rows = self.store.rows("SELECT status, count(*) AS many FROM runs GROUP BY status")
        return {row.status: row.many for row in rows}

    def results(self) -> dict[str, int]:
        rows = self.store.rows(
            "SELECT result, count(*) AS many FROM runs WHERE result IS NOT NULL GROUP BY result"
        )
        return {json.loads(row.result): row.many for row in rows}

    def close(self) -> None:
        self.executor.stop(0.0)
        self._steps.close()
        self._loop.close()


@pytest.fixture(params=EVERY_STORE)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    awake.clear()
    for store in make_stores(request, tmp_path):
        rig = Rig(store)
        yield rig
        rig.close()


def approach(rig: Rig, before: timedelta) -> Swept:
    """Let it be so long before the instant, and sweep."""
    rig.store.clock.move(rig.instant - before)
    return rig.timers.sweep()


def test_a_crowd_is_handed_over_ahead_and_runs_on_time(rig: Rig) -> None:
    """It is in a worker's memory before the instant, with nothing written for it; none goes on before the instant, and all
    do at it."""
    rig.lull(MANY)
    early = approach(rig, AHEAD + timedelta(seconds=1))
    swept = approach(rig, AHEAD - timedelta(seconds=1))
    ticket = rig.executor.submit(swept.sessions)
    rig.until(lambda: rig.executor.held == MANY and rig.executor.is_idle)
    before = (len(awake), rig.statuses())
    rig.store.clock.move(rig.instant - timedelta(microseconds=1))
    is_over = ticket.wait(1.5)
    rig.store.clock.move(rig.instant)

    assert ticket.wait(30)
    assert early.is_empty
    assert [len(message.sessions) for message in swept.turns] == [min(MANY, CROWD_SHARE)]
    assert before == (0, {"waiting": MANY})
    assert not is_over
    assert (len(awake), {at for _, at in awake}) == (MANY, {rig.instant})
    assert rig.results() == {"slept": MANY}
    assert rig.executor.held == 0


def test_a_few_are_left_until_they_are_due(rig: Rig) -> None:
    """What is no crowd occupies no worker before its time."""
    rig.lull(CROWD - 1)

    ahead = approach(rig, timedelta(seconds=1))
    due = approach(rig, timedelta(0))

    assert ahead.is_empty
    assert len(due.sessions) == CROWD - 1


def test_a_session_handed_over_far_too_early_is_let_go_again(rig: Rig) -> None:
    """As after a clock that was set back: it goes on sleeping in the store, and wakes when it is due."""
    rig.lull(MANY)
    with rig.store.database.begin() as connection:
        claimed = leases.claim_due(
            connection, now=rig.store.now, agents=["sleeper"], limit=1000, soon=rig.instant
        )
    sessions = [id for id, _, _ in claimed]

    assert len(sessions) == MANY
    assert rig.executor.submit(sessions).wait(30)
    assert rig.executor.held == 0
    assert awake == []
    assert rig.statuses() == {"waiting": MANY}
    assert approach(rig, timedelta(0)).sessions == sessions


def test_what_comes_for_a_session_that_is_held_ahead_is_not_left_lying(rig: Rig) -> None:
    """A message in the last seconds of a sleep ends it, as at any other time."""
    rig.lull(MANY)
    rig.executor.submit(approach(rig, timedelta(seconds=2)).sessions)
    rig.until(lambda: rig.executor.held == MANY)
    body = dump_event(
        Message.model_validate(
            {"id": str(rig.store.id()), "from": "ann", "channel": "sms", "text": "up!", "at": rig.store.now}
        )
    )
    with rig.store.database.begin() as connection:
        known = inbox.ensure_sessions(connection, [("sleeper", "7")], now=rig.store.now)
        post = Post(agent="sleeper", key="7", kind="message", dedupe="m", body=body)
        inbox.touch(connection, inbox.post(connection, [post], known, now=rig.store.now), now=rig.store.now)

    rig.until(lambda: rig.results() == {"woken": 1})
    assert [key for key, _ in awake] == ["7"]
    assert rig.executor.held == MANY - 1
    rig.store.clock.move(rig.instant)
    rig.until(lambda: rig.results() == {"woken": 1, "slept": MANY - 1})


def test_what_a_dead_worker_held_ahead_wakes_with_another(rig: Rig) -> None:
    """Nothing was written while it was held; when the lease has run out it is anybody's, and each wakes once."""
    rig.lull(MANY)
    doomed = rig.worker()
    doomed.submit(approach(rig, timedelta(seconds=2)).sessions)
    while not doomed.is_idle:
        doomed.cycle()
    held = doomed.held
    rig.store.clock.move(rig.instant + timedelta(seconds=15))
    sessions = rig.timers.sweep().sessions

    assert held == MANY
    assert rig.executor.submit(sessions).wait(30)
    assert len(sessions) == len(awake) == MANY
    assert rig.results() == {"slept": MANY}


def test_what_is_in_hand_is_no_crowd(rig: Rig) -> None:
    """Neither leases that are to end nor what a broker carries is handed over before its time, by however many sweeps."""
    rig.lull(MANY)
    first = approach(rig, timedelta(seconds=2))
    again = rig.timers.sweep()
    with rig.store.database.begin() as connection:
        held = claim(
            connection,
            first.sessions,
            owner="w",
            now=rig.store.now,
            until=rig.store.now + timedelta(seconds=2),
        )
    leased = rig.timers.sweep()

    assert len(first.sessions) == len(held) == MANY
    assert again.is_empty
    assert leased.is_empty


def test_many_threads_sweep_and_each_session_is_handed_over_once(rig: Rig) -> None:
    """Workers look ahead beside each other."""
    rig.lull(MANY)
    rig.store.clock.move(rig.instant - timedelta(seconds=2))
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.extend(rig.timers.sweep().sessions)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.extend(rig.timers.sweep().sessions)

    assert len(found) == len(set(found)) == MANY
