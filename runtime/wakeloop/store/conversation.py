"""The statements of a session's conversation: entries are put at its end, read by their positions, and never changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert, Listed, Update, among, is_postgres
from wakeloop.store.direct import Direct
from wakeloop.store.erasure import MARKED_JSON
from wakeloop.store.records import NewEntry
from wakeloop.store.schema import (
    OPEN_RUNS,
    PARKED_RUNS,
    PENDING_EVENTS,
    Instant,
    conversation,
    inbox,
    messages,
    runs,
    sessions,
)

FURTHEST = 2**31 - 1
"""No position is beyond it."""

WINDOW = 10
"""So many times as many entries as may go at once are looked at for it: they are narrow, and most are young."""

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
_BOUNDS = Direct(
    sa.select(
        _session.c.id,
        (sa.func.coalesce(_session.c.pruned_to, sa.literal_column("0")) + sa.literal_column("1")).label(
            "oldest"
        ),
        _end_of(_session.c.id).label("newest"),
    ).where(among(_session.c.id, "ids"))
)
_MESSAGE = [
    getattr(messages.c, name).label(f"message_{name}")
    for name in ("id", "text", "inbound", "contact", "channel", "at", "subject", "attachments")
]
_ENTRIES = sa.select(*conversation.columns, *_MESSAGE)
_IS_MESSAGE = sa.and_(conversation.c.content.is_(None), messages.c.id == conversation.c.source)
_ORDER = (conversation.c.session_id, conversation.c.seq)
_RANGE = Direct(
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
_RANGES = Direct(
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
    return {row.id: (row.oldest, row.newest) for row in _BOUNDS(connection, {"ids": sorted(ids)})}


def ranges(connection: Connection, wanted: Sequence[tuple[int, int, int]]) -> list[sa.Row[Any]]:
    """The entries of sessions from a position to another, both included, as (session, first, last), in order: what is
    there of them, each with its message if it is one."""
    if not wanted:
        return []
    if is_postgres(connection) and len(wanted) > 1:
        sessions, firsts, lasts = (list(column) for column in zip(*wanted, strict=True))
        columns = {"sessions": sessions, "firsts": firsts, "lasts": lasts}
        return _RANGES(connection, columns)
    return [
        row
        for session, first, last in wanted
        for row in _RANGE(connection, {"session": session, "first": first, "last": last})
    ]


# ---------------------------------------------------------------------- what goes

_SESSION = sa.bindparam("session", type_=sa.BigInteger())
_AFTER = sa.tuple_(
    sa.bindparam("after_session", type_=sa.BigInteger()), sa.bindparam("after_seq", type_=sa.Integer())
)
_WALK = (
    sa.select(conversation.c.session_id, conversation.c.seq, conversation.c.at)
    .where(sa.tuple_(conversation.c.session_id, conversation.c.seq) > _AFTER)
    .order_by(*_ORDER)
    .limit(sa.bindparam("most", type_=sa.Integer()))
)
_LOCK = (
    sa.select(sessions.c.id)
    .where(among(sessions.c.id, "ids"))
    .order_by(sessions.c.id)
    .with_for_update(key_share=True, skip_locked=True)
)


def _nothing(session: sa.Column[Any], condition: sa.TextClause) -> sa.ColumnElement[bool]:
    found: Any = sa.select(sa.literal_column("1")).where(session == sessions.c.id, condition)
    is_none: sa.ColumnElement[bool] = (
        found.limit(sa.literal_column("1")).correlate(sessions).scalar_subquery().is_(None)
    )
    return is_none


_AT_REST = sa.select(sessions.c.id).where(
    among(sessions.c.id, "ids"),
    _nothing(runs.c.session_id, OPEN_RUNS),
    _nothing(runs.c.session_id, PARKED_RUNS),
    _nothing(inbox.c.session_id, PENDING_EVENTS),
)
_SPAN = (
    conversation.c.session_id == _SESSION,
    conversation.c.seq.between(
        sa.bindparam("first", type_=sa.Integer()), sa.bindparam("last", type_=sa.Integer())
    ),
)
_COUNT = sa.select(sa.func.count()).select_from(conversation).where(*_SPAN)
_DELETE = sa.delete(conversation).where(*_SPAN)
_PRUNED = Update(sessions, "id", ("pruned_to",))
_WORDS = (
    conversation.c.session_id == _SESSION,
    conversation.c.at <= sa.bindparam("until", type_=Instant()),
    conversation.c.content != MARKED_JSON,
    sa.or_(
        conversation.c.contact.is_(None), conversation.c.contact == sa.bindparam("person", type_=sa.Text())
    ),
)
_COUNT_WORDS = sa.select(sa.func.count()).select_from(conversation).where(*_WORDS)
_ERASE = sa.update(conversation).where(*_WORDS).values(content=MARKED_JSON)


def lock_free(connection: Connection, ids: Collection[int]) -> list[int]:
    """Lock those of these sessions that no other transaction has in hand, until this one ends: which they are."""
    return list(connection.execute(_LOCK, {"ids": sorted(ids)}).scalars()) if ids else []


def _at_rest(connection: Connection, ids: Collection[int]) -> set[int]:
    """Those of these sessions that have no open or parked run and nothing in their inboxes, locked until the transaction
    ends: so no run begins that could read what goes."""
    locked = lock_free(connection, ids)
    # Another statement: on PostgreSQL it sees what was committed before the locks were had.
    return set(connection.execute(_AT_REST, {"ids": locked}).scalars()) if locked else set()


def find_old(
    connection: Connection, *, before: datetime, after: tuple[int, int] | None, limit: int
) -> tuple[list[tuple[int, int, int]], tuple[int, int] | None]:
    """The next batch of a walk over all conversations: the entries from before a time that may go, as (session, first,
    last), and where the next batch begins; None if the walk is over. Their sessions are at rest and locked."""
    session, seq = after or (0, 0)
    most = limit * WINDOW
    rows = list(connection.execute(_WALK, {"after_session": session, "after_seq": seq, "most": most}))
    spans: dict[int, tuple[int, int]] = {}
    young: set[int] = set()
    for row in rows:
        if row.at >= before:
            young.add(row.session_id)
        elif row.session_id not in young:
            spans[row.session_id] = (spans.get(row.session_id, (row.seq, 0))[0], row.seq)
    resting = _at_rest(connection, spans)
    found = [(id, *span) for id, span in spans.items() if id in resting]
    if len(rows) < most:
        return found, None
    end = rows[-1]
    # Of what may not go, nothing that follows may, though it could by the time of the next batch.
    is_left = end.session_id in young or end.session_id not in resting
    return found, (end.session_id, FURTHEST if is_left else end.seq)


def remove(connection: Connection, spans: Collection[tuple[int, int, int]], *, counting: bool) -> int:
    """Delete what `find_old` gave; how many entries these are. Their positions are not given again. counting: delete
    nothing."""
    count = 0
    for session, first, last in spans:
        where = {"session": session, "first": first, "last": last}
        if counting:
            count += connection.execute(_COUNT, where).scalar_one()
        else:
            count += connection.execute(_DELETE, where).rowcount
    if not counting:
        _PRUNED(connection, [{"id": session, "pruned_to": last} for session, _, last in spans])
    return count


def erase(
    connection: Connection, session: int, contact: str, *, until: datetime, counting: bool
) -> tuple[int, int]:
    """Put a marker in place of what was said to and by a contact, and to and by models, in a session's conversation up to
    a time, if the session is at rest; how many entries were erased, and how many have to wait for that."""
    given = {"session": session, "until": until, "person": contact}
    if session not in _at_rest(connection, [session]):
        return 0, int(connection.execute(_COUNT_WORDS, given).scalar_one())
    if counting:
        return int(connection.execute(_COUNT_WORDS, given).scalar_one()), 0
    return connection.execute(_ERASE, given).rowcount, 0
