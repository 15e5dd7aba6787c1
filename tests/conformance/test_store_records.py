"""What is recorded once: arrivals, runs, messages, deliveries. One contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.conformance.store_kit import EVERY_STORE, NOW, Store, at_once, change, make_stores, raised, running

from wakeloop.channel import DeliveryStatus
from wakeloop.store import arriving, claims, due, inbox, outbox, queries, received, schedules
from wakeloop.store.records import Emitted, NewMessage, NewRun, Post, Receiver


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def put(store: Store, *texts: str, contact: str = "alice", **facts: Any) -> list[UUID]:
    new = [
        NewMessage(id=store.id(), contact=contact, channel="sms", address="+15555550100", via=None, subject=None, text=text, **facts)
        for text in texts
    ]  # fmt: skip
    with store.database.begin() as connection:
        outbox.put(connection, None, new, now=store.now)
    return [one.id for one in new]


def claim(store: Store, *ids: UUID, owner: str = "sender 1") -> list[Any]:
    """Take these deliveries as a sender does; each as it was before."""
    with store.database.begin() as connection:
        contacts = claims.lock_people(connection, ids, now=store.now)
        waiting = claims.waiting(connection, contacts, now=store.now)
        rows = [row for row in waiting if row.is_due and row.id in ids]
        until = store.now + timedelta(seconds=120)
        claims.take(connection, {row.id: until for row in rows}, owner=owner, now=store.now)
    return rows


def record(store: Store, id: UUID, status: DeliveryStatus, owner: str = "sender 1", **facts: Any) -> bool:
    with store.database.begin() as connection:
        return outbox.record(connection, id, owner=owner, status=status, now=store.now, **facts)


def delivery(store: Store, id: UUID) -> Any:
    with store.database.read() as connection:
        return next(row for row in queries.list_messages(connection, limit=100) if row.id == id)


# ---------------------------------------------------------------------- arrivals


def test_a_session_is_made_once_by_whoever_comes_first(store: Store) -> None:
    """Threads that need the same sessions at once all get the same ids."""
    names = [f"{number}" for number in range(30)]

    results = at_once(*[lambda: store.sessions(*names)] * 4)

    assert raised(results) == []
    assert all(ids == results[0] for ids in results)
    assert len(set(results[0])) == 30


def test_a_session_that_is_made_for_what_arrives_is_due_from_the_beginning(store: Store) -> None:
    """Of callers that want the same new session at once, for something that arrives, one makes it, due now; an old one is
    left as it is."""
    [old] = store.sessions("old")
    names = [("standup", "old"), ("standup", "new")]

    def ensure() -> tuple[dict[tuple[str, str], int], set[int]]:
        with store.database.begin() as connection:
            return inbox.ensure_recipients(connection, names, now=store.now)

    (known, made), (known_too, made_too) = results = at_once(ensure, ensure)

    assert raised(results) == []
    assert known == known_too == {("standup", "old"): old, ("standup", "new"): known["standup", "new"]}
    assert sorted([made, made_too], key=len) == [set(), {known["standup", "new"]}]
    assert store.claim_due() == [known["standup", "new"]]


def test_what_was_consumed_keeps_its_key_and_loses_its_body(store: Store) -> None:
    """Something that is consumed is not kept twice, as its run has it; and it does not come again."""
    session = store.held("a")
    posts = [Post(agent="standup", key="a", kind="signal", dedupe=name, body="{}") for name in ("s1", "s2")]

    def deliver() -> set[int]:
        with store.database.begin() as connection:
            return inbox.post(connection, posts, {("standup", "a"): session.id}, now=store.now)

    deliver()
    [first, _] = store.rows("SELECT id FROM inbox ORDER BY id")
    store.commit(change(session, consumed=[first.id]))

    assert deliver() == set()
    rows = store.rows("SELECT dedupe, body, consumed_at IS NULL AS waits FROM inbox ORDER BY id")
    assert [(row.dedupe, row.body, bool(row.waits)) for row in rows] == [
        ("s1", None, False),
        ("s2", "{}", True),
    ]


def test_an_event_is_put_into_an_inbox_once(store: Store) -> None:
    """What arrives twice, in one batch, in two, or in two threads, is there once; another session's copy is its own."""
    a, b = store.sessions("a", "b")
    known = {("standup", "a"): a, ("standup", "b"): b}
    posts = [Post(agent="standup", key=key, kind="signal", dedupe="s1", body="{}") for key in "ab"]

    def deliver(posts: list[Post]) -> set[int]:
        with store.database.begin() as connection:
            return inbox.post(connection, posts, known, now=store.now)

    results = at_once(lambda: deliver([*posts, posts[0]]), lambda: deliver(posts[::-1]))

    assert raised(results) == []
    assert sorted(map(len, results)) == [0, 2]
    assert deliver(posts) == set()
    assert len(store.rows("SELECT id FROM inbox")) == 2


