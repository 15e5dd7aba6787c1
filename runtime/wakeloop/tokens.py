"""Tokens of programs outside: shown once when they are made, kept as a hash, good for what their scopes say."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from wakeloop.errors import NotFound, NotPossible
from wakeloop.store import keys
from wakeloop.store.database import Database

PREFIX = "wl_"
SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Scope(StrEnum):
    """What a token is good for. `admin` includes everything, and is what the operator's pages need."""

    REQUESTS_READ = "requests:read"
    REQUESTS_WRITE = "requests:write"
    REQUESTS_DECIDE = "requests:decide"
    AGENTS_START = "agents:start"
    SIGNALS_SEND = "signals:send"
    RUNS_READ = "runs:read"
    ADMIN = "admin"


@dataclass(frozen=True, kw_only=True)
class Token:
    """What is known of a token; never the secret itself."""

    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def allows(self, scope: Scope) -> bool:
        """Whether it is good for this."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class Tokens:
    """Makes, checks and revokes tokens. Only a SHA-256 hash is stored: the secret has 256 random bits, so that nothing
    slower is needed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, scopes: Collection[Scope], *, life: timedelta | None = None) -> str:
        """Make a token; its secret, which is not to be had again. Raises NotPossible for a name that is taken or none."""
        if not _NAME.fullmatch(name):
            raise NotPossible(
                f"{name!r} is no name of a token: up to 64 letters, digits and _.-, beginning with a letter or digit"
            )
        if not scopes:
            raise NotPossible(f"token {name} would be good for nothing: give it a scope")
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        with self._database.begin() as connection:
            now = self._database.now()
            made = keys.add_token(
                connection, name=name, hash=_hash(secret), scopes=" ".join(sorted(scopes)), now=now,
                expires_at=None if life is None else now + life,
            )  # fmt: skip
        if not made:
            raise NotPossible(f"there is a token {name} already: revoke it, and choose another name")
        return secret

    def check(self, secret: str) -> Token | None:
        """The token that this is the secret of, if it works still."""
        if not secret.startswith(PREFIX) or len(secret) > 200:
            return None
        with self._database.read() as connection:
            row = keys.token(connection, _hash(secret), now=self._database.now())
        return None if row is None else _token(row)

    def find(self, name: str) -> Token | None:
        """The token of this name, if it works still."""
        now = self._database.now()
        for token in self.list():
            if (
                token.name == name
                and token.revoked_at is None
                and (token.expires_at is None or now < token.expires_at)
            ):
                return token
        return None

    def list(self) -> list[Token]:
        """All tokens, oldest first, those that are over too."""
        with self._database.read() as connection:
            return [_token(row) for row in keys.list_tokens(connection)]

    def revoke(self, name: str) -> None:
        """Take a token back: it stops working at once. Raises NotFound."""
        with self._database.begin() as connection:
            revoked = keys.revoke_token(connection, name, now=self._database.now())
        if not revoked:
            raise NotFound(f"there is no token {name} that works; `wakeloop tokens` lists them")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(row: Any) -> Token:
    return Token(
        name=row.name, scopes=frozenset(Scope(scope) for scope in row.scopes.split()), created_at=row.created_at,
        expires_at=row.expires_at, revoked_at=row.revoked_at,
    )  # fmt: skip
