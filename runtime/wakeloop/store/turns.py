"""The statements of a turn: load what the sessions that were taken need, and commit what they changed."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.asking import Settled
from wakeloop.engine.journal import Kind, Record
from wakeloop.status import PARKED_RUN, RequestStatus, RunStatus
from wakeloop.store import ahead, conversation, leases, outbox, requests
from wakeloop.store import inbox as arrivals
from wakeloop.store.batches import Insert, Update, among
from wakeloop.store.direct import Call, Direct, together
from wakeloop.store.leases import SESSION_COLUMNS, claiming, session_row
from wakeloop.store.records import Committed, InboxRow, Post, RunRow, SessionCommit, TakenUp
from wakeloop.store.schedules import of_sessions as schedules_of
from wakeloop.store.schema import (
    OPEN_RUNS,
    PENDING_EVENTS,
    Instant,
    inbox,
    journal,
    receivers,
    runs,
    schedules,
    sessions,
)

_RUN_COLUMNS = tuple(column.name for column in runs.columns)
_RUN_STATUS = {str(status): status for status in RunStatus}

_LOAD_RUNS = Direct(
    sa.select(runs)
    .where(among(runs.c.session_id, "sessions"), OPEN_RUNS)
    .order_by(runs.c.created_at, runs.c.id)
)
_LOAD_JOURNALS = Direct(
    sa.select(journal).where(among(journal.c.run_id, "runs")).order_by(journal.c.run_id, journal.c.seq)
)
_LOAD_INBOX = Direct(
    sa.select(
        inbox.c.id, inbox.c.session_id, inbox.c.kind, inbox.c.target, inbox.c.body, inbox.c.arrived_at, inbox.c.trace
    )
    .where(among(inbox.c.session_id, "sessions"), PENDING_EVENTS)
    .order_by(inbox.c.id)
)  # fmt: skip
_LOAD_PARKED = Direct(
    sa.select(runs.c.id).where(
        among(runs.c.id, "runs"),
        runs.c.status.in_([sa.literal_column(f"'{status}'") for status in PARKED_RUN]),
    )
)
_LOAD_SESSIONS = Direct(sa.select(*SESSION_COLUMNS).where(among(sessions.c.id, "sessions")))

_LOCK_WAKEUPS = (
    sa.select(schedules.c.id)
    .where(schedules.c.session_id == sa.bindparam("session"), among(schedules.c.ref, "refs"))
    .order_by(schedules.c.id)
    .with_for_update(key_share=True)
)
_LOCK_SESSIONS = Direct(
    sa.select(sessions.c.id, sessions.c.token, sessions.c.version, sessions.c.arrivals, sessions.c.owner)
    .where(among(sessions.c.id, "ids"))
    .order_by(sessions.c.id)
    .with_for_update(key_share=True)
)
_UPDATE_SESSIONS = Update(
    sessions, "id", ("version", "owner", "due_at", "state"),
    express={"state": lambda new: sa.func.coalesce(new, sessions.c.state)}, also={"takeovers": 0},
)  # fmt: skip
_INSERT_RUNS = Insert(runs, _RUN_COLUMNS)
_INSERT_JOURNAL = Insert(journal, ("run_id", "seq", "op", "kind", "name", "ok", "value", "at"))
_CONSUME = Direct(
    sa.update(inbox)
    .where(among(inbox.c.id, "ids"))
    .values(consumed_at=sa.bindparam("now", type_=Instant()), body=None)
)
_RETARGET = Update(inbox, "id", ("target",))
_DELETE_RECEIVERS = Direct(sa.delete(receivers).where(among(receivers.c.run_id, "runs")))
_INSERT_RECEIVERS = Insert(receivers, ("run_id", "op", "session_id", "contact", "signal"))
_INSERT_WAKEUPS = Insert(
    schedules,
    ("session_id", "agent", "ref", "own", "spec", "anchor", "nominal", "due_at"),
    new=("session_id", "ref"),
)
_CANCEL_WAKEUPS = (
    sa.update(schedules)
    .where(schedules.c.session_id == sa.bindparam("session"), among(schedules.c.ref, "refs"))
    .values(due_at=None, nominal=None)
)


@functools.lru_cache(maxsize=256)
def _update_runs(columns: tuple[str, ...]) -> Update:
    return Update(runs, "id", columns)


# ---------------------------------------------------------------------- loading


def take_up(
    connection: Connection, asked: Collection[int], also: Collection[int], *, owner: str, now: datetime, until: datetime
) -> TakenUp:  # fmt: skip
    """Take the leases of those of the sessions `asked` for that are free and need a turn (see `leases.claiming`), and load
    what these need and what the sessions `also` do, which somebody has already.

    One round trip, and each statement begins after those before it: what arrived before a lease was had is seen."""
    ids = sorted({*asked, *also})
    if not ids:
        return TakenUp()
    calls: list[Call] = [
        (_LOAD_RUNS, {"sessions": ids}), (_LOAD_INBOX, {"sessions": ids}), schedules_of(ids),
    ]  # fmt: skip
    if also:
        calls.insert(0, (_LOAD_SESSIONS, {"sessions": sorted(also)}))
    if asked:
        calls.insert(0, claiming(asked, owner=owner, now=now, until=until))
    found = iter(together(connection, calls))
    taken = next(found) if asked else []
    present = next(found) if also else []
    open_runs, pending, wakeups = found
    claimed = [session_row(row) for row in taken]
    known = {row.id: session_row(row) for row in present}
    ours = {row.id for row in claimed} | known.keys()
    return TakenUp(
        claimed=claimed,
        known=known,
        runs=[run_row(row) for row in open_runs if row.session_id in ours],
        inbox=[
            InboxRow(
                id=id, session_id=session, kind=kind, target=target, body=body, arrived_at=at, trace=trace
            )
            for id, session, kind, target, body, at, trace in pending
            if session in ours
        ],
        schedules=[row for row in wakeups if row.session_id in ours],
    )


def run_row(row: sa.Row[Any]) -> RunRow:
    """A row of the runs table as a record."""
    facts = dict(zip(_RUN_COLUMNS, row, strict=True))
    facts["status"] = _RUN_STATUS[facts["status"]]
    return RunRow(**facts)


def load_journals(connection: Connection, run_ids: Collection[UUID]) -> dict[UUID, list[Record]]:
    """The journals of these runs, in order."""
    journals: dict[UUID, list[Record]] = {id: [] for id in run_ids}
    if run_ids:
        rows = _LOAD_JOURNALS(connection, {"runs": sorted(run_ids)})
        for run_id, seq, op, kind, name, ok, value, at in rows:
            journals[run_id].append(
                Record(seq=seq, op=op, kind=Kind(kind), name=name, ok=ok, value=value, at=at)
            )
    return journals


def load_parked(connection: Connection, run_ids: Collection[UUID]) -> set[UUID]:
    """Those of these runs that are parked."""
    if not run_ids:
        return set()
    return {row.id for row in _LOAD_PARKED(connection, {"runs": sorted(run_ids)})}


# ---------------------------------------------------------------------- committing


def commit(
    connection: Connection, commits: Sequence[SessionCommit], *, now: datetime, also: Collection[int] = ()
) -> list[Committed]:
    """Apply what these sessions changed. All of one session's changes are written, or it is fenced and none are.

    Safe to repeat with the same commits after a lost connection: what was written the first time is recognised.
    also: sessions that the same transaction will claim; everything it locks is locked here, in the order in which
    every transaction does (schedules, then sessions, each by id), so that no two wait for each other."""
    if not commits:
        return []
    foreign = {(run.agent, run.key) for one in commits for run in one.spawned}
    posts = {one.session.id: [*one.posts, *arrivals.for_waiting(connection, one.signals)] for one in commits}
    foreign |= {(post.agent, post.key) for some in posts.values() for post in some}
    known, made = arrivals.ensure_recipients(connection, foreign, now=now)
    for one in commits:
        if one.cancelled_wakeups:
            refs = {"session": one.session.id, "refs": one.cancelled_wakeups}
            connection.execute(_LOCK_WAKEUPS, refs).all()
    ids = {one.session.id for one in commits} | {answer.session for one in commits for answer in one.answers}
    wanted = sorted(ids | set(known.values()) | set(also))
    locked = {row[0]: row for row in _LOCK_SESSIONS(connection, {"ids": wanted})}
    withdrawn = _withdrawn(connection, commits, locked)
    results: list[Committed] = []
    writing: list[SessionCommit] = []
    changes: list[dict[str, Any]] = []
    for one in commits:
        session = one.session
        if session.id not in locked:
            results.append(Committed(session_id=session.id, fenced=True))
            continue
        id, token, version, count, owner = locked[session.id]
        if token == session.token and version == session.version + 1:
            results.append(Committed(session_id=id, released=one.release, version=version))
            continue
        if token != session.token or version != session.version:
            results.append(Committed(session_id=id, fenced=True))
            continue
        if not withdrawn.isdisjoint(one.struck):
            leases.hand_back(connection, [id], owner=owner, now=now)
            results.append(Committed(session_id=id, fenced=True))
            continue
        arrived = count != session.arrivals
        released = one.release and not arrived
        version += 1
        results.append(Committed(session_id=id, released=released, arrived=arrived, version=version))
        writing.append(one)
        changes.append(
            {
                "id": id, "version": version, "state": one.state, "owner": None if released else owner,
                "due_at": one.due_at if released else one.lease_until,
            }
        )  # fmt: skip
    if writing:
        _UPDATE_SESSIONS(connection, changes)
        if _write(connection, writing, posts, known, made, now):
            results = [replace(result, has_settled=True) for result in results]
    return results


def _withdrawn(
    connection: Connection, commits: Sequence[SessionCommit], locked: Mapping[int, Any]
) -> set[UUID]:
    """Of the runs whose time has come those that were taken back before that: a deploy ended their schedule while a worker
    held them ahead. Whatever took them back has left a trace in the session's arrivals."""
    doubtful = [
        id
        for one in commits
        if one.struck and one.session.id in locked and locked[one.session.id].arrivals != one.session.arrivals
        for id in one.struck
    ]
    return ahead.withdrawn(connection, doubtful)