def test_a_run_is_queued_once_per_id(store: Store) -> None:
    """A run that is started twice with one id is queued once, and the session is touched once."""
    [id] = store.sessions("a")
    run = NewRun(id=store.id(), agent="standup", key="a", event="{}")

    def start() -> set[int]:
        with store.database.begin() as connection:
            found = inbox.queue_runs(connection, [run], {("standup", "a"): id}, now=store.now)
            inbox.touch(connection, found, now=store.now)
        return found

    assert (start(), start()) == ({id}, set())
    assert store.session(id).arrivals == 1


def test_an_occurrence_of_a_schedule_is_queued_once(store: Store) -> None:
    """Workers that fire the same occurrence at once queue one run for (schedule, nominal)."""
    [id] = store.sessions("a")

    def fire(number: int) -> set[int]:
        runs = [
            NewRun(id=UUID(int=number * 10 + day), agent="standup", key="a", event="{}", schedule_id=7,
                   nominal=NOW + timedelta(days=day))
            for day in range(3)
        ]  # fmt: skip
        with store.database.begin() as connection:
            return inbox.queue_runs(connection, runs, {("standup", "a"): id}, now=store.now)

    results = at_once(lambda: fire(1), lambda: fire(2), lambda: fire(3))

    assert raised(results) == []
    assert sorted(map(len, results)) == [0, 0, 1]
    assert len(store.rows("SELECT id FROM runs")) == 3


def test_a_skipped_occurrence_wakes_nobody(store: Store) -> None:
    """A skipped occurrence is on record with its reason, and makes no session due."""
    [id] = store.sessions("a")
    skipped = NewRun(id=store.id(), agent="standup", key="a", event="{}", schedule_id=1, nominal=NOW, skipped="misfire", skip_count=3)  # fmt: skip

    with store.database.begin() as connection:
        found = inbox.queue_runs(connection, [skipped], {("standup", "a"): id}, now=store.now)

    assert found == set()
    with store.database.read() as connection:
        [row] = queries.list_runs(connection)
    assert (row.status, row.skipped, row.skip_count) == ("cancelled", "misfire", 3)


def test_what_a_person_sent_is_recorded_once(store: Store) -> None:
    """A provider's retry of a message, even at the same moment, records nothing."""

    def record_it() -> int | None:
        with store.database.begin() as connection:
            return received.record(
                connection,
                channel="sms",
                provider_id="SM1",
                address="+1",
                contact=None,
                raw="{}",
                now=store.now,
            )

    results = at_once(record_it, record_it, record_it)

    assert raised(results) == []
    assert sorted(result is None for result in results) == [False, True, True]


def test_schedules_that_are_claimed_at_once_are_shared_out(store: Store) -> None:
    """Two workers that claim due schedules at once never hold the same one."""
    [id] = store.sessions("a")
    rows = [
        {"session_id": id, "agent": "standup", "ref": f"{number}", "own": False, "spec": "{}", "anchor": NOW, "nominal": NOW, "due_at": NOW}
        for number in range(20)
    ]  # fmt: skip
    with store.database.begin() as connection:
        schedules.add(connection, rows)
        schedules.add(connection, rows)

    def fire() -> list[int]:
        with store.database.begin() as connection:
            found = schedules.claim_due(connection, now=store.now, agents=["standup"], limit=6)
            moved = [{"id": row.id, "nominal": None, "due_at": None} for row in found]
            schedules.move(connection, moved)
        return [row.id for row in found]

    results = at_once(*[lambda: [id for _ in range(4) for id in fire()]] * 3)

    assert raised(results) == []
    fired = [id for found in results for id in found]
    while more := fire():
        fired += more
    assert len(fired) == len(set(fired)) == 20


# ---------------------------------------------------------------------- deliveries


