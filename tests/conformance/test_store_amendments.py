"""Amendments: what asked is changed once its request has ended, whenever it went out. One contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.conformance.store_kit import EVERY_STORE, Store, at_once, make_stores, raised, settlement

from wakeloop.channel import DeliveryStatus
from wakeloop.store import amendments, claims, due, outbox, requests
from wakeloop.store.records import NewMessage


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def write(store: Store, request: UUID, *, channel: str = "chat", **facts: Any) -> UUID:
    """A message about a request, claimed by a sender; its delivery's id, which is its own."""
    message = NewMessage(
        id=store.id(), contact="alice", channel=channel, address="U1", via=None, subject="Numbers", text="How many?",
        request_id=request, **facts,
    )  # fmt: skip
    with store.database.begin() as connection:
        outbox.put(connection, None, [message], now=store.now)
        claims.take(
            connection, {message.id: store.now + timedelta(seconds=30)}, owner="sender", now=store.now
        )
    return message.id


def arrive(store: Store, request: UUID, id: UUID, status: DeliveryStatus = DeliveryStatus.SENT) -> None:
    """Have a delivery go out, or fail, as its sender records it."""
    sent = status is DeliveryStatus.SENT
    with store.database.begin() as connection:
        if sent:
            requests.await_others(connection, request)
        assert outbox.record(
            connection, id, owner="sender", status=status, now=store.now, provider_id=f"p{id}" if sent else None
        )  # fmt: skip
        if sent:
            amendments.arrive(connection, id, now=store.now)


def end(store: Store, request: UUID) -> None:
    """End a request, as the desk does."""
    outcome = settlement(store, request, by="alice")
    with store.database.begin() as connection:
        requests.lock(connection, request)
        asked = requests.settle_told(connection, request, outcome.status, outcome.outcome, now=store.now)
        assert asked is not None
        amendments.add(connection, request, "Answered by Alice: 42", ["chat", "mail"], now=store.now)


def claim(store: Store) -> list[UUID]:
    with store.database.begin() as connection:
        return amendments.claim_due(connection, now=store.now, limit=100)


def take(store: Store, *ids: UUID) -> list[Any]:
    with store.database.begin() as connection:
        return amendments.take(connection, ids, until=store.now + timedelta(seconds=30))


def is_due(store: Store) -> bool:
    with store.database.read() as connection:
        return due.look(connection, now=store.now).amendments


def test_what_went_out_before_the_end_is_due_at_once(store: Store) -> None:
    """With the original text and the line, and all that a channel must know of what it sent."""
    request = store.open()
    id = write(store, request)
    arrive(store, request, id)
    assert not is_due(store)

    end(store, request)

    assert is_due(store)
    assert claim(store) == [id]
    [row] = take(store, id)
    assert (row.delivery_id, row.channel, row.contact, row.address, row.provider_id) == (
        id, "chat", "alice", "U1", f"p{id}"
    )  # fmt: skip
    assert (row.text, row.said, row.subject, row.tries) == (
        "How many?\nAnswered by Alice: 42", "How many?", "Numbers", 1
    )  # fmt: skip


def test_what_goes_out_after_the_end_is_due_then(store: Store) -> None:
    """Nothing is due for a message that nobody has yet."""
    request = store.open()
    id = write(store, request)
    end(store, request)
    assert claim(store) == take(store, id) == []

    arrive(store, request, id)

    assert claim(store) == [id]


def test_a_delivery_that_failed_and_other_messages_are_let_be(store: Store) -> None:
    """What reached nobody, went through a channel that cannot amend, answered the person, or asks something else."""
    request, other = store.open(), store.open()
    failed, by_sms = write(store, request), write(store, request, channel="sms")
    answer, elsewhere = write(store, request, interactive=True), write(store, other)
    arrive(store, request, failed, DeliveryStatus.FAILED)
    for id in (by_sms, answer, elsewhere):
        arrive(store, request, id)

    end(store, request)

    assert claim(store) == []
    assert store.rows("SELECT * FROM amendments") == []


def test_without_a_channel_that_amends_nothing_is_written(store: Store) -> None:
    """Most stores have none."""
    request = store.open()
    arrive(store, request, write(store, request))

    with store.database.begin() as connection:
        amendments.add(connection, request, "Expired.", [], now=store.now)

    assert store.rows("SELECT * FROM amendments") == []


def test_one_that_is_handed_over_comes_again_if_it_is_lost(store: Store) -> None:
    """A broker may lose it, and whoever took it may die."""
    request = store.open()
    id = write(store, request)
    arrive(store, request, id)
    end(store, request)

    assert (claim(store), claim(store)) == ([id], [])
    store.pass_time(amendments.REDISPATCH_SECONDS)
    assert claim(store) == [id]
    assert [row.tries for row in take(store, id)] == [1]
    store.pass_time(30)
    assert claim(store) == [id]
    assert [row.tries for row in take(store, id)] == [2]


def test_what_is_done_or_given_up_is_never_due_again(store: Store) -> None:
    """And what is to be tried again is, at its time; a late copy of its id finds nothing to do."""
    request = store.open()
    id = write(store, request)
    arrive(store, request, id)
    end(store, request)
    take(store, id)

    with store.database.begin() as connection:
        amendments.record(connection, id, due_at=store.now + timedelta(minutes=5))
    assert claim(store) == []
    store.pass_time(300)
    assert claim(store) == [id]
    with store.database.begin() as connection:
        amendments.record(connection, id, due_at=None)

    store.pass_time(3600)
    assert claim(store) == take(store, id) == []
    assert not is_due(store)


def test_one_that_is_expected_waits_for_its_delivery(store: Store) -> None:
    """A message that falls through to another channel after the end."""
    request = store.open()
    id = write(store, request)

    with store.database.begin() as connection:
        amendments.expect(connection, id, "How many?\nExpired.")
        amendments.expect(connection, id, "something else")
    assert claim(store) == []
    arrive(store, request, id)

    assert [row.text for row in take(store, *claim(store))] == ["How many?\nExpired."]


def test_two_workers_claim_each_amendment_once(store: Store) -> None:
    """Of several sweeps at the same time each gets its own."""
    request = store.open()
    ids = [write(store, request) for _ in range(20)]
    for id in ids:
        arrive(store, request, id)
    end(store, request)

    results = at_once(*[lambda: claim(store)] * 4)

    assert raised(results) == []
    assert sorted(id for found in results for id in found) == sorted(ids)


def test_of_an_end_and_a_receipt_at_the_same_time_none_overlooks_the_other(store: Store) -> None:
    """Whichever comes first: the message is due to be amended afterwards."""
    for _ in range(15):
        request = store.open()
        id = write(store, request)

        results = at_once(
            lambda request=request, id=id: arrive(store, request, id),  # type: ignore[misc]
            lambda request=request: end(store, request),  # type: ignore[misc]
        )

        assert raised(results) == []
        assert claim(store) == [id]
