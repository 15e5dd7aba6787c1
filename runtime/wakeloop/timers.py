"""Claims what is due and hands it over: every worker runs this, and none of them does anything twice."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from wakeloop import calendar, crashpoints, meters, tracing
from wakeloop.alive import is_dead
from wakeloop.desk import Desk
from wakeloop.dispatch import Dispatcher, Handed, TurnMessage
from wakeloop.events import Tick, dump_event
from wakeloop.flow import Flow, Spacing
from wakeloop.logs import get_logger
from wakeloop.store import ahead, amendments, due, inbox, leases, outbox, schedules
from wakeloop.store.database import Database
from wakeloop.store.inbox import add_runs, ensure_sessions, find_session, touch
from wakeloop.store.records import NewRun
from wakeloop.triggers import Cron, Every, Schedule, dump_schedule, load_schedule
from wakeloop.world import World

log = get_logger("wakeloop.timers")

BATCH = 1000
POLL_SECONDS = 1.0
AHEAD = timedelta(seconds=5)
"""So long before its time a crowd is handed over, so that its runs are in memory by then."""
CROWD = 200
"""So many sessions, or schedules, that are due within AHEAD are a crowd. Fewer are not worth that they occupy a worker's
threads while they wait, and are handed over when they are due."""
CROWD_SHARE = 500
"""So many sessions of a crowd share a message, and so one thread of a worker."""
BUSY_SECONDS = 10.0
"""A worker that always finds something due does what can wait at least so often."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What one sweep claimed, and when the next thing is due. deliveries: to be made, or whose messages are to be amended."""

    turns: list[TurnMessage]
    deliveries: list[str]
    next_due: datetime | None
    requests: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.turns and not self.deliveries and not self.requests

    @property
    def is_full(self) -> bool:
        """Whether there may be more than a batch of something."""
        return max(len(self.sessions), len(self.deliveries)) >= BATCH

    @property
    def sessions(self) -> list[int]:
        """The sessions that are to have turns."""
        return [session for message in self.turns for session in message.sessions]


