"""Requests: made once, asked under codes of each person's own, settled once by the first. One contract, every store."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.conformance.store_kit import (
    EVERY_STORE,
    NOW,
    Store,
    at_once,
    change,
    make_stores,
    question,
    raised,
    running,
    settlement,
)

from wakeloop import calls
from wakeloop.asking import RequestSpec, Settled
from wakeloop.store import queries, requests


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    yield from make_stores(request, tmp_path)


def find(store: Store, id: UUID) -> Any:
    with store.database.read() as connection:
        return requests.find(connection, id)


def settle_told(store: Store, id: UUID, by: str) -> bool:
    end = settlement(store, id, by=by)
    with store.database.begin() as connection:
        return requests.settle_told(connection, id, end.status, end.outcome, now=store.now) is not None


def is_open(store: Store, id: UUID) -> dict[str, bool]:
    """Whether a request is still open for each of those whom it was asked."""
    with store.database.read() as connection:
        return {row.contact: row.open for row in requests.recipients_of(connection, id)}


def open_ids(store: Store, contact: str) -> list[UUID]:
    with store.database.read() as connection:
        return [row.id for row in requests.open_of_contact(connection, contact)]


# ---------------------------------------------------------------------- made


def test_a_request_is_recorded_once_whoever_makes_it(store: Store) -> None:
    """A request with an id that is there already changes nothing, in one batch, in another, or in several threads."""
    [session] = store.sessions("a")
    first = question(
        store, store.id(), maker="backoffice", state='{"order": 7}', callback="https://x.example"
    )
    again = requests.new_request(
        RequestSpec(kind="question", to=("bob",), text="Something else?"), id=first.id, now=store.now
    )

    def make(*new: Any) -> set[UUID]:
        with store.database.begin() as connection:
            return requests.open_requests(connection, new, now=store.now)

    results = at_once(*[lambda: make((session, first), (session, first))] * 3)
    before = find(store, first.id)

    assert raised(results) == []
    assert sorted(map(len, results)) == [0, 0, 1]
    assert make((None, again)) == set()
    assert make() == set()
    assert tuple(find(store, first.id)) == tuple(before)
    assert (before.maker, before.state, before.callback) == (
        "backoffice",
        '{"order": 7}',
        "https://x.example",
    )
    assert len(store.rows("SELECT id FROM requests")) == 1


def test_a_request_is_not_reopened_by_being_made_again(store: Store) -> None:
    """Made again after its end, a request stays settled, and nobody is asked."""
    new = question(store)
    with store.database.begin() as connection:
        requests.open_requests(connection, [(None, new)], now=store.now)
    store.ask(new.id, "alice")
    assert settle_told(store, new.id, "alice")

    with store.database.begin() as connection:
        assert requests.open_requests(connection, [(None, new)], now=store.now) == set()

    assert find(store, new.id).status == "answered"
    assert open_ids(store, "alice") == []


def test_an_approval_keeps_what_it_is_for(store: Store) -> None:
    """A request is on record with its function, arguments, digest and end, and is due at once."""
    spec = RequestSpec(
        kind="approval", to=("alice",), text="Refund?", action="refund", args={"amount": 120}, timeout=3600
    )
    new = requests.new_request(spec, id=store.id(), now=store.now)

    with store.database.begin() as connection:
        requests.open_requests(connection, [(None, new)], now=store.now)

    row = find(store, new.id)
    kept = RequestSpec.model_validate_json(row.spec)
    assert kept.title == "Refund? (amount 120)"
    assert kept == spec.model_copy(update={"args": None, "brief": kept.title})
    assert (row.kind, row.status, row.action, row.args) == ("approval", "open", "refund", '{"amount":120}')
    assert row.digest == calls.digest("refund", {"amount": 120})
    assert (row.created_at, row.due_at, row.expires_at) == (NOW, NOW, NOW + timedelta(hours=1))
    assert (row.session_id, row.run_id, row.asked_at, row.settled_at) == (None, None, None, None)


def test_how_far_a_request_has_come_is_kept(store: Store) -> None:
    """A request's place on its timetable and its edited arguments are kept, of this one and no other."""
    one, other = store.open(), store.open()
    untouched = tuple(find(store, other))

    with store.database.begin() as connection:
        later = NOW + timedelta(hours=1)
        requests.move(connection, one, due_at=later, asked_at=NOW, reminders=2, escalations=1)
        requests.set_args(connection, one, '{"new":1}', '{"amount":7}', "d7")

    row = find(store, one)
    assert (row.due_at, row.asked_at, row.reminders, row.escalations) == (later, NOW, 2, 1)
    assert (row.spec, row.args, row.digest) == ('{"new":1}', '{"amount":7}', "d7")
    assert tuple(find(store, other)) == untouched


