"""No statement that the runtime runs by itself reads a large table from end to end."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from tests.servers import Postgres

from wakeloop.channel import DeliveryStatus
from wakeloop.clock import VirtualClock
from wakeloop.engine.journal import Kind, Record
from wakeloop.status import RunStatus
from wakeloop.store import (
    ahead,
    amendments,
    arriving,
    audit,
    chores,
    claims,
    conversation,
    due,
    erasure,
    exports,
    files,
    grants,
    inbox,
    keys,
    leases,
    listeners,
    measures,
    outbox,
    queries,
    received,
    repair,
    requests,
    retention,
    schedules,
    schema,
    threads,
    turns,
    verifications,
)
from wakeloop.store.batches import Insert, is_postgres
from wakeloop.store.database import Database
from wakeloop.store.records import (
    ChildEnd,
    Emitted,
    NewEntry,
    NewMessage,
    NewRequest,
    NewRun,
    NewWakeup,
    Post,
    Receiver,
    RunRow,
    SessionCommit,
    SessionRow,
    Settlement,
)

# The first test of each database fills it with some hundred thousand rows.
pytestmark = pytest.mark.timeout(600)

NOW = datetime(2026, 11, 2, 14, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=300)
AHEAD = NOW + timedelta(days=3)
SESSIONS, RUNS, MANY = 20_000, 50_000, 80_000
CHUNK = 10_000
FEWER = {
    "requests": 30_000, "recipients": 60_000, "receivers": 40_000, "schedules": 10_000, "opt_outs": 5_000, "grants": 5_000,
    "tokens": 20, "keys": 3, "verifications": 5_000, "listeners": 5, "files": 5_000, "amendments": 60_000,
    "chores": 2, "erasures": 20,
}  # fmt: skip
SMALL = {"tokens", "keys", "listeners", "chores", "erasures"}
"""Tables of a few rows, of which PostgreSQL reads all rather than an index; there must be one all the same."""
PARTIAL = tuple(
    str(index.name)
    for table in schema.metadata.sorted_tables
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
)
MODULES = (
    ahead, amendments, arriving, audit, chores, claims, conversation, due, erasure, exports, files, grants, inbox, keys, leases, listeners,
    measures, outbox, queries, received, repair, requests, retention, schedules, threads, turns, verifications,
)  # fmt: skip

FOR_PEOPLE = {
    "queries.count_rows": "counts; asked when a Simulation is made",
    "queries.list_sessions": "a list without a limit, of everything",
    "queries.sent": "a list without a limit, of everything; for Simulation",
    "queries.list_schedules": "a list without a limit, of everything",
    "queries.find_runs": "the end of an id is in no index",
    "keys.list_tokens": "a list without a limit, of everything",
    "queries.unrouted": "what stands in an outcome is in no index; newest first, it ends early",
    "exports.grants_of": "a few grants of which there is no index by request",
    "listeners.recover": "once, when a process starts that is alone",
    "measures.held_listeners": "a row for each channel that fetches its messages",
    "leases.recover": "once, when a process starts that is alone",
    "outbox.recover": "once, when a process starts that is alone",
}
"""What may read a table whole: nothing here is done by a running worker."""


def uuid(kind: int, number: int) -> UUID:
    return UUID(int=kind << 96 | number)


def rows_of(table: str) -> Iterator[dict[str, Any]]:
    """A store after a year: nearly everything is asleep or over."""
    for n in range(1, {"sessions": SESSIONS, "runs": RUNS, **FEWER}.get(table, MANY) + 1):  # fmt: skip
        session, run = n % SESSIONS + 1, uuid(1, n % RUNS + 1)
        match table:
            case "sessions":
                yield {"id": n, "agent": f"agent{n % 20}", "key": f"k{n}", "created_at": LONG_AGO, "due_at": AHEAD + timedelta(seconds=n) if n > 20 else NOW}  # fmt: skip
            case "runs":
                status = "waiting" if n <= SESSIONS else "failed" if n % 500 == 0 else "completed"
                yield {"id": uuid(1, n), "session_id": session, "status": status, "event": "{}", "schedule_id": n % 10_000 + 1, "nominal": LONG_AGO + timedelta(seconds=n), "created_at": LONG_AGO, "ended_at": LONG_AGO + timedelta(seconds=n) if n > SESSIONS else None, "failure": "{}" if status == "failed" else None}  # fmt: skip
            case "journal":
                yield {"run_id": run, "seq": n // RUNS + 1, "op": 1, "kind": "step", "name": "fetch", "ok": True, "at": LONG_AGO}  # fmt: skip
            case "conversation":
                yield {"session_id": session, "at": LONG_AGO, "seq": n // SESSIONS + 1, "role": "user", "contact": None, "content": '"hello"' if n % 2 else None, "source": uuid(2, n)}  # fmt: skip
            case "inbox":
                yield {"id": n, "session_id": session, "kind": "message", "dedupe": f"d{n}", "arrived_at": LONG_AGO, "consumed_at": LONG_AGO if n % 100 else None}  # fmt: skip
            case "schedules":
                yield {"id": n, "session_id": session, "agent": f"agent{n % 20}", "ref": f"r{n}", "own": n % 2 == 0, "spec": "{}", "anchor": LONG_AGO, "nominal": AHEAD, "due_at": AHEAD + timedelta(seconds=n) if n > 5 else NOW}  # fmt: skip
            case "messages":
                yield {"id": uuid(2, n), "session_id": session, "run_id": run if n % 2 else None, "request_id": uuid(4, n % 30_000 + 1) if n % 3 else None, "inbound": n % 2 == 0, "contact": f"c{n % 2000}", "channel": "sms", "text": "hello", "at": LONG_AGO}  # fmt: skip
            case "deliveries":
                yield {"id": uuid(3, n), "message_id": uuid(2, n), "contact": f"c{n % 2000}", "channel": "sms", "address": f"+{n}", "status": "failed" if n % 1000 == 0 else "delivered", "provider_id": f"SM{n}", "due_at": NOW if n < 10 else None, "claimed_at": LONG_AGO, "bundle": uuid(3, n // 2 * 2) if n % 100 < 2 else None, "created_at": LONG_AGO, "updated_at": LONG_AGO}  # fmt: skip
            case "received":
                yield {"id": n, "channel": "sms", "provider_id": f"R{n}", "message_id": uuid(2, n * 2), "address": f"+{n}", "contact": f"c{n % 2000}", "outcome": "a reply", "raw": "{}" if n % 10 == 0 else "", "at": LONG_AGO}  # fmt: skip
            case "requests":
                is_open = n <= 2000
                yield {"id": uuid(4, n), "session_id": session if n % 10 else None, "run_id": run if n % 10 else None, "kind": "question", "status": "open" if is_open else "answered", "spec": "{}", "created_at": LONG_AGO, "due_at": (NOW if n <= 20 else AHEAD) if is_open else None, "settled_at": None if is_open else LONG_AGO}  # fmt: skip
            case "recipients":
                request = (n + 1) // 2  # each request was asked of two people
                yield {"request_id": uuid(4, request), "contact": f"c{request % 1000 * 2 + n % 2}", "code": "A3" if request <= 1000 else "C4", "open": request <= 2000, "added_at": LONG_AGO, "code_told": True}  # fmt: skip
            case "audit":
                yield {"id": n, "request_id": uuid(4, n % 30_000 + 1), "at": LONG_AGO, "contact": f"c{n % 2000}", "act": "answer", "result": "counted"}  # fmt: skip
            case "grants":
                yield {"id": uuid(5, n), "action": f"act{n % 50}", "origin": f"agent agent{n % 20}", "contact": f"c{n % 2000}", "limits": "{}", "request_id": uuid(4, n), "created_at": LONG_AGO, "expires_at": AHEAD if n % 10 == 0 else LONG_AGO, "revoked_at": LONG_AGO if n % 3 == 0 else None}  # fmt: skip
            case "tokens":
                yield {"id": n, "name": f"t{n}", "hash": f"h{n}", "scopes": "[]", "created_at": LONG_AGO}
            case "keys":
                yield {"name": f"k{n}", "value": "x", "created_at": LONG_AGO}
            case "receivers":
                yield {"run_id": uuid(1, n), "op": 1, "session_id": session, "contact": f"c{n}" if n % 1000 else None}  # fmt: skip
            case "amendments":
                yield {"delivery_id": uuid(3, n), "text": "Approved.", "due_at": NOW if n < 10 else None}
            case "verifications":
                yield {"channel": "sms", "address": f"+{n}", "salt": "s", "code": "c", "sent_at": LONG_AGO, "expires_at": AHEAD, "verified_at": LONG_AGO}  # fmt: skip
            case "listeners":
                yield {"channel": f"c{n}", "owner": "p1", "until": AHEAD, "cursor": "7"}
            case "chores":
                yield {"name": f"c{n}", "owner": "p1", "until": AHEAD}
            case "erasures":
                yield {"contact": f"c{n}", "asked_at": LONG_AGO, "done_at": LONG_AGO if n > 2 else None}
            case "files":
                yield {"id": uuid(10, n), "message_id": uuid(2, n), "name": "a.txt", "content_type": "text/plain", "data": b"x" * 100, "created_at": LONG_AGO}  # fmt: skip
            case "opt_outs":
                yield {"channel": "sms", "address": f"+{n}", "at": LONG_AGO}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        url = server.new_database()
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'store.db'}"
    database = Database(url, clock=VirtualClock(NOW))
    database.upgrade()
    with database.begin() as connection:
        for table in schema.metadata.sorted_tables:
            rows = list(rows_of(table.name))
            for start in range(0, len(rows), CHUNK):
                Insert(table, list(rows[0]))(connection, rows[start : start + CHUNK])
        if database.is_postgres:
            for name in ("sessions", "inbox", "schedules", "received", "audit", "tokens"):
                connection.exec_driver_sql(f"SELECT setval('{name}_id_seq', 1000000)")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    yield database
    database.close()


def session_row(id: int) -> SessionRow:
    return SessionRow(
        id=id, agent=f"agent{id % 20}", key=f"k{id}", state=None, token=0, version=0, arrivals=0, takeovers=0
    )


def a_whole_commit(connection: Any) -> None:
    """A commit of two sessions with one of everything."""
    commits = []
    for id in (7, 8):
        run = uuid(1, id - 1)
        row = RunRow(id=uuid(9, id), session_id=id, status=RunStatus.RUNNING, event="{}", created_at=NOW)
        commits.append(
            SessionCommit(
                session=session_row(id), lease_until=AHEAD, state="{}", new_runs=[row],
                runs={run: {"status": "running", "applied": 3}},
                records={row.id: [Record(seq=1, op=1, kind=Kind.STEP, name="x", at=NOW)]},
                consumed=[id], retargeted=[(id + 1000, run)],
                messages=[NewMessage(id=uuid(8, id), contact="c1", channel="sms", address="+1", via=None, subject=None, text="?")],
                requests=[NewRequest(id=uuid(7, id), kind="question", spec="{}", run_id=run)],
                settlements=[Settlement(id=uuid(4, id), status="answered", outcome="{}")],
                spawned=[NewRun(id=uuid(6, id), agent="agent1", key="k1", event="{}")],
                posts=[Post(agent="agent2", key=f"new{id}", kind="signal", dedupe="s1")],
                signals=[Emitted(type="paid", agents=frozenset({"agent1"}), dedupe="s2", body="{}")],
                wakeups=[NewWakeup(ref="w", spec="{}", anchor=NOW, nominal=AHEAD, due_at=AHEAD)],
                cancelled_wakeups=[f"r{id - 1}"], receivers={run: [Receiver(2, "c1")]}, closed_runs=[run],
                answers=[ChildEnd(session=9, parent=uuid(1, 9), run=run, body="{}")],
                entries=[NewEntry(role="user", content='"hello"'), NewEntry(role="agent", source=uuid(8, id))],
            )
        )  # fmt: skip
    results = turns.commit(connection, commits, now=NOW, also=[12])
    assert [result.fenced for result in results] == [False, False]


def a_refused_commit() -> SessionCommit:
    """A commit that touches a run, begins another, and consumes what began it."""
    row = RunRow(id=uuid(9, 70), session_id=7, status=RunStatus.RUNNING, event="{}", created_at=NOW)
    runs = {uuid(1, 6): {"status": "running"}}
    return SessionCommit(session=session_row(7), lease_until=AHEAD, new_runs=[row], runs=runs, consumed=[7])


def remove_what_is_old(connection: Any) -> None:
    """Count, then delete, a batch of each kind."""
    ids = {
        "runs": [uuid(1, n) for n in range(30_000, 30_100)], "requests": [uuid(4, n) for n in range(2010, 30_000, 500)],
        "inbox": range(1, 99), "entries": [(7, 1, 3), (8, 1, 3)], "messages": [uuid(2, n) for n in range(70_000, 70_100)],
        "received": range(100, 200), "raw": range(300, 400),
    }  # fmt: skip
    for kind in retention.Kind:
        for counting in (True, False):
            assert retention.remove(connection, kind, ids[kind], repeats=NOW, counting=counting)


def take_messages(connection: Any) -> None:
    """Two that are new and one that is not. On SQLite other verbs do the same."""
    rows = [
        {
            "message_id": uuid(8, 70 + n), "channel": "sms", "provider_id": f"R{80_000 - 1 + n}", "address": f"+{n}",
            "contact": f"c{n}", "raw": "{}", "outcome": "", "thread": None, "session_id": 7 + n, "subject": None,
            "text": "hello", "dedupe": f"message:{n}", "body": "{}", "trace": None,
        }
        for n in (1, 2, 3)
    ]  # fmt: skip
    if is_postgres(connection):
        arriving.take(connection, rows, now=NOW, agents=["agent8", "agent9"])


CALLS: dict[str, Callable[[Any], Any]] = {
    "ahead.expect": lambda c: ahead.expect(c, [(1, AHEAD), (2, AHEAD), (30, NOW)]),
    "ahead.has_queued": lambda c: ahead.has_queued(c, 7, ["r6", "r7"]),
    "ahead.withdraw": lambda c: ahead.withdraw(c, 7, ["r6", "r7"], now=NOW),
    "ahead.withdrawn": lambda c: ahead.withdrawn(c, [uuid(1, n) for n in range(1, 100)]),
    "amendments.add": lambda c: amendments.add(c, fresh_one(c), "Approved.", ["sms", "email"], now=NOW),
    "amendments.expect": lambda c: amendments.expect(c, put_one(c), "?"),
    "amendments.arrive": lambda c: amendments.arrive(c, uuid(3, 7), now=NOW),
    "amendments.claim_due": lambda c: amendments.claim_due(c, now=NOW, limit=1000),
    "amendments.take": lambda c: amendments.take(c, [uuid(3, n) for n in range(1, 20)], until=AHEAD),
    "amendments.record": lambda c: amendments.record(c, uuid(3, 7), due_at=None),
    "audit.append": lambda c: audit.append(c, uuid(4, 7), at=NOW, act="answer", result="counted"),
    "audit.of_request": lambda c: audit.of_request(c, uuid(4, 7)),
    "chores.next_time": lambda c: chores.next_time(c, "c1"),
    "chores.take": lambda c: (chores.take(c, "new", owner="p2", now=NOW, until=AHEAD), chores.take(c, "c1", owner="p2", now=NOW, until=AHEAD)),
    "chores.extend": lambda c: chores.extend(c, "c1", owner="p1", until=AHEAD),
    "claims.lock_people": lambda c: claims.lock_people(c, [uuid(3, 1), put_one(c)], now=NOW),
    "claims.waiting": lambda c: claims.waiting(c, ["c1", "c9"], now=NOW),
    "claims.recent": lambda c: claims.recent(c, ["c1", "c9"], since=NOW - timedelta(hours=1)),
    "claims.heard": lambda c: claims.heard(c, ["c1", "c9"], since=NOW - timedelta(hours=1)),
    "claims.hold": lambda c: claims.hold(c, [(uuid(3, 1), AHEAD, "quiet"), (uuid(3, 2), AHEAD, "cap")]),
    "claims.bundle": lambda c: claims.bundle(c, [[uuid(3, 1), uuid(3, 2)]], now=NOW),
    "claims.take": lambda c: claims.take(c, {uuid(3, 1): AHEAD}, owner="w", now=NOW),
    "claims.members": lambda c: claims.members(c, [uuid(3, 100), uuid(3, 200)]),
    "threads.said": lambda c: threads.said(c, [uuid(3, n) for n in range(1, 20)]),
    "threads.woken_by": lambda c: threads.woken_by(c, [uuid(1, n) for n in range(1, 20)]),
    "threads.received_as": lambda c: threads.received_as(c, [uuid(2, n) for n in range(1, 20)]),
    "threads.last_heard": lambda c: threads.last_heard(c, [uuid(3, n) for n in range(1, 20)]),
    "conversation.append": lambda c: conversation.append(c, [(9, [NewEntry(role="user", content='"hello"')]), (10, [NewEntry(role="agent", source=uuid(2, 9))])], now=NOW),
    "conversation.bounds": lambda c: conversation.bounds(c, [7, 8, 9]),
    "conversation.ranges": lambda c: (conversation.ranges(c, [(7, 1, 3)]), conversation.ranges(c, [(7, 1, 3), (8, 2, 2)])),
    "conversation.lock_free": lambda c: conversation.lock_free(c, [1, 2, 3]),
    "conversation.find_old": lambda c: conversation.find_old(c, before=NOW, after=(5, 1), limit=100),
    "conversation.remove": lambda c: [conversation.remove(c, [(11, 1, 2), (12, 1, 2)], counting=counting) for counting in (True, False)],
    "conversation.erase": lambda c: [conversation.erase(c, 13, "c7", until=NOW, counting=counting) for counting in (True, False)],
    "due.look": lambda c: due.look(c, now=NOW),
    "erasure.ask": lambda c: (erasure.ask(c, "c1", now=NOW), erasure.ask(c, "new", now=NOW)),
    "erasure.unfinished": lambda c: erasure.unfinished(c, limit=10),
    "erasure.finish": lambda c: erasure.finish(c, "c1", asked_at=LONG_AGO, now=NOW),
    "erasure.addresses_of": lambda c: erasure.addresses_of(c, "c7"),
    "erasure.messages_of": lambda c: erasure.messages_of(c, "c7", until=NOW, after=None, limit=100),
    "erasure.erase_messages": lambda c: [erasure.erase_messages(c, [uuid(2, n) for n in range(7, 80_000, 2000)], counting=counting) for counting in (True, False)],
    "erasure.erase_address": lambda c: [erasure.erase_address(c, "sms", "+7", until=NOW, counting=counting) for counting in (True, False)],
    "erasure.sessions_of": lambda c: erasure.sessions_of(c, "c7", until=NOW),
    "erasure.requests_of": lambda c: erasure.requests_of(c, "c15", until=NOW),
    "erasure.runs_of": lambda c: erasure.runs_of(c, "c7", [7, 8], [uuid(1, 9)], until=NOW),
    "erasure.erase_runs": lambda c: [erasure.erase_runs(c, {uuid(1, 7): ("{}", None), uuid(1, 8): ("{}", "1")}, counting=counting) for counting in (True, False)],
    "erasure.recipients_of": lambda c: erasure.recipients_of(c, uuid(4, 7)),
    "erasure.erase_request": lambda c: erasure.erase_request(c, uuid(4, 7), "c15", spec="{}", args=None, outcome=None),
    "erasure.comments": lambda c: erasure.comments(c, "c15"),
    "erasure.states": lambda c: erasure.states(c, [7, 8]),
    "exports.rows_of": lambda c: list(exports.rows_of(c, 7)),
    "exports.grants_of": lambda c: exports.grants_of(c, 7),
    "exports.data_of": lambda c: exports.data_of(c, uuid(10, 7)),
    "files.add": lambda c: files.add(c, uuid(2, 7), [(uuid(10, 99_999), "a", "text/plain", b"x")], now=NOW),
    "files.facts": lambda c: files.facts(c, uuid(10, 7)),
    "files.data": lambda c: files.data(c, uuid(10, 7)),
    "grants.add": lambda c: grants.add(c, uuid(5, 9999), action="act7", origin="agent agent7", contact="c1", limits="{}", request_id=uuid(4, 7), now=NOW, expires_at=AHEAD),
    "grants.active": lambda c: grants.active(c, action="act7", origin="agent agent7", now=NOW),
    "grants.revoke": lambda c: grants.revoke(c, uuid(5, 7), by="c1", now=NOW),
    "grants.find": lambda c: grants.find(c, uuid(5, 7)),
    "grants.newest": lambda c: grants.newest(c, limit=20),
    "inbox.ensure_sessions": lambda c: inbox.ensure_sessions(c, [("agent1", "k1"), ("agent2", "k2"), ("agent3", "new")], now=NOW),
    "inbox.ensure_recipients": lambda c: inbox.ensure_recipients(c, [("agent1", "k1"), ("agent4", "new")], now=NOW),
    "inbox.find_session": lambda c: inbox.find_session(c, "agent1", "k1"),
    "inbox.post": lambda c: inbox.post(c, [Post(agent="a", key="k", kind="signal", dedupe="d1")], {("a", "k"): 2}, now=NOW),
    "inbox.for_waiting": lambda c: inbox.for_waiting(c, [Emitted(type="paid", agents=frozenset({"agent1"}), dedupe="d1", body="{}")]),
    "inbox.answer": lambda c: inbox.answer(c, [ChildEnd(session=3, parent=uuid(1, 3), run=uuid(1, 4), body="{}")], now=NOW),
    "inbox.causes": lambda c: inbox.causes(c, [1, 2, 30]),
    "inbox.queue_runs": lambda c: inbox.queue_runs(c, [NewRun(id=uuid(5, 1), agent="a", key="k", event="{}")], {("a", "k"): 2}, now=NOW),
    "inbox.add_runs": lambda c: inbox.add_runs(c, [NewRun(id=uuid(5, 2), agent="a", key="k", event="{}")], {("a", "k"): 2}, now=NOW),
    "inbox.touch": lambda c: inbox.touch(c, [1, 2, 30], now=NOW),
    "keys.ensure_key": lambda c: (keys.ensure_key(c, "k1", now=NOW), keys.ensure_key(c, "new", now=NOW)),
    "keys.find_key": lambda c: keys.find_key(c, "k1"),
    "keys.add_token": lambda c: keys.add_token(c, name="new", hash="new", scopes="[]", now=NOW, expires_at=None),
    "keys.token": lambda c: keys.token(c, "h7", now=NOW),
    "keys.list_tokens": lambda c: keys.list_tokens(c),
    "keys.revoke_token": lambda c: keys.revoke_token(c, "t7", now=NOW),
    "leases.extend": lambda c: leases.extend(c, [1, 2, 3], owner="w", until=AHEAD),
    "leases.arrivals": lambda c: leases.arrivals(c, [1, 2, 3], owner="w"),
    "leases.hand_back": lambda c: leases.hand_back(c, [1, 2, 3], owner="w", now=NOW),
    "leases.claim_due": lambda c: leases.claim_due(c, now=NOW, agents=[f"agent{n}" for n in range(20)], limit=1000),
    "leases.count_coming": lambda c: leases.count_coming(c, now=NOW, soon=NOW + timedelta(seconds=3), agents=[f"agent{n}" for n in range(20)], limit=200),
    "leases.holders": lambda c: leases.holders(c, now=NOW, until=NOW + timedelta(seconds=15)),
    "leases.end": lambda c: leases.end(c, ["w1", "w2"], now=NOW, until=NOW + timedelta(seconds=15)),
    "leases.take_back": lambda c: leases.take_back(c, [1, 2, 3], now=NOW),
    "leases.recover": lambda c: leases.recover(c, now=NOW),
    "listeners.is_held": lambda c: listeners.is_held(c, "c1", now=NOW),
    "listeners.take": lambda c: (listeners.take(c, "new", owner="p2", now=NOW, until=AHEAD), listeners.take(c, "c1", owner="p2", now=NOW, until=AHEAD)),
    "listeners.extend": lambda c: listeners.extend(c, "c1", owner="p1", until=AHEAD),
    "listeners.move": lambda c: listeners.move(c, "c1", owner="p1", cursor="8"),
    "listeners.hand_back": lambda c: listeners.hand_back(c, "c1", owner="p1"),
    "listeners.recover": lambda c: listeners.recover(c),
    "measures.due_sessions": lambda c: measures.due_sessions(c, now=NOW),
    "measures.coming_sessions": lambda c: measures.coming_sessions(c, now=NOW, lease=timedelta(seconds=15)),
    "measures.parked_runs": lambda c: measures.parked_runs(c),
    "measures.open_requests": lambda c: measures.open_requests(c, now=NOW),
    "measures.waiting_deliveries": lambda c: measures.waiting_deliveries(c, now=NOW),
    "measures.recent_deliveries": lambda c: measures.recent_deliveries(c, since=NOW - timedelta(hours=1)),
    "measures.recent_skips": lambda c: measures.recent_skips(c, since=NOW - timedelta(hours=1)),
    "measures.held_listeners": lambda c: measures.held_listeners(c, now=NOW),
    "outbox.put": lambda c: outbox.put(c, None, [NewMessage(id=uuid(8, 1), contact="c1", channel="sms", address="+1", via=None, subject=None, text="?")], now=NOW),
    "outbox.put_all": lambda c: None,
    "outbox.add_delivery": lambda c: outbox.add_delivery(c, uuid(8, 2), uuid(2, 5), "c1", "email", "a@b.c", now=NOW),
    "outbox.claim_due": lambda c: outbox.claim_due(c, now=NOW, limit=1000),
    "outbox.recover": lambda c: outbox.recover(c, now=NOW),
    "outbox.together_with": lambda c: outbox.together_with(c, uuid(2, 100)),
    "outbox.message_of": lambda c: outbox.message_of(c, "sms", "SM7"),
    "outbox.last_message": lambda c: outbox.last_message(c, "c7", "sms"),
    "outbox.record": lambda c: outbox.record(c, uuid(3, 1), owner="w", status=DeliveryStatus.SENT, now=NOW, provider_id="SM5"),
    "outbox.update_status": lambda c: outbox.update_status(c, "sms", sent_one(c), DeliveryStatus.DELIVERED, None, now=NOW),
    "outbox.attachments_of": lambda c: outbox.attachments_of(c, [uuid(2, n) for n in range(1, 20)]),
    "outbox.is_recorded": lambda c: outbox.is_recorded(c, "sms", "SM7"),
    "outbox.provider_ids": lambda c: outbox.provider_ids(c, "sms", "c7", LONG_AGO),
    "outbox.tried_channels": lambda c: outbox.tried_channels(c, uuid(2, 7)),
    "outbox.set_channel": lambda c: outbox.set_channel(c, uuid(2, 7), "email"),
    "outbox.opted_out": lambda c: outbox.opted_out(c, "sms", "+7"),
    "outbox.set_opt_out": lambda c: [outbox.set_opt_out(c, "sms", "+7", out, now=NOW) for out in (False, True)],  # type: ignore[func-returns-value]
    "received.record_all": lambda c: received.record_all(c, [{"channel": "sms", "provider_id": f"new{n}", "address": "+1", "contact": "c1", "raw": "{}", "outcome": "x", "at": NOW, "thread": None, "reply_to": None, "message_id": uuid(2, n)} for n in (1, 2)]),
    "received.add_messages": lambda c: received.add_messages(c, [{"id": uuid(8, 3), "session_id": 7, "request_id": None, "inbound": True, "contact": "c1", "channel": "sms", "subject": None, "text": "x", "attachments": None, "at": NOW}]),
    "arriving.wanted": lambda c: arriving.wanted(c, [f"c{n}" for n in range(7, 20)]),
    "arriving.take": take_messages,
    "leases.hand_over": lambda c: leases.hand_over(c, [1, 2, 30], now=NOW, agents=["agent1", "agent2"]),
    "requests.lock_all": lambda c: requests.lock_all(c, [uuid(4, n) for n in range(1, 20)], range(1, 20)),
    "received.record": lambda c: received.record(c, channel="sms", provider_id="R1", address="+1", contact=None, raw="{}", now=NOW),
    "received.set_outcome": lambda c: received.set_outcome(c, 7, "kept", None),
    "received.set_outcomes": lambda c: received.set_outcomes(c, {7: "kept", 8: "kept"}),
    "received.add_message": lambda c: received.add_message(c, id=uuid(8, 3), session_id=1, request_id=None, contact="c1", channel="sms", text="?", attachments=None, now=NOW),
    "received.waiting_for": lambda c: received.waiting_for(c, "c7"),
    "received.session": lambda c: received.session(c, 7),
    "received.message": lambda c: received.message(c, uuid(2, 7)),
    "received.attached": lambda c: received.attached(c, 7),
    "repair.lock": lambda c: repair.lock(c, 7),
    "repair.close": lambda c: repair.close(c, uuid(1, 7), now=NOW),
    "repair.take_back": lambda c: repair.take_back(c, uuid(1, 7), [1, 2]),
    "repair.append": lambda c: repair.append(c, uuid(1, 7), Record(seq=99, op=1, kind=Kind.STEP, name="x", at=NOW)),
    "repair.set_state": lambda c: repair.set_state(c, 7, None),
    "repair.park": lambda c: repair.park(c, a_refused_commit(), "{}", now=NOW),
    "repair.reopen": lambda c: repair.reopen(c, uuid(1, 7), waits=None, applied=1),
    "requests.open_requests": lambda c: requests.open_requests(c, [(7, NewRequest(id=uuid(7, 1), kind="question", spec="{}", run_id=uuid(1, 7)))], now=NOW),
    "requests.settle": lambda c: requests.settle(c, [Settlement(id=uuid(4, n), status="answered", outcome="{}") for n in (7, 8)], now=NOW),
    "requests.settle_told": lambda c: requests.settle_told(c, uuid(4, 7), "answered", "{}", now=NOW),
    "requests.settle_of_runs": lambda c: requests.settle_of_runs(c, [uuid(1, 8), uuid(1, 9)], "cancelled", "{}", now=NOW),
    "requests.find": lambda c: requests.find(c, uuid(4, 7)),
    "requests.lock": lambda c: requests.lock(c, uuid(4, 7)),
    "requests.await_others": lambda c: requests.await_others(c, uuid(4, 7)),
    "requests.look_due": lambda c: requests.look_due(c, now=NOW, limit=200),
    "requests.lock_due": lambda c: requests.lock_due(c, [uuid(4, n) for n in range(1, 200)], range(1, 200), now=NOW),
    "requests.lock_contacts": lambda c: requests.lock_contacts(c, ["c7", "c8"]),
    "requests.move": lambda c: requests.move(c, uuid(4, 7), due_at=AHEAD, asked_at=NOW, reminders=1, escalations=0),
    "requests.set_args": lambda c: requests.set_args(c, uuid(4, 7), "{}", "{}", "d"),
    "requests.add_recipients": lambda c: requests.add_recipients(c, uuid(4, 7), {"c7": None, "c77": "sms"}, now=NOW),
    "requests.set_via": lambda c: requests.set_via(c, uuid(4, 7), "c15", "sms"),
    "requests.note_told": lambda c: requests.note_told(c, [(uuid(4, 7), "c15")]),
    "requests.note_unreachable": lambda c: requests.note_unreachable(c, uuid(4, 7), "c15"),
    "requests.set_draft": lambda c: requests.set_draft(c, uuid(4, 7), "c15", "{}"),
    "requests.set_vote": lambda c: requests.set_vote(c, uuid(4, 7), "c15", "d"),
    "requests.recipients_of": lambda c: requests.recipients_of(c, uuid(4, 7)),
    "requests.recipients_of_all": lambda c: requests.recipients_of_all(c, [uuid(4, n) for n in range(1, 101)]),
    "requests.open_of_contact": lambda c: requests.open_of_contact(c, "c7"),
    "requests.of_contact": lambda c: requests.of_contact(c, "c7", limit=100),
    "requests.one_of_contact": lambda c: requests.one_of_contact(c, "c15", uuid(4, 7)),
    "requests.latest_of_contact": lambda c: requests.latest_of_contact(c, "c7", "C4"),
    "retention.find": lambda c: [retention.find(c, kind, before=NOW, limit=100) for kind in retention.Kind],
    "retention.at_rest": lambda c: retention.at_rest(c, [uuid(2, n) for n in range(1, 100)]),
    "retention.remove": remove_what_is_old,
    "schedules.defined": lambda c: schedules.defined(c, 7),
    "schedules.add": lambda c: schedules.add(c, [{"session_id": 7, "agent": "a", "ref": "z", "own": False, "spec": "{}", "anchor": NOW, "nominal": AHEAD, "due_at": AHEAD}]),
    "schedules.end": lambda c: schedules.end(c, [7]),
    "schedules.claim_due": lambda c: schedules.claim_due(c, now=NOW, agents=[f"agent{n}" for n in range(20)], limit=1000),
    "schedules.count_coming": lambda c: schedules.count_coming(c, now=NOW, soon=NOW + timedelta(seconds=3), agents=[f"agent{n}" for n in range(20)], limit=200),
    "schedules.move": lambda c: schedules.move(c, [{"id": 7, "nominal": AHEAD, "due_at": AHEAD}]),
    "turns.take_up": lambda c: turns.take_up(c, [1, 2, 3], [7, 8, 9], owner="w", now=NOW, until=AHEAD),
    "turns.run_row": lambda c: None,
    "turns.load_journals": lambda c: turns.load_journals(c, [uuid(1, 7), uuid(1, 8)]),
    "turns.load_parked": lambda c: turns.load_parked(c, [uuid(1, 7), uuid(1, 8)]),
    "turns.commit": a_whole_commit,
    "verifications.begin": lambda c: verifications.begin(c, "sms", "+7", now=NOW),
    "verifications.take": lambda c: verifications.take(c, "sms", "+7", "123456", NOW),
    "verifications.find": lambda c: verifications.find(c, "sms", "+7"),
    "verifications.verified": lambda c: verifications.verified(c, "sms", ["+7", "+8"]),
    "verifications.opted_out": lambda c: verifications.opted_out(c, "sms", ["+7", "+8"]),
    "queries.list_runs": lambda c: ([queries.list_runs(c, statuses=statuses, limit=20) for statuses in (None, ["failed", "stuck"], ["completed"])]),
    "queries.open_runs": lambda c: queries.open_runs(c, 7),
    "queries.find_run": lambda c: queries.find_run(c, uuid(1, 7)),
    "queries.find_runs": lambda c: queries.find_runs(c, "0a"),
    "queries.list_sessions": lambda c: queries.list_sessions(c),
    "queries.find_session": lambda c: queries.find_session(c, "agent7", "k7"),
    "queries.session": lambda c: queries.session(c, 7),
    "queries.sent": lambda c: queries.sent(c),
    "queries.list_messages": lambda c: queries.list_messages(c, limit=20),
    "queries.deliveries_of": lambda c: queries.deliveries_of(c, uuid(2, 7)),
    "queries.failed_deliveries": lambda c: queries.failed_deliveries(c, limit=20),
    "queries.list_received": lambda c: queries.list_received(c, limit=20),
    "queries.unrouted": lambda c: queries.unrouted(c, limit=20),
    "queries.list_requests": lambda c: (queries.list_requests(c, run=uuid(1, 7)), queries.list_requests(c, limit=100), queries.list_requests(c, status="open", limit=100)),
    "queries.find_request": lambda c: queries.find_request(c, uuid(4, 7)),
    "queries.list_schedules": lambda c: queries.list_schedules(c),
    "queries.count_rows": lambda c: queries.count_rows(c),
    "queries.last_channel": lambda c: queries.last_channel(c, "c7"),
}  # fmt: skip


def fresh_one(connection: Any) -> UUID:
    """A request none of whose messages is amended yet."""
    connection.execute(schema.amendments.delete().where(schema.amendments.c.delivery_id == uuid(3, 7)))
    connection.execute(schema.amendments.delete().where(schema.amendments.c.delivery_id == uuid(3, 30_007)))
    return uuid(4, 8)


def put_one(connection: Any) -> UUID:
    outbox.add_delivery(connection, uuid(8, 9), uuid(2, 9), "c9", "email", "a@b.c", now=NOW)
    return uuid(8, 9)


def sent_one(connection: Any) -> str:
    connection.execute(
        sa.text("UPDATE deliveries SET status = 'sent' WHERE channel = 'sms' AND provider_id = 'SM9'")
    )
    return "SM9"


def verbs(module: ModuleType) -> set[str]:
    """The module's functions that take a connection."""
    short = module.__name__.rpartition(".")[2]
    return {
        f"{short}.{name}"
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
        and ("connection" in inspect.signature(one).parameters)
    }  # fmt: skip


