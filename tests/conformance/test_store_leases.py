"""Leases, fencing and arrivals: one contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.store_kit import (
    EVERY_STORE,
    LEASE,
    NOW,
    Store,
    after,
    at_once,
    change,
    claim,
    look,
    make_stores,
    question,
    raised,
    release,
    running,
    settlement,
)

from wakeloop.engine.journal import Kind, Record
from wakeloop.store import due, inbox, leases, turns
from wakeloop.store.records import ChildEnd, Committed, InboxRow, NewEntry, NewRun, Post, Receiver, SessionRow


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def test_a_free_session_that_needs_a_turn_is_claimed_once(store: Store) -> None:
    """A free session that needs a turn is claimed once, and its token grows."""
    store.queue("a")
    [id] = store.sessions("a")

    first = store.claim(id)
    second = store.claim(id, owner="worker 2")

    assert [row.token for row in first] == [1]
    assert second == []
    assert store.session(id).owner == "worker 1"


def test_a_session_that_needs_no_turn_is_not_claimed(store: Store) -> None:
    """A session that nothing is due for is not claimed."""
    [id] = store.sessions("a")

    assert store.claim(id) == []


def test_extending_keeps_only_what_the_worker_still_holds(store: Store) -> None:
    """Extending keeps only what the worker still holds, and only of that it learns how much arrived."""
    mine, others = store.held("a"), store.held("b", owner="worker 2")
    store.queue("a")

    with store.database.begin() as connection:
        leases.extend(connection, [mine.id, others.id], owner="worker 1", until=NOW + timedelta(hours=1))
        arrivals = leases.arrivals(connection, [mine.id, others.id], owner="worker 1")

    assert arrivals == {mine.id: mine.arrivals + 1}
    store.pass_time(16)
    assert store.claim_due() == [others.id]


def test_what_is_handed_back_is_taken_up_at_once(store: Store) -> None:
    """A session that is handed back is due at once, and its former holder is fenced."""
    row = store.held("a")

    with store.database.begin() as connection:
        leases.hand_back(connection, [row.id], owner="worker 1", now=store.now)

    assert [one.id for one in store.claim(row.id, owner="worker 2")] == [row.id]
    assert store.commit(change(row))[0].fenced


def test_what_a_worker_lost_with_the_answer_it_takes_anew(store: Store) -> None:
    """A claim may be committed and its answer be lost: the same worker is not kept from the session by its own lease, and
    nobody else gets it. What it did under the lost claim is refused."""
    lost = store.held("a")

    others = store.claim(lost.id, owner="worker 2")
    [again] = store.claim(lost.id)
    [refused] = store.commit(change(lost))
    [done] = store.commit(change(again, release=True))

    assert others == []
    assert again.token > lost.token
    assert (again.takeovers, refused.fenced, done.released) == (0, True, True)


def test_due_sessions_are_dispatched_again_later_each_time(store: Store) -> None:
    """A session that no worker takes up is due again after 10 s, then 20, doubling up to 320 s."""
    store.queue("a")
    [id] = store.sessions("a")

    waits = []
    for _ in range(8):
        assert store.claim_due() == [id]
        assert store.claim_due() == []
        with store.database.read() as connection:
            again = due.look(connection, now=store.now).next
        assert again is not None
        waits.append((again - store.now).total_seconds())
        store.clock.move(again)

    assert waits == [10, 20, 40, 80, 160, 320, 320, 320]


def test_only_sessions_of_known_agents_are_claimed(store: Store) -> None:
    """A worker claims only sessions of agents that it knows, the longest due first."""
    for number in range(3):
        store.queue(f"{number}")
        store.pass_time(1)
    store.queue("x", agent="other")

    assert store.claim_due("standup", limit=2) == store.sessions("0", "1")
    assert store.claim_due("other") == store.sessions("x", agent="other")


def test_an_expired_lease_is_taken_over_and_its_holder_fenced(store: Store) -> None:
    """A lease that ran out is taken over; the late worker's commit writes nothing; the takeover is counted."""
    late = store.held("a")
    store.pass_time(LEASE.total_seconds())

    assert store.claim_due() == [late.id]
    [row] = store.claim(late.id, owner="worker 2")
    [result] = store.commit(change(late, state='"stale"', new_runs=[running(store, late)]))

    assert result.fenced
    assert row.takeovers == 1
    assert store.session(late.id).state is None
    assert len(store.rows("SELECT id FROM runs WHERE session_id = :id", id=late.id)) == 1


