"""The statements of a turn: take a session's lease, load what it needs, commit what it changed, let it go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.engine.journal import Kind, Record
from wakeloop.status import PARKED_RUN, RequestStatus, RunStatus
from wakeloop.store import outbox, requests
from wakeloop.store.database import Database
from wakeloop.store.inbox import ensure_sessions, post, queue_runs, touch
from wakeloop.store.records import Committed, InboxRow, RunRow, SessionCommit, SessionRow
from wakeloop.store.schema import inbox, journal, receivers, runs, schedules, sessions

REDISPATCH_SECONDS = 10
REDISPATCH_DOUBLINGS = 5

_SESSION = (
    sessions.c.id, sessions.c.agent, sessions.c.key, sessions.c.state, sessions.c.token, sessions.c.version,
    sessions.c.arrivals, sessions.c.takeovers,
)  # fmt: skip


def claim(
    connection: Connection, ids: Collection[int], *, owner: str, now: datetime, until: datetime
) -> list[SessionRow]:
    """Take the leases of those of these sessions that are free and need a turn, until `until`.

    Raises their fencing tokens: a former holder's commits are refused from here on."""
    if not ids:
        return []
    statement = (
        sa.update(sessions)
        .where(
            sessions.c.id.in_(sorted(ids)),
            sessions.c.owner.is_(None),
            sa.or_(sessions.c.dispatches > 0, sessions.c.due_at <= now),
        )
        .values(owner=owner, token=sessions.c.token + 1, due_at=until, dispatches=0)
        .returning(*_SESSION)
    )
    return [SessionRow(**row._mapping) for row in connection.execute(statement)]


def extend(connection: Connection, ids: Collection[int], *, owner: str, until: datetime) -> dict[int, int]:
    """Extend the leases that `owner` still has on these sessions; the count of arrivals of each."""
    if not ids:
        return {}
    statement = (
        sa.update(sessions)
        .where(sessions.c.id.in_(sorted(ids)), sessions.c.owner == owner)
        .values(due_at=until)
        .returning(sessions.c.id, sessions.c.arrivals)
    )
    return {row.id: row.arrivals for row in connection.execute(statement)}


def hand_back(connection: Connection, ids: Collection[int], *, owner: str, now: datetime) -> None:
    """Give up the leases on these sessions, whatever their runs were doing: another worker takes them up at once."""
    if ids:
        connection.execute(
            sa.update(sessions)
            .where(sessions.c.id.in_(sorted(ids)), sessions.c.owner == owner)
            .values(owner=None, due_at=now, token=sessions.c.token + 1)
        )


