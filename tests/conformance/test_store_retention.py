"""What is old and over is found and deleted; what is open, or what something open refers to, never. One contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.conformance.store_kit import EVERY_STORE, Store, look, make_stores, release, settlement

from wakeloop.engine.journal import Kind as Line
from wakeloop.engine.journal import Record
from wakeloop.status import PARKED_RUN, RunStatus
from wakeloop.store import chores, conversation, files, inbox, outbox, received, retention, schedules, schema
from wakeloop.store.records import NewEntry, NewMessage, NewRun, Post
from wakeloop.store.retention import Kind

DAY = 86400.0


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def a_run(store: Store, key: str, status: RunStatus = RunStatus.COMPLETED, **facts: Any) -> UUID:
    """A run with a line in its journal, that ended now, or is open."""
    [session] = store.sessions(key)
    ended = None if status in (RunStatus.WAITING, RunStatus.QUEUED) else store.now
    failure = "{}" if status in PARKED_RUN else None
    run = NewRun(id=store.id(), agent="standup", key=key, event="{}", **facts)
    with store.database.begin() as connection:
        inbox.queue_runs(connection, [run], {("standup", key): session}, now=store.now)
        inbox.touch(connection, [session], now=store.now)
    [held] = store.claim(session)
    record = Record(seq=1, op=1, kind=Line.STEP, name="fetch", at=store.now)
    store.commit(
        release(
            held,
            runs={run.id: {"status": str(status), "ended_at": ended, "failure": failure}},
            records={run.id: [record]},
        )
    )
    return run.id


def a_message(store: Store, key: str | None, **facts: Any) -> UUID:
    """A message to alice that was delivered, with a file, beside what she sent."""
    session = None if key is None else store.sessions(key)[0]
    id = store.id()
    new = NewMessage(
        id=id, contact="alice", channel="sms", address="+1", via=None, subject=None, text="hello", **facts
    )
    with store.database.begin() as connection:
        outbox.put(connection, session, [new], now=store.now)
        outbox.claim_due(connection, now=store.now, limit=10)
        files.add(connection, id, [(store.id(), "a.txt", "text/plain", b"abc")], now=store.now)
    set_row(store, "UPDATE deliveries SET status = 'delivered', due_at = NULL WHERE message_id = :id", id)
    return id


def set_row(store: Store, sql: str, id: UUID) -> None:
    with store.database.begin() as connection:
        statement = sa.text(sql).bindparams(sa.bindparam("id", type_=sa.Uuid()))
        connection.execute(statement, {"id": id})


def heard(store: Store, provider_id: str, message: UUID | None = None) -> None:
    with store.database.begin() as connection:
        id = received.record(connection, channel="sms", provider_id=provider_id, address="+1", contact="alice", raw='{"text":"yes"}', now=store.now)  # fmt: skip
        assert id is not None
        received.set_outcome(connection, id, "kept", message)


def prune(store: Store, kind: Kind, days: float = 30, *, limit: int = 3, counting: bool = False) -> dict[str, int]:  # fmt: skip
    """Delete, or count, what of this kind is older, in batches; the rows of each table that there were any of."""
    before, after = store.now - timedelta(days=days), None
    removed: dict[str, int] = {}
    while True:
        with store.database.begin() as connection:
            found = retention.find(connection, kind, before=before, after=after, limit=limit)
            came = retention.remove(connection, kind, found.ids, repeats=before, counting=counting)
        removed = {name: removed.get(name, 0) + came.get(name, 0) for name in removed | came}
        after = found.after
        if after is None:
            return {name: count for name, count in removed.items() if count}


def left(store: Store, table: str) -> int:
    count: int = store.rows(f"SELECT count(*) FROM {table}")[0][0]
    return count


def test_a_run_goes_with_its_journal_and_its_requests_once_it_is_old(store: Store) -> None:
    """Of eight runs, five ended long ago and go with all that is theirs, in batches of three; counting deletes nothing."""
    old = [a_run(store, f"k{n}") for n in range(5)]
    for run in old[:2]:
        asked = store.open(store.sessions("k0")[0], run)
        store.ask(asked, "alice", "bob")
        store.settle(settlement(store, asked, by="alice"))
        set_row(store, "UPDATE requests SET due_at = NULL WHERE id = :id", asked)
    store.pass_time(20 * DAY)
    young = [a_run(store, f"k{n}") for n in range(3)]
    store.pass_time(15 * DAY)

    expected = {"journal": 5, "recipients": 4, "requests": 2, "runs": 5}
    assert prune(store, Kind.RUNS, counting=True) == expected
    assert left(store, "runs") == 8
    assert prune(store, Kind.RUNS) == expected

    assert sorted(UUID(str(row.id)) for row in store.rows("SELECT id FROM runs")) == sorted(young)
    assert left(store, "journal") == 3
    assert left(store, "sessions") == 5
    assert prune(store, Kind.RUNS) == {}


@pytest.mark.parametrize("status", [RunStatus.WAITING, RunStatus.QUEUED, RunStatus.FAILED, RunStatus.STUCK])
def test_a_run_that_may_go_on_is_never_deleted(store: Store, status: RunStatus) -> None:
    """Asleep, queued or parked, whatever its age; and neither is a child that such a run has, nor its messages."""
    parent = a_run(store, "asleep", status)
    a_run(store, "child", parent_id=parent, parent_session_id=store.sessions("asleep")[0])
    a_message(store, "asleep", run_id=parent)
    a_message(store, "asleep")
    store.pass_time(400 * DAY)

    assert prune(store, Kind.RUNS) == {}
    assert prune(store, Kind.MESSAGES) == {}

    set_row(store, "UPDATE runs SET status = 'cancelled', ended_at = created_at WHERE id = :id", parent)
    assert prune(store, Kind.RUNS)["runs"] == 2
    assert prune(store, Kind.MESSAGES)["messages"] == 2


def test_a_run_of_which_somebody_is_still_to_be_told_stays(store: Store) -> None:
    """The end of a request is still to be told to those who were asked; then its run may go."""
    run = a_run(store, "k")
    asked = store.open(store.sessions("k")[0], run)
    store.settle(settlement(store, asked))
    store.pass_time(100 * DAY)

    assert prune(store, Kind.RUNS) == {}

    set_row(store, "UPDATE requests SET due_at = NULL WHERE id = :id", asked)
    assert prune(store, Kind.RUNS) == {"journal": 1, "requests": 1, "runs": 1}


def test_an_occurrence_that_was_deleted_does_not_fire_again(store: Store) -> None:
    """A run stays until its schedule stands at a later occurrence: queued anew it would otherwise run again."""
    [session] = store.sessions("default")
    nominal = store.now
    row = {"session_id": session, "agent": "standup", "ref": "r", "own": False, "spec": "{}", "anchor": nominal, "nominal": nominal, "due_at": nominal}  # fmt: skip
    with store.database.begin() as connection:
        schedules.add(connection, [row])
        [schedule] = look(connection, session).schedules
    a_run(store, "default", schedule_id=schedule.id, nominal=nominal)
    store.pass_time(100 * DAY)
    assert prune(store, Kind.RUNS) == {}

    with store.database.begin() as connection:
        later = store.now + timedelta(days=1)
        schedules.move(connection, [{"id": schedule.id, "nominal": later, "due_at": later}])

    assert prune(store, Kind.RUNS)["runs"] == 1
    with store.database.begin() as connection:
        assert (
            schedules.claim_due(connection, now=later - timedelta(hours=1), agents=["standup"], limit=9) == []
        )


def test_a_skipped_occurrence_goes_like_a_run(store: Store) -> None:
    """What was skipped is on record for as long as what ran."""
    [session] = store.sessions("default")
    run = NewRun(id=store.id(), agent="standup", key="default", event="{}", skipped="overlap", skip_count=4)
    with store.database.begin() as connection:
        inbox.queue_runs(connection, [run], {("standup", "default"): session}, now=store.now)
    store.pass_time(31 * DAY)

    assert prune(store, Kind.RUNS) == {"runs": 1}


def test_only_requests_of_programs_that_are_over_go_by_their_own_age(store: Store) -> None:
    """An open one stays, one of whose end somebody is to be told, too; a run's goes with the run."""
    over, untold, still_open = store.open(), store.open(), store.open()
    store.ask(over, "alice")
    store.settle(settlement(store, over), settlement(store, untold))
    set_row(store, "UPDATE requests SET due_at = NULL WHERE id = :id", over)
    store.pass_time(31 * DAY)

    assert prune(store, Kind.REQUESTS) == {"recipients": 1, "requests": 1}
    assert {row.id for row in all_requests(store)} == {untold, still_open}