class Timers:
    """Fires schedules, and claims sessions and deliveries that are due.

    Nothing is early by the database's clock: what is queued or handed over ahead is begun when its time has come. A claim
    is marked in the store before it is handed over, with a time at which it is due again; so what is lost on the way to a
    worker comes again, and an occurrence of a schedule is queued once per (schedule, nominal time).
    """

    def __init__(
        self, *, database: Database, world: World, desk: Desk, ahead: timedelta = timedelta(0)
    ) -> None:
        """Args: ahead: how long before its time a crowd is handed over, which must be what executors are told."""
        self._database = database
        self._world = world
        self._desk = desk
        self._ahead = ahead
        self._in_crowd = False
        self._flow = Flow()

    def sync_schedules(self) -> None:
        """Make the store's schedules those of the agents' code: new ones count from now, those that are gone end.

        Schedules of agents that are not known here, and those that sessions set for themselves, stay as they are."""
        with self._database.begin() as connection:
            now = self._database.now()
            names = {(agent.name, "default") for agent in self._world.registry.agents if agent.schedules}
            known = ensure_sessions(connection, names, now=now)
            for agent in self._world.registry.agents:
                session = known.get((agent.name, "default"))
                if session is None:
                    session = find_session(connection, agent.name, "default")
                if session is not None:
                    self._sync_agent(connection, agent.name, session, agent.schedules, now)

    def _sync_agent(
        self, connection: Connection, agent: str, session: int, wanted: Sequence[Schedule], now: datetime
    ) -> None:
        present = {row.ref: row for row in schedules.defined(connection, session)}
        refs: dict[str, Schedule] = {}
        for schedule in wanted:
            ref = hashlib.sha256(dump_schedule(schedule).encode()).hexdigest()[:12]
            refs[ref] = schedule
        new = []
        moved = []
        for ref, schedule in refs.items():
            row = present.get(ref)
            if row is not None and row.nominal is not None:
                continue
            nominal = calendar.next_after(schedule, now, anchor=now)
            due_at = calendar.jittered(schedule, ref, nominal) if nominal is not None else None
            if row is not None:
                moved.append({"id": row.id, "nominal": nominal, "due_at": due_at})
                continue
            new.append(
                {
                    "session_id": session,
                    "agent": agent,
                    "ref": ref,
                    "own": False,
                    "spec": dump_schedule(schedule),
                    "anchor": now,
                    "nominal": nominal,
                    "due_at": due_at,
                }
            )
        schedules.add(connection, new)
        schedules.move(connection, moved)
        gone = {ref: row for ref, row in present.items() if ref not in refs}
        schedules.end(connection, [row.id for row in gone.values() if row.nominal])
        if ahead.has_queued(connection, session, gone):
            touch(connection, [session], now=now)
            ahead.withdraw(connection, session, gone, now=now)

    def claim(self) -> Swept:
        """Claim the sessions that are due now, at most a batch, without a look at what else is due."""
        with self._database.lone() as connection:
            now = self._database.now()
            ready = leases.claim_due(connection, now=now, agents=self._world.registry.names, limit=BATCH)
            causes = self._causes(connection, ready)
        crashpoints.reach("timers.claimed")
        return Swept(turns=self._messages(ready, causes, least=1), deliveries=[], next_due=now)

    def handed(self, sessions: Sequence[Handed]) -> Swept:
        """The same for sessions that are marked as dispatched already."""
        ready = [(one.id, one.agent, one.key) for one in sessions]
        causes = {one.id: one.causes for one in sessions}
        return Swept(turns=self._messages(ready, causes, least=1), deliveries=[], next_due=None)

    def sweep(self) -> Swept:
        """Claim what is due now, and of a crowd what soon will be, at most a batch of each kind. With nothing due, nothing is
        locked."""
        agents = self._world.registry.names
        with self._database.lone() as connection:
            now = self._database.now()
            found = due.look(connection, now=now)
            early = self._ahead if self._is_crowd(connection, found, agents, now) else timedelta(0)
        if found.is_empty and not early:
            return Swept(turns=[], deliveries=[], next_due=found.next)
        worked = fired = 0
        if found.requests:
            with self._database.begin() as connection:
                worked = self._desk.sweep(connection, now=self._database.now())
        if found.schedules or early:
            with self._database.begin() as connection:
                fired = self._fire(connection, agents, self._database.now(), early)
        ready = []
        deliveries: list[UUID] = []
        with self._database.lone() as connection:
            now = self._database.now()
            if found.sessions or worked or fired or early:
                ready = leases.claim_due(connection, now=now, agents=agents, limit=BATCH, soon=now + early)
            causes = self._causes(connection, ready)
            if found.deliveries or worked:
                deliveries = outbox.claim_due(connection, now=now, limit=BATCH)
            if found.amendments or worked:
                deliveries += amendments.claim_due(connection, now=now, limit=BATCH)
        # The rest of a crowd goes with it, however few are left.
        self._in_crowd = bool(early) and max(fired, len(ready)) >= BATCH
        crashpoints.reach("timers.claimed")
        return Swept(
            turns=self._messages(ready, causes, least=CROWD_SHARE if early else 1),
            deliveries=[str(id) for id in deliveries],
            # What was fired has a next time, and there may be more than a batch: the next sweep looks for itself.
            next_due=now if fired or worked or max(len(ready), len(deliveries)) >= BATCH else found.next,
            requests=worked,
        )

    def _is_crowd(self, connection: Connection, found: due.Due, agents: Sequence[str], now: datetime) -> bool:
        """Whether so many sessions or schedules are due soon that they are handed over already."""
        soon = now + self._ahead
        went_on, self._in_crowd = self._in_crowd, False
        if found.next is None or found.next > soon:
            return False
        return went_on or any(
            coming(connection, now=now, soon=soon, agents=agents, limit=CROWD) >= CROWD
            for coming in (leases.count_coming, schedules.count_coming)
        )

    def _fire(self, connection: Connection, agents: Sequence[str], now: datetime, early: timedelta) -> int:
        """Queue what schedules that are due ask for, and of those that are due so early what they ask for then."""
        rows = schedules.claim_due(connection, now=now + early, agents=agents, limit=BATCH)
        new: list[NewRun] = []
        moved: list[Mapping[str, Any]] = []
        # Many of a minute are alike, and only an anchor or a jitter makes one differ from another.
        plans: dict[tuple[Any, ...], calendar.Plan] = {}
        for row in rows:
            at = max(now, row.due_at)
            wake_at = at if at > now else None
            if wake_at is None:
                meters.lateness("schedule", row.due_at, now)
            schedule = load_schedule(row.spec)
            alike = (
                row.spec,
                row.nominal,
                row.anchor if isinstance(schedule, Every) else None,
                row.ref if schedule.jitter else None,
                wake_at,
            )
            plan = plans.get(alike)
            if plan is None:
                plan = plans[alike] = calendar.plan(
                    schedule, schedule_id=row.ref, nominal=row.nominal, now=at, anchor=row.anchor
                )
            new.extend(self._runs_of(row, schedule, plan, at, wake_at))
            next_at = calendar.jittered(schedule, row.ref, plan.next) if plan.next is not None else None
            moved.append({"id": row.id, "nominal": plan.next, "due_at": next_at})
        schedules.move(connection, moved)
        known = {(row.agent, row.key): row.session_id for row in rows}
        queued = add_runs(connection, new, known, now=now)
        waiting = {run.id: run.wake_at for run in new if run.wake_at is not None}
        touch(connection, {session for run, session in queued.items() if run not in waiting}, now=now)
        ahead.expect(connection, [(queued[run], at) for run, at in waiting.items() if run in queued])
        return len(rows)

    def _runs_of(
        self, row: Any, schedule: Schedule, plan: calendar.Plan, now: datetime, wake_at: datetime | None
    ) -> list[NewRun]:
        tz = schedule.tz if isinstance(schedule, Cron) else "UTC"
        found = []
        for skip in plan.skipped:
            log.info(
                "skipped", agent=row.agent, reason=skip.reason, nominal=str(skip.nominal), count=skip.count
            )
            meters.SKIPS.labels(row.agent, skip.reason).inc(skip.count)
            tick = Tick(nominal=skip.nominal, actual=now, schedule=row.ref, tz=tz)
            found.append(self._new_run(row, tick, skipped=skip.reason, skip_count=skip.count))
        for occurrence in plan.fire:
            tick = Tick(
                nominal=occurrence.nominal,
                actual=now,
                schedule=row.ref,
                tz=tz,
                missed=occurrence.missed,
                missed_count=occurrence.missed_count,
            )
            facts = {
                "wakeloop.agent": row.agent,
                "wakeloop.session": row.key,
                "wakeloop.nominal": str(tick.nominal),
            }
            with tracing.span(f"tick {row.agent}", "producer", facts, is_root=True):
                found.append(self._new_run(row, tick, wake_at=wake_at))
        return found

    def _new_run(self, row: Any, tick: Tick, **facts: Any) -> NewRun:
        return NewRun(
            id=self._world.ids.new_id(),
            agent=row.agent,
            key=row.key,
            event=dump_event(tick),
            schedule_id=row.id,
            nominal=tick.nominal,
            **facts,
        )

    def take_back(self, swept: Swept) -> None:
        """Make due again what a sweep claimed of sessions, and nobody has taken up; deliveries come again by themselves."""
        with self._database.lone() as connection:
            leases.take_back(connection, swept.sessions, now=self._database.now())

    def relieve(self, lease_seconds: float) -> int:
        """End the leases of workers of this machine that have died: their sessions are due now, not when the lease runs
        out. How many there were. A worker that is alive, or of which that cannot be known, keeps what it has."""
        with self._database.lone() as connection:
            now = self._database.now()
            until = now + timedelta(seconds=lease_seconds)
            dead = [owner for owner in leases.holders(connection, now=now, until=until) if is_dead(owner)]
            count = leases.end(connection, dead, now=now, until=until)
        if count:
            log.warning(
                "workers have died; what they held is taken up", owners=", ".join(dead), sessions=count
            )
        return count

    def next_due(self) -> datetime | None:
        """When the next thing is due, of what is not due yet."""
        with self._database.read() as connection:
            return due.look(connection, now=self._database.now()).next

    def recover(self) -> None:
        """Take up at once whatever a predecessor of this process had in hand. Only for a process that is alone."""
        with self._database.begin() as connection:
            now = self._database.now()
            leases.recover(connection, now=now)
            outbox.recover(connection, now=now)

    def _causes(
        self, connection: Connection, ready: Sequence[tuple[int, str, str]]
    ) -> Mapping[int, Sequence[str]]:
        return inbox.causes(connection, [id for id, _, _ in ready]) if tracing.tracer is not None else {}

    def _messages(
        self, ready: Sequence[tuple[int, str, str]], causes: Mapping[int, Sequence[str]], *, least: int
    ) -> list[TurnMessage]:
        """least: so many share a message, if there are so many."""
        by_agent: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for id, agent, key in ready:
            by_agent[agent].append((id, f"{agent}/{key}"))
        messages = []
        for agent, found in by_agent.items():
            size = max(least, self._flow.share(agent, len(found)))
            queue = self._world.registry.get(agent).queue
            for start in range(0, len(found), size):
                part = found[start : start + size]
                messages.append(
                    TurnMessage(
                        agent=agent,
                        queue=queue,
                        sessions=tuple(id for id, _ in part),
                        names=tuple(name for _, name in part),
                        causes=tuple(cause for id, _ in part for cause in causes.get(id, ())),
                    )
                )
        return messages