# ---------------------------------------------------------------------- settled


def test_a_request_is_settled_once_by_the_first(store: Store) -> None:
    """Of two settlements at once one wins, and nothing changes it afterwards, whichever way it comes."""
    row = store.held("a")
    run = running(store, row)
    asked = question(store, run.id)
    store.commit(change(row, new_runs=[run], requests=[asked]))

    def settle(by: str) -> None:
        store.settle(settlement(store, asked.id, by=by))

    assert raised(at_once(lambda: settle("alice"), lambda: settle("bob"))) == []
    first = find(store, asked.id)
    store.pass_time(1)
    settle("carol")
    assert not settle_told(store, asked.id, "dora")
    with store.database.begin() as connection:
        requests.settle_of_runs(connection, [run.id], "cancelled", "{}", now=store.now)

    settled = Settled.model_validate_json(first.outcome)
    assert settled.by in ("alice", "bob")
    assert (first.status, first.settled_at, first.due_at) == ("answered", NOW, NOW)
    assert tuple(find(store, asked.id)) == tuple(first)


def test_of_those_who_settle_a_request_at_once_one_is_told_that_they_did(store: Store) -> None:
    """Whoever settles first is told so, all others that they did not; the desk has nothing left to tell."""
    for _ in range(5):
        id = store.open()
        names = ("alice", "bob", "carol", "dora")

        results = at_once(*[lambda name=name, id=id: settle_told(store, id, name) for name in names])

        assert raised(results) == []
        assert sorted(results) == [False, False, False, True]
        row = find(store, id)
        assert Settled.model_validate_json(row.outcome).by == names[results.index(True)]
        assert row.due_at is None


def test_a_request_that_is_not_there_is_settled_by_nobody(store: Store) -> None:
    """Settling an unknown request, none, or those of runs that asked nothing, changes nothing."""
    id = store.open(run=store.id())

    assert not settle_told(store, store.id(), "alice")
    store.settle()
    store.settle(settlement(store, store.id()))
    with store.database.begin() as connection:
        requests.settle_of_runs(connection, [], "cancelled", "{}", now=store.now)
        requests.settle_of_runs(connection, [store.id()], "cancelled", "{}", now=store.now)
        assert requests.lock(connection, store.id()) is None

    assert find(store, id).status == "open"


@pytest.mark.parametrize("way", ["settle", "settle_told", "settle_of_runs"])
def test_a_request_is_closed_for_all_who_were_asked(store: Store, way: str) -> None:
    """However a request ends, it is closed for everybody who was asked, and others stay open for them."""
    runs = [store.id() for _ in range(3)]
    [session] = store.sessions("a")
    ended, also, left = (store.open(session, run) for run in runs)
    for id in (ended, also, left):
        store.ask(id, "alice", "bob")

    with store.database.begin() as connection:
        match way:
            case "settle":
                requests.settle(connection, [settlement(store, id) for id in (also, ended)], now=store.now)
            case "settle_told":
                for id in (ended, also):
                    assert requests.settle_told(connection, id, "answered", "{}", now=store.now)
            case _:
                requests.settle_of_runs(connection, runs[:2], "cancelled", "{}", now=store.now)

    nobody, both = {"alice": False, "bob": False}, {"alice": True, "bob": True}
    assert [is_open(store, id) for id in (ended, also, left)] == [nobody, nobody, both]
    assert open_ids(store, "alice") == open_ids(store, "bob") == [left]
    told = None if way == "settle_told" else NOW
    assert [find(store, id).due_at for id in (ended, also)] == [told, told]


# ---------------------------------------------------------------------- codes


