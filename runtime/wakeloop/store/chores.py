"""The statements of chores: work that one process at a time does for all, now and then."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert
from wakeloop.store.schema import Instant, chores

_ADD = Insert(chores, ("name",), new=("name",))
_UNTIL = sa.bindparam("new_until", type_=Instant())
_OWNER = sa.bindparam("new_owner", type_=sa.Text())
_NAMED = chores.c.name == sa.bindparam("chore")
_FREE = sa.or_(chores.c.until.is_(None), chores.c.until <= sa.bindparam("now", type_=Instant()))
_LOOK = sa.select(chores.c.until).where(_NAMED)
_TAKE = sa.update(chores).where(_NAMED, _FREE).values(owner=_OWNER, until=_UNTIL)
_EXTEND = sa.update(chores).where(_NAMED, chores.c.owner == _OWNER).values(until=_UNTIL)


def next_time(connection: Connection, name: str) -> datetime | None:
    """Before when nobody begins a chore anew; None if it was never done."""
    return connection.execute(_LOOK, {"chore": name}).scalar()


def take(connection: Connection, name: str, *, owner: str, now: datetime, until: datetime) -> bool:
    """Take a chore on until `until`, unless somebody has it, or had it of late."""
    _ADD(connection, [{"name": name}])
    facts = {"chore": name, "new_owner": owner, "now": now, "new_until": until}
    return connection.execute(_TAKE, facts).rowcount == 1


def extend(connection: Connection, name: str, *, owner: str, until: datetime) -> bool:
    """Keep a chore until `until`, or put it off till then when it is done; False if `owner` has it no longer."""
    facts = {"chore": name, "new_owner": owner, "new_until": until}
    return connection.execute(_EXTEND, facts).rowcount == 1
