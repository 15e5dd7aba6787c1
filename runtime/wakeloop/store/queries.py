"""What people and programs look at: read-only views of sessions, runs, messages and requests."""

from __future__ import annotations

import functools
import string
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import CALLBACK_CHANNEL
from wakeloop.status import PARKED_RUN, RequestStatus
from wakeloop.store.batches import among
from wakeloop.store.schema import (
    FAILED_DELIVERY,
    FAILED_RUNS,
    OPEN_RUNS,
    deliveries,
    messages,
    received,
    requests,
    runs,
    schedules,
    sessions,
)

_RUN = (*runs.columns, sessions.c.agent, sessions.c.key)
_RUNS = sa.select(*_RUN).join(sessions, sessions.c.id == runs.c.session_id)
_AGENT = sa.bindparam("agent", type_=sa.Text())
_SESSION = sa.bindparam("session", type_=sa.BigInteger())
_CONTACT = sa.bindparam("contact", type_=sa.Text())
_MOST = sa.bindparam("most", type_=sa.Integer())


def has_status(given: sa.ColumnElement[bool], statuses: Collection[str]) -> sa.ColumnElement[bool]:
    """That a run has a given status, which is one of these: said so that an index leads to parked runs, of which there are
    few."""
    return sa.and_(given, FAILED_RUNS) if set(PARKED_RUN).issuperset(statuses) else given


@functools.cache
def _list_runs(agent: bool, statuses: frozenset[str] | None, limit: bool) -> sa.Select[Any]:
    statement = _RUNS.order_by(runs.c.id.desc())
    if agent:
        statement = statement.where(sessions.c.agent == _AGENT)
    if statuses is not None:
        statement = statement.where(has_status(among(runs.c.status, "statuses"), statuses))
    return statement.limit(_MOST) if limit else statement