def test_open_requests_of_a_person_have_different_codes(store: Store) -> None:
    """Whoever asks a person, and however many at once: no two of their open requests have one code."""

    def ask(worker: int) -> dict[UUID, dict[str, bool]]:
        alone = {}
        for number in range(10):
            people = ("alice", "bob") if number % 2 else ("bob", "alice") if worker % 2 else ("bob",)
            id = store.open()
            alone[id] = store.ask(id, *people)
        return alone

    results = at_once(*[lambda worker=worker: ask(worker) for worker in range(4)])

    assert raised(results) == []
    alone = {id: people for found in results for id, people in found.items()}
    for contact in ("alice", "bob"):
        with store.database.read() as connection:
            rows = requests.open_of_contact(connection, contact)
        codes = [row.code for row in rows]
        count = sum(contact in people for people in alone.values())
        assert len(codes) == len(set(codes)) == count >= 30
        # One of them was the first, whom nobody needs to tell a code.
        assert [people[contact] for people in alone.values() if contact in people].count(True) == 1
        assert [row.code_told for row in rows].count(False) == 1


def test_a_request_that_is_asked_of_several_people_has_one_code(store: Store) -> None:
    """A request has one code for all who are asked it together: one that none of them has on another."""
    others = [store.open() for _ in range(len(requests.CODES) - 1)]
    for number, id in enumerate(others):
        store.ask(id, ("alice", "bob", "carol")[number % 3])
    used = {code for id in others for code in store.codes(id).values()}
    id = store.open()

    alone = store.ask(id, "alice", "bob", "carol", "dora")

    codes = store.codes(id)
    assert alone == {"alice": False, "bob": False, "carol": False, "dora": True}
    assert codes.keys() == alone.keys()
    [code] = set(codes.values())
    assert len(code) == 2 or used == set(requests.CODES)
    assert code not in used


def test_an_escalation_keeps_the_code_while_it_is_free(store: Store) -> None:
    """Who is asked later gets the code that the others know, unless it is that of another open request of theirs."""
    id = store.open()
    store.ask(id, "alice")
    [code] = store.codes(id).values()
    taken = store.open()
    with store.database.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO recipients (request_id, contact, code, open, added_at, code_told)"
                " SELECT :id, 'carol', code, open, added_at, code_told FROM recipients"
            ),
            {"id": taken if store.database.is_postgres else taken.hex},
        )

    others = [store.open() for _ in range(12)]
    for other in others:
        store.ask(other, "alice", "bob")  # so that bob has codes of his own, but not this one

    store.pass_time(60)
    assert store.ask(id, "bob") == {"bob": False}
    store.pass_time(60)
    assert store.ask(id, "carol") == {"carol": False}

    codes = store.codes(id)
    assert list(codes) == ["alice", "bob", "carol"]
    assert codes["alice"] == codes["bob"] == code
    assert codes["carol"] != code
    assert set(open_ids(store, "carol")) == {id, taken}


def test_who_is_asked_again_keeps_their_code(store: Store) -> None:
    """Asking somebody a request that they were asked already changes nothing of what they know."""
    id = store.open()
    with store.database.begin() as connection:
        requests.add_recipients(connection, id, {"alice": "sms"}, now=store.now)
        [before] = requests.recipients_of(connection, id)

    store.pass_time(60)
    store.ask(id, "alice")

    with store.database.read() as connection:
        [row] = requests.recipients_of(connection, id)
    assert tuple(row) == tuple(before)
    assert row.via == "sms"


def test_when_codes_run_out_longer_ones_are_made(store: Store) -> None:
    """A person with more open requests than there are short codes gets longer codes, all different."""
    count = len(requests.CODES) + 30
    new = [question(store) for _ in range(count)]

    with store.database.begin() as connection:
        requests.open_requests(connection, [(None, one) for one in new], now=store.now)
        for one in new:
            requests.add_recipients(connection, one.id, {"alice": None, "bob": None}, now=store.now)

    with store.database.read() as connection:
        codes = [one.code for one in requests.open_of_contact(connection, "alice")]
        longest = max(codes, key=len)
        found = requests.latest_of_contact(connection, "alice", longest)
    assert len(codes) == len(set(codes)) == count
    assert set(requests.CODES) < set(codes)
    assert found is not None and found.code == longest and len(longest) > 2


def test_a_code_is_free_again_when_its_request_is_settled(store: Store) -> None:
    """Settled requests hold no code, and the newest one with a code is the one that is found by it."""
    newest: dict[str, UUID] = {}
    for _ in range(70):
        id = store.open()
        assert store.ask(id, "alice") == {"alice": True}
        assert settle_told(store, id, "alice")
        newest[store.codes(id)["alice"]] = id

    assert {len(code) for code in newest} == {2}
    assert len(newest) < 70
    with store.database.read() as connection:
        for code, id in newest.items():
            found = requests.latest_of_contact(connection, "alice", code)
            assert found is not None and (found.id, found.open) == (id, False)
        assert requests.latest_of_contact(connection, "bob", code) is None


