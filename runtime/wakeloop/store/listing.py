"""The statements of long lists, read a page at a time, newest first, and of what has ended among what is waited for."""

from __future__ import annotations

import functools
import string
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.channel import CALLBACK_CHANNEL
from wakeloop.status import OPEN_RUN
from wakeloop.store.batches import among
from wakeloop.store.queries import SESSIONS, SESSIONS_OF_AGENT, has_status
from wakeloop.store.schema import (
    FAILED_DELIVERY,
    OPEN_REQUEST,
    deliveries,
    messages,
    recipients,
    requests,
    runs,
    schedules,
    sessions,
)

_MOST = sa.bindparam("most", type_=sa.Integer())
_SESSION = sa.bindparam("session", type_=sa.BigInteger())
_BEFORE = sa.bindparam("before", type_=sa.Uuid())
_earlier = requests.alias("earlier")


@functools.cache
def _requests(status: bool, open_only: bool, contact: bool, before: bool) -> sa.Select[Any]:
    # PERF: without `status=open` this sorts all requests by their time, of which there is no index.
    statement = (
        sa.select(*requests.columns, sessions.c.agent, sessions.c.key)
        .outerjoin(sessions, sessions.c.id == requests.c.session_id)
        .order_by(requests.c.created_at.desc(), requests.c.id.desc())
        .limit(_MOST)
    )
    if open_only:
        statement = statement.where(sa.text(f"requests.{OPEN_REQUEST.text}"))
    elif status:
        statement = statement.where(requests.c.status == sa.bindparam("status", type_=sa.Text()))
    if contact:
        asked = sa.select(recipients.c.request_id).where(
            recipients.c.contact == sa.bindparam("contact", type_=sa.Text())
        )
        statement = statement.where(requests.c.id.in_(asked))
    if before:
        statement = statement.join(_earlier, _earlier.c.id == _BEFORE).where(
            sa.or_(
                requests.c.created_at < _earlier.c.created_at,
                sa.and_(requests.c.created_at == _earlier.c.created_at, requests.c.id < _earlier.c.id),
            )
        )
    return statement


def requests_page(
    connection: Connection, *, limit: int, status: str | None = None, contact: str | None = None,
    before: UUID | None = None,
) -> list[sa.Row[Any]]:  # fmt: skip
    """Requests with their sessions' agents and keys, newest first. contact: those that this one was asked; before: made
    before this one, of which there are none if it is not there."""
    statement = _requests(status is not None, status == "open", contact is not None, before is not None)
    parameters = {"status": status, "contact": contact, "before": before, "most": limit}
    given = {name: value for name, value in parameters.items() if value is not None}
    if status == "open":
        del given["status"]
    return list(connection.execute(statement, given))


_DIGITS_OF_ID = sa.func.replace(sa.cast(requests.c.id, sa.Text), "-", "")
_FIND_REQUESTS = (
    sa.select(requests.c.id)
    .where(
        sa.or_(
            _DIGITS_OF_ID.like(sa.bindparam("beginning", type_=sa.Text())),
            _DIGITS_OF_ID.like(sa.bindparam("ending", type_=sa.Text())),
        )
    )
    .order_by(requests.c.id)
    .limit(_MOST)
)


def find_requests(connection: Connection, fragment: str) -> list[UUID]:
    """The ids of requests that begin with this fragment, or end with it; at most three. Every request is looked at: that
    is for people's commands."""
    digits = fragment.replace("-", "").lower()
    if not digits or not all(digit in string.hexdigits for digit in digits):
        return []
    parameters = {"beginning": f"{digits}%", "ending": f"%{digits}", "most": 3}
    return list(connection.execute(_FIND_REQUESTS, parameters).scalars())


