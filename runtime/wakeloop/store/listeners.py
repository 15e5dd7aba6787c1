"""The statements of listeners: which process fetches a channel's messages, until when, and how far it has come."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert
from wakeloop.store.schema import Instant, listeners

_ADD = Insert(listeners, ("channel",), new=("channel",))
_NOW = sa.bindparam("now", type_=Instant())
_UNTIL = sa.bindparam("new_until", type_=Instant())
_OWNER = sa.bindparam("new_owner", type_=sa.Text())
_CHANNEL = listeners.c.channel == sa.bindparam("of_channel")
_HELD = sa.and_(_CHANNEL, listeners.c.owner == _OWNER)
_FREE = sa.or_(listeners.c.owner.is_(None), listeners.c.until <= _NOW)

_LOOK = sa.select(listeners.c.channel).where(_CHANNEL, sa.not_(_FREE))
_TAKE = (
    sa.update(listeners)
    .where(_CHANNEL, _FREE)
    .values(owner=_OWNER, until=_UNTIL)
    .returning(listeners.c.cursor)
)
_EXTEND = sa.update(listeners).where(_HELD).values(until=_UNTIL).returning(listeners.c.channel)
_MOVE = (
    sa.update(listeners)
    .where(_HELD)
    .values(cursor=sa.func.coalesce(sa.bindparam("new_cursor", type_=sa.Text()), listeners.c.cursor))
    .returning(listeners.c.cursor)
)
_HAND_BACK = sa.update(listeners).where(_HELD).values(owner=None, until=None)
_RECOVER = sa.update(listeners).values(owner=None, until=None)


def is_held(connection: Connection, channel: str, *, now: datetime) -> bool:
    """Whether some process has the lease of a channel."""
    return connection.execute(_LOOK, {"of_channel": channel, "now": now}).first() is not None


def take(
    connection: Connection, channel: str, *, owner: str, now: datetime, until: datetime
) -> sa.Row[Any] | None:
    """Take the lease of a channel until `until` if nobody has it, or it has run out: the `cursor` that was left; None
    if it is held."""
    _ADD(connection, [{"channel": channel}])
    facts = {"of_channel": channel, "new_owner": owner, "now": now, "new_until": until}
    return connection.execute(_TAKE, facts).first()


def extend(connection: Connection, channel: str, *, owner: str, until: datetime) -> bool:
    """Extend a lease; False if `owner` has it no longer."""
    facts = {"of_channel": channel, "new_owner": owner, "new_until": until}
    return connection.execute(_EXTEND, facts).first() is not None


def move(connection: Connection, channel: str, *, owner: str, cursor: str | None) -> bool:
    """Note how far a channel has come (None: as far as before); False, and nothing noted, if `owner` has the lease no
    longer."""
    facts = {"of_channel": channel, "new_owner": owner, "new_cursor": cursor}
    return connection.execute(_MOVE, facts).first() is not None


def hand_back(connection: Connection, channel: str, *, owner: str) -> None:
    """Give up a lease, if `owner` still has it: another process takes it at once."""
    connection.execute(_HAND_BACK, {"of_channel": channel, "new_owner": owner})


def recover(connection: Connection) -> None:
    """Take every lease away: for a process that knows that it is the only one, and that its predecessor is dead."""
    connection.execute(_RECOVER)
