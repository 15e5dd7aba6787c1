"""The statements of plain messages: for whom they may be, and on PostgreSQL all of their way in, which is one statement."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Listed, Row, among
from wakeloop.store.direct import Direct
from wakeloop.store.leases import redispatch_times
from wakeloop.store.records import HandedOver
from wakeloop.store.schema import (
    OPEN_RECIPIENT,
    Instant,
    inbox,
    messages,
    received,
    receivers,
    recipients,
    requests,
    runs,
    sessions,
)

_NOTHING: Any = sa.null()
# Without statistics, as in a new database, PostgreSQL would read all runs to find those that wait: few, it expects. A subquery
# leaves it only to begin with the contacts.
_session_of_request: Any = (
    sa.select(requests.c.session_id).where(requests.c.id == recipients.c.request_id).scalar_subquery()
)
_is_open: Any = sa.select(runs.c.ended_at.is_(None)).where(runs.c.id == receivers.c.run_id).scalar_subquery()
_ASKED = sa.select(
    recipients.c.contact, recipients.c.request_id.label("request"), _session_of_request.label("session"),
    sa.cast(_NOTHING, sa.Text()).label("agent"), sa.cast(_NOTHING, sa.Text()).label("key"),
).where(among(recipients.c.contact, "contacts"), OPEN_RECIPIENT)  # fmt: skip


def _waiting(condition: sa.ColumnElement[bool]) -> Any:
    return (
        sa.select(
            receivers.c.contact, sa.cast(_NOTHING, sa.Uuid()).label("request"), sessions.c.id.label("session"),
            sessions.c.agent, sessions.c.key,
        )
        .join(receivers, receivers.c.session_id == sessions.c.id)
        .where(condition, receivers.c.signal.is_(None), _is_open)
    )  # fmt: skip


_WANTED = Direct(
    sa.union_all(
        _ASKED, _waiting(among(receivers.c.contact, "contacts")), _waiting(receivers.c.contact.is_(None))
    )
)

_NOW = sa.bindparam("now", type_=Instant())
COLUMNS = {
    "message_id": messages.c.id, "channel": received.c.channel, "provider_id": received.c.provider_id,
    "address": received.c.address, "contact": received.c.contact, "raw": received.c.raw,
    "outcome": received.c.outcome, "thread": received.c.thread, "session_id": sessions.c.id,
    "subject": messages.c.subject, "text": messages.c.text, "dedupe": inbox.c.dedupe, "body": inbox.c.body,
    "trace": inbox.c.trace,
}  # fmt: skip
"""What is to be known of a message, by name."""


def _many() -> Any:
    """The messages, by a list of each of COLUMNS."""
    lists = (sa.bindparam(f"new_{name}", type_=Listed(column.type)) for name, column in COLUMNS.items())
    given: Any = sa.func.unnest(*lists).table_valued(
        *(sa.column(name, one.type) for name, one in COLUMNS.items())
    )
    given = given.render_derived(name="given")
    return sa.select(*(given.c[name] for name in COLUMNS))


def _lone() -> Any:
    """The only message, which takes one plan for all executions."""
    return sa.select(
        *(sa.bindparam(f"new_{name}", type_=one.type).label(name) for name, one in COLUMNS.items())
    )


def _take(given: Any) -> Any:
    """Each part writes what the part before it wrote for the first time; sessions are locked in the order of their ids, as
    everywhere."""
    new = given.cte("new")

    def insert(table: sa.Table, values: dict[str, Any], after: Any = None) -> Any:
        chosen = sa.select(*values.values())
        if after is not None:
            chosen = chosen.select_from(new).join(after, after.c.message_id == new.c.message_id)
        return postgresql.insert(table).from_select(list(values), chosen)

    recorded = (
        insert(
            received,
            {
                "channel": new.c.channel, "provider_id": new.c.provider_id, "address": new.c.address,
                "contact": new.c.contact, "raw": new.c.raw, "outcome": new.c.outcome, "thread": new.c.thread,
                "message_id": new.c.message_id, "at": _NOW,
            },
        )
        .on_conflict_do_nothing(index_elements=[received.c.channel, received.c.provider_id])
        .returning(received.c.message_id)
        .cte("recorded")
    )  # fmt: skip
    kept = insert(
        messages,
        {
            "id": new.c.message_id, "session_id": new.c.session_id, "inbound": sa.true(), "contact": new.c.contact,
            "channel": new.c.channel, "subject": new.c.subject, "text": new.c.text, "at": _NOW,
        },
        after=recorded,
    ).cte("kept")  # fmt: skip
    posted = (
        insert(
            inbox,
            {
                "session_id": new.c.session_id, "kind": sa.literal_column("'message'"), "dedupe": new.c.dedupe,
                "body": new.c.body, "arrived_at": _NOW, "trace": new.c.trace,
            },
            after=recorded,
        )
        .returning(inbox.c.session_id)
        .cte("posted")
    )  # fmt: skip
    chosen = (
        sa.select(sessions.c.id)
        .where(sessions.c.id.in_(sa.select(posted.c.session_id)))
        .order_by(sessions.c.id)
        .with_for_update(key_share=True)
        .cte("chosen")
    )
    is_free = sa.and_(
        sessions.c.owner.is_(None), sa.or_(sessions.c.due_at.is_(None), sessions.c.due_at > _NOW)
    )
    may_go = sa.and_(
        is_free, sessions.c.dispatches == sa.literal_column("0"), among(sessions.c.agent, "agents")
    )
    touched = (
        sa.update(sessions)
        .where(sessions.c.id == chosen.c.id)
        .values(
            arrivals=sessions.c.arrivals + 1,
            due_at=sa.case(
                (may_go, sa.bindparam("again_0", type_=Instant())), (is_free, _NOW), else_=sessions.c.due_at
            ),
            dispatches=sa.case((may_go, sa.literal_column("1")), else_=sessions.c.dispatches),
        )
        .returning(sessions.c.id, sessions.c.agent, sessions.c.key, sessions.c.owner, sessions.c.due_at)
        .cte("touched")
    )
    return (
        sa.select(
            recorded.c.message_id, touched.c.id.label("session"), touched.c.agent, touched.c.key, touched.c.owner,
            touched.c.due_at,
        )
        .join(new, new.c.message_id == recorded.c.message_id)
        .join(touched, touched.c.id == new.c.session_id)
        .add_cte(kept)
    )  # fmt: skip


_TAKE_MANY, _TAKE_LONE = Direct(_take(_many())), Direct(_take(_lone()))


def wanted(connection: Connection, contacts: Collection[str]) -> list[Any]:
    """What these contacts' words may be for, as rows of `contact`, `request`, `session`, `agent` and `key`: their open
    requests, each with its session; and, without a request, the sessions with a run that waits for a message, of one of
    them or of anyone (`contact` is None)."""
    return _WANTED(connection, {"contacts": sorted(contacts)})


def take(
    connection: Connection, rows: Sequence[Row], *, now: datetime, agents: Collection[str]
) -> tuple[set[UUID], HandedOver]:
    """On PostgreSQL: record plain messages, those that were not recorded before; put each into the conversation and the
    inbox of its session; and note that it arrived. A session at rest of one of these agents is marked as dispatched, as
    `leases.hand_over` would; of the others those that nobody has are due now.

    Args: rows: of all of COLUMNS. Gives the ids of the messages that are new, and what became of their sessions."""
    # In one order everywhere: two transactions with the same messages wait for each other's unique keys.
    ordered = sorted(rows, key=lambda row: (row["channel"], row["provider_id"]))
    again = redispatch_times(now)["again_0"]
    given: dict[str, Any] = {"now": now, "again_0": again, "agents": sorted(agents)}
    if len(ordered) == 1:
        found = _TAKE_LONE(connection, given | {f"new_{name}": ordered[0][name] for name in COLUMNS})
    else:
        lists = {f"new_{name}": [row[name] for row in ordered] for name in COLUMNS}
        found = _TAKE_MANY(connection, given | lists)
    free = [row for row in found if row.owner is None]
    handed = {row.session: (row.agent, row.key) for row in free if row.due_at == again}
    return {row.message_id for row in found}, HandedOver(
        sessions=[(id, *name) for id, name in sorted(handed.items())],
        is_all=all(row.session in handed for row in free),
    )