def _write(
    connection: Connection, commits: list[SessionCommit], posts: Mapping[int, list[Post]],
    known: dict[tuple[str, str], int], made: set[int], now: datetime,
) -> bool:  # fmt: skip
    """Write what these commits change, but for the sessions' own rows; whether requests ended with their runs."""
    _INSERT_RUNS(connection, [_run_values(run) for one in commits for run in one.new_runs])
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in commits:
        for run_id, values in one.runs.items():
            if values:
                by_columns[tuple(sorted(values))].append({"id": run_id, **values})
    for columns, rows in by_columns.items():
        _update_runs(columns)(connection, rows)
    lines = [
        {
            "run_id": run_id, "seq": record.seq, "op": record.op, "kind": str(record.kind), "name": record.name,
            "ok": record.ok, "value": record.value, "at": record.at,
        }
        for one in commits for run_id, records in one.records.items() for record in records
    ]  # fmt: skip
    _INSERT_JOURNAL(connection, lines)
    conversation.append(connection, [(one.session.id, one.entries) for one in commits], now=now)
    consumed = [id for one in commits for id in one.consumed]
    if consumed:
        _CONSUME(connection, {"ids": consumed, "now": now})
    _RETARGET(connection, [{"id": id, "target": run} for one in commits for id, run in one.retargeted])
    _write_receivers(connection, commits)
    settlements = [settlement for one in commits for settlement in one.settlements]
    asked = [(one.session.id, request) for one in commits for request in one.requests]
    requests.open_requests(connection, asked, now=now)
    said = [(one.session.id, message) for one in commits for message in one.messages]
    outbox.put_all(connection, said, now=now)
    requests.settle(connection, settlements, now=now)
    closed = [run_id for one in commits for run_id in one.closed_runs]
    ended = Settled(status=RequestStatus.CANCELLED, at=now, reason="the run has ended")
    has_settled = requests.settle_of_runs(
        connection, closed, RequestStatus.CANCELLED, ended.model_dump_json(), now=now
    )
    _write_wakeups(connection, commits, now)
    own = [post for one in commits for post in posts[one.session.id]]
    arrived = arrivals.post(connection, own, known, now=now)
    spawned = [run for one in commits for run in one.spawned]
    arrived |= arrivals.queue_runs(connection, spawned, known, now=now)
    arrived |= arrivals.answer(connection, [answer for one in commits for answer in one.answers], now=now)
    arrivals.touch(connection, arrived - made, now=now)
    return has_settled