def all_requests(store: Store) -> list[Any]:
    with store.database.read() as connection:
        return list(connection.execute(sa.select(schema.requests)))


def test_consumed_events_go_and_those_that_wait_stay(store: Store) -> None:
    """What nobody has taken yet is kept, however old it is; what was taken of late as well."""
    [session] = store.sessions("k")
    posts = [Post(agent="standup", key="k", kind="signal", dedupe=f"s{n}", body="{}") for n in range(6)]
    with store.database.begin() as connection:
        inbox.post(connection, posts, {("standup", "k"): session}, now=store.now)
        inbox.touch(connection, [session], now=store.now)
    ids = [row.id for row in store.rows("SELECT id FROM inbox ORDER BY id")]
    [held] = store.claim(session)
    store.commit(release(held, consumed=ids[1:5]))
    store.pass_time(31 * DAY)
    with store.database.begin() as connection:
        inbox.touch(connection, [session], now=store.now)
    [held] = store.claim(session)
    store.commit(release(held, consumed=ids[5:]))

    assert prune(store, Kind.INBOX) == {"inbox": 4}
    assert [row.id for row in store.rows("SELECT id FROM inbox ORDER BY id")] == [ids[0], ids[5]]


def test_a_message_goes_with_its_deliveries_and_files_once_it_is_old(store: Store) -> None:
    """Old messages of sessions at rest, and of none, go with all that is theirs; what is on its way stays."""
    a_message(store, "k")
    a_message(store, None)
    waiting = a_message(store, "k")
    set_row(store, "UPDATE deliveries SET status = 'pending' WHERE message_id = :id", waiting)
    store.pass_time(31 * DAY)
    a_message(store, "k")

    expected = {"deliveries": 2, "files": 2, "messages": 2}
    assert prune(store, Kind.MESSAGES, counting=True) == expected
    assert prune(store, Kind.MESSAGES) == expected
    assert left(store, "messages") == left(store, "files") == 2


