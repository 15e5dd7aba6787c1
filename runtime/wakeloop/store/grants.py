"""The statements of grants: approvals given in advance for calls like one that a person has seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert
from wakeloop.store.schema import ACTIVE_GRANT, Instant, grants

_ADD = Insert(
    grants, ("id", "action", "origin", "contact", "limits", "request_id", "created_at", "expires_at")
)
_NOW = sa.bindparam("now", type_=Instant())
_ACTIVE = (
    sa.select(grants)
    .where(
        grants.c.action == sa.bindparam("of_action"), grants.c.origin == sa.bindparam("of_origin"), ACTIVE_GRANT,
        grants.c.created_at <= _NOW, grants.c.expires_at > _NOW,
    )
    .order_by(grants.c.id)
)  # fmt: skip
_REVOKE = (
    sa.update(grants)
    .where(grants.c.id == sa.bindparam("grant"), ACTIVE_GRANT)
    .values(revoked_at=_NOW, revoked_by=sa.bindparam("new_by", type_=sa.Text()))
)
_FIND = sa.select(grants).where(grants.c.id == sa.bindparam("grant"))
_LIST = sa.select(grants).order_by(grants.c.id.desc()).limit(sa.bindparam("most", type_=sa.Integer()))


def add(
    connection: Connection, id: UUID, *, action: str, origin: str, contact: str, limits: str, request_id: UUID,
    now: datetime, expires_at: datetime,
) -> None:  # fmt: skip
    """Record a grant by a contact. origin: the agent, or the program's token, that it is for."""
    row = {
        "id": id, "action": action, "origin": origin, "contact": contact, "limits": limits, "request_id": request_id,
        "created_at": now, "expires_at": expires_at,
    }  # fmt: skip
    _ADD(connection, [row])


def active(connection: Connection, *, action: str, origin: str, now: datetime) -> list[sa.Row[Any]]:
    """The grants that may cover a call of this action by this origin now."""
    return list(connection.execute(_ACTIVE, {"of_action": action, "of_origin": origin, "now": now}))


def revoke(connection: Connection, id: UUID, *, by: str, now: datetime) -> bool:
    """Take a grant back; False if it had been, or is not there."""
    return connection.execute(_REVOKE, {"grant": id, "new_by": by, "now": now}).rowcount == 1


def find(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One grant."""
    return connection.execute(_FIND, {"grant": id}).first()


def newest(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """Grants, newest first, those that are over too."""
    return list(connection.execute(_LIST, {"most": limit}))
