"""What arrives for sessions: the statements that record it, once, and make the session due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.events import ANY_SIGNAL
from wakeloop.status import RunStatus
from wakeloop.store.batches import Insert, Taking, among, arrays, is_postgres
from wakeloop.store.direct import Direct
from wakeloop.store.records import ChildEnd, Emitted, NewRun, Post
from wakeloop.store.schema import OPEN_RUNS, PENDING_EVENTS, Instant, inbox, receivers, runs, sessions

_NAMES = arrays(sessions, ("agent", "key"))
_FIND_SESSIONS = Direct(
    sa.select(sessions.c.id, sessions.c.agent, sessions.c.key).join(
        _NAMES, sa.and_(sessions.c.agent == _NAMES.c.agent, sessions.c.key == _NAMES.c.key)
    )
)
_FIND_SESSION = Direct(
    sa.select(sessions.c.id, sessions.c.agent, sessions.c.key).where(
        sessions.c.agent == sa.bindparam("agent"), sessions.c.key == sa.bindparam("key")
    )
)
_INSERT_SESSIONS = Insert(
    sessions, ("agent", "key", "created_at", "due_at"), new=("agent", "key"), returning=("id", "agent", "key")
)
_POST = Insert(
    inbox, ("session_id", "kind", "target", "dedupe", "body", "arrived_at", "trace"), new=("session_id", "dedupe"), returning=("session_id",)
)  # fmt: skip
_QUEUE_RUNS = Insert(
    runs,
    (
        "id", "session_id", "event", "created_at", "status", "schedule_id", "nominal", "skipped", "skip_count",
        "ended_at", "parent_id", "parent_session_id", "wake_at", "trace",
    ),
    new=(),
    returning=("id", "session_id", "status"),
)  # fmt: skip

_NOW = sa.bindparam("now", type_=Instant())
_IS_ASLEEP = sa.and_(
    sessions.c.owner.is_(None), sa.or_(sessions.c.due_at.is_(None), sessions.c.due_at > _NOW)
)
_TOUCH = Taking(
    sessions,
    sa.select(sessions.c.id).where(among(sessions.c.id, "ids")).order_by(sessions.c.id),
    {"arrivals": sessions.c.arrivals + 1, "due_at": sa.case((_IS_ASLEEP, _NOW), else_=sessions.c.due_at)},
)

_WAITING_FOR_SIGNAL = Direct(
    sa.select(sessions.c.agent, sessions.c.key, receivers.c.signal)
    .join(receivers, receivers.c.session_id == sessions.c.id)
    .join(runs, runs.c.id == receivers.c.run_id)
    .where(among(receivers.c.signal, "types"), among(sessions.c.agent, "agents"), OPEN_RUNS)
    .distinct()
)
_CAUSES: Any = sa.union_all(
    sa.select(inbox.c.session_id, inbox.c.trace).where(
        among(inbox.c.session_id, "ids"), PENDING_EVENTS, inbox.c.trace.is_not(None)
    ),
    sa.select(runs.c.session_id, runs.c.trace).where(
        among(runs.c.session_id, "ids"), OPEN_RUNS, runs.c.status == sa.literal_column(f"'{RunStatus.QUEUED}'"),
        runs.c.trace.is_not(None),
    ),
)  # fmt: skip


def ensure_sessions(
    connection: Connection, names: Collection[tuple[str, str]], *, now: datetime
) -> dict[tuple[str, str], int]:
    """The ids of these sessions, by (agent, key); those that are not there yet are made, each once."""
    return _ensure(connection, names, now=now, due_at=None)[0]


def ensure_recipients(
    connection: Connection, names: Collection[tuple[str, str]], *, now: datetime
) -> tuple[dict[tuple[str, str], int], set[int]]:
    """The same for sessions for which something arrives in this transaction; and which of them it makes. Those are due
    from the beginning and need no `touch`."""
    return _ensure(connection, names, now=now, due_at=now)


def _ensure(
    connection: Connection, names: Collection[tuple[str, str]], *, now: datetime, due_at: datetime | None
) -> tuple[dict[tuple[str, str], int], set[int]]:
    ordered = sorted(names)
    if not ordered:
        return {}, set()
    found = _find_sessions(connection, ordered)
    missing = [name for name in ordered if name not in found]
    if not missing:
        return found, set()
    rows = [{"agent": agent, "key": key, "created_at": now, "due_at": due_at} for agent, key in missing]
    made = {(row.agent, row.key): row.id for row in _INSERT_SESSIONS(connection, rows)}
    beaten = [name for name in missing if name not in made]
    return found | made | _find_sessions(connection, beaten), set(made.values())


def _find_sessions(connection: Connection, names: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    if not names:
        return {}
    if is_postgres(connection) and len(names) > 1:
        lists = {"new_agent": [agent for agent, _ in names], "new_key": [key for _, key in names]}
        found = _FIND_SESSIONS(connection, lists)
    else:
        found = [
            row for agent, key in names for row in _FIND_SESSION(connection, {"agent": agent, "key": key})
        ]
    return {(row.agent, row.key): row.id for row in found}


def find_session(connection: Connection, agent: str, key: str) -> int | None:
    """The id of a session, if it is there."""
    row = _FIND_SESSION.first(connection, {"agent": agent, "key": key})
    return None if row is None else row.id


def post(
    connection: Connection, posts: Sequence[Post], known: dict[tuple[str, str], int], *, now: datetime
) -> set[int]:
    """Put these into their sessions' inboxes; the sessions that got something new. What is there already stays."""
    rows: list[dict[str, Any]] = [
        {
            "session_id": known[one.agent, one.key], "kind": one.kind, "target": one.target, "dedupe": one.dedupe,
            "body": one.body, "arrived_at": now, "trace": one.trace,
        }
        for one in posts
    ]  # fmt: skip
    # In one order everywhere: two transactions with the same items wait for each other's unique keys.
    rows.sort(key=lambda row: (row["session_id"], row["dedupe"]))
    return {row.session_id for row in _POST(connection, rows)}


