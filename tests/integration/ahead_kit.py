"""What the tests of crowds share: a store, a sweep and an executor that look ahead, on a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from tests.conformance.store_kit import LEASE, Store

from wakeloop import Agent
from wakeloop.desk import Desk
from wakeloop.events import Call, Message, Signal, dump_event
from wakeloop.executor import Executor
from wakeloop.links import Links
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.step_runner import RealLoop, ThreadedSteps
from wakeloop.store import inbox
from wakeloop.store.records import NewRun, Post
from wakeloop.timers import AHEAD, CROWD, Swept, Timers
from wakeloop.world import World

MANY = CROWD + 60
INSTANT = timedelta(minutes=10)


class Rig:
    """A store on a clock of the test's own, with a sweep and one executor that look ahead, and agents for it."""

    def __init__(self, store: Store, *agents: Agent) -> None:
        self.store = store
        self.world = self._world(agents)
        self.timers = self._timers(self.world)
        self.instant = store.now + INSTANT
        self._loop = RealLoop("test-steps")
        self._steps = ThreadedSteps(self._loop, threads=1)
        self.executor = self.worker()
        self.executor.start()

    def worker(self) -> Executor:
        """An executor without a thread of its own."""
        return Executor(
            database=self.store.database,
            world=self.world,
            steps=self._steps,
            lease_seconds=LEASE.seconds,
            ahead=AHEAD,
        )

    def _world(self, agents: Sequence[Agent]) -> World:
        return World(
            registry=Registry(agents), people=People({"ann": {"sms": "+15550100"}}), ids=self.store.clock
        )

    def _timers(self, world: World) -> Timers:
        links = Links(keys=lambda: ["k"], base_url=None, now=self.store.database.now)
        desk = Desk(world=world, links=links, amending=[])
        return Timers(database=self.store.database, world=world, desk=desk, ahead=AHEAD)

    def deploy(self, *agents: Agent) -> None:
        """Another process starts, with these agents: it makes the schedules those of its code."""
        self._timers(self._world(agents)).sync_schedules()

    def start(self, agent: str, keys: Iterable[str], input: Any) -> None:
        """Queue runs of an agent in these sessions, and let the executor do what is due."""
        event = dump_event(Call(input=input))
        new = [NewRun(id=self.store.id(), agent=agent, key=key, event=event) for key in keys]
        with self.store.database.begin() as connection:
            now = self.store.now
            known = inbox.ensure_sessions(connection, [(agent, run.key) for run in new], now=now)
            inbox.touch(connection, inbox.queue_runs(connection, new, known, now=now), now=now)
        self.executor.submit(self.timers.sweep().sessions)

    def post(self, agent: str, key: str, event: Message | Signal) -> None:
        """Record a message or signal for a session."""
        post = Post(agent=agent, key=key, kind=event.kind, dedupe=event.id, body=dump_event(event))
        with self.store.database.begin() as connection:
            known = inbox.ensure_sessions(connection, [(agent, key)], now=self.store.now)
            inbox.touch(
                connection, inbox.post(connection, [post], known, now=self.store.now), now=self.store.now
            )

    def move(self, now: datetime) -> None:
        """Let it be then, and the executor see it at once."""
        self.store.clock.move(now)
        self.executor.submit([])

    def approach(self, before: timedelta) -> Swept:
        """Let it be so long before the instant, and sweep."""
        self.move(self.instant - before)
        return self.timers.sweep()

    def sweep_together(self, before: timedelta) -> list[int]:
        """Let it be so long before the instant, and four threads sweep, then one more; the sessions that they handed over."""
        self.move(self.instant - before)
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.extend(self.timers.sweep().sessions)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [*found, *self.timers.sweep().sessions]

    def outlive_a_worker(self) -> tuple[int, int]:
        """Let a worker take up what a sweep hands over ahead, and die; then let the executor do what is due once its leases
        have run out. How many sessions the one held, and the other was handed."""
        doomed = self.worker()
        doomed.submit(self.approach(timedelta(seconds=2)).sessions)
        while not doomed.is_idle:
            doomed.cycle()
        self.move(self.instant + LEASE)
        sessions = self.timers.sweep().sessions
        assert self.executor.submit(sessions).wait(30)
        return doomed.held, len(sessions)

    def statuses(self) -> dict[str, int]:
        rows = self.store.rows("SELECT status, count(*) AS many FROM runs GROUP BY status")
        return {row.status: row.many for row in rows}

    def close(self) -> None:
        self.executor.stop(0.0)
        self._steps.close()
        self._loop.close()
