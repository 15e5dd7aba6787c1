"""Runs turns: one thread drives many sessions, and commits what they changed in one transaction per cycle."""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from wakeloop import conversation, crashpoints, garbage, meters, progress
from wakeloop.alive import new_owner
from wakeloop.engine.failures import describe
from wakeloop.errors import NotFound, WakeloopError
from wakeloop.logs import get_logger
from wakeloop.open_run import RunError, StepJob
from wakeloop.step_runner import Key, StepRunner
from wakeloop.store import leases, repair, turns
from wakeloop.store.database import Database, is_outage
from wakeloop.store.records import Committed, SessionCommit, SessionRow, TakenUp
from wakeloop.turn import TAKEOVERS_BEFORE_PARKING, Turn
from wakeloop.watch import Watch
from wakeloop.world import World

log = get_logger("wakeloop.executor")

BATCH = 200
"""Sessions that are taken up in one cycle."""

RINGING = 1000
"""Sessions under way whose time has come that go on in one cycle: more than are taken up, because of a crowd each should go on
before those before it are committed."""

UNKNOWN_AGENT = timedelta(seconds=1)
"""After what time a session is handed over again that came to a worker which does not know its agent."""

_MUCH = 2 / 3
"""Of its length, what must be left of a lease that a commit leaves as it is; `_keep` extends those of which half is left."""

POLL_SECONDS = 1.0
"""The longest that a cycle waits for something to come in; the leases and inboxes of sessions under way are looked after
twice as often."""


