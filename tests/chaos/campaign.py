"""A whole campaign: load and faults at the same time, then rest, then judgement."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from tests.chaos.evidence import Outside
from tests.chaos.faults import Faults
from tests.chaos.people import People
from tests.chaos.plan import Options
from tests.chaos.works import Works
from tests.servers import poll

from wakeloop.errors import NotPossible
from wakeloop.store import schema

BACKLOG = 300
"""So many open runs are enough: the client waits while there are more."""
CHATS_PER_CALL = 1 / 40
RESERVE = 0.97
"""The client is kept alive until the last kill: it may not make the rest of the calls before."""
AHEAD = 0.05
"""By so much of the whole may the kills be ahead of the calls."""
WATCH_SECONDS = 1.0
OPERATE_SECONDS = 3.0
PROGRESS_SECONDS = 15.0
BOMB_STATUS = 66

_OPEN = ("queued", "running", "waiting")


def _count(table: sa.Table, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(table).where(condition)


_BACKLOG = _count(schema.runs, schema.runs.c.status.in_(_OPEN))
_UNFINISHED = {
    "runs": _count(schema.runs, schema.runs.c.status.in_([*_OPEN, "stuck"])),
    "deliveries": _count(schema.deliveries, schema.deliveries.c.due_at.is_not(None)),
    "arrivals": _count(schema.inbox, schema.inbox.c.consumed_at.is_(None)),
    "requests": _count(schema.requests, schema.requests.c.due_at.is_not(None)),
    "leases": _count(schema.sessions, schema.sessions.c.owner.is_not(None)),
}
_REST = sa.select(*(one.scalar_subquery().label(name) for name, one in _UNFINISHED.items()))
_HELD = sa.select(
    schema.sessions.c.id, schema.sessions.c.token, schema.sessions.c.version, schema.sessions.c.owner
).where(schema.sessions.c.owner.is_not(None))
_OF_AGENTS = sa.join(schema.runs, schema.sessions, schema.sessions.c.id == schema.runs.c.session_id)
_STUCK = (
    sa.select(schema.runs.c.id, schema.runs.c.event)
    .select_from(_OF_AGENTS)
    .where(schema.runs.c.status == "stuck", schema.sessions.c.agent == "buy")
)
_COMPLETED = (
    sa.select(schema.sessions.c.agent, sa.func.count())
    .select_from(_OF_AGENTS)
    .where(schema.runs.c.status == "completed")
    .group_by(schema.sessions.c.agent)
    .order_by(schema.sessions.c.agent)
)
_LAST_TICKS = (
    sa.select(schema.runs.c.schedule_id, sa.func.max(schema.runs.c.nominal))
    .where(schema.runs.c.schedule_id.is_not(None))
    .group_by(schema.runs.c.schedule_id)
)
_END_SCHEDULES = (
    sa.update(schema.schedules)
    .where(schema.schedules.c.nominal.is_not(None))
    .values(nominal=None, due_at=None)
)


@dataclass
class Watch:
    """What two looks at the leases say of the time between them, and what a person told of stuck runs."""

    looks: int = 0
    wrong: list[str] = field(default_factory=list)
    takeovers: int = 0
    told: int = 0
    _last: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    _stuck: set[UUID] = field(default_factory=set)

    def leases(self, works: Works) -> None:
        """Look at who holds what."""
        for id, token, version, owner in works.rows(_HELD):
            self.looks += 1
            if (last := self._last.get(id)) is not None:
                shrunk = token < last[0] or version < last[1]
                if shrunk or (owner != last[2] and token == last[0]):
                    self.wrong.append(
                        f"session {id}: token, version and owner were {last} and are {(token, version, owner)}"
                    )
                self.takeovers += owner != last[2]
            self._last[id] = (token, version, owner)

    def stuck(self, works: Works) -> None:
        """Tell what became of gated functions whose worker died in their middle, as a person would who looks it up: it took
        effect, or it did not and may be repeated."""
        for id, event in works.rows(_STUCK):
            if id not in self._stuck:
                self._stuck.add(id)  # whoever was still at it has had its time by the next look
                continue
            label = json.loads(event)["input"]["label"]
            paid = [one for one in read_marks(works) if one["what"] == "paid" and one["label"] == label]
            with contextlib.suppress(DBAPIError, NotPossible):
                if paid:
                    works.runtime.operations.retry(id, result={"value": paid[0]["result"]})
                else:
                    works.runtime.operations.retry(id, repeat=True)
                self.told += 1


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a campaign went. endings: how processes ended, by kind. rests: what was not over, if anything was not."""

    options: Options
    seconds: float
    calls: int
    runs: dict[str, int]
    kills: Counter[str]
    faults: Counter[str]
    poisons: Counter[str]
    endings: Counter[str]
    counts: Counter[str]
    takeovers: int
    rests: dict[str, int]
    outside: Outside