def list_runs(
    connection: Connection, *, agent: str | None = None, statuses: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[sa.Row[Any]]:  # fmt: skip
    """Runs with their sessions' agents and keys, newest first. There is no index by status, except of parked ones: of
    others that are few among the newest, many runs are looked at."""
    facts = {"agent": agent, "statuses": statuses, "most": limit}
    chosen = None if statuses is None else frozenset(statuses)
    statement = _list_runs(agent is not None, chosen, limit is not None)
    given = {name: fact for name, fact in facts.items() if fact is not None}
    return list(connection.execute(statement, given))


_OPEN_RUNS = _RUNS.where(runs.c.session_id == _SESSION, OPEN_RUNS).order_by(runs.c.id.desc())


def open_runs(connection: Connection, session: int) -> list[sa.Row[Any]]:
    """The open runs of a session, newest first."""
    return list(connection.execute(_OPEN_RUNS, {"session": session}))


_FIND_RUN = _RUNS.where(runs.c.id == sa.bindparam("run"))


def find_run(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One run with its session's agent and key."""
    return connection.execute(_FIND_RUN, {"run": id}).first()


_FIND_BY_START = (
    sa.select(runs.c.id).where(runs.c.id.between(sa.bindparam("first"), sa.bindparam("last"))).limit(_MOST)
)
_FIND_BY_END = (
    sa.select(runs.c.id)
    .where(
        sa.func.replace(sa.cast(runs.c.id, sa.Text), "-", "").like(sa.bindparam("ending", type_=sa.Text()))
    )
    .limit(_MOST)
)
_DIGITS = 32


def find_runs(connection: Connection, fragment: str) -> list[UUID]:
    """The ids of runs that begin with this fragment, or end with it; at most three of them.

    A beginning is looked up. For an ending every run is looked at: that is for people's commands."""
    digits = fragment.replace("-", "").lower()
    if not digits or len(digits) > _DIGITS or not all(digit in string.hexdigits for digit in digits):
        return []
    span = {"first": UUID(digits.ljust(_DIGITS, "0")), "last": UUID(digits.ljust(_DIGITS, "f"))}
    found = set(connection.execute(_FIND_BY_START, {**span, "most": 3}).scalars())
    if len(digits) < _DIGITS and len(found) < 3:
        found |= set(connection.execute(_FIND_BY_END, {"ending": f"%{digits}", "most": 3}).scalars())
    return sorted(found)[:3]


_open_runs = (
    sa.select(sa.func.count())
    .select_from(runs)
    .where(runs.c.session_id == sessions.c.id, OPEN_RUNS)
    .scalar_subquery()
    .label("open_runs")
)
SESSIONS = sa.select(*sessions.columns, _open_runs).order_by(sessions.c.agent, sessions.c.key)
SESSIONS_OF_AGENT = SESSIONS.where(sessions.c.agent == _AGENT)


def list_sessions(connection: Connection, *, agent: str | None = None) -> list[sa.Row[Any]]:
    """Sessions with how many of their runs are open, by agent and key."""
    if agent is None:
        return list(connection.execute(SESSIONS))
    return list(connection.execute(SESSIONS_OF_AGENT, {"agent": agent}))


_FIND_SESSION = sa.select(sessions).where(sessions.c.agent == _AGENT, sessions.c.key == sa.bindparam("key"))


def find_session(connection: Connection, agent: str, key: str) -> sa.Row[Any] | None:
    """One session."""
    return connection.execute(_FIND_SESSION, {"agent": agent, "key": key}).first()


_SESSION_BY_ID = sa.select(sessions).where(sessions.c.id == _SESSION)


def session(connection: Connection, id: int) -> sa.Row[Any]:
    """A session that is known to be there."""
    return connection.execute(_SESSION_BY_ID, {"session": id}).one()


_DELIVERED_AS_SHOWN = sa.and_(
    deliveries.c.message_id == messages.c.id, deliveries.c.channel == messages.c.channel
)
_TO_PEOPLE = messages.c.channel != sa.literal_column(f"'{CALLBACK_CHANNEL}'")
_SENT = (
    sa.select(
        *messages.columns,
        deliveries.c.status,
        deliveries.c.updated_at,
        deliveries.c.claimed_at,
        deliveries.c.address,
        deliveries.c.provider_id,
        sa.func.coalesce(deliveries.c.bundle, deliveries.c.id).label("parcel"),
    )
    .join(deliveries, _DELIVERED_AS_SHOWN)
    .where(
        deliveries.c.status.in_([sa.literal_column("'sent'"), sa.literal_column("'delivered'")]), _TO_PEOPLE
    )
    .order_by(messages.c.at, messages.c.id)
)
_SENT_TO = _SENT.where(messages.c.contact == _CONTACT)


def sent(connection: Connection, contact: str | None = None) -> list[sa.Row[Any]]:
    """Messages to people that a provider took over, with when that was, in the order in which they were said. Those with one `parcel` went together."""
    if contact is None:
        return list(connection.execute(_SENT))
    return list(connection.execute(_SENT_TO, {"contact": contact}))


_MESSAGES = (
    sa.select(*messages.columns, deliveries.c.status, deliveries.c.error)
    .outerjoin(deliveries, _DELIVERED_AS_SHOWN)
    .where(_TO_PEOPLE)
    .order_by(messages.c.id.desc())
    .limit(_MOST)
)


def list_messages(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """The newest messages from and to people, each with how its latest delivery stands, newest first."""
    return list(connection.execute(_MESSAGES, {"most": limit}))


_DELIVERIES_OF = (
    sa.select(deliveries).where(deliveries.c.message_id == sa.bindparam("message")).order_by(deliveries.c.id)
)


def deliveries_of(connection: Connection, message_id: UUID) -> list[sa.Row[Any]]:
    """The attempts to get a message through, first to last."""
    return list(connection.execute(_DELIVERIES_OF, {"message": message_id}))


_FAILED = (
    sa.select(*messages.columns, deliveries.c.status, deliveries.c.error)
    .join(deliveries, _DELIVERED_AS_SHOWN)
    .where(FAILED_DELIVERY, _TO_PEOPLE)
    .order_by(deliveries.c.message_id.desc())
    .limit(_MOST)
)


def failed_deliveries(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """Messages to people that reached nobody, newest first."""
    return list(connection.execute(_FAILED, {"most": limit}))


_RECEIVED = sa.select(received).order_by(received.c.id.desc()).limit(_MOST)


def list_received(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """What people sent, with what became of it, newest first."""
    return list(connection.execute(_RECEIVED, {"most": limit}))


_UNROUTED = (
    sa.select(received, messages.c.text)
    .join(messages, messages.c.id == received.c.message_id)
    .where(
        sa.or_(
            received.c.contact.is_(None),
            received.c.outcome.like("nobody takes it%"),
            received.c.outcome.like("an automatic reply%"),
        ),
        received.c.outcome.not_like("an opt-%"),
    )
    .order_by(received.c.id.desc())
    .limit(_MOST)
)


def unrouted(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """What came in that no agent got: of unknown senders, of contacts whom nobody waits for, and what machines answered
    for them. Newest first."""
    return list(connection.execute(_UNROUTED, {"most": limit}))


@functools.cache
def _list_requests(open_only: bool, status: bool, run: bool, limit: bool) -> sa.Select[Any]:
    statement = (
        sa.select(*requests.columns, sessions.c.agent, sessions.c.key)
        .outerjoin(sessions, sessions.c.id == requests.c.session_id)
        .order_by(requests.c.id)
    )
    if open_only:
        statement = statement.where(sa.text("requests.status = 'open'"))
    elif status:
        statement = statement.where(requests.c.status == sa.bindparam("status", type_=sa.Text()))
    if run:
        statement = statement.where(requests.c.run_id == sa.bindparam("run", type_=sa.Uuid()))
    return statement.limit(_MOST) if limit else statement


_FIND_REQUEST: Any = (
    sa.select(*requests.columns, sessions.c.agent, sessions.c.key)
    .outerjoin(sessions, sessions.c.id == requests.c.session_id)
    .where(requests.c.id == sa.bindparam("request"))
)


def find_request(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One request with its session's agent and key, if it is a run's."""
    return connection.execute(_FIND_REQUEST, {"request": id}).first()


def list_requests(
    connection: Connection, *, status: str | None = None, run: UUID | None = None, limit: int | None = None
) -> list[sa.Row[Any]]:
    """Requests with their sessions' agents and keys (None for a program's), oldest first."""
    open_only = status == RequestStatus.OPEN
    statement = _list_requests(open_only, status is not None, run is not None, limit is not None)
    return list(connection.execute(statement, {"status": status, "run": run, "most": limit}))


_SCHEDULES = (
    sa.select(*schedules.columns, sessions.c.key)
    .join(sessions, sessions.c.id == schedules.c.session_id)
    .where(schedules.c.nominal.is_not(None))
    .order_by(schedules.c.nominal, schedules.c.id)
)


def list_schedules(connection: Connection) -> list[sa.Row[Any]]:
    """Live schedules with their sessions' keys, soonest first."""
    return list(connection.execute(_SCHEDULES))


_COUNTS = [sa.select(sa.func.count()).select_from(table).scalar_subquery() for table in (runs, messages)]
_COUNT = sa.select(_COUNTS[0] + _COUNTS[1])


def count_rows(connection: Connection) -> int:
    """How many runs and messages there are."""
    return int(connection.execute(_COUNT).scalar_one())


_LAST_CHANNEL = (
    sa.select(messages.c.channel)
    .where(messages.c.contact == _CONTACT, messages.c.inbound.is_(False))
    .order_by(messages.c.id.desc())
    .limit(sa.literal_column("1"))
)


def last_channel(connection: Connection, contact: str) -> str | None:
    """The channel on which a contact was last written to."""
    return connection.execute(_LAST_CHANNEL, {"contact": contact}).scalar()