class TimerThread:
    """Sweeps in a thread: when something is due, when it is nudged, and at the least once a second.

    A broker or database that is away is logged once per outage and tried again; whatever it cost is due again."""

    def __init__(
        self,
        *,
        timers: Timers,
        database: Database,
        dispatcher: Dispatcher,
        lease_seconds: float = 0.0,
        tidy: Callable[[], None] = lambda: None,
        is_idle: Callable[[], bool] = lambda: False,
    ) -> None:
        """Args: lease_seconds: how long leases are, for those of workers that die; 0 leaves all to run out. tidy: a
        little work that can wait, done when nothing was due, and now and then although something was. is_idle: whether this
        worker has nothing under way, so that what becomes due would wait for company in vain."""
        self._timers = timers
        self._database = database
        self._dispatcher = dispatcher
        self._lease_seconds = lease_seconds
        self._relieved = float("-inf")
        self._tidy = tidy
        self._tidied = time.monotonic()
        self._is_idle = is_idle
        self._spacing = Spacing()
        self._nudged = threading.Event()
        # When it looks next, if it is waiting for that.
        self._until: datetime | None = None
        self._stopping = False
        self._trouble: str | None = None
        self._handed_over = False
        self._thread = threading.Thread(target=self._run, name="wakeloop-timers", daemon=True)

    def start(self) -> None:
        """Start sweeping."""
        self._thread.start()

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for the next time, or for a nudge."""
        return self._until is not None and not self._nudged.is_set()

    def nudge(self, due: datetime | None = None) -> None:
        """Something may be due earlier than was known: now, or at `due`. From any thread."""
        until = self._until
        if due is None or until is None or due < until:
            self._nudged.set()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop sweeping; waits at most `timeout` seconds for a sweep under way."""
        self._stopping = True
        self._nudged.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping:
            wait = self._guarded(self._round)
            self._nudged.wait(wait)
            self._until = None
            if not self._is_idle():
                time.sleep(self._spacing.wait())

    def _round(self) -> float:
        self._nudged.clear()
        if self._lease_seconds and time.monotonic() - self._relieved >= POLL_SECONDS:
            self._relieved = time.monotonic()
            self._timers.relieve(self._lease_seconds)
        swept = self._timers.sweep()
        if swept.turns:
            with dispatching(swept.turns):
                self._dispatcher.turns(swept.turns)
        if swept.deliveries:
            self._dispatcher.deliveries(swept.deliveries)
        self._handed_over = bool(swept.turns or swept.deliveries)
        if swept.is_full:
            self._spacing.go_on()
        if swept.is_empty or time.monotonic() - self._tidied > BUSY_SECONDS:
            self._tidied = time.monotonic()
            self._tidy()
        now = self._database.now()
        latest = now + timedelta(seconds=POLL_SECONDS)
        self._until = latest if swept.next_due is None else min(latest, max(now, swept.next_due))
        return (self._until - now) / timedelta(seconds=1)

    def _guarded(self, work: Callable[[], float]) -> float:
        try:
            wait = work()
        except Exception as error:
            trouble = "the database" if isinstance(error, SQLAlchemyError) else "the broker"
            if trouble != self._trouble:
                cause = str(getattr(error, "orig", None) or error)
                log.warning(
                    f"{trouble} is away; trying again every second", error=cause, kind=type(error).__name__
                )
            self._trouble = trouble
            return POLL_SECONDS
        # A look that found nothing to hand over says nothing of the broker.
        if self._trouble == "the database" or (self._trouble is not None and self._handed_over):
            log.info(f"{self._trouble} is back again")
            self._trouble = None
        return wait


@contextmanager
def dispatching(messages: Sequence[TurnMessage]) -> Iterator[None]:
    """Tell each trace that led to one of these messages how it is handed over."""
    tracer = tracing.tracer
    spans = []
    for message in messages if tracer is not None else ():
        facts = {
            "messaging.system": "celery",
            "messaging.operation.name": "dispatch",
            "messaging.operation.type": "send",
            "messaging.destination.name": message.queue,
            "messaging.batch.message_count": len(message.sessions),
            "wakeloop.agent": message.agent,
        }
        assert tracer is not None
        spans += [
            tracer.start(f"dispatch {message.agent}", "producer", facts, parent=cause)
            for cause in message.causes
        ]
    try:
        yield
    except Exception as error:
        for span in spans:
            span.fail(error)
        raise
    finally:
        for span in spans:
            span.end()
