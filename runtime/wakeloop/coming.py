"""What comes next: the occurrences of every schedule, of the agents' code and of the sessions' own, in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wakeloop import calendar
from wakeloop.registry import Registry
from wakeloop.store import queries
from wakeloop.store.database import Database
from wakeloop.triggers import Schedule, dump_schedule, load_schedule


@dataclass(frozen=True, kw_only=True)
class Coming:
    """An occurrence to come. own: its session set it itself. known: its agent is one of this process."""

    at: datetime
    agent: str
    key: str
    schedule: Schedule
    own: bool
    known: bool


def coming(database: Database, registry: Registry) -> Iterator[Coming]:
    """The occurrences of all schedules from now on, soonest first; there may be no end to them.

    One that is overdue comes first, at its own time. A schedule that stands in the code but not yet in the store
    counts from now on."""
    return heapq.merge(*_series(database, registry), key=lambda one: one.at)


def next_by_agent(database: Database, registry: Registry) -> dict[str, datetime]:
    """When each agent that has a schedule is woken next."""
    first: dict[str, datetime] = {}
    for one in filter(None, (next(series, None) for series in _series(database, registry))):
        first[one.agent] = min(one.at, first.get(one.agent, one.at))
    return first


def _series(database: Database, registry: Registry) -> list[Iterator[Coming]]:
    """The occurrences of each schedule by itself."""
    with database.read() as connection:
        now = database.now()
        rows = queries.list_schedules(connection)
    current = {
        (agent.name, dump_schedule(schedule)): schedule
        for agent in registry.agents
        for schedule in agent.schedules
    }
    series = []
    for row in rows:
        if row.own or row.agent not in registry.names:
            series.append(_of_row(row, now, known=row.agent in registry.names))
        elif current.pop((row.agent, row.spec), None) is not None:
            series.append(_of_row(row, now, known=True))
    return series + [_of_code(agent, schedule, now) for (agent, _), schedule in current.items()]


def _of_row(row: Any, now: datetime, *, known: bool) -> Iterator[Coming]:
    schedule = load_schedule(row.spec)
    at: datetime | None = row.nominal
    while at is not None:
        yield Coming(at=at, agent=row.agent, key=row.key, schedule=schedule, own=row.own, known=known)
        at = calendar.next_after(schedule, max(at, now), anchor=row.anchor)


def _of_code(agent: str, schedule: Schedule, now: datetime) -> Iterator[Coming]:
    at = calendar.next_after(schedule, now, anchor=now)
    while at is not None:
        yield Coming(at=at, agent=agent, key="default", schedule=schedule, own=False, known=True)
        at = calendar.next_after(schedule, at, anchor=now)
