"""The statements of keys: secrets that this deployment made for itself, and the tokens of programs outside."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert
from wakeloop.store.schema import Instant, keys, tokens

KEY_BYTES = 32
LINKS = "links"
CALLBACKS = "callbacks"
NAMES = (LINKS, CALLBACKS)
"""The keys that links and logins, and callbacks, are signed with if the settings have none."""

_ADD_KEY = Insert(keys, ("name", "value", "created_at"), new=("name",))
_KEY = sa.select(keys.c.value).where(keys.c.name == sa.bindparam("key"))
_ADD_TOKEN = Insert(
    tokens, ("name", "hash", "scopes", "created_at", "expires_at"), new=("name",), returning=("id",)
)
_IS_LIVE = sa.and_(
    tokens.c.revoked_at.is_(None),
    sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > sa.bindparam("now", type_=Instant())),
)
_TOKEN = sa.select(tokens).where(tokens.c.hash == sa.bindparam("of_hash"), _IS_LIVE)
_TOKENS = sa.select(tokens).order_by(tokens.c.id)
_REVOKE_TOKEN = (
    sa.update(tokens)
    .where(tokens.c.name == sa.bindparam("of_name"), tokens.c.revoked_at.is_(None))
    .values(revoked_at=sa.bindparam("now", type_=Instant()))
)


def ensure_key(connection: Connection, name: str, *, now: datetime) -> str:
    """A random secret that is made when it is first asked for, and the same for every process after that."""
    value = connection.execute(_KEY, {"key": name}).scalar()
    if value is None:
        fresh = secrets.token_urlsafe(KEY_BYTES)
        _ADD_KEY(connection, [{"name": name, "value": fresh, "created_at": now}])
        value = connection.execute(_KEY, {"key": name}).scalar_one()
    return str(value)


def find_key(connection: Connection, name: str) -> str | None:
    """The secret, if it was made."""
    value = connection.execute(_KEY, {"key": name}).scalar()
    return None if value is None else str(value)


def add_token(
    connection: Connection, *, name: str, hash: str, scopes: str, now: datetime, expires_at: datetime | None
) -> bool:
    """Record a token by its hash; False if one of that name is there."""
    row = {"name": name, "hash": hash, "scopes": scopes, "created_at": now, "expires_at": expires_at}
    return bool(_ADD_TOKEN(connection, [row]))


def token(connection: Connection, hash: str, *, now: datetime) -> sa.Row[Any] | None:
    """The token with this hash, if it is neither revoked nor over."""
    return connection.execute(_TOKEN, {"of_hash": hash, "now": now}).first()


def list_tokens(connection: Connection) -> list[sa.Row[Any]]:
    """All tokens, without what would be needed to use them."""
    return list(connection.execute(_TOKENS))


def revoke_token(connection: Connection, name: str, *, now: datetime) -> bool:
    """Take a token back; False if it had been, or is not there."""
    return connection.execute(_REVOKE_TOKEN, {"of_name": name, "now": now}).rowcount == 1