def test_a_commit_ends_the_count_of_takeovers(store: Store) -> None:
    """A commit shows that the worker lives: the count of takeovers starts again."""
    late = store.held("a")
    store.pass_time(16)
    store.claim_due()
    [row] = store.claim(late.id, owner="worker 2")

    store.commit(change(row))

    assert store.session(late.id).takeovers == 0


def test_of_two_workers_that_fight_over_an_expired_lease_one_wins(store: Store) -> None:
    """Two workers fight over one expired lease, many times: exactly one has it, and only its writes are there."""
    holder = store.held("a")
    for number in range(15):
        store.pass_time(400)

        def take(name: str, id: int = holder.id) -> Any:
            dispatched = store.claim_due()
            return dispatched, store.claim(id, owner=name)

        results = at_once(lambda: take("worker 1"), lambda: take("worker 2"), lambda: take("worker 3"))

        assert raised(results) == []
        assert sum(len(dispatched) for dispatched, _ in results) == 1
        winners = [row for _, rows in results for row in rows]
        assert len(winners) == 1
        stale, fresh = (
            store.commit(change(holder, state='"stale"')),
            store.commit(change(winners[0], state=f'"{number}"')),
        )
        assert (stale[0].fenced, fresh[0].fenced) == (True, False)
        assert store.session(holder.id).state == f'"{number}"'
        holder = after(winners[0], fresh[0])


def test_two_claims_of_due_sessions_at_once_share_none(store: Store) -> None:
    """Workers that claim due sessions at once get each one time."""
    store.queue(*(f"{number:03}" for number in range(60)))

    results = at_once(*[lambda: [store.claim_due(limit=7) for _ in range(10)]] * 4)

    assert raised(results) == []
    got = sorted(id for batches in results for batch in batches for id in batch)
    assert got == sorted(store.sessions(*(f"{number:03}" for number in range(60))))


def test_a_commit_that_is_repeated_is_recognised(store: Store) -> None:
    """A commit whose acknowledgement was lost is recognised when it is tried again, and nothing is written twice."""
    row = store.held("a")
    record = Record(seq=1, op=1, kind=Kind.STEP, name="fetch", value="1", at=store.now)
    commit = release(
        row,
        state='{"days": 1}',
        records={store.id(): [record]},
        posts=[Post(agent="other", key="x", kind="signal", dedupe="signal:1")],
        spawned=[NewRun(id=store.id(), agent="other", key="x", event="{}")],
    )

    first, second = store.commit(commit), store.commit(commit)

    assert first == second
    assert first[0].released and not first[0].fenced
    assert len(store.rows("SELECT * FROM journal")) == 1
    [other] = store.sessions("x", agent="other")
    assert len(store.rows("SELECT * FROM runs WHERE session_id = :id", id=other)) == 1


def test_something_that_arrived_refuses_a_release(store: Store) -> None:
    """A session that something arrived for since it was loaded is not let go: it would be asleep on its inbox."""
    row = store.held("a")
    with store.database.begin() as connection:
        posted = inbox.post(
            connection,
            [Post(agent="standup", key="a", kind="message", dedupe="m1")],
            {("standup", "a"): row.id},
            now=store.now,
        )
        inbox.touch(connection, posted, now=store.now)

    [result] = store.commit(release(row))

    assert (result.released, result.arrived, result.fenced) == (False, True, False)
    assert store.session(row.id).owner == "worker 1"
    with store.database.read() as connection:
        [fresh] = look(connection, row.id).known.values()
    assert store.commit(release(fresh))[0].released