def test_every_verb_of_the_store_is_looked_at() -> None:
    """No statement escapes: every function that takes a connection is called below."""
    expected = set().union(*(verbs(module) for module in MODULES))

    assert expected == {name for name in CALLS if name not in ("turns.run_row",)}


def whole_reads(connection: Any, statement: str, parameters: Any, postgres: bool) -> list[str]:
    """The large tables that a statement reads from end to end."""
    large = {table.name for table in schema.metadata.sorted_tables}
    if postgres:
        found = _sequential(connection, statement, parameters)
        if found and SMALL.issuperset(found):
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            found = _sequential(connection, statement, parameters)
            connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
        return found
    lines = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    # An index of some rows only, such as of what is open, may be read whole.
    lines = [line for line in lines if not line.partition("INDEX ")[2].startswith(PARTIAL)]
    # In the order that is wanted, until the limit is reached: that is no scan of the whole.
    ends_early = "LIMIT" in statement and not any("TEMP B-TREE" in line for line in lines)
    return [line for line in lines if line.startswith("SCAN") and line.split()[1] in large and not ends_early]


def _sequential(connection: Any, statement: str, parameters: Any) -> list[str]:
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    plan = plan if isinstance(plan, list) else json.loads(plan)
    return [node["Relation Name"] for node in _nodes(plan[0]["Plan"]) if node["Node Type"] == "Seq Scan"]


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


