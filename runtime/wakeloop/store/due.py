"""What is due, and when the next thing will be: over everything that has a due time, in one statement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.direct import Direct
from wakeloop.store.schema import Instant, amendments, deliveries, requests, schedules, sessions

_NOW = sa.bindparam("now", type_=Instant())


def _first(table: sa.Table, condition: sa.ColumnElement[bool], name: str) -> sa.Label[datetime | None]:
    chosen = sa.select(table.c.due_at).where(condition).order_by(table.c.due_at).limit(sa.literal_column("1"))
    return chosen.scalar_subquery().label(name)


_TABLES = (sessions, deliveries, schedules, requests, amendments)
_LOOK = Direct(
    sa.select(
        *(_first(table, table.c.due_at.is_not(None), f"first_{table.name}") for table in _TABLES),
        *(_first(table, table.c.due_at > _NOW, f"next_{table.name}") for table in _TABLES),
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """Of which there is something due, for whatever agent; and when the next of what is not due yet will be."""

    sessions: bool
    deliveries: bool
    schedules: bool
    requests: bool
    amendments: bool
    next: datetime | None

    @property
    def is_empty(self) -> bool:
        return not (self.sessions or self.deliveries or self.schedules or self.requests or self.amendments)


def look(connection: Connection, *, now: datetime) -> Due:
    """What is due at `now`. Takes nothing and locks nothing: what is due is still to be claimed."""
    [first] = _LOOK(connection, {"now": now})
    (session, delivery, schedule, request, amendment), later = first[:5], first[5:]
    return Due(
        sessions=session is not None and session <= now,
        deliveries=delivery is not None and delivery <= now,
        schedules=schedule is not None and schedule <= now,
        requests=request is not None and request <= now,
        amendments=amendment is not None and amendment <= now,
        next=min((due for due in later if due is not None), default=None),
    )