class Ticket:
    """A wish to have turns run: over when each of its sessions was let go, or was not to be had."""

    def __init__(self, sessions: Sequence[int]) -> None:
        self.left = set(sessions)
        self.failures: list[str] = []
        self._over = threading.Event()

    def settle(self, session: int, failures: Sequence[str] = ()) -> None:
        self.failures.extend(failures)
        self.left.discard(session)
        if not self.left:
            self._over.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; False if the time (seconds) ran out first."""
        return not self.left or self._over.wait(timeout)


@dataclass(frozen=True)
class _StepEnd:
    key: Key
    value: Any
    error: BaseException | None


class Executor:
    """Takes sessions up, drives them, and lets them go.

    A cycle is: commit what changed and take up new sessions, in one transaction; then let everything that is now
    recorded be seen, and go on until nothing more can happen; then start the steps that were asked for. So commits of
    concurrent runs are grouped by themselves, and nobody waits for a batch to fill.

    `cycle` does one; `run` does them in a thread until `stop`. `committed` is called after each transaction, with the
    time at which the first of what it made due is due.
    """

    def __init__(
        self,
        *,
        database: Database,
        world: World,
        steps: StepRunner,
        lease_seconds: float,
        committed: Callable[[datetime | None], None] = lambda due: None,
        chance: random.Random | None = None,
        retry_seconds: float | None = None,
        ahead: timedelta = timedelta(0),
    ) -> None:
        """Args: lease_seconds: how long a session is ours without a sign of life. retry_seconds: how long to try again
        while the database is away, before what is in memory is given up (by default the lease's length). ahead: a session
        that is handed over so long before its time is replayed at once, and held until its time has come."""
        self.world = world
        self.owner = new_owner()
        self._database = database
        self._steps = steps
        self._lease = timedelta(seconds=lease_seconds)
        self._retry_seconds = lease_seconds if retry_seconds is None else retry_seconds
        self._ahead = ahead
        self._committed = committed
        self._chance = chance or random.Random()
        self._incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._turns: dict[int, Turn] = {}
        self._began: dict[int, float] = {}
        self._tickets: dict[int, list[Ticket]] = {}
        self._asked: dict[int, None] = {}
        self._poked: set[int] = set()
        self._touched: dict[int, None] = {}
        self._dues: dict[int, datetime] = {}
        self._leases: dict[int, datetime] = {}
        self._driving: tuple[str, float] | None = None
        self._stopping = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._keeper: threading.Thread | None = None

    # ------------------------------------------------------------------ from any thread

    def submit(self, sessions: Sequence[int]) -> Ticket:
        """Ask for turns of these sessions. Those that another worker holds, or that need none, are passed over."""
        ticket = Ticket(sessions)
        self._incoming.put(ticket)
        return ticket

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until something comes in."""
        return self._incoming.empty() and not self._asked and not self._touched and not self._poked

    @property
    def held(self) -> int:
        """How many sessions are under way."""
        return len(self._turns)

    def start(self) -> None:
        """Run cycles in a thread of its own, and look after leases in another."""
        garbage.collect_seldom()
        self._thread = threading.Thread(target=self._run, name="wakeloop-executor", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="wakeloop-keeper", daemon=True)
        self._thread.start()
        self._keeper.start()

    def stop(self, grace: float) -> None:
        """Take up nothing new, give what is under way `grace` seconds, then hand the rest back to be taken up by
        another worker at once."""
        self._stopping.set()
        self._incoming.put(None)
        deadline = time.monotonic() + grace
        while (
            self._turns
            and self._thread is not None
            and self._thread.is_alive()
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        self._closed = True
        self._incoming.put(None)
        if self._thread is not None:
            self._thread.join(timeout=5)
        if self._keeper is not None:
            self._keeper.join(timeout=5)
        left = list(self._turns)
        self.drop()
        if left:
            with contextlib.suppress(SQLAlchemyError), self._database.begin() as connection:
                leases.hand_back(connection, left, owner=self.owner, now=self._database.now())

    def drop(self) -> None:
        """Lose everything in memory. The store knows what to do about it."""
        self._lose(None)
        self._asked.clear()
        self._poked.clear()
        self._touched.clear()

    # ------------------------------------------------------------------ the cycle

    def cycle(self, wait: float = 0.0) -> None:
        """Do one round; wait up to `wait` seconds for something to come in, if there is nothing else to do."""
        self._collect(wait if not (self._asked or self._touched or self._poked) else 0.0)
        asked = list(self._asked)[:BATCH]
        for session in asked:
            del self._asked[session]
        if self._stopping.is_set():
            for session in asked:
                self._settle(session)
            asked = []
        commits = self._changes()
        if asked or commits or self._poked or self._wants_more():
            self._transact(commits, asked, self._database.now())
        now = self._database.now()
        self._touch_due(now)
        if self._touched:
            self._go_on(now)

    def _wants_more(self) -> bool:
        """Whether a session cannot go on without something from the store."""
        return any(turn.wants_more for session in self._touched if (turn := self._turns.get(session)))

    def _collect(self, wait: float) -> None:
        """Take in what came: tickets, and ends of steps."""
        try:
            item = self._incoming.get(timeout=wait) if wait > 0 else self._incoming.get_nowait()
            while True:
                self._take_in(item)
                item = self._incoming.get_nowait()
        except queue.Empty:
            pass

    def _take_in(self, item: Any) -> None:
        if isinstance(item, Ticket):
            for session in list(item.left):
                self._tickets.setdefault(session, []).append(item)
                if session in self._turns:
                    self._poked.add(session)
                elif self._stopping.is_set():
                    self._settle(session)
                else:
                    self._asked[session] = None
        elif isinstance(item, _StepEnd):
            session, token, run_id, op = item.key
            turn = self._turns.get(session)
            if turn is not None and turn.session.token == token:
                crashpoints.reach("engine.step_done")
                meters.series(meters.STEPS, turn.agent.name, "ok" if item.error is None else "error").inc()
                turn.step_done(
                    run_id,
                    op,
                    now=self._database.now(),
                    value=item.value,
                    error=item.error,
                    chance=self._chance.random(),
                )
                self._touched[session] = None
        elif isinstance(item, int) and item in self._turns:
            self._poked.add(item)

    def _changes(self) -> list[SessionCommit]:
        """What the sessions under way have to commit, or to be let go with."""
        now = self._database.now()
        commits = []
        for session in self._touched:
            turn = self._turns.get(session)
            if turn is None:
                continue
            for key in turn.abandoned():
                self._steps.cancel(key)
            if turn.is_dirty or turn.is_quiet:
                commits.append(turn.changes(self._lease_of(session, now)))
        return commits

    def _lease_of(self, session: int, now: datetime) -> datetime:
        """Until when the session is ours from now on: as before while much of that is left, since a row whose due time
        stays costs the database no work on its indexes."""
        until = self._leases[session]
        if until - now < self._lease * _MUCH:
            until = self._leases[session] = now + self._lease
        return until

    def _transact(self, commits: list[SessionCommit], asked: list[int], now: datetime) -> None:
        """Commit, take up and load, in one transaction; given up with everything in memory if that cannot be done."""
        poked, self._poked = self._poked, set()
        try:
            results, loaded = self._database.retrying(
                lambda: self._transaction(commits, asked, poked, now),
                seconds=self._retry_seconds,
                stop=lambda: self._closed,
            )
        except Exception as error:
            if isinstance(error, SQLAlchemyError) and is_outage(error):
                log.error("turns given up: the database is away", error=_cause(error))
                self._lose(None)
            elif len(commits) + len(asked) > 1:
                log.error("a transaction was refused; trying its sessions one by one", error=_cause(error))
                for one in commits:
                    self._transact([one], [], now)
                for session in asked:
                    self._transact([], [session], now)
                self._poked |= poked
            else:
                self._refused(commits, [*asked, *poked], error)
            return
        crashpoints.reach("engine.committed")
        by_session = {one.session.id: one for one in commits}
        for result in results:
            self._after_commit(by_session[result.session_id], result)
        for session in asked:
            if session not in loaded.claimed and session not in self._turns:
                self._settle(session)
        self._take_up(loaded, now)
        if commits:
            self._poke_receivers(commits)
            self._committed(_first_due(commits, results, now))

    def _refused(self, commits: list[SessionCommit], others: list[int], error: Exception) -> None:
        """The database is there, and takes everything but this: park the runs that it is about, with the reason, so
        that nobody tries for ever."""
        log.error(
            "refused by the database", error=_cause(error), sessions=[one.session.name for one in commits]
        )
        self._lose([*(one.session.id for one in commits), *others])
        reason = WakeloopError(f"the database refused what this run was to record: {_cause(error)}")
        failure = RunError(failure=describe(reason)).model_dump_json(exclude_none=True)
        for one in commits:
            with contextlib.suppress(SQLAlchemyError), self._database.begin() as connection:
                repair.park(connection, one, failure, now=self._database.now())
            log.warning("runs parked", session=one.session.name)

    def _poke_receivers(self, commits: list[SessionCommit]) -> None:
        """Look into the inboxes of sessions under way here that others here wrote to."""
        ids = {answer.session for one in commits for answer in one.answers}
        names = {(post.agent, post.key) for one in commits for post in one.posts}
        names |= {(run.agent, run.key) for one in commits for run in one.spawned}
        if ids or names:
            self._poked |= {
                id
                for id, turn in self._turns.items()
                if id in ids or (turn.session.agent, turn.session.key) in names
            }

    def _transaction(
        self, commits: list[SessionCommit], asked: list[int], poked: set[int], now: datetime
    ) -> tuple[list[Committed], _Loaded]:
        # What is only taken up is ours from then on, so that nothing changes it before all of it is loaded.
        with self._database.begin() if commits else self._database.brief() as connection:
            results = turns.commit(connection, commits, now=now, also=asked)
            arrived = {result.session_id for result in results if result.arrived and not result.fenced}
            looked = (arrived | poked) & self._turns.keys()
            taken = turns.take_up(
                connection, asked, looked, owner=self.owner, now=now, until=now + self._lease
            )
            loaded = self._load(connection, taken, now)
            # A run finds in the conversation what it has just added: after that is written.
            written = {one.session.id for one in commits}
            reads = {
                id: turn.reads()
                for id in self._touched
                if (turn := self._turns.get(id)) and (id in written or not turn.is_committing)
            }
            loaded.entries = conversation.load(connection, reads, loaded.journals)
            if commits:
                crashpoints.reach("engine.committing")
        return results, loaded

    def _load(self, connection: Connection, taken: TakenUp, now: datetime) -> _Loaded:
        loaded = _Loaded({row.id: row for row in taken.claimed}, taken.known)
        wanted = {
            run: session
            for session in self._touched
            if (turn := self._turns.get(session))
            for run in turn.wanted
        }
        if taken.claimed or taken.known:
            targets = {item.target for item in taken.inbox if item.target is not None}
            loaded.runs, loaded.inbox = _by_session(taken.runs), _by_session(taken.inbox)
            loaded.schedules = _by_session(taken.schedules)
            loaded.parked = turns.load_parked(connection, targets - {run.id for run in taken.runs})
            for row in taken.claimed:
                turn = self._make_turn(row, loaded, now + self._ahead)
                if turn is not None:
                    loaded.turns[row.id] = turn
                    wanted |= dict.fromkeys(turn.needs_journals(now), row.id)
        for run, journal in turns.load_journals(connection, wanted).items():
            loaded.journals.setdefault(wanted[run], {})[run] = journal
        return loaded

    def _make_turn(self, row: SessionRow, loaded: _Loaded, soon: datetime) -> Turn | None:
        try:
            agent = self.world.registry.get(row.agent)
        except NotFound:
            return None
        return Turn(world=self.world, agent=agent, session=row, soon=soon, **loaded.of(row.id))

    def _take_up(self, loaded: _Loaded, now: datetime) -> None:
        for id, turn in loaded.turns.items():
            self._turns[id] = turn
            self._leases[id] = now + self._lease
            self._began[id] = time.perf_counter()
            self._touched[id] = None
            if turn.session.takeovers >= TAKEOVERS_BEFORE_PARKING:
                turn.park_all(
                    now,
                    f"{turn.session.takeovers} workers in a row died or lost touch while they ran it; find out why "
                    "(memory? a crash in a C extension?), then `wakeloop retry` it",
                )
        for id in loaded.claimed.keys() - loaded.turns.keys():
            # In the middle of a deploy. Only a worker that knows the agent hands it over again, to any of them.
            log.info("left a session of an agent that is not known here", session=loaded.claimed[id].name)
            with self._database.begin() as connection:
                leases.hand_back(connection, [id], owner=self.owner, now=now + UNKNOWN_AGENT)
            self._settle(id)
        for id, row in loaded.reloaded.items():
            known = self._turns.get(id)
            if known is not None and row.token == known.session.token:
                known.session = replace(known.session, arrivals=row.arrivals)
                known.reload(**loaded.of(id))
                self._touched[id] = None
        for session, journals in loaded.journals.items():
            if session in self._turns:
                self._turns[session].add_journals(journals)
        for session, found in loaded.entries.items():
            if session in self._turns:
                self._turns[session].add_entries(found)

    def _after_commit(self, commit: SessionCommit, result: Committed) -> None:
        turn = self._turns.get(result.session_id)
        if turn is None:
            return
        if result.fenced:
            log.warning("another worker has taken this session over", session=turn.session.name)
            self._lose([result.session_id])
            return
        progress.tell(commit, turn.within)
        if result.released:
            failures = turn.failures
            turn.close()
            self._forget(result.session_id)
            self._settle(result.session_id, failures)
        else:
            state = turn.session.state if commit.state is None else commit.state
            turn.committed(replace(commit.session, version=result.version, state=state))
            crashpoints.reach("engine.step_committed")

    def _touch_due(self, now: datetime) -> None:
        """Go on with the sessions under way that have a timer due, a batch of them: nobody else tells of them while they are
        held."""
        if self._dues:
            late = [session for session, due in self._dues.items() if due <= now]
            self._touched |= dict.fromkeys(late[:RINGING])

    def _go_on(self, now: datetime) -> None:
        """Let every session that something happened to go on as far as it can, and start its steps."""
        touched, self._touched = self._touched, {}
        jobs: list[StepJob] = []
        for session in touched:
            turn = self._turns.get(session)
            if turn is None:
                continue
            self._driving = (turn.session.name, time.monotonic())
            turn.advance(now)
            self._driving = None
            self._note_due(session, turn)
            if turn.is_dirty or turn.is_quiet or turn.wants_more:
                self._touched[session] = None
            if not turn.is_dirty:
                jobs.extend(turn.jobs())
        if jobs:
            self._steps.start(jobs, self._step_ended)

    def _note_due(self, session: int, turn: Turn) -> None:
        due = turn.next_due()
        if due is not None:
            self._dues[session] = due
        else:
            self._dues.pop(session, None)

    def _step_ended(self, key: Key, value: Any, error: BaseException | None) -> None:
        self._incoming.put(_StepEnd(key, value, error))

    def _settle(self, session: int, failures: Sequence[str] = ()) -> None:
        for ticket in self._tickets.pop(session, []):
            ticket.settle(session, failures)

    def _forget(self, session: int) -> None:
        turn, began = self._turns.pop(session, None), self._began.pop(session, None)
        if turn is not None and began is not None:
            meters.series(meters.TURN_SECONDS, turn.agent.name).observe(time.perf_counter() - began)
        self._touched.pop(session, None)
        self._dues.pop(session, None)
        self._leases.pop(session, None)

    def _lose(self, sessions: Sequence[int] | None) -> None:
        """Drop these sessions, or all, from memory; their leases run out and another cycle takes them up."""
        for session in list(self._turns) if sessions is None else sessions:
            turn = self._turns.get(session)
            if turn is not None:
                for key in turn.close():
                    self._steps.cancel(key)
            self._forget(session)
            self._settle(session)
        if sessions is None:
            for session in list(self._tickets):
                self._settle(session)

    # ------------------------------------------------------------------ threads

    def _run(self) -> None:
        while not self._closed:
            try:
                self.cycle(self._until_next_timer())
            except Exception:
                log.exception(
                    "a cycle failed; everything in memory is given up and taken up again from the store"
                )
                self._lose(None)
                time.sleep(0.5)

    def _until_next_timer(self) -> float:
        """Seconds to wait for something to come in: until the next timer of a session under way, at most a second."""
        longest = POLL_SECONDS if not self._stopping.is_set() else 0.05
        due = min(self._dues.values(), default=None)
        return (
            longest if due is None else min(longest, max(0.0, (due - self._database.now()).total_seconds()))
        )

    def _keep(self) -> None:
        """Extend leases, look for arrivals, and warn of handlers that block, until the executor is closed."""
        watch = Watch()
        while not self._closed:
            time.sleep(POLL_SECONDS / 2)
            watch.look(self._thread, self._driving)
            held = {id: turn.session.arrivals for id, turn in list(self._turns.items())}
            if not held:
                continue
            try:
                self._extend(held)
                with self._database.read() as connection:
                    arrivals = leases.arrivals(connection, held, owner=self.owner)
            except SQLAlchemyError as error:
                log.warning("leases could not be extended", error=_cause(error))
                continue
            for id, seen in held.items():
                if arrivals.get(id) != seen:
                    self._incoming.put(id)

    def _extend(self, held: Iterable[int]) -> None:
        now = self._database.now()
        old = [id for id in held if (until := self._leases.get(id)) and until - now < self._lease / 2]
        if old:
            with self._database.begin() as connection:
                leases.extend(connection, old, owner=self.owner, until=now + self._lease)
            for id in old:
                if id in self._leases:
                    self._leases[id] = now + self._lease


def _first_due(
    commits: Sequence[SessionCommit], results: Sequence[Committed], now: datetime
) -> datetime | None:
    """When the first of what these commits made due for others, or for sessions that were let go, is due."""
    if any(
        one.posts or one.signals or one.spawned or one.answers or one.messages or one.requests or one.settlements
        or one.wakeups
        for one in commits
    ) or any(result.has_settled for result in results):  # fmt: skip
        return now
    released = {result.session_id for result in results if result.released}
    dues = [one.due_at for one in commits if one.due_at is not None and one.session.id in released]
    return min(dues, default=None)


def _cause(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class _Loaded:
    """What one transaction loaded."""

    def __init__(self, claimed: dict[int, SessionRow], reloaded: Mapping[int, SessionRow]) -> None:
        self.claimed = claimed
        self.reloaded = reloaded
        self.turns: dict[int, Turn] = {}
        self.runs: dict[int, list[Any]] = {}
        self.inbox: dict[int, list[Any]] = {}
        self.schedules: dict[int, list[Any]] = {}
        self.parked: set[UUID] = set()
        self.journals: dict[int, dict[UUID, list[Any]]] = {}
        self.entries: dict[int, conversation.Found] = {}

    def of(self, session: int) -> dict[str, Any]:
        """What concerns one session."""
        return {
            "runs": self.runs.get(session, ()),
            "inbox": self.inbox.get(session, ()),
            "schedules": self.schedules.get(session, ()),
            "parked": self.parked,
        }


def _by_session(rows: Iterable[Any]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row.session_id, []).append(row)
    return found
