"""The real engine, store, routing and outbox on a virtual clock, with fake people and channels."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from wakeloop import crashpoints
from wakeloop.agent import Agent
from wakeloop.amending import amends
from wakeloop.attachments import Attachments
from wakeloop.channel import Capabilities, File
from wakeloop.clock import VirtualClock
from wakeloop.conversation import entry_of
from wakeloop.decisions import Actor, Attempt, Decisions, Grant
from wakeloop.desk import Desk
from wakeloop.errors import NotFound, WakeloopError
from wakeloop.events import Attachment, Signal
from wakeloop.executor import Executor
from wakeloop.intake import Intake
from wakeloop.links import Links
from wakeloop.open_run import StepJob
from wakeloop.operations import Operations
from wakeloop.outbox import Outbox
from wakeloop.pacing import Pace, joined
from wakeloop.people import Contact, People
from wakeloop.registry import Registry
from wakeloop.requests import Requests
from wakeloop.routing import Routing
from wakeloop.step_runner import Done, Key, call_step
from wakeloop.store import conversation, queries
from wakeloop.store.database import Database
from wakeloop.testing.channels import FakeChannel
from wakeloop.timers import Timers
from wakeloop.views import (
    AuditLine,
    GrantView,
    RequestView,
    RunView,
    SessionView,
    message_view,
    run_view,
    state_view,
    wakeup_view,
)
from wakeloop.world import World

STEP_SECONDS = 60
"""Real seconds that the steps of one moment may take."""

ROUNDS_PER_MOMENT = 100_000
"""Rounds of work at one virtual instant, before it counts as never coming to rest."""


class SimulatedCrash(BaseException):
    """The process is dead: nothing but the simulation itself may catch this."""


@dataclass(frozen=True, kw_only=True)
class SentMessage:
    """A message that reached its provider, with when it was sent. What went together is one message.

    attachments: the files that went with it. amended: what stands in its place by now, where its request has ended and the
    channel can change what it has sent."""

    text: str
    to: str
    channel: str
    at: datetime
    subject: str | None = None
    attachments: tuple[Attachment, ...] = ()
    amended: str | None = None


class Simulation:
    """A whole wakeloop in the test's own thread, whose time moves only when `advance` moves it.

    Steps run for real, all those of one moment at once; replace what they call in the usual ways of your test
    framework. The same seed gives the same ids, the same jitter and the same order of everything.
    """

    def __init__(
        self,
        agents: Iterable[Agent],
        *,
        contacts: Mapping[str, Mapping[str, Any] | Contact] | None = None,
        approvers: Mapping[str, Sequence[str]] | None = None,
        messages_per_hour: int = Pace.messages_per_hour,
        coalesce_seconds: float = Pace.coalesce_seconds,
        start: datetime | str | None = None,
        store: str | Path | None = None,
        seed: int = 0,
        capabilities: Mapping[str, Capabilities] | None = None,
    ) -> None:
        """Args: agents: definitions. contacts, approvers, messages_per_hour, coalesce_seconds: as in wakeloop.toml. start: an aware datetime or ISO
        8601 text with a zone (2026-01-01 UTC by default). store: a database URL or the path of a SQLite file, for a
        store that outlives the simulation; in memory by default. seed: of everything random. capabilities: what channels
        can do, by their names (buttons, threads, …); those that are not named are like SMS."""
        begin = _instant(start or "2026-01-01T00:00:00Z")
        url = "sqlite://" if store is None else str(store) if "://" in str(store) else f"sqlite:///{store}"
        self._database = Database(url, clock=VirtualClock(begin))
        self._database.upgrade()
        with self._database.read() as connection:
            self._clock = VirtualClock(begin, seed=f"{seed} after {queries.count_rows(connection)}")
        self._database.use_clock(self._clock)
        people = People(dict(contacts or {}), approvers)
        self._pace = Pace(messages_per_hour=messages_per_hour, coalesce_seconds=coalesce_seconds)
        self._world = World(registry=Registry(agents), people=people, ids=self._clock)
        names = {channel for id in people.ids for channel in people.get(id).addresses} or {"sms"}
        self.channels: dict[str, FakeChannel] = {
            name: FakeChannel(name, self._clock.now, (capabilities or {}).get(name)) for name in sorted(names)
        }
        self._world.reader = Attachments(database=self._database, channels=self.channels)
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._kill: str | None = None
        self._build()

    def _build(self) -> None:
        self._steps = _MomentSteps(self._loop)
        self._executor = Executor(
            database=self._database, world=self._world, steps=self._steps, lease_seconds=15, chance=self._chance,
            retry_seconds=0,
        )  # fmt: skip
        links = Links(keys=lambda: ["simulation"], base_url=None, now=self._clock.now)
        amending = [name for name, channel in self.channels.items() if amends(channel)]
        desk = Desk(world=self._world, links=links, amending=amending)
        decisions = Decisions(world=self._world, desk=desk, links=links)
        self._outbox = Outbox(
            database=self._database, world=self._world, desk=desk, channels=self.channels, pace=self._pace
        )
        self._timers = Timers(database=self._database, world=self._world, desk=desk)
        self._intake = Intake(
            database=self._database, world=self._world, outbox=self._outbox, channels=self.channels,
            routing=Routing(world=self._world, decisions=decisions, links=links),
        )  # fmt: skip
        self._requests = Requests(database=self._database, world=self._world, desk=desk, decisions=decisions)
        self._operations = Operations(database=self._database, world=self._world, intake=self._intake)
        self._timers.sync_schedules()
        self._timers.recover()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything. A store of its own file stays."""
        if self._kill is not None:
            self._kill = None
            crashpoints.arm(None)
        self._executor.drop()
        self._steps.close()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._database.close()

    # ------------------------------------------------------------------ time

    @property
    def now(self) -> datetime:
        """The virtual time (aware, UTC)."""
        return self._clock.now()

    def advance(self, delta: timedelta | float | None = None, *, to: datetime | str | None = None) -> None:
        """Move the clock by `delta` (a timedelta or seconds) or to an instant, firing everything that comes due, in
        order; returns when nothing is left to do at that time. With neither it stands still, and what is due is done.
        Raises ValueError for an instant in the past."""
        if delta is not None and to is not None:
            raise TypeError("advance() takes either a timedelta (or seconds), or to=")
        if to is not None:
            target = _instant(to)
        else:
            delta = delta or timedelta(0)
            target = self.now + (delta if isinstance(delta, timedelta) else timedelta(seconds=delta))
        if target < self.now:
            raise ValueError(
                f"the clock stands at {self.now.isoformat()} and cannot go back to {target.isoformat()}"
            )
        self._work()
        while (due := self._timers.next_due()) is not None and due <= target:
            self._clock.move(due)
            self._work()
        self._clock.move(target)
        self._work()

    # ------------------------------------------------------------------ what happens to it

    def start(self, agent: Agent | str, input: Any = None, *, key: str | None = None) -> str:
        """Start an agent by hand; the run's id. `key` is the session's, `default` unless told otherwise."""
        name = agent.name if isinstance(agent, Agent) else agent
        id = self._clock.new_id()
        self._survive(lambda: self._intake.start(name, _plain(input), key=key or "default", id=id))
        self._work()
        return str(id)

    def signal(
        self, type: str, data: Any = None, *, subject: str | None = None, id: str | None = None
    ) -> None:
        """Publish a signal from outside."""
        signal = Signal(
            type=type, data=_plain(data), id=id or str(self._clock.new_id()), source="simulation", subject=subject,
            time=self.now,
        )  # fmt: skip
        self._survive(lambda: self._intake.signal(signal))
        self._work()

    def reply(
        self, contact: str, text: str, *, channel: str | None = None, files: Sequence[File] = (), **facts: Any
    ) -> str:
        """An inbound message from a contact, on the channel on which they were last written to unless told
        otherwise, through the channel's own parsing and the real routing. What became of it, in words.

        files: that came with it, as `wakeloop.channel.File`. facts: what else `wakeloop.channel.Incoming` has, such as
        `pressed`, `values`, `automatic` or `vouched`."""
        if channel is None:
            with self._database.read() as connection:
                last = queries.last_channel(connection, contact)
            channel = last or self._world.people.route(contact)[0][0]
        address = self._world.people.route(contact, channel)[0][1]
        name, request = channel, self.channels[channel].request(address, text, files=files, **facts)
        self._survive(lambda: self._intake.webhook(name, request))
        with self._database.read() as connection:
            outcome = queries.list_received(connection, limit=1)[0].outcome
        self._work()
        return str(outcome)

    def cancel(self, run: str) -> None:
        """Cancel a run."""
        self._survive(lambda: self._operations.cancel(_uuid(run, "run")))
        self._work()

    def retry(self, run: str, **decision: Any) -> None:
        """Retry a failed or stuck run from its last recorded step: see `wakeloop retry`."""
        self._survive(lambda: self._operations.retry(_uuid(run, "run"), **decision))
        self._work()

    def restart(self, run: str) -> str:
        """Run a run's event again from the beginning; the new run's id."""
        new = self._survive(lambda: self._operations.restart(_uuid(run, "run")))
        self._work()
        return str(new)

    def replace_agents(self, agents: Iterable[Agent]) -> None:
        """Deploy other code: what is asleep goes on with it."""
        self._world.registry = Registry(agents)
        self.crash()

    def crash(self) -> None:
        """Drop every in-memory thing at once; the store stays, and so does what providers remember."""
        self._executor.drop()
        self._steps.close()
        self._build()

    def kill_at(self, point: str) -> None:
        """The next time that this crash point is passed, everything in memory is lost there, and the work is taken up
        again by another worker. The points are in `wakeloop.crashpoints.CRASH_POINTS`; the first part of their names
        (`engine`, `timers`, `outbox`, `intake`) stands for whichever of those comes first."""
        if not any(_is_at(point, known) for known in crashpoints.CRASH_POINTS):
            raise ValueError(
                f"there is no crash point {point!r}; there are: {', '.join(crashpoints.CRASH_POINTS)}"
            )
        self._kill = point
        crashpoints.arm(self._reached)

    def _reached(self, point: str) -> None:
        if self._kill is not None and _is_at(self._kill, point):
            self._kill = None
            crashpoints.arm(None)
            raise SimulatedCrash(point)

    # ------------------------------------------------------------------ what came of it

    def outbox(self, contact: str | None = None) -> list[SentMessage]:
        """The messages sent so far, to one contact or to everyone, oldest first."""
        with self._database.read() as connection:
            rows = queries.sent(connection, contact)
        parcels: dict[UUID, list[Any]] = {}
        for row in rows:
            parcels.setdefault(row.parcel, []).append(row)
        sent = [
            SentMessage(
                text=joined(row.text for row in together), to=together[0].contact, channel=together[0].channel,
                at=max(row.claimed_at for row in together), subject=together[0].subject,
                attachments=message_view(together[0]).attachments,
                amended=self._amended(together[0].channel, together[0].provider_id),
            )
            for together in parcels.values()
        ]  # fmt: skip
        return sorted(sent, key=lambda message: message.at)

    def _amended(self, channel: str, provider_id: str | None) -> str | None:
        known = self.channels.get(channel)
        return None if known is None else known.amended.get(provider_id or "")

    def runs(self, agent: Agent | str | None = None) -> list[RunView]:
        """All runs, or one agent's, oldest first; occurrences that were skipped too."""
        name = agent.name if isinstance(agent, Agent) else agent
        with self._database.read() as connection:
            rows = queries.list_runs(connection, agent=name)
        return sorted((self._view(row) for row in rows), key=lambda run: (run.created_at, run.id))

    def run(self, id: str) -> RunView:
        """One run. Raises NotFound."""
        with self._database.read() as connection:
            row = queries.find_run(connection, _uuid(id, "run"))
        if row is None:
            raise NotFound(f"there is no run {id}")
        return self._view(row)

    def session(self, agent: Agent | str, key: str = "default") -> SessionView:
        """One session. Raises NotFound if it has never been woken."""
        name = agent.name if isinstance(agent, Agent) else agent
        with self._database.read() as connection:
            row = queries.find_session(connection, name, key)
            if row is None:
                raise NotFound(f"there is no session {name}/{key}")
            said = conversation.ranges(connection, [(row.id, 1, conversation.FURTHEST)])
            schedules = [one for one in queries.list_schedules(connection) if one.session_id == row.id]
        return SessionView(
            agent=name, key=key, state=state_view(row.state, self._world.registry.get(name)),
            conversation=[entry_of(one) for one in said],
            wakeups=[wakeup_view(schedule) for schedule in schedules],
        )  # fmt: skip

    def requests(self, status: str | None = "open") -> list[RequestView]:
        """What is asked of people, oldest first; `status=None` for all of them."""
        return self._requests.find(status=status, limit=ROUNDS_PER_MOMENT)

    def approve(
        self, request: RequestView | str, by: str | None = None, *, comment: str = "",
        args: Mapping[str, Any] | None = None, grant: Grant | None = None,
    ) -> str:  # fmt: skip
        """Approve a request as a contact who was asked: `by`, else the first of them. args: with these arguments
        instead. grant: all calls like it, too. What became of it, in words; a word that does not count raises nothing,
        as with real people. Raises Unreadable for arguments that do not fit."""
        id, actor = self._actor(request, by)
        return self._decided(
            lambda: self._requests.approve(id, actor, comment=comment, args=args, grant=grant)
        )

    def deny(
        self,
        request: RequestView | str,
        comment: str = "",
        by: str | None = None,
        *,
        option: str | None = None,
    ) -> str:
        """Deny a request as a contact who was asked: see `approve`."""
        id, actor = self._actor(request, by)
        return self._decided(lambda: self._requests.deny(id, actor, comment=comment, option=option))

    def audit(self, request: RequestView | str) -> list[AuditLine]:
        """Every attempt to decide a request, oldest first."""
        return self._requests.audit(_request_id(request))

    def grants(self) -> list[GrantView]:
        """Approvals in advance, newest first."""
        return self._requests.grants()

    def revoke_grant(self, id: str, by: str) -> None:
        """Take an approval in advance back."""
        self._requests.revoke_grant(_uuid(id, "grant"), by)

    def _actor(self, request: RequestView | str, by: str | None) -> tuple[UUID, Actor]:
        id = _request_id(request)
        asked = self._requests.get(id).asked
        person = by if by is not None or not asked else asked[0]
        return id, Actor(contact=person, channel="simulation", auth="simulation")

    def _decided(self, act: Callable[[], Attempt]) -> str:
        attempt: Attempt = self._survive(act)
        self._work()
        return attempt.words

    def _view(self, row: Any) -> RunView:
        known = row.agent in self._world.registry.names
        return run_view(row, self._world.registry.get(row.agent) if known else None)

    # ------------------------------------------------------------------ inside

    def _survive(self, action: Callable[[], Any]) -> Any:
        """Do something that may pass an armed crash point; what comes in is sent again by whoever sent it."""
        while True:
            try:
                return action()
            except SimulatedCrash:
                self.crash()

    def _work(self) -> None:
        """Do everything that is to be done at this instant."""
        for _ in range(ROUNDS_PER_MOMENT):
            try:
                if not self._round():
                    return
            except SimulatedCrash:
                self.crash()
        raise WakeloopError(
            f"at {self.now.isoformat()} there is no end of things to do; does an agent wake itself?"
        )

    def _round(self) -> bool:
        swept = self._timers.sweep()
        for message in swept.turns:
            self._executor.submit(message.sessions)
        while not (self._executor.is_idle and self._steps.is_idle):
            self._executor.cycle()
            self._steps.run()
        if swept.deliveries:
            self._loop.run_until_complete(self._outbox.deliver(swept.deliveries))
        return not swept.is_empty


