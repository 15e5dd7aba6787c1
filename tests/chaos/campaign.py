"""A whole campaign: load and faults at the same time, then rest, then judgement."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from tests.chaos.evidence import Outside
from tests.chaos.faults import Faults
from tests.chaos.people import People
from tests.chaos.plan import Options, Plan
from tests.chaos.works import Works
from tests.servers import poll

from wakeloop.errors import NotPossible

BACKLOG = 300
"""So many open runs are enough: the client waits while there are more."""
CHATS_PER_CALL = 1 / 40
RESERVE = 0.97
"""The client is kept alive until the last kill: it may not make the rest of the calls before."""
WATCH_SECONDS = 1.0
OPERATE_SECONDS = 3.0
PROGRESS_SECONDS = 15.0
BOMB_STATUS = 66

_REST = """
SELECT (SELECT count(*) FROM runs WHERE status IN ('queued', 'running', 'waiting', 'stuck')),
       (SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL),
       (SELECT count(*) FROM inbox WHERE consumed_at IS NULL),
       (SELECT count(*) FROM requests WHERE due_at IS NOT NULL),
       (SELECT count(*) FROM sessions WHERE owner IS NOT NULL)
"""


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
        for id, token, version, owner in works.sql(
            "SELECT id, token, version, owner FROM sessions WHERE owner IS NOT NULL"
        ):
            self.looks += 1
            if (last := self._last.get(id)) is not None:
                shrunk = token < last[0] or version < last[1]
                if shrunk or (owner != last[2] and token == last[0]):
                    self.wrong.append(f"session {id}: token, version and owner were {last} and are {(token, version, owner)}")
                self.takeovers += owner != last[2]
            self._last[id] = (token, version, owner)

    def stuck(self, works: Works) -> None:
        """Tell what became of gated functions whose worker died in their middle, as a person would who looks it up: it took
        effect, or it did not and may be repeated."""
        found = works.sql(
            "SELECT runs.id, event FROM runs JOIN sessions ON sessions.id = session_id "
            "WHERE status = 'stuck' AND agent = 'buy'"
        )
        for id, event in found:
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
    rests: tuple[int, ...]
    outside: Outside


def run(works: Works, people: People, *, say: Callable[[str], None]) -> Course:
    """Let it all happen, with the works running; what came of it."""
    works.wait_until_up()
    began = time.monotonic()
    plan, options = works.plan, works.plan.options
    faults, watch = Faults(works), Watch()
    chats = _chats(works, people, plan)
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
        rests = _rest(works, people, faults, options.settle)
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
        {int(name.rpartition(" ")[2]): count for name, count in people.counts.items() if name.startswith("forgeries")}
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
    """Faults, one after another, until all calls were made and enough was killed."""
    options = works.plan.options
    chance = random.Random(f"{options.seed} pace")
    told = began
    while True:
        kills, taken = faults.kills.total(), works.calls_taken()
        if kills >= options.kills:
            works.allow(options.runs)
            if works.of_kind("client")[0].is_done:
                return
        elif _backlog(works) < BACKLOG:
            share = (kills + 1) / options.kills
            works.allow(max(1, int(options.runs * min(RESERVE, share))))
        chats.up_to(int(taken * CHATS_PER_CALL))
        faults.one()
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            say(f"{told - began:5.0f} s  {taken} of {options.runs} calls, {kills} of {options.kills} kills, {_backlog(works)} runs open")  # fmt: skip
        time.sleep(min(chance.expovariate(1 / options.every), 3 * options.every))


def _backlog(works: Works) -> int:
    found = works.sql("SELECT count(*) FROM runs WHERE status IN ('queued', 'running', 'waiting')")
    return int(found[0][0])


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


def _chats(works: Works, people: People, plan: Plan) -> _Chats:
    return _Chats(works, people)


def _rest(works: Works, people: People, faults: Faults, seconds: float) -> tuple[int, ...]:
    """No more faults; wait for those who are still to be heard."""
    faults.settle()
    works.calm()
    for _ in poll(seconds):
        if all(process.is_running for process in works.processes if not process.is_done) and people.is_quiet:
            break
        time.sleep(0.2)
    return ()


def _end_schedules(works: Works) -> dict[int, datetime]:
    """Let nothing tick any more; the last occurrence of each schedule."""
    works.sql("UPDATE schedules SET nominal = NULL, due_at = NULL")
    return dict(works.sql("SELECT schedule_id, max(nominal) FROM runs WHERE schedule_id IS NOT NULL GROUP BY 1"))  # type: ignore[arg-type]


def _wait_for_rest(works: Works, people: People, seconds: float) -> tuple[int, ...]:
    """Until nothing is open; what still was, if it did not end."""
    rests: tuple[int, ...] = ()
    for _ in poll(seconds):
        rests = tuple(works.sql(_REST)[0])
        if not any(rests) and people.is_quiet and not works.telegram.updates:
            return ()
        time.sleep(0.5)
    return rests


def _again(over: threading.Event, seconds: float, work: Callable[[], Any]) -> None:
    while not over.wait(seconds):
        work()


def _count_runs(works: Works) -> dict[str, int]:
    rows = works.sql(
        "SELECT agent, count(*) FROM runs JOIN sessions ON sessions.id = session_id "
        "WHERE status = 'completed' GROUP BY agent ORDER BY agent"
    )
    return {str(agent): int(count) for agent, count in rows}


def read_marks(works: Works) -> list[dict[str, Any]]:
    """The file of effects."""
    return [json.loads(line) for line in works.effects.read_text().splitlines()]


def read_taken(works: Works) -> dict[int, int]:
    """What the client noted."""
    lines = works.taken.read_text().splitlines() if works.taken.exists() else []
    return {int(number): int(status) for number, status in map(str.split, lines)}


@contextlib.contextmanager
def world(options: Options, folder: Path) -> Iterator[tuple[Works, People]]:
    """The world of a campaign, for the length of a `with` block."""
    plan = Plan(options=options)
    people = People(plan)
    works = Works(folder, plan, heard=people.hear)
    with works.running():
        yield works, people