def test_a_message_about_an_open_request_stays(store: Store) -> None:
    """A reply to it is still to be matched."""
    asked = store.open()
    a_message(store, None, request_id=asked)
    store.pass_time(100 * DAY)

    assert prune(store, Kind.MESSAGES) == {}


def test_a_message_of_a_session_with_something_in_its_inbox_stays(store: Store) -> None:
    """What waits there may be that message."""
    a_message(store, "k")
    [session] = store.sessions("k")
    with store.database.begin() as connection:
        inbox.post(connection, [Post(agent="standup", key="k", kind="message", dedupe="m")], {("standup", "k"): session}, now=store.now)  # fmt: skip
    store.pass_time(100 * DAY)

    assert prune(store, Kind.MESSAGES) == {}


def test_no_turn_begins_that_could_read_a_message_that_goes(store: Store) -> None:
    """Its session is locked from the judgement to the deletion; one that somebody has in hand is left alone."""
    if not store.database.is_postgres:
        return  # which has one writer
    message = a_message(store, "a")
    [session] = store.sessions("a")
    store.pass_time(31 * DAY)
    before = store.now - timedelta(days=30)
    with store.database.begin() as connection:
        inbox.touch(connection, [session], now=store.now)
    with store.database.begin() as connection:
        found = retention.find(connection, Kind.MESSAGES, before=before, limit=3)
        claimed = store.claim_due()
    with store.database.begin() as connection:
        inbox.touch(connection, [session], now=store.now)
        with store.database.begin() as other:
            beside = retention.find(other, Kind.MESSAGES, before=before, limit=3)

    assert (found.ids, claimed) == ([message], [])
    assert beside.ids == []
    assert store.claim_due() == [session]