class _MomentSteps:
    """Runs all steps of one moment at once, and reports them in the order in which they were started."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: list[tuple[StepJob, Done]] = []

    @property
    def is_idle(self) -> bool:
        return not self._jobs

    def start(self, jobs: Sequence[StepJob], done: Done) -> None:
        self._jobs.extend((job, done) for job in jobs)

    def cancel(self, key: Key) -> None:
        self._jobs = [(job, done) for job, done in self._jobs if job.key != key]

    def close(self) -> None:
        self._jobs.clear()

    def run(self) -> None:
        jobs, self._jobs = self._jobs, []
        if not jobs:
            return
        results = self._loop.run_until_complete(_gather([job for job, _ in jobs]))
        for (job, done), (value, error) in zip(jobs, results, strict=True):
            done(job.key, value, error)


async def _gather(jobs: list[StepJob]) -> list[tuple[Any, BaseException | None]]:
    async def attempt(job: StepJob) -> tuple[Any, BaseException | None]:
        try:
            return await call_step(job, None), None
        except SimulatedCrash:
            raise
        except BaseException as error:
            return None, error

    tasks = [asyncio.ensure_future(attempt(job)) for job in jobs]
    _, late = await asyncio.wait(tasks, timeout=STEP_SECONDS)
    if late:
        for task in late:
            task.cancel()
        names = ", ".join(job.step.name for job, task in zip(jobs, tasks, strict=True) if task in late)
        raise WakeloopError(
            f"after {STEP_SECONDS} real seconds these steps still run: {names}; replace what they wait for"
        )
    return [task.result() for task in tasks]


def _request_id(request: RequestView | str) -> UUID:
    return _uuid(request.id if isinstance(request, RequestView) else request, "request")


def _uuid(id: str, what: str) -> UUID:
    try:
        return UUID(id)
    except ValueError:
        raise NotFound(f"there is no {what} {id}") from None


def _is_at(wanted: str, point: str) -> bool:
    return point == wanted or point.startswith(f"{wanted}.")


def _instant(value: datetime | str) -> datetime:
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    if instant.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone; write 2026-11-02T13:00:00Z, or use an aware datetime")
    return instant.astimezone(UTC)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