def for_waiting(connection: Connection, signals: Sequence[Emitted]) -> list[Post]:
    """These signals, once for every session with a run that waits for one of them, of the agents that each is for."""
    if not signals:
        return []
    types = sorted({*(one.type for one in signals), ANY_SIGNAL})
    agents = sorted(set().union(*(one.agents for one in signals)))
    found = _WAITING_FOR_SIGNAL(connection, {"types": types, "agents": agents})
    return [
        Post(agent=agent, key=key, kind="signal", dedupe=one.dedupe, body=one.body, trace=one.trace)
        for one in signals
        for agent, key in sorted(
            {
                (row.agent, row.key)
                for row in found
                if (row.signal == one.type and row.agent in one.agents)
                or (row.signal == ANY_SIGNAL and row.agent in one.wide)
            }
        )
    ]


def answer(connection: Connection, answers: Sequence[ChildEnd], *, now: datetime) -> set[int]:
    """Tell the parents of runs what these came to, once per run; the sessions that got something new."""
    rows = [
        {
            "session_id": one.session, "kind": "child", "target": one.parent, "dedupe": f"child:{one.run}",
            "body": one.body, "arrived_at": now, "trace": one.trace,
        }
        for one in answers
    ]  # fmt: skip
    return {row.session_id for row in _POST(connection, rows)}


def queue_runs(
    connection: Connection, new: Sequence[NewRun], known: dict[tuple[str, str], int], *, now: datetime
) -> set[int]:
    """Queue these runs, or record them as skipped, once per id and per (schedule, nominal); the sessions that got one
    to run. What is there already stays."""
    return set(add_runs(connection, new, known, now=now).values())


def add_runs(
    connection: Connection, new: Sequence[NewRun], known: dict[tuple[str, str], int], *, now: datetime
) -> dict[UUID, int]:
    """The same; the ids of the runs that are to run, each with its session."""
    rows: list[dict[str, Any]] = [
        {
            "id": run.id, "session_id": known[run.agent, run.key], "event": run.event, "created_at": now,
            "status": str(RunStatus.CANCELLED if run.skipped else RunStatus.QUEUED),
            "schedule_id": run.schedule_id, "nominal": run.nominal, "skipped": run.skipped,
            "skip_count": run.skip_count, "ended_at": now if run.skipped else None,
            "parent_id": run.parent_id, "parent_session_id": run.parent_session_id, "wake_at": run.wake_at,
            "trace": run.trace,
        }
        for run in new
    ]  # fmt: skip
    queued = _QUEUE_RUNS(connection, rows)
    return {row.id: row.session_id for row in queued if row.status == RunStatus.QUEUED}


def touch(connection: Connection, session_ids: Collection[int], *, now: datetime) -> None:
    """Note that something arrived for these sessions: each is due now, or its holder finds out before it lets go."""
    if session_ids:
        _TOUCH(connection, {"ids": sorted(session_ids), "now": now})


def causes(connection: Connection, session_ids: Collection[int]) -> dict[int, list[str]]:
    """The traces to which that belongs for which these sessions are due, each once, by session."""
    found: dict[int, dict[str, None]] = {}
    if session_ids:
        for row in connection.execute(_CAUSES, {"ids": sorted(session_ids)}):
            found.setdefault(row.session_id, {})[row.trace] = None
    return {session: list(traces) for session, traces in found.items()}