def _run_values(run: RunRow) -> dict[str, Any]:
    return {name: getattr(run, name) for name in _RUN_COLUMNS} | {"status": str(run.status)}


def _write_receivers(connection: Connection, commits: list[SessionCommit]) -> None:
    changed = [run_id for one in commits for run_id in one.receivers]
    if changed:
        _DELETE_RECEIVERS(connection, {"runs": changed})
    rows = [
        {
            "run_id": run_id, "op": wait.op, "session_id": one.session.id, "contact": wait.contact,
            "signal": wait.signal,
        }
        for one in commits for run_id, waits in one.receivers.items() for wait in waits
    ]  # fmt: skip
    _INSERT_RECEIVERS(connection, rows)


def _write_wakeups(connection: Connection, commits: list[SessionCommit], now: datetime) -> None:
    rows = [
        {
            "session_id": one.session.id, "agent": one.session.agent, "ref": wakeup.ref, "own": True,
            "spec": wakeup.spec, "anchor": wakeup.anchor, "nominal": wakeup.nominal, "due_at": wakeup.due_at,
        }
        for one in commits for wakeup in one.wakeups
    ]  # fmt: skip
    _INSERT_WAKEUPS(connection, rows)
    for one in commits:
        if one.cancelled_wakeups:
            refs = {"session": one.session.id, "refs": one.cancelled_wakeups}
            connection.execute(_CANCEL_WAKEUPS, refs)
            ahead.withdraw(connection, one.session.id, one.cancelled_wakeups, now=now)