@functools.cache
def _runs(agent: bool, status: str | None, before: bool) -> sa.Select[Any]:
    statement = (
        sa.select(*runs.columns, sessions.c.agent, sessions.c.key)
        .join(sessions, sessions.c.id == runs.c.session_id)
        .order_by(runs.c.id.desc())
        .limit(_MOST)
    )
    if agent:
        statement = statement.where(sessions.c.agent == sa.bindparam("agent", type_=sa.Text()))
    if status is not None:
        given = runs.c.status == sa.bindparam("status", type_=sa.Text())
        statement = statement.where(has_status(given, [status]))
    return statement.where(runs.c.id < _BEFORE) if before else statement


def runs_page(
    connection: Connection, *, limit: int, agent: str | None = None, status: str | None = None,
    before: UUID | None = None,
) -> list[sa.Row[Any]]:  # fmt: skip
    """Runs with their sessions' agents and keys, by id, the greatest (of ids that we made: the newest) first."""
    parameters = {"agent": agent, "status": status, "before": before, "most": limit}
    statement = _runs(agent is not None, status, before is not None)
    return list(
        connection.execute(
            statement, {name: value for name, value in parameters.items() if value is not None}
        )
    )


_SESSIONS = SESSIONS.limit(_MOST)
_SESSIONS_OF_AGENT = SESSIONS_OF_AGENT.limit(_MOST)


def sessions_page(connection: Connection, *, limit: int, agent: str | None = None) -> list[sa.Row[Any]]:
    """Sessions with how many of their runs are open, by agent and key."""
    if agent is None:
        return list(connection.execute(_SESSIONS, {"most": limit}))
    return list(connection.execute(_SESSIONS_OF_AGENT, {"agent": agent, "most": limit}))


_LAST_MESSAGES = (
    sa.select(messages).where(messages.c.session_id == _SESSION).order_by(messages.c.id.desc()).limit(_MOST)
)
_WAKEUPS = (
    sa.select(schedules)
    .where(schedules.c.session_id == _SESSION, schedules.c.nominal.is_not(None))
    .order_by(schedules.c.nominal, schedules.c.id)
)


def last_messages(connection: Connection, session: int, *, limit: int) -> list[sa.Row[Any]]:
    """The last messages of a session, oldest first."""
    return list(reversed(connection.execute(_LAST_MESSAGES, {"session": session, "most": limit}).all()))


def wakeups(connection: Connection, session: int) -> list[sa.Row[Any]]:
    """The live schedules of a session, soonest first."""
    return list(connection.execute(_WAKEUPS, {"session": session}))


_ENDED_REQUESTS = sa.select(requests.c.id).where(
    among(requests.c.id, "ids"), requests.c.status != sa.literal_column("'open'")
)
_ENDED_RUNS = sa.select(runs.c.id).where(
    among(runs.c.id, "ids"), runs.c.status.not_in([sa.literal_column(f"'{status}'") for status in OPEN_RUN])
)


def ended_requests(connection: Connection, ids: Collection[UUID]) -> Sequence[UUID]:
    """Those of these requests that are not open any more."""
    return connection.execute(_ENDED_REQUESTS, {"ids": sorted(ids)}).scalars().all()


def ended_runs(connection: Connection, ids: Collection[UUID]) -> Sequence[UUID]:
    """Those of these runs that are not under way any more: over, or parked until somebody retries them."""
    return connection.execute(_ENDED_RUNS, {"ids": sorted(ids)}).scalars().all()


_FAILED_CALLBACKS: Any = (
    sa.select(
        messages.c.id, messages.c.at, messages.c.text, deliveries.c.address, deliveries.c.status,
        deliveries.c.error, deliveries.c.tries,
    )
    .join(deliveries, deliveries.c.message_id == messages.c.id)
    .where(FAILED_DELIVERY, deliveries.c.channel == sa.literal_column(f"'{CALLBACK_CHANNEL}'"))
    .order_by(deliveries.c.message_id.desc())
    .limit(_MOST)
)  # fmt: skip


def failed_callbacks(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """Callbacks to programs that were given up, newest first."""
    return list(connection.execute(_FAILED_CALLBACKS, {"most": limit}))
