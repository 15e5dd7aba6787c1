"""The statements that measure how the store stands: by index only, and never over more than MOST rows of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.leases import REDISPATCH_DOUBLINGS, REDISPATCH_SECONDS
from wakeloop.store.schema import (
    OPEN_REQUEST,
    PARKED_RUNS,
    Instant,
    deliveries,
    listeners,
    requests,
    runs,
    sessions,
)

MOST = 50_000
"""What there is more of is counted as so many: a measurement must not cost more the worse things stand."""

LONGEST_REDISPATCH = timedelta(seconds=REDISPATCH_SECONDS * 2**REDISPATCH_DOUBLINGS)

_NOW = sa.bindparam("now", type_=Instant())
_HORIZON = sa.bindparam("horizon", type_=Instant())
_MOST: Any = sa.literal_column(str(MOST))


def _counted(rows: Any, *groups: str) -> Any:
    """How many of these rows there are by some of their columns, with the first `at` of each group."""
    some = rows.limit(_MOST).subquery()
    chosen = [some.c[name] for name in groups]
    return sa.select(*chosen, sa.func.count().label("number"), sa.func.min(some.c.at).label("at")).group_by(
        *chosen
    )


_IS_HELD = sessions.c.owner.is_not(None).label("held")
_SESSIONS: Any = sa.select(sessions.c.due_at.label("at"), sessions.c.dispatches, _IS_HELD).order_by(
    sessions.c.due_at
)
_DUE = _counted(_SESSIONS.where(sessions.c.due_at <= _NOW), "dispatches", "held")
_COMING = _counted(
    _SESSIONS.where(sessions.c.due_at > _NOW, sessions.c.due_at <= _HORIZON), "dispatches", "held"
)
_PARKED = _counted(
    sa.select(sessions.c.agent, runs.c.status, runs.c.created_at.label("at"))
    .join(sessions, sessions.c.id == runs.c.session_id)
    .where(PARKED_RUNS),
    "agent", "status",
)  # fmt: skip
_AGE = sa.case(
    *(
        (requests.c.created_at > sa.bindparam(f"since_{age}", type_=Instant()), sa.literal_column(f"'{age}'"))
        for age in ("hour", "day", "week")
    ),
    else_=sa.literal_column("'older'"),
).label("age")
_REQUESTS = _counted(
    sa.select(requests.c.kind, _AGE, requests.c.created_at.label("at")).where(OPEN_REQUEST).order_by(requests.c.id),
    "kind", "age",
)  # fmt: skip
_WAITING = _counted(
    sa.select(deliveries.c.channel, deliveries.c.due_at.label("at"))
    .where(deliveries.c.due_at <= _NOW)
    .order_by(deliveries.c.due_at),
    "channel",
)
_FROM = sa.bindparam("first", type_=deliveries.c.id.type)
_RECENT = _counted(
    sa.select(deliveries.c.channel, deliveries.c.status, deliveries.c.created_at.label("at"))
    .where(deliveries.c.id >= _FROM)
    .order_by(deliveries.c.id.desc()),
    "channel", "status",
)  # fmt: skip
_some_runs: Any = (
    sa.select(runs.c.skipped, runs.c.skip_count)
    .where(runs.c.id >= sa.bindparam("first", type_=runs.c.id.type))
    .order_by(runs.c.id.desc())
    .limit(_MOST)
    .subquery()
)
_SKIPS: Any = (
    sa.select(_some_runs.c.skipped, sa.func.sum(_some_runs.c.skip_count).label("number"))
    .where(_some_runs.c.skipped.is_not(None))
    .group_by(_some_runs.c.skipped)
)
_LISTENERS: Any = sa.select(
    listeners.c.channel, sa.and_(listeners.c.owner.is_not(None), listeners.c.until > _NOW).label("held")
).order_by(listeners.c.channel)


def due_sessions(connection: Connection, *, now: datetime) -> list[sa.Row[Any]]:
    """The sessions that are due, by how often they were `dispatches` since a worker had them and whether a lease that
    ran out is still on them (`held`): their `number`, and the first due time (`at`)."""
    return list(connection.execute(_DUE, {"now": now}))


def coming_sessions(connection: Connection, *, now: datetime, lease: timedelta) -> list[sa.Row[Any]]:
    """The same of those with a due time within the length of a lease or of the longest wait between two dispatches: held
    ones, dispatched ones, and those that sleep until soon."""
    horizon = now + max(lease, LONGEST_REDISPATCH)
    return list(connection.execute(_COMING, {"now": now, "horizon": horizon}))


def parked_runs(connection: Connection) -> list[sa.Row[Any]]:
    """Failed and stuck runs by agent: their `number`, and when the first of them was made."""
    return list(connection.execute(_PARKED))


def open_requests(connection: Connection, *, now: datetime) -> list[sa.Row[Any]]:
    """Open requests by kind and age (under an `hour`, `day`, `week`, or `older`): their `number`, and the oldest's time."""
    ages = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}
    return list(connection.execute(_REQUESTS, {f"since_{name}": now - age for name, age in ages.items()}))


def waiting_deliveries(connection: Connection, *, now: datetime) -> list[sa.Row[Any]]:
    """Deliveries that are due, by channel: their `number`, and the first due time."""
    return list(connection.execute(_WAITING, {"now": now}))


def recent_deliveries(connection: Connection, *, since: datetime) -> list[sa.Row[Any]]:
    """Deliveries that were made out after `since`, by channel and status: their `number`."""
    return list(connection.execute(_RECENT, {"first": first_id(since)}))


def recent_skips(connection: Connection, *, since: datetime) -> list[sa.Row[Any]]:
    """Occurrences that were skipped after `since`, by reason (`skipped`): their `number`."""
    return list(connection.execute(_SKIPS, {"first": first_id(since)}))


def held_listeners(connection: Connection, *, now: datetime) -> list[sa.Row[Any]]:
    """Every channel that was ever listened on, and whether a process has its lease now (`held`)."""
    return list(connection.execute(_LISTENERS, {"now": now}))


def first_dispatch(at: datetime, dispatches: int) -> datetime:
    """Since when, at the latest, a session waits that is due at `at` after so many dispatches that no worker took up."""
    waits: Sequence[int] = [REDISPATCH_SECONDS * 2 ** min(n, REDISPATCH_DOUBLINGS) for n in range(dispatches)]
    return at - timedelta(seconds=sum(waits))


def first_id(at: datetime) -> UUID:
    """The lowest time-ordered id (UUID version 7) of that millisecond."""
    return UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)