def test_an_arrival_and_a_release_at_once_never_lose_the_arrival(store: Store) -> None:
    """Whatever the order of an arrival and a release, the session is either kept or due."""
    [id] = store.sessions("a")
    for number in range(20):
        store.queue("a")
        [row] = store.claim(id)

        def arrive(number: int = number) -> None:
            with store.database.begin() as connection:
                posts = [Post(agent="standup", key="a", kind="message", dedupe=f"m{number}")]
                found = inbox.post(connection, posts, {("standup", "a"): id}, now=store.now)
                inbox.touch(connection, found, now=store.now)

        def let_go(row: SessionRow = row) -> list[Committed]:
            return store.commit(release(row))

        results = at_once(let_go, arrive)

        assert raised(results) == []
        [committed] = results[0]
        now = store.session(id)
        assert committed.arrived or (now.owner is None and now.due_at is not None)
        if committed.arrived:
            with store.database.read() as connection:
                fresh = look(connection, id).known[id]
            assert store.commit(release(fresh))[0].released


def test_what_arrives_for_a_sleeping_session_makes_it_due_now(store: Store) -> None:
    """An arrival makes a sleeping session due now, and leaves one that is due already as it is."""
    row = store.held("a")
    store.commit(release(row, due_at=NOW + timedelta(days=7)))
    assert store.claim_due() == []

    store.pass_time(60)
    store.queue("a")

    assert store.claim_due() == [row.id]


def test_a_batch_with_a_fenced_session_writes_the_others(store: Store) -> None:
    """Of a batch of commits the fenced ones write nothing, and the others all of theirs."""
    stale, good = store.held("a"), store.held("b")
    with store.database.begin() as connection:
        leases.hand_back(connection, [stale.id], owner="worker 1", now=store.now)
    asked = {row.id: store.open(row.id) for row in (stale, good)}
    commits = [
        change(row, state='"new"', new_runs=[running(store, row)], settlements=[settlement(store, asked[row.id])])
        for row in (stale, good)
    ]  # fmt: skip

    results = store.commit(*commits)

    assert [result.fenced for result in results] == [True, False]
    assert store.session(stale.id).state is None
    assert store.session(good.id).state == '"new"'
    assert len(store.rows("SELECT id FROM runs WHERE status = 'running'")) == 1
    found = {row.session_id: row.status for row in store.rows("SELECT session_id, status FROM requests")}
    assert found == {stale.id: "open", good.id: "answered"}


def test_parents_and_children_that_commit_into_each_other_never_block(store: Store) -> None:
    """Batches that touch each other's sessions both ways, from many threads: no deadlock, nothing lost or doubled."""
    keys = [f"{number}" for number in range(8)]
    rounds = 12
    store.sessions(*keys)

    def work(worker: int) -> None:
        for number in range(rounds):
            mine = keys[worker * 2 : worker * 2 + 2]
            store.queue(*mine)
            rows = store.claim(*store.sessions(*mine), owner=f"worker {worker}")
            by_session = dict(zip(store.sessions(*keys), keys, strict=True))
            commits = []
            for row in reversed(rows):
                others = [(id, key) for id, key in by_session.items() if id != row.id]
                if (worker + number) % 2:
                    others.reverse()
                commits.append(
                    release(
                        row,
                        answers=[
                            ChildEnd(session=id, parent=store.id(), run=store.id(), body="{}")
                            for id, _ in others
                        ],
                        posts=[
                            Post(
                                agent="standup", key=key, kind="signal", dedupe=f"{worker}:{number}:{row.id}"
                            )
                            for _, key in others
                        ],
                    )
                )
            with store.database.begin() as connection:
                results = turns.commit(connection, commits, now=store.now, also=list(by_session))
                claim(connection, [], owner=f"worker {worker}", now=store.now, until=store.now + LEASE)
            for row, result in zip(reversed(rows), results, strict=True):
                assert not result.fenced
                if not result.released:
                    with store.database.begin() as connection:
                        leases.hand_back(connection, [row.id], owner=f"worker {worker}", now=store.now)

    results = at_once(*[lambda worker=worker: work(worker) for worker in range(4)])

    assert raised(results) == []
    total = store.rows(
        "SELECT count(*) AS n, count(DISTINCT dedupe) AS kinds FROM inbox WHERE kind = 'child'"
    )[0]
    assert total.n == total.kinds
    assert total.n % 7 == 0 and total.n >= 4 * rounds * 7


