"""What the store promises about listeners and files: one listens, what it left is found, and bytes come back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.store_kit import EVERY_STORE, Store, at_once, make_stores

from wakeloop.store import files, listeners

SECONDS = 15


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def take(store: Store, owner: str, channel: str = "email") -> Any:
    with store.database.begin() as connection:
        until = store.now + timedelta(seconds=SECONDS)
        return listeners.take(connection, channel, owner=owner, now=store.now, until=until)


def extend(store: Store, owner: str) -> bool:
    with store.database.begin() as connection:
        return listeners.extend(
            connection, "email", owner=owner, until=store.now + timedelta(seconds=SECONDS)
        )


def move(store: Store, owner: str, cursor: str | None) -> bool:
    with store.database.begin() as connection:
        return listeners.move(connection, "email", owner=owner, cursor=cursor)


def hand_back(store: Store, owner: str) -> None:
    with store.database.begin() as connection:
        listeners.hand_back(connection, "email", owner=owner)


def test_of_many_who_want_a_lease_at_once_one_gets_it(store: Store) -> None:
    """Also the very first time, when nobody ever listened on the channel."""
    got = at_once(*(functools.partial(take, store, f"p{n}") for n in range(8)))

    assert len([row for row in got if row is not None]) == 1


def test_a_lease_is_held_until_it_runs_out_and_no_longer(store: Store) -> None:
    """To the very instant; extending it moves that."""
    assert take(store, "one") is not None
    store.pass_time(SECONDS - 1)
    assert take(store, "two") is None
    assert extend(store, "one")
    store.pass_time(SECONDS - 0.001)
    assert take(store, "two") is None
    with store.database.read() as connection:
        assert listeners.is_held(connection, "email", now=store.now)

    store.pass_time(0.001)

    with store.database.read() as connection:
        assert not listeners.is_held(connection, "email", now=store.now)
    assert take(store, "two") is not None
    assert not extend(store, "one")


def test_a_lease_that_is_handed_back_is_free_at_once(store: Store) -> None:
    """But nobody can hand back another's."""
    assert take(store, "one") is not None
    hand_back(store, "two")
    assert take(store, "two") is None

    hand_back(store, "one")

    assert take(store, "two") is not None


def test_only_who_has_the_lease_moves_the_cursor(store: Store) -> None:
    """Whoever comes next begins where it was left; None leaves it where it is."""
    assert take(store, "one").cursor is None
    assert move(store, "one", "7") and move(store, "one", None)
    store.pass_time(SECONDS)
    assert take(store, "two").cursor == "7"

    assert not move(store, "one", "8")

    hand_back(store, "two")
    assert take(store, "three").cursor == "7"


def test_channels_have_leases_of_their_own(store: Store) -> None:
    """Two channels, two processes."""
    assert take(store, "one") is not None
    assert take(store, "two", "telegram") is not None

    assert extend(store, "one")
    assert take(store, "three", "telegram") is None


def test_recovery_frees_every_lease_and_keeps_the_cursors(store: Store) -> None:
    """For a process that is alone."""
    take(store, "one")
    move(store, "one", "7")

    with store.database.begin() as connection:
        listeners.recover(connection)

    assert take(store, "two").cursor == "7"


def test_files_come_back_byte_by_byte(store: Store) -> None:
    """Whatever bytes, also none; with what is known of them."""
    message = store.id()
    contents = [bytes(range(256)) * 100, b"", "é\x00".encode()]
    kept = [(store.id(), f"f{n}", "text/plain", data) for n, data in enumerate(contents)]
    with store.database.begin() as connection:
        files.add(connection, message, kept, now=store.now)
        files.add(connection, message, [], now=store.now)

    with store.database.read() as connection:
        assert [files.data(connection, id) for id, *_ in kept] == contents
        facts = [files.facts(connection, id) for id, *_ in kept]
        assert files.facts(connection, store.id()) is None
    assert [(one.message_id, one.name, one.size) for one in facts if one] == [
        (message, "f0", 25_600), (message, "f1", 0), (message, "f2", 3),
    ]  # fmt: skip
