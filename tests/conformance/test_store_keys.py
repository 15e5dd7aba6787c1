"""What may be used, and until when: grants, this deployment's own secrets, tokens. One contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError
from tests.conformance.store_kit import EVERY_STORE, NOW, Store, at_once, make_stores, raised

from wakeloop.store import grants, keys

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def grant(
    store: Store, action: str = "refund", origin: str = "agent billing", contact: str = "alice"
) -> UUID:
    """A grant from now on, for an hour."""
    id = store.id()
    with store.database.begin() as connection:
        grants.add(
            connection, id, action=action, origin=origin, contact=contact, limits='{"amount": "<= 100"}',
            request_id=store.id(), now=store.now, expires_at=store.now + HOUR,
        )  # fmt: skip
    return id


def active(
    store: Store, action: str = "refund", origin: str = "agent billing", at: datetime = NOW
) -> list[UUID]:
    with store.database.read() as connection:
        return [row.id for row in grants.active(connection, action=action, origin=origin, now=at)]


def revoke(store: Store, id: UUID, by: str = "alice") -> bool:
    with store.database.begin() as connection:
        return grants.revoke(connection, id, by=by, now=store.now)


def ensure_key(store: Store, name: str) -> str:
    with store.database.begin() as connection:
        return keys.ensure_key(connection, name, now=store.now)


def add_token(store: Store, name: str, hash: str, expires_at: datetime | None = None) -> bool:
    with store.database.begin() as connection:
        return keys.add_token(
            connection, name=name, hash=hash, scopes='["requests"]', now=store.now, expires_at=expires_at
        )


def token(store: Store, hash: str, at: datetime = NOW) -> Any:
    with store.database.read() as connection:
        return keys.token(connection, hash, now=at)


def revoke_token(store: Store, name: str) -> bool:
    with store.database.begin() as connection:
        return keys.revoke_token(connection, name, now=store.now)


# ---------------------------------------------------------------------- grants


def test_a_grant_is_active_from_its_creation_to_its_expiry(store: Store) -> None:
    """A grant covers calls from the instant it was given until the one at which it expires, and not at that one."""
    id = grant(store)

    assert active(store, at=NOW - MICROSECOND) == []
    assert active(store, at=NOW) == [id]
    assert active(store, at=NOW + HOUR - MICROSECOND) == [id]
    assert active(store, at=NOW + HOUR) == []


def test_a_grant_is_for_one_action_of_one_origin(store: Store) -> None:
    """A grant covers the calls of its function by its agent or program; several of theirs come oldest first."""
    first, second = grant(store), grant(store, contact="bob")
    grant(store, action="refund_all")
    others = grant(store, origin="agent sales")

    assert active(store) == [first, second]
    assert active(store, origin="agent sales") == [others]
    assert active(store, origin="agent") == active(store, action="Refund") == active(store, action="%") == []
    with store.database.read() as connection:
        row = grants.find(connection, second)
    assert row is not None
    assert (row.action, row.origin, row.contact, row.limits) == ("refund", "agent billing", "bob", '{"amount": "<= 100"}')  # fmt: skip
    assert (row.created_at, row.expires_at, row.revoked_at, row.revoked_by) == (NOW, NOW + HOUR, None, None)


def test_a_grant_that_was_taken_back_covers_nothing(store: Store) -> None:
    """A grant is taken back once, by the first who does; from then on it is not active, and others are."""
    id, left = grant(store), grant(store)
    store.pass_time(60)

    results = at_once(*[lambda name=name: revoke(store, id, name) for name in ("alice", "bob", "carol")])
    store.pass_time(60)

    assert sorted(results) == [False, False, True]
    assert not revoke(store, id, "dora")
    assert not revoke(store, store.id())
    assert active(store) == [left]
    with store.database.read() as connection:
        row = grants.find(connection, id)
        assert grants.find(connection, store.id()) is None
    assert row is not None
    assert (row.revoked_by, row.revoked_at) == (
        ("alice", "bob", "carol")[results.index(True)],
        NOW + timedelta(seconds=60),
    )


def test_grants_that_are_over_are_shown_still(store: Store) -> None:
    """The list of grants has those that expired and those that were taken back, newest first, no more than wanted."""
    ids = []
    for _ in range(4):
        ids.append(grant(store))
        store.pass_time(1800)
    revoke(store, ids[3])

    with store.database.read() as connection:
        every = [row.id for row in grants.newest(connection, limit=10)]
        two = [row.id for row in grants.newest(connection, limit=2)]

    assert every == ids[::-1]
    assert two == ids[:1:-1]
    assert active(store, at=store.now) == []


# ---------------------------------------------------------------------- keys


def test_a_key_is_the_same_for_everybody_who_asks_for_it(store: Store) -> None:
    """A secret is made by whoever comes first, and the same for all who ask at once and for all who come later."""
    for name in ("links", "other", "third"):
        results = at_once(*[lambda name=name: ensure_key(store, name)] * 8)

        assert raised(results) == []
        assert len(set(results)) == 1
        assert ensure_key(store, name) == results[0]
        with store.database.read() as connection:
            assert keys.find_key(connection, name) == results[0]


def test_keys_are_random_and_each_its_own(store: Store) -> None:
    """Two secrets have nothing in common, and one that nobody asked for is not made by being looked for."""
    with store.database.read() as connection:
        assert keys.find_key(connection, "first") is None

    first, second = ensure_key(store, "first"), ensure_key(store, "other")

    assert first != second
    assert min(len(first), len(second)) >= keys.KEY_BYTES
    with store.database.read() as connection:
        assert keys.find_key(connection, "First") is None


# ---------------------------------------------------------------------- tokens


def test_a_token_is_found_by_its_hash_alone(store: Store) -> None:
    """A token is found by its whole hash: not by its name, nor by a part of the hash."""
    assert add_token(store, "backoffice", "abc123")
    assert add_token(store, "shop", "def456")

    row = token(store, "abc123")

    assert (row.name, row.scopes, row.created_at, row.expires_at) == ("backoffice", '["requests"]', NOW, None)
    for other in ("backoffice", "abc12", "ABC123", "%", ""):
        assert token(store, other) is None


def test_a_name_is_given_to_one_token(store: Store) -> None:
    """Of programs that make a token of one name at once one does, and the name stays taken when it was revoked."""
    results = at_once(
        *[lambda hash=hash: add_token(store, "backoffice", hash) for hash in ("h1", "h2", "h3")]
    )

    assert raised(results) == []
    assert sorted(results) == [False, False, True]
    winner = f"h{results.index(True) + 1}"
    assert [hash for hash in ("h1", "h2", "h3") if token(store, hash)] == [winner]
    assert revoke_token(store, "backoffice")
    assert not add_token(store, "backoffice", "h4")
    with pytest.raises(IntegrityError):
        add_token(store, "shop", winner)


def test_a_token_works_until_it_expires(store: Store) -> None:
    """A token works until the instant at which it expires, and not at that one; without one it works on."""
    add_token(store, "backoffice", "h1", expires_at=NOW + HOUR)

    assert token(store, "h1", NOW + HOUR - MICROSECOND).name == "backoffice"
    assert token(store, "h1", NOW + HOUR) is None

    add_token(store, "shop", "h2")
    assert token(store, "h2", NOW + 10_000 * HOUR).name == "shop"


def test_a_revoked_token_works_no_more(store: Store) -> None:
    """A token is revoked once, works no more from then on, and is listed still; others work on."""
    add_token(store, "backoffice", "h1")
    add_token(store, "shop", "h2")

    assert (revoke_token(store, "backoffice"), revoke_token(store, "backoffice")) == (True, False)
    assert not revoke_token(store, "unknown")

    assert token(store, "h1") is None
    assert token(store, "h2").name == "shop"
    assert revoke_token(store, "shop")
    assert token(store, "h2") is None
    with store.database.read() as connection:
        found = keys.list_tokens(connection)
    assert [(row.name, row.revoked_at) for row in found] == [("backoffice", NOW), ("shop", NOW)]