def test_a_delivery_is_claimed_by_one_sender(store: Store) -> None:
    """Senders that claim the same deliveries at once share them out, and each is made once."""
    ids = put(store, *(f"{number}" for number in range(20)))

    results = at_once(*[lambda name=name: claim(store, *ids, owner=name) for name in ("s1", "s2", "s3")])

    assert raised(results) == []
    assert sorted(row.id for rows in results for row in rows) == sorted(ids)


def test_due_deliveries_are_dispatched_once(store: Store) -> None:
    """Two sweeps at once share none of the due deliveries."""
    ids = put(store, *(f"{number}" for number in range(20)))

    def sweep() -> list[UUID]:
        with store.database.begin() as connection:
            return outbox.claim_due(connection, now=store.now, limit=6)

    results = at_once(*[lambda: [id for _ in range(5) for id in sweep()]] * 3)

    assert raised(results) == []
    assert sorted(id for found in results for id in found) == sorted(ids)


def test_a_senders_late_record_is_refused(store: Store) -> None:
    """A sender whose claim ran out records nothing over the one who has it now, who sees that sending had begun."""
    [id] = put(store, "hello")
    [first] = claim(store, id)
    store.pass_time(121)
    with store.database.begin() as connection:
        assert outbox.claim_due(connection, now=store.now, limit=10) == [id]
    [second] = claim(store, id, owner="sender 2")

    assert not record(store, id, DeliveryStatus.FAILED)
    assert record(store, id, DeliveryStatus.SENT, owner="sender 2", provider_id="SM1")
    assert (first.status, second.status) == ("pending", "sending")
    assert second.claimed_at == NOW
    assert delivery(store, id).status == "sent"


def test_a_claim_says_who_asked_not_to_be_written_to(store: Store) -> None:
    """A claimed delivery says whether its address opted out; opting in again ends that."""
    with store.database.begin() as connection:
        outbox.set_opt_out(connection, "sms", "+15555550100", True, now=store.now)
        outbox.set_opt_out(connection, "sms", "+15555550100", True, now=store.now)
    first, second = put(store, "one", "two")

    assert [row.opted_out for row in claim(store, first)] == [True]
    with store.database.begin() as connection:
        outbox.set_opt_out(connection, "sms", "+15555550100", False, now=store.now)
    assert [row.opted_out for row in claim(store, second)] == [False]


def test_a_providers_id_belongs_to_one_delivery(store: Store) -> None:
    """A provider's id that another delivery has already is not written again: reports go to the first."""
    first, second = put(store, "one", "two")
    claim(store, first, second)

    assert record(store, first, DeliveryStatus.SENT, provider_id="SM1")
    assert record(store, second, DeliveryStatus.SENT, provider_id="SM1")

    found = store.rows("SELECT provider_id FROM deliveries WHERE provider_id IS NOT NULL")
    assert len(found) == 1
    with store.database.read() as connection:
        assert outbox.is_recorded(connection, "sms", "SM1")
        assert outbox.provider_ids(connection, "sms", "alice", NOW - timedelta(days=1)) == {"SM1"}
        assert outbox.provider_ids(connection, "sms", "alice", NOW + timedelta(days=1)) == frozenset()


def test_reports_that_come_out_of_order_only_move_forward(store: Store) -> None:
    """A provider's reports may come in any order, twice, and at once: a delivered message never becomes sent again."""
    [id] = put(store, "hello")
    claim(store, id)
    record(store, id, DeliveryStatus.SENT, provider_id="SM1")

    def report(status: DeliveryStatus) -> bool:
        with store.database.begin() as connection:
            return outbox.update_status(connection, "sms", "SM1", status, None, now=store.now) is not None

    results = at_once(lambda: report(DeliveryStatus.DELIVERED), lambda: report(DeliveryStatus.DELIVERED))

    assert sorted(results) == [False, True]
    assert not report(DeliveryStatus.SENT)
    assert not report(DeliveryStatus.FAILED)
    assert delivery(store, id).status == "delivered"
    with store.database.begin() as connection:
        assert (
            outbox.update_status(connection, "sms", "SM2", DeliveryStatus.SENT, None, now=store.now) is None
        )


def test_what_was_tried_is_known_when_the_next_channel_is_chosen(store: Store) -> None:
    """A second delivery of a message goes over another channel, and the message notes it."""
    [id] = put(store, "hello")

    with store.database.begin() as connection:
        outbox.add_delivery(connection, store.id(), id, "alice", "email", "a@b.c", now=store.now)
        outbox.set_channel(connection, id, "email")

    with store.database.read() as connection:
        assert outbox.tried_channels(connection, id) == {"sms", "email"}
        assert queries.last_channel(connection, "alice") == "email"


