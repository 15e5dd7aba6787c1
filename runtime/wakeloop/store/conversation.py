"""The statements of a session's conversation: entries are put at its end, read by their positions, and never changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert, Listed, among, is_postgres
from wakeloop.store.records import NewEntry
from wakeloop.store.schema import conversation, messages, sessions

FURTHEST = 2**31 - 1
"""No position is beyond it."""

_before = conversation.alias("before")


def _end_of(session: Any) -> Any:
    """The position of a session's newest entry, be it deleted by now; 0 if there was none."""
    newest = (
        sa.select(_before.c.seq)
        .where(_before.c.session_id == session)
        .order_by(_before.c.session_id.desc(), _before.c.seq.desc())
        .limit(sa.literal_column("1"))
        .scalar_subquery()
    )
    pruned = sa.select(sessions.c.pruned_to).where(sessions.c.id == session).scalar_subquery()
    return sa.func.coalesce(newest, pruned, sa.literal_column("0"))


_APPEND = Insert(
    conversation,
    ("session_id", "at", "seq", "role", "contact", "content", "source"),
    express={"seq": lambda new: _end_of(new["session_id"]) + new["seq"]},
)
_session = sessions.alias("of_session")
_BOUNDS: Any = sa.select(
    _session.c.id,
    (sa.func.coalesce(_session.c.pruned_to, sa.literal_column("0")) + sa.literal_column("1")).label("oldest"),
    _end_of(_session.c.id).label("newest"),
).where(among(_session.c.id, "ids"))
_MESSAGE = [
    getattr(messages.c, name).label(f"message_{name}")
    for name in ("id", "text", "inbound", "contact", "channel", "at", "subject", "attachments")
]
_ENTRIES = sa.select(*conversation.columns, *_MESSAGE)
_IS_MESSAGE = sa.and_(conversation.c.content.is_(None), messages.c.id == conversation.c.source)
_ORDER = (conversation.c.session_id, conversation.c.seq)
_RANGE = (
    _ENTRIES.select_from(conversation.outerjoin(messages, _IS_MESSAGE))
    .where(
        conversation.c.session_id == sa.bindparam("session", type_=sa.BigInteger()),
        conversation.c.seq.between(
            sa.bindparam("first", type_=sa.Integer()), sa.bindparam("last", type_=sa.Integer())
        ),
    )
    .order_by(*_ORDER)
)
_wanted = sa.func.unnest(
    sa.bindparam("sessions", type_=Listed(sa.BigInteger())),
    sa.bindparam("firsts", type_=Listed(sa.Integer())),
    sa.bindparam("lasts", type_=Listed(sa.Integer())),
)
_ranges = _wanted.table_valued(
    sa.column("session_id", sa.BigInteger()),
    sa.column("first", sa.Integer()),
    sa.column("last", sa.Integer()),
).render_derived(name="wanted")
_RANGES = (
    _ENTRIES.select_from(_ranges)
    .join(
        conversation,
        sa.and_(
            conversation.c.session_id == _ranges.c.session_id,
            conversation.c.seq.between(_ranges.c.first, _ranges.c.last),
        ),
    )
    .outerjoin(messages, _IS_MESSAGE)
    .order_by(*_ORDER)
)


def append(connection: Connection, said: Sequence[tuple[int, Sequence[NewEntry]]], *, now: datetime) -> None:
    """Put these at the end of their sessions' conversations, in order. The caller holds the sessions' rows locked: so
    positions follow each other without a gap, and none is given twice."""
    # SQLite counts on from the row before; PostgreSQL's statement sees none of its own rows.
    step = 0 if not is_postgres(connection) else 1
    rows: list[dict[str, Any]] = [
        {
            "session_id": session, "at": now, "seq": 1 + step * place, "role": entry.role, "contact": entry.contact,
            "content": entry.content, "source": entry.source,
        }
        for session, entries in said for place, entry in enumerate(entries)
    ]  # fmt: skip
    _APPEND(connection, rows)


def bounds(connection: Connection, ids: Collection[int]) -> dict[int, tuple[int, int]]:
    """The positions of the oldest and the newest entry of each of these sessions; the newest is before the oldest where
    there is none."""
    if not ids:
        return {}
    return {row.id: (row.oldest, row.newest) for row in connection.execute(_BOUNDS, {"ids": sorted(ids)})}


def ranges(connection: Connection, wanted: Sequence[tuple[int, int, int]]) -> list[sa.Row[Any]]:
    """The entries of sessions from a position to another, both included, as (session, first, last), in order: what is
    there of them, each with its message if it is one."""
    if not wanted:
        return []
    if is_postgres(connection) and len(wanted) > 1:
        columns = dict(
            zip(("sessions", "firsts", "lasts"), map(list, zip(*wanted, strict=True)), strict=True)
        )
        return list(connection.execute(_RANGES, columns))
    return [
        row
        for session, first, last in wanted
        for row in connection.execute(_RANGE, {"session": session, "first": first, "last": last})
    ]