# ---------------------------------------------------------------------- what is known of each person


def test_what_is_known_of_each_person_is_kept(store: Store) -> None:
    """Votes, drafts, channels, who was told the code and who is out of reach: each of one person and one request."""
    id, other = store.open(), store.open()
    for one in (id, other):
        store.ask(one, "alice", "bob")
    with store.database.read() as connection:
        untouched = [tuple(row) for row in requests.recipients_of(connection, other)]

    with store.database.begin() as connection:
        requests.set_vote(connection, id, "alice", "d1")
        requests.set_draft(connection, id, "alice", '{"values": {}}')
        requests.set_via(connection, id, "alice", "email")
        requests.note_told(connection, [(id, "alice")])
        requests.note_unreachable(connection, id, "bob")

    with store.database.read() as connection:
        alice, bob = requests.recipients_of(connection, id)
        asked = requests.one_of_contact(connection, "alice", id)
        assert [tuple(row) for row in requests.recipients_of(connection, other)] == untouched
    assert (alice.contact, alice.vote, alice.draft, alice.via) == ("alice", "d1", '{"values": {}}', "email")
    assert (alice.code_told, alice.unreachable) == (True, False)
    assert (bob.vote, bob.draft, bob.via, bob.code_told, bob.unreachable) == (None, None, None, False, True)
    assert asked is not None
    assert (asked.id, asked.draft, asked.via, asked.code, asked.code_told) == (id, alice.draft, "email", alice.code, True)  # fmt: skip

    with store.database.begin() as connection:
        requests.set_vote(connection, id, "alice", "d2")
        requests.set_draft(connection, id, "alice", None)
        requests.set_via(connection, id, "alice", None)
        alice, _ = requests.recipients_of(connection, id)
    assert (alice.vote, alice.draft, alice.via) == ("d2", None, None)


def test_a_persons_requests_are_found_and_nobody_elses(store: Store) -> None:
    """A person's open requests come oldest first, all of theirs newest first, and another's not at all."""
    first, second, third = (store.open() for _ in range(3))
    for id in (first, second, third):
        store.ask(id, "alice")
    store.ask(second, "bob")
    settle_told(store, second, "alice")

    with store.database.read() as connection:
        assert [row.id for row in requests.of_contact(connection, "alice", limit=10)] == [
            third,
            second,
            first,
        ]
        assert [row.id for row in requests.of_contact(connection, "alice", limit=2)] == [third, second]
        assert [row.id for row in requests.of_contact(connection, "bob", limit=10)] == [second]
        assert requests.one_of_contact(connection, "bob", first) is None
        found = requests.recipients_of_all(connection, [first, second, store.id()])
        assert requests.recipients_of_all(connection, []) == {}
    assert open_ids(store, "alice") == [first, third]
    assert open_ids(store, "bob") == []
    assert [sorted(row.contact for row in rows) for rows in found.values()] == [
        ["alice"],
        ["alice", "bob"],
        [],
    ]


def test_requests_are_listed_with_their_sessions(store: Store) -> None:
    """Lists show requests of runs with agent and key, and those of programs with none, oldest first."""
    [session] = store.sessions("a")
    run = store.id()
    of_run, of_program = store.open(session, run), store.open(maker="backoffice")
    settle_told(store, of_program, "alice")

    with store.database.read() as connection:
        every = queries.list_requests(connection)
        opened = queries.list_requests(connection, status="open")
        answered = queries.list_requests(connection, status="answered", limit=5)
        asked = queries.list_requests(connection, run=run)
        one = queries.find_request(connection, of_program)
        assert queries.find_request(connection, store.id()) is None
    assert [(row.id, row.agent, row.key) for row in every] == [
        (of_run, "standup", "a"),
        (of_program, None, None),
    ]
    assert [[row.id for row in rows] for rows in (opened, answered, asked)] == [
        [of_run],
        [of_program],
        [of_run],
    ]
    assert one is not None and (one.id, one.maker, one.agent) == (of_program, "backoffice", None)