def test_what_came_in_is_known_for_as_long_as_it_may_come_again(store: Store) -> None:
    """A repetition of the last days is refused after its message has gone; the raw payload goes earlier than both."""
    old = a_message(store, "k")
    heard(store, "SM-old", old)
    heard(store, "SM-stranger")
    store.pass_time(20 * DAY)
    young = a_message(store, "k")
    heard(store, "SM-young", young)
    store.pass_time(20 * DAY)

    assert prune(store, Kind.RAW, 10, limit=2) == {"raw payloads": 3}
    assert prune(store, Kind.RAW, 10, limit=2) == {}
    assert {row.raw for row in store.rows("SELECT raw FROM received")} == {""}
    assert prune(store, Kind.MESSAGES) == {"deliveries": 1, "files": 1, "messages": 1, "received": 1}
    assert prune(store, Kind.RECEIVED, counting=True) == {"received": 1}
    assert prune(store, Kind.RECEIVED) == {"received": 1}
    assert [row.provider_id for row in store.rows("SELECT provider_id FROM received")] == ["SM-young"]


def test_of_those_who_want_a_chore_one_gets_it_and_it_is_put_off_when_done(store: Store) -> None:
    """Nobody else begins while it is held, nor before the time until which it was put off; a dead holder's runs out."""

    def take(owner: str) -> bool:
        with store.database.begin() as connection:
            until = store.now + timedelta(minutes=1)
            return chores.take(connection, "retention", owner=owner, now=store.now, until=until)

    def extend(owner: str, seconds: float) -> bool:
        with store.database.begin() as connection:
            until = store.now + timedelta(seconds=seconds)
            return chores.extend(connection, "retention", owner=owner, until=until)

    assert [take("a"), take("b")] == [True, False]
    store.pass_time(61)
    assert take("b")
    assert [extend("a", 60), extend("b", 3600)] == [False, True]
    store.pass_time(3599)
    assert not take("a")
    store.pass_time(1)
    assert take("a")


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_what_a_transaction_has_in_hand_is_left_out(store: Store) -> None:
    """A run that somebody is looking at is not waited for: it goes with a later walk."""
    a_run(store, "a")
    held = a_run(store, "b")
    store.pass_time(31 * DAY)
    with store.database.begin() as connection:
        connection.execute(sa.text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": held})
        assert prune(store, Kind.RUNS)["runs"] == 1
    assert prune(store, Kind.RUNS)["runs"] == 1


def test_requests_are_not_in_the_way_of_their_open_runs(store: Store) -> None:
    """A settled request of a run that is asleep stays with it."""
    run = a_run(store, "k", RunStatus.WAITING)
    asked = store.open(store.sessions("k")[0], run)
    store.settle(settlement(store, asked))
    set_row(store, "UPDATE requests SET due_at = NULL WHERE id = :id", asked)
    store.pass_time(400 * DAY)

    assert prune(store, Kind.RUNS) == prune(store, Kind.REQUESTS) == {}


def test_of_a_conversation_that_was_in_use_when_a_walk_came_by_nothing_goes_with_that_walk(
    store: Store,
) -> None:
    """Nor what stands in the walk's next batch, when it is at rest again: only a beginning goes, and no position is given
    twice."""
    [session] = store.sessions("a")
    entries = [NewEntry(role="user", content='"hello"')] * (conversation.WINDOW + 2)
    with store.database.begin() as connection:
        conversation.append(connection, [(session, entries)], now=store.now)
    store.pass_time(31 * DAY)
    before = store.now - timedelta(days=30)
    [run] = store.queue("a")

    def batch(after: Any = None) -> tuple[int, Any]:
        with store.database.begin() as connection:
            found = retention.find(connection, Kind.ENTRIES, before=before, after=after, limit=1)
            removed = retention.remove(connection, Kind.ENTRIES, found.ids, repeats=before)
        return removed.get("conversation", 0), found.after

    busy, after = batch()
    set_row(store, "UPDATE runs SET status = 'completed', ended_at = created_at WHERE id = :id", run)
    rest, end = batch(after)
    whole = prune(store, Kind.ENTRIES)
    with store.database.begin() as connection:
        conversation.append(connection, [(session, entries[:1])], now=store.now)
        bounds = conversation.bounds(connection, [session])

    assert (busy, rest, end) == (0, 0, None)
    assert whole == {"conversation": len(entries)}
    assert bounds == {session: (len(entries) + 1, len(entries) + 1)}