# ---------------------------------------------------------------------- receivers


def waiting(store: Store, key: str, receiver: Receiver, status: str = "waiting") -> None:
    """A run in a session of this key that waits, and is in this state by now."""
    row = store.held(key)
    run = running(store, row)
    [result] = store.commit(change(row, new_runs=[run], receivers={run.id: [receiver]}))
    fields = {name: getattr(row, name) for name in row.__slots__} | {"version": result.version}
    ended_at = store.now if status == "completed" else None
    store.commit(change(type(row)(**fields), runs={run.id: {"status": status, "ended_at": ended_at}}))


def test_only_sessions_that_wait_for_a_person_are_found(store: Store) -> None:
    """A message may be for a session whose run waits for its sender, or for anyone, also while a step of that run is under
    way; not for runs that are over, nor for those that wait for signals."""
    waiting(store, "named", Receiver(1, "alice"))
    waiting(store, "anyone", Receiver(1))
    waiting(store, "in a step", Receiver(1, "alice"), "running")
    waiting(store, "bob", Receiver(1, "bob"))
    waiting(store, "over", Receiver(1, "alice"), "completed")
    waiting(store, "signal", Receiver(1, signal="*"))

    with store.database.read() as connection:
        alone = received.waiting_for(connection, "alice")
        together = arriving.wanted(connection, ["alice"])

    expected = [("anyone", None), ("in a step", "alice"), ("named", "alice")]
    assert sorted((row.key, row.contact) for row in alone) == expected
    assert sorted((row.key, row.contact) for row in together) == expected


def test_only_sessions_that_wait_for_a_signal_are_found(store: Store) -> None:
    """Of its type or of any, of the agents that it is for; each gets it once, however many of its runs wait."""
    waiting(store, "paid", Receiver(1, signal="paid"))
    waiting(store, "paid", Receiver(1, signal="paid"), "running")
    waiting(store, "any", Receiver(2, signal="*"))
    waiting(store, "lost", Receiver(1, signal="lost"))
    waiting(store, "over", Receiver(1, signal="paid"), "completed")
    waiting(store, "message", Receiver(1))
    of = store.held("other").agent

    def found(*types: str, agent: str = of, wide: bool = True) -> list[tuple[str, str]]:
        signals = [
            Emitted(type=type, agents=frozenset({agent}), wide=frozenset({agent} if wide else ()), dedupe=type, body="{}")
            for type in types
        ]  # fmt: skip
        with store.database.read() as connection:
            return [(post.key, post.dedupe) for post in inbox.for_waiting(connection, signals)]

    assert found("paid") == [("any", "paid"), ("paid", "paid")]
    assert found("paid", "lost") == [("any", "paid"), ("paid", "paid"), ("any", "lost"), ("lost", "lost")]
    assert found("paid", wide=False) == [("paid", "paid")]
    assert found("paid", agent="another") == []
    assert found() == []


# ---------------------------------------------------------------------- looking


def test_a_run_is_found_by_the_beginning_or_the_end_of_its_id(store: Store) -> None:
    """A run is found by its id, with or without hyphens, by its beginning and by its end; by nothing else."""
    [id] = store.queue("a")
    text = str(id)

    with store.database.read() as connection:
        for fragment in (text, text.replace("-", ""), text[:11], text[-6:], text[-6:].upper()):
            assert queries.find_runs(connection, fragment) == [id]
        for fragment in ("", "zz", "%", text + "0", "0" * 32):
            assert queries.find_runs(connection, fragment) == []


def test_looking_tells_what_is_due_and_what_comes_next(store: Store) -> None:
    """One look tells which kinds of thing are due now, and when the next that is not will be."""
    with store.database.read() as connection:
        nothing = due.look(connection, now=store.now)
    assert nothing.is_empty and nothing.next is None

    put(store, "hello")
    store.queue("a")
    [id] = store.sessions("a")
    later = NOW + timedelta(hours=1)
    row = {"session_id": id, "agent": "standup", "ref": "r", "own": True, "spec": "{}", "anchor": NOW, "nominal": later, "due_at": later}  # fmt: skip
    with store.database.begin() as connection:
        schedules.add(connection, [row])
        found = due.look(connection, now=store.now)

    assert (found.sessions, found.deliveries, found.schedules, found.next) == (True, True, False, later)
    assert not found.requests