def test_everything_a_commit_may_hold_is_written_together(store: Store) -> None:
    """A commit with one of everything: state, runs, journal, inbox, receivers, requests, the conversation."""
    row = store.held("a")
    run = running(store, row, wake_at=NOW + timedelta(hours=2), waits="[]")
    store.commit(change(row, new_runs=[run]))
    row = after(row, store.commit(change(row, new_runs=[run]))[0])
    with store.database.begin() as connection:
        inbox.post(connection, [Post(agent="standup", key="a", kind="message", dedupe="m1"), Post(agent="standup", key="a", kind="message", dedupe="m2")], {("standup", "a"): row.id}, now=store.now)  # fmt: skip
    with store.database.read() as connection:
        first, second = look(connection, row.id).inbox
    asked = question(store, run.id)

    results = store.commit(
        change(
            row,
            state="[]",
            runs={run.id: {"applied": 3, "cancelling": True}},
            records={run.id: [Record(seq=1, op=1, kind=Kind.ASK, name="", at=store.now)]},
            consumed=[first.id],
            retargeted=[(second.id, run.id)],
            requests=[asked],
            receivers={run.id: [Receiver(1, "alice"), Receiver(2)]},
            entries=[NewEntry(role="user", content='"one"'), NewEntry(role="tool", content="2")],
        )
    )

    assert not results[0].fenced
    said = store.rows("SELECT seq, role, content FROM conversation ORDER BY seq")
    assert [tuple(one) for one in said] == [(1, "user", '"one"'), (2, "tool", "2")]
    with store.database.read() as connection:
        [loaded] = [one for one in look(connection, row.id).runs if one.id == run.id]
        assert (loaded.applied, loaded.cancelling, loaded.wake_at) == (3, True, NOW + timedelta(hours=2))
        assert turns.load_journals(connection, [run.id])[run.id][0].kind is Kind.ASK
        [left] = look(connection, row.id).inbox
        assert isinstance(left, InboxRow) and left.target == run.id
    assert len(store.rows("SELECT * FROM receivers")) == 2
    [row] = store.rows("SELECT status, session_id FROM requests")
    assert (row.status, row.session_id) == ("open", loaded.session_id)


def test_instants_keep_their_microseconds_whatever_their_zone(store: Store) -> None:
    """An instant is the same instant afterwards, to the microsecond, whatever zone it was written in."""
    row = store.held("a")
    tokyo = (NOW + timedelta(days=1)).astimezone(timezone(timedelta(hours=9)))

    store.commit(release(row, due_at=tokyo))

    with store.database.read() as connection:
        found = due.look(connection, now=store.now).next
    assert found == NOW + timedelta(days=1)
    assert found.utcoffset() == timedelta(0)
    assert found.microsecond == 123456


def test_nothing_is_claimed_a_microsecond_early(store: Store) -> None:
    """A session is not claimed one microsecond before it is due, and is at that very instant."""
    row = store.held("a")
    store.commit(release(row, due_at=NOW + timedelta(seconds=5)))

    store.pass_time(4.999999)
    assert store.claim_due() == []
    store.clock.move(NOW + timedelta(seconds=5))
    assert store.claim_due() == [row.id]


@pytest.mark.parametrize(
    "text", ["héllo 👩‍👩‍👧‍👦 \u202e \U0001f600", "'; DROP TABLE runs; --", "x" * 3_000_000, '{"a": "\\u0000"}', "{,\"\\}", ""],
    ids=["emoji", "quotes", "huge", "escape", "array", "empty"],
)  # fmt: skip
def test_text_comes_back_as_it_was(store: Store, text: str) -> None:
    """Text of any kind and length comes back as it was, from states, journals and inboxes."""
    row = store.held("a")
    run = running(store, row)
    posts = [Post(agent="standup", key="a", kind="message", dedupe=text[:50], body=text)]
    records = {run.id: [Record(seq=1, op=1, kind=Kind.STEP, name=text[:100], value=text, at=NOW)]}

    store.commit(change(row, state=text, new_runs=[run], records=records, posts=posts))

    with store.database.read() as connection:
        assert look(connection, row.id).known[row.id].state == text
        [record] = turns.load_journals(connection, [run.id])[run.id]
        [item] = look(connection, row.id).inbox
    assert (record.value, record.name, item.body) == (text, text[:100], text)