def run(
    works: Works, people: People, faults: Faults, *, say: Callable[[str], None] = lambda line: None
) -> Course:
    """Let it all happen, with the works running; what came of it."""
    works.wait_until_up()
    began = time.monotonic()
    plan, options = works.plan, works.plan.options
    watch = Watch()
    chats = _Chats(works, people)
    people.begin(works)
    over = threading.Event()
    watchers = [
        threading.Thread(target=_again, args=(over, seconds, lambda look=look: look(works)), name="watch")  # type: ignore[misc]
        for seconds, look in ((WATCH_SECONDS, watch.leases), (OPERATE_SECONDS, watch.stuck))
    ]
    for watcher in watchers:
        watcher.start()
    try:
        _trouble(works, faults, chats, say, began)
        _calm(works, people, faults, options.settle)
        last_ticks = _end_schedules(works)
        rests = _wait_for_rest(works, people, options.settle)
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
        people.end()
    endings: Counter[str] = Counter()
    for process in works.processes:
        for how, count in process.endings.items():
            endings[f"{process.kind} {how}"] += count
    forged = Counter(
        {
            int(name.rpartition(" ")[2]): count
            for name, count in people.counts.items()
            if name.startswith("forgeries")
        }
    )
    return Course(
        options=options, seconds=time.monotonic() - began, calls=works.calls_taken(), runs=_count_runs(works),
        kills=faults.kills, faults=faults.counts, poisons=faults.poisons, endings=endings, counts=people.counts,
        takeovers=watch.takeovers, rests=rests,
        outside=Outside(
            plan=plan, taken=read_taken(works), marks=read_marks(works), sms=list(works.twilio.messages),
            telegram=list(works.telegram.messages), words=list(people.words), acknowledged=dict(people.acknowledged),
            forged=forged, written=list(chats.written), left=len(works.telegram.updates), steps=list(faults.steps),
            bombs=sum(count for how, count in endings.items() if how.endswith(f"with {BOMB_STATUS}")),
            leases=list(watch.wrong), looks=watch.looks, told=watch.told, last_ticks=last_ticks,
        ),
    )  # fmt: skip


def _trouble(works: Works, faults: Faults, chats: _Chats, say: Callable[[str], None], began: float) -> None:
    """Faults, one after another, until all calls were made and enough was killed. Neither gets far ahead of the other: the
    client may go on after a kill, and there is none when the client has fallen behind."""
    options = works.plan.options
    chance = random.Random(f"{options.seed} pace")
    told = began
    while True:
        kills, taken, open_runs = faults.kills.total(), works.calls_taken(), _backlog(works)
        if kills >= options.kills:
            works.allow(options.runs)
            if works.of_kind("client")[0].is_done:
                return
        elif open_runs < BACKLOG:
            works.allow(max(1, int(options.runs * min(RESERVE, (kills + 1) / options.kills))))
        chats.up_to(int(taken * CHATS_PER_CALL))
        ahead = kills / options.kills - taken / options.runs
        faults.one(kills=ahead <= AHEAD and kills < options.kills)
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            say(
                f"{told - began:5.0f} s  {taken} of {options.runs} calls, {kills} of {options.kills} kills, {open_runs} runs open"
            )
        time.sleep(min(chance.expovariate(1 / options.every), 3 * options.every))


def _backlog(works: Works) -> int:
    return int(works.rows(_BACKLOG)[0][0])


class _Chats:
    """People who write without having been asked, on both channels."""

    def __init__(self, works: Works, people: People) -> None:
        self.written: list[str] = []
        self._works, self._people = works, people
        self._names = list({**works.numbers, **works.chats})
        self._count = 0

    def up_to(self, count: int) -> None:
        """Write so many messages in all."""
        chatters = [name for name in self._names if name.startswith("chatter")]
        while self._count < count:
            self._count += 1
            text, name = f"chat{self._count}x", chatters[self._count % len(chatters)]
            if name in self._works.chats:
                self.written.append(text)
                self._works.telegram.write(text, chat=self._works.chats[name])
            else:
                self._people.say(name, text, text)


def _calm(works: Works, people: People, faults: Faults, seconds: float) -> None:
    """No more faults; wait for those who are still to be heard."""
    faults.settle()
    works.calm()
    for _ in poll(seconds):
        if all(process.is_running for process in works.processes if not process.is_done) and people.is_quiet:
            break
        time.sleep(0.2)


def _end_schedules(works: Works) -> dict[int, datetime]:
    """Let nothing tick any more; the last occurrence of each schedule."""
    works.rows(_END_SCHEDULES)
    return {row[0]: row[1] for row in works.rows(_LAST_TICKS)}


def _wait_for_rest(works: Works, people: People, seconds: float) -> dict[str, int]:
    """Until nothing is open; what still was, if it did not end."""
    rests: dict[str, int] = {}
    for _ in poll(seconds):
        works.rows(_END_SCHEDULES)  # a worker that comes up begins them again
        rests = dict(works.rows(_REST)[0]._mapping)
        if not any(rests.values()) and people.is_quiet and not works.telegram.updates:
            return {}
        time.sleep(0.5)
    return rests


def _again(over: threading.Event, seconds: float, work: Callable[[], Any]) -> None:
    while not over.wait(seconds):
        work()


def _count_runs(works: Works) -> dict[str, int]:
    return {row[0]: row[1] for row in works.rows(_COMPLETED)}


def read_marks(works: Works) -> list[dict[str, Any]]:
    """The file of effects."""
    return [json.loads(line) for line in works.effects.read_text().splitlines()]


def read_taken(works: Works) -> dict[int, int]:
    """What the client noted."""
    lines = works.taken.read_text().splitlines() if works.taken.exists() else []
    return {int(number): int(status) for number, status in map(str.split, lines)}