@pytest.mark.parametrize("verb", sorted(CALLS.keys() - FOR_PEOPLE.keys()))
def test_a_statement_reads_no_large_table_from_end_to_end(filled: Database, verb: str) -> None:
    """With a year's rows in the store every statement of a verb finds its rows by an index."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many and isinstance(parameters, list) else parameters))

    with filled.engine.connect() as connection:
        transaction = connection.begin()
        sa.event.listen(connection, "before_cursor_execute", note)
        CALLS[verb](connection)
        sa.event.remove(connection, "before_cursor_execute", note)
        found = {
            statement: bad
            for statement, parameters in seen
            if not statement.startswith("UPDATE deliveries SET status = 'sent'")
            if (bad := whole_reads(connection, statement, parameters, filled.is_postgres))
        }
        transaction.rollback()

    assert found == {}
    # SQLite has one writer, so nobody needs to be locked out.
    one_writer = not filled.is_postgres and verb in ("requests.lock_contacts", "arriving.take")
    assert seen or one_writer or verb in ("outbox.put_all", "turns.run_row")


def test_what_is_due_has_its_index_before_there_are_statistics(postgres_server: Postgres) -> None:
    """In a database that was filled a moment ago, a claim does not read all sessions that its agents have."""
    database = Database(postgres_server.new_database())
    database.upgrade()
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE sessions SET (autovacuum_enabled = off)"))
        connection.execute(
            schema.sessions.insert(),
            [{"agent": "standup", "key": f"k{n}", "created_at": NOW, "due_at": None} for n in range(5000)],
        )
        connection.execute(
            sa.text("UPDATE sessions SET due_at = :now WHERE key IN ('k7', 'k8')"), {"now": NOW}
        )
    seen: list[tuple[str, Any]] = []

    with database.engine.connect() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
        claimed = leases.claim_due(connection, now=NOW, agents=["standup", "billing"], limit=1000)
        [(statement, parameters)] = seen
        connection.rollback()
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    database.close()

    assert [key for _, _, key in claimed] == ["k7", "k8"]
    used = {node["Index Name"] for node in _nodes(plan[0]["Plan"]) if "Index Name" in node}
    assert used == {"ix_sessions_due_at", "pk_sessions"}


def test_who_waits_for_a_contact_is_found_by_the_contact_before_there_are_statistics(
    postgres_server: Postgres,
) -> None:
    """In a database that was filled a moment ago, a message does not read all runs that wait."""
    database = Database(postgres_server.new_database())
    database.upgrade()
    with database.begin() as connection:
        for table in (schema.sessions, schema.runs, schema.receivers):
            connection.execute(sa.text(f"ALTER TABLE {table.name} SET (autovacuum_enabled = off)"))
        numbers = range(1, 5001)
        connection.execute(schema.sessions.insert(), [{"agent": "standup", "key": f"k{n}", "created_at": NOW} for n in numbers])  # fmt: skip
        connection.execute(schema.runs.insert(), [{"id": uuid(1, n), "session_id": n, "status": "waiting", "event": "{}", "created_at": NOW} for n in numbers])  # fmt: skip
        connection.execute(schema.receivers.insert(), [{"run_id": uuid(1, n), "op": 1, "session_id": n, "contact": f"c{n}"} for n in numbers])  # fmt: skip
    seen: list[tuple[str, Any]] = []

    with database.engine.connect() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *args: seen.append((args[2], args[3])))
        found = arriving.wanted(connection, ["c7"])
        [(statement, parameters)] = seen
        read = _sequential(connection, statement, parameters)
        connection.rollback()
    database.close()

    assert [(row.contact, row.session, row.key) for row in found] == [("c7", 7, "k7")]
    assert not {"sessions", "runs", "receivers"} & set(read)


def test_unneeded_exceptions_are_not_kept() -> None:
    """What is excused here exists."""
    assert FOR_PEOPLE.keys() <= CALLS.keys()