def claim_due(
    connection: Connection, *, now: datetime, agents: Collection[str], limit: int
) -> list[tuple[int, str, str]]:
    """Mark up to `limit` sessions that are due as dispatched; their ids, agents and keys.

    What is due: an instant that a run waits for, something in the inbox, a lease that ran out, or an earlier dispatch
    that no worker took up (after 10 s, doubling up to 320 s). Two callers never get the same session."""
    due = (
        sa.select(sessions.c.id)
        .where(sessions.c.due_at <= now, sessions.c.agent.in_(sorted(agents)))
        .order_by(sessions.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(
        sa.select(sessions.c.id, sessions.c.agent, sessions.c.key, sessions.c.dispatches).where(
            sessions.c.id.in_(due.scalar_subquery())
        )
        if connection.dialect.name == "sqlite"
        else due.with_only_columns(sessions.c.id, sessions.c.agent, sessions.c.key, sessions.c.dispatches)
    ).all()
    by_wait: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_wait[min(row.dispatches, REDISPATCH_DOUBLINGS)].append(row.id)
    for dispatches, ids in by_wait.items():
        connection.execute(
            sa.update(sessions)
            .where(sessions.c.id.in_(sorted(ids)))
            .values(
                due_at=now + timedelta(seconds=REDISPATCH_SECONDS * 2**dispatches),
                dispatches=sessions.c.dispatches + 1,
                token=sa.case((sessions.c.owner.is_(None), sessions.c.token), else_=sessions.c.token + 1),
                takeovers=sa.case(
                    (sessions.c.owner.is_(None), sessions.c.takeovers), else_=sessions.c.takeovers + 1
                ),
                owner=None,
            )
        )
    return [(row.id, row.agent, row.key) for row in rows]


def next_due(connection: Connection, *, after: datetime) -> datetime | None:
    """When the next session is due, of those that are not due yet."""
    return connection.execute(
        sa.select(sessions.c.due_at).where(sessions.c.due_at > after).order_by(sessions.c.due_at).limit(1)
    ).scalar()


def recover(connection: Connection, *, now: datetime) -> None:
    """Make due now whatever was leased or handed to a broker: for a process that knows that it is the only one, and
    that its predecessor is dead."""
    connection.execute(
        sa.update(sessions)
        .where(sa.or_(sessions.c.owner.is_not(None), sessions.c.dispatches > 0))
        .values(due_at=now, dispatches=0)
    )


# ---------------------------------------------------------------------- loading


def load_open_runs(connection: Connection, session_ids: Collection[int]) -> list[RunRow]:
    """The open runs of these sessions, oldest first."""
    if not session_ids:
        return []
    statement = (
        sa.select(runs)
        .where(
            runs.c.session_id.in_(sorted(session_ids)), sa.text("status IN ('queued', 'running', 'waiting')")
        )
        .order_by(runs.c.created_at, runs.c.id)
    )
    return [run_row(row) for row in connection.execute(statement)]


def run_row(row: sa.Row[Any]) -> RunRow:
    """A row of the runs table as a record."""
    facts = dict(row._mapping)
    facts["status"] = RunStatus(facts["status"])
    return RunRow(**facts)


def load_journals(connection: Connection, run_ids: Collection[UUID]) -> dict[UUID, list[Record]]:
    """The journals of these runs, in order."""
    journals: dict[UUID, list[Record]] = {id: [] for id in run_ids}
    if run_ids:
        statement = (
            sa.select(journal)
            .where(journal.c.run_id.in_(sorted(run_ids)))
            .order_by(journal.c.run_id, journal.c.seq)
        )
        for row in connection.execute(statement):
            journals[row.run_id].append(
                Record(
                    seq=row.seq,
                    op=row.op,
                    kind=Kind(row.kind),
                    name=row.name,
                    ok=row.ok,
                    value=row.value,
                    at=row.at,
                )
            )
    return journals


def load_inbox(connection: Connection, session_ids: Collection[int]) -> list[InboxRow]:
    """What these sessions have not consumed, oldest first."""
    if not session_ids:
        return []
    statement = (
        sa.select(
            inbox.c.id, inbox.c.session_id, inbox.c.kind, inbox.c.target, inbox.c.body, inbox.c.arrived_at
        )
        .where(inbox.c.session_id.in_(sorted(session_ids)), sa.text("consumed_at IS NULL"))
        .order_by(inbox.c.id)
    )
    return [InboxRow(**row._mapping) for row in connection.execute(statement)]


def load_parked(connection: Connection, run_ids: Collection[UUID]) -> set[UUID]:
    """Those of these runs that are parked."""
    if not run_ids:
        return set()
    statement = sa.select(runs.c.id).where(
        runs.c.id.in_(sorted(run_ids)), runs.c.status.in_([str(status) for status in PARKED_RUN])
    )
    return set(connection.execute(statement).scalars())


def load_sessions(connection: Connection, session_ids: Collection[int]) -> dict[int, SessionRow]:
    """These sessions as they are."""
    if not session_ids:
        return {}
    statement = sa.select(*_SESSION).where(sessions.c.id.in_(sorted(session_ids)))
    return {row.id: SessionRow(**row._mapping) for row in connection.execute(statement)}


# ---------------------------------------------------------------------- committing


def commit(
    database: Database, connection: Connection, commits: Sequence[SessionCommit], *, now: datetime
) -> list[Committed]:
    """Apply what these sessions changed. All of one session's changes are written, or it is fenced and none are.

    Safe to repeat with the same commits after a lost connection: what was written the first time is recognised."""
    if not commits:
        return []
    foreign = {(run.agent, run.key) for one in commits for run in one.spawned}
    foreign |= {(one_post.agent, one_post.key) for one in commits for one_post in one.posts}
    known = ensure_sessions(database, connection, foreign, now=now)
    own = {one.session.id for one in commits} | {answer[0] for one in commits for answer in one.answers}
    locked = {
        row.id: row
        for row in connection.execute(
            sa.select(sessions.c.id, sessions.c.token, sessions.c.version, sessions.c.arrivals)
            .where(sessions.c.id.in_(sorted(own | set(known.values()))))
            .order_by(sessions.c.id)
            .with_for_update()
        )
    }
    results: list[Committed] = []
    writing: list[SessionCommit] = []
    for one in commits:
        row = locked.get(one.session.id)
        if row is not None and row.version == one.session.version + 1 and row.token == one.session.token:
            results.append(Committed(session_id=row.id, released=one.release, version=row.version))
            continue
        if row is None or row.token != one.session.token or row.version != one.session.version:
            results.append(Committed(session_id=one.session.id, fenced=True))
            continue
        arrived = row.arrivals != one.session.arrivals
        released = one.release and not arrived
        results.append(
            Committed(session_id=row.id, released=released, arrived=arrived, version=one.session.version + 1)
        )
        writing.append(one)
        values: dict[str, Any] = {"version": one.session.version + 1, "takeovers": 0}
        if one.state is not None:
            values["state"] = one.state
        values |= {"owner": None, "due_at": one.due_at} if released else {"due_at": one.lease_until}
        connection.execute(sa.update(sessions).where(sessions.c.id == row.id).values(**values))
    if writing:
        _write(database, connection, writing, known, now)
    return results


def _write(
    database: Database, connection: Connection, commits: list[SessionCommit], known: dict[tuple[str, str], int],
    now: datetime,
) -> None:  # fmt: skip
    new_runs = [_run_values(run) for one in commits for run in one.new_runs]
    if new_runs:
        connection.execute(sa.insert(runs), new_runs)
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in commits:
        for run_id, values in one.runs.items():
            if values:
                by_columns[tuple(sorted(values))].append(
                    {"b_id": run_id, **{f"b_{k}": v for k, v in values.items()}}
                )
    for columns, rows in by_columns.items():
        connection.execute(
            sa.update(runs)
            .where(runs.c.id == sa.bindparam("b_id"))
            .values({column: sa.bindparam(f"b_{column}") for column in columns}),
            rows,
        )
    lines = [
        {
            "run_id": run_id, "seq": record.seq, "op": record.op, "kind": str(record.kind), "name": record.name,
            "ok": record.ok, "value": record.value, "at": record.at,
        }
        for one in commits for run_id, records in one.records.items() for record in records
    ]  # fmt: skip
    if lines:
        connection.execute(sa.insert(journal), lines)
    consumed = [{"b_id": id} for one in commits for id in one.consumed]
    if consumed:
        connection.execute(
            sa.update(inbox).where(inbox.c.id == sa.bindparam("b_id")).values(consumed_at=now), consumed
        )
    _write_receivers(connection, commits)
    for one in commits:
        codes = requests.open_requests(connection, one.session.id, one.requests, now=now)
        outbox.put(connection, one.session.id, one.messages, codes, now=now)
        requests.settle(connection, one.settlements, now=now)
        requests.settle_of_runs(connection, one.closed_runs, str(RequestStatus.CANCELLED), now=now)
        for item, run_id in one.retargeted:
            connection.execute(sa.update(inbox).where(inbox.c.id == item).values(target=run_id))
        _write_wakeups(database, connection, one)
    posts = [one_post for one in commits for one_post in one.posts]
    spawned = [run for one in commits for run in one.spawned]
    arrived = post(database, connection, posts, known, now=now) | queue_runs(
        database, connection, spawned, known, now=now
    )
    answers = [answer for one in commits for answer in one.answers]
    for session_id, parent_id, run_id, body in answers:
        statement = (
            database.insert(inbox)
            .values(
                session_id=session_id, kind="child", target=parent_id, dedupe=f"child:{run_id}", body=body,
                arrived_at=now,
            )
            .on_conflict_do_nothing(index_elements=["session_id", "dedupe"])
        )  # fmt: skip
        connection.execute(statement)
    touch(connection, arrived | {answer[0] for answer in answers}, now=now)


def _run_values(run: RunRow) -> dict[str, Any]:
    return {column.name: getattr(run, column.name) for column in runs.columns} | {"status": str(run.status)}


def _write_receivers(connection: Connection, commits: list[SessionCommit]) -> None:
    changed = [run_id for one in commits for run_id in one.receivers]
    if changed:
        connection.execute(sa.delete(receivers).where(receivers.c.run_id.in_(sorted(changed))))
    rows = [
        {"run_id": run_id, "op": op, "session_id": one.session.id, "contact": contact}
        for one in commits for run_id, waits in one.receivers.items() for op, contact in waits
    ]  # fmt: skip
    if rows:
        connection.execute(sa.insert(receivers), rows)


def _write_wakeups(database: Database, connection: Connection, one: SessionCommit) -> None:
    rows = [
        {
            "session_id": one.session.id, "agent": one.session.agent, "ref": wakeup.ref, "own": True,
            "spec": wakeup.spec, "anchor": wakeup.anchor, "nominal": wakeup.nominal, "due_at": wakeup.due_at,
        }
        for wakeup in one.wakeups
    ]  # fmt: skip
    if rows:
        connection.execute(database.insert(schedules).on_conflict_do_nothing(), rows)
    if one.cancelled_wakeups:
        connection.execute(
            sa.update(schedules)
            .where(schedules.c.session_id == one.session.id, schedules.c.ref.in_(one.cancelled_wakeups))
            .values(due_at=None, nominal=None)
        )
