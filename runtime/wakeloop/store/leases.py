"""The statements of leases: which sessions are due, and which worker has which of them until when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Taking, among
from wakeloop.store.direct import Call, Direct
from wakeloop.store.records import SessionRow
from wakeloop.store.schema import Instant, sessions

REDISPATCH_SECONDS = 10
REDISPATCH_DOUBLINGS = 5

SESSION_COLUMNS = (
    sessions.c.id, sessions.c.agent, sessions.c.key, sessions.c.state, sessions.c.token, sessions.c.version,
    sessions.c.arrivals, sessions.c.takeovers,
)  # fmt: skip


_NOW = sa.bindparam("now", type_=Instant())
_UNTIL = sa.bindparam("until", type_=Instant())
_OWNER = sa.bindparam("worker", type_=sa.Text())
_SOON = sa.bindparam("soon", type_=Instant())
_IS_ASLEEP = sa.and_(sessions.c.owner.is_(None), sessions.c.dispatches == sa.literal_column("0"))
_THESE = sa.select(sessions.c.id).where(among(sessions.c.id, "ids")).order_by(sessions.c.id)


def redispatch_at(table: sa.Table) -> Any:
    """When a row is due again that is dispatched now: later each time, by parameters that `redispatch_times` gives."""
    return sa.case(
        *(
            (
                table.c.dispatches == sa.literal_column(str(count)),
                sa.bindparam(f"again_{count}", type_=Instant()),
            )
            for count in range(REDISPATCH_DOUBLINGS)
        ),
        else_=sa.bindparam(f"again_{REDISPATCH_DOUBLINGS}", type_=Instant()),
    )


def redispatch_times(now: datetime) -> dict[str, datetime]:
    """The parameters of `redispatch_at`: 10 s from now, doubling up to 320 s."""
    return {
        f"again_{count}": now + timedelta(seconds=REDISPATCH_SECONDS * 2**count)
        for count in range(REDISPATCH_DOUBLINGS + 1)
    }


_CLAIM = Taking(
    sessions,
    _THESE.where(
        sa.or_(
            sa.and_(sessions.c.owner.is_(None), sa.or_(sessions.c.dispatches > 0, sessions.c.due_at <= _NOW)),
            sessions.c.owner == _OWNER,
        )
    ),
    {"owner": _OWNER, "token": sessions.c.token + 1, "due_at": _UNTIL, "dispatches": 0},
    returning=SESSION_COLUMNS,
)
_EXTEND = Taking(sessions, _THESE.where(sessions.c.owner == _OWNER), {"due_at": _UNTIL})
_ARRIVALS = Direct(
    sa.select(sessions.c.id, sessions.c.arrivals).where(
        among(sessions.c.id, "ids"), sessions.c.owner == _OWNER
    )
)
_HAND_BACK = Taking(
    sessions,
    _THESE.where(sessions.c.owner == _OWNER),
    {"owner": None, "due_at": _NOW, "token": sessions.c.token + 1},
)
# Without statistics, as in a new database, PostgreSQL would look through all sessions of these agents; this leaves it only
# the index of what is due, of which it expects little between two instants.
_LONG_AGO = sa.bindparam(None, datetime(1970, 1, 1, tzinfo=UTC), type_=Instant())
_AGENT: Any = sessions.c.agent.concat(sa.literal_column("''"))
_CLAIM_DUE = Taking(
    sessions,
    sa.select(sessions.c.id)
    .where(
        sessions.c.due_at >= _LONG_AGO,
        sessions.c.due_at <= _SOON,
        sa.or_(sessions.c.due_at <= _NOW, _IS_ASLEEP),
        among(_AGENT, "agents"),
    )
    .order_by(sessions.c.due_at)
    .limit(sa.bindparam("most", type_=sa.Integer())),
    {
        "due_at": redispatch_at(sessions),
        "dispatches": sessions.c.dispatches + 1,
        "token": sa.case((sessions.c.owner.is_(None), sessions.c.token), else_=sessions.c.token + 1),
        "takeovers": sa.case(
            (sessions.c.owner.is_(None), sessions.c.takeovers), else_=sessions.c.takeovers + 1
        ),
        "owner": None,
    },
    returning=(sessions.c.id, sessions.c.agent, sessions.c.key),
    skip_locked=True,
)
_HAND_OVER = Taking(
    sessions,
    _THESE.where(
        sessions.c.owner.is_(None),
        sessions.c.dispatches == sa.literal_column("0"),
        sessions.c.due_at <= _NOW,
        among(_AGENT, "agents"),
    ),
    {"due_at": sa.bindparam("again_0", type_=Instant()), "dispatches": 1},
    returning=(sessions.c.id, sessions.c.agent, sessions.c.key),
)
_COMING = sa.select(sa.func.count()).select_from(
    sa.select(sessions.c.id)
    .where(sessions.c.due_at > _NOW, sessions.c.due_at <= _SOON, _IS_ASLEEP, among(_AGENT, "agents"))
    .limit(sa.bindparam("most", type_=sa.Integer()))
    .subquery()
)
_HOLDERS = Direct(
    sa.select(sessions.c.owner)
    .where(sessions.c.due_at > _NOW, sessions.c.due_at <= _UNTIL, sessions.c.owner.is_not(None))
    .distinct()
)
_END = Taking(
    sessions,
    sa.select(sessions.c.id)
    .where(sessions.c.due_at > _NOW, sessions.c.due_at <= _UNTIL, among(sessions.c.owner, "owners"))
    .order_by(sessions.c.id),
    {"due_at": _NOW},
    returning=(sessions.c.id,),
)
_TAKE_BACK = Taking(
    sessions,
    _THESE.where(sessions.c.owner.is_(None), sessions.c.dispatches > 0),
    {"due_at": _NOW, "dispatches": sessions.c.dispatches - 1},
)
_RECOVER = Taking(
    sessions,
    sa.select(sessions.c.id)
    .where(sa.or_(sessions.c.owner.is_not(None), sessions.c.dispatches > 0))
    .order_by(sessions.c.id),
    {"due_at": _NOW, "dispatches": 0},
)


def claiming(ids: Collection[int], *, owner: str, now: datetime, until: datetime) -> Call:
    """The statement that takes the leases of those of these sessions that are free and need a turn, until `until`; its rows
    are of SESSION_COLUMNS. What is `owner`'s is taken anew: nobody asks for what they have, but they may have lost it
    together with the answer to this statement.

    Raises their fencing tokens: a former holder's commits are refused from then on."""
    return _CLAIM, {"ids": sorted(ids), "worker": owner, "now": now, "until": until}


def session_row(row: Sequence[Any]) -> SessionRow:
    """A row of SESSION_COLUMNS as a record."""
    id, agent, key, state, token, version, arrivals, takeovers = row
    return SessionRow(
        id=id, agent=agent, key=key, state=state, token=token, version=version, arrivals=arrivals, takeovers=takeovers
    )  # fmt: skip


def extend(connection: Connection, ids: Collection[int], *, owner: str, until: datetime) -> None:
    """Extend the leases that `owner` still has on these sessions."""
    if ids:
        _EXTEND(connection, {"ids": sorted(ids), "worker": owner, "until": until})


def arrivals(connection: Connection, ids: Collection[int], *, owner: str) -> dict[int, int]:
    """How often something has arrived, for those of these sessions that `owner` still has."""
    if not ids:
        return {}
    rows = _ARRIVALS(connection, {"ids": sorted(ids), "worker": owner})
    return {row.id: row.arrivals for row in rows}


def hand_back(connection: Connection, ids: Collection[int], *, owner: str, now: datetime) -> None:
    """Give up the leases on these sessions, whatever their runs were doing: another worker takes them up at once."""
    if ids:
        _HAND_BACK(connection, {"ids": sorted(ids), "worker": owner, "now": now})


def claim_due(
    connection: Connection,
    *,
    now: datetime,
    agents: Collection[str],
    limit: int,
    soon: datetime | None = None,
) -> list[tuple[int, str, str]]:
    """Mark up to `limit` sessions that are due as dispatched, the longest due first; their ids, agents and keys. With
    `soon`, also those that nobody has in hand and that are due by then.

    What is due: an instant that a run waits for, something in the inbox, a lease that ran out, or an earlier dispatch
    that no worker took up (after 10 s, doubling up to 320 s). Two callers never get the same session, and neither
    waits for the other."""
    rows = _CLAIM_DUE(
        connection,
        {"now": now, "soon": soon or now, "agents": sorted(agents), "most": limit, **redispatch_times(now)},
    )
    return sorted((row.id, row.agent, row.key) for row in rows)


def hand_over(
    connection: Connection, ids: Collection[int], *, now: datetime, agents: Collection[str]
) -> list[tuple[int, str, str]]:
    """Mark those of these sessions as dispatched that are due, that nobody has, and that are not on their way already; their
    ids, agents and keys. For the transaction that made them due, whose process hands them over once it is committed."""
    if not ids:
        return []
    again = redispatch_times(now)["again_0"]
    given = {"ids": sorted(ids), "now": now, "again_0": again, "agents": sorted(agents)}
    return sorted((row.id, row.agent, row.key) for row in _HAND_OVER(connection, given))


def count_coming(
    connection: Connection, *, now: datetime, soon: datetime, agents: Collection[str], limit: int
) -> int:
    """How many sessions that nobody has in hand are due after `now` and by `soon`; `limit` if there are more."""
    given = {"now": now, "soon": soon, "agents": sorted(agents), "most": limit}
    return int(connection.execute(_COMING, given).scalar_one())


def holders(connection: Connection, *, now: datetime, until: datetime) -> list[str]:
    """Who holds leases that end after `now`, and at `until` at the latest."""
    return [row.owner for row in _HOLDERS(connection, {"now": now, "until": until})]


def end(connection: Connection, owners: Collection[str], *, now: datetime, until: datetime) -> int:
    """End the leases of these owners that would end between `now` and `until`: the sessions are due now, for whoever
    knows that these owners are dead. How many there were."""
    if not owners:
        return 0
    return len(_END(connection, {"owners": sorted(owners), "now": now, "until": until}))


def take_back(connection: Connection, ids: Collection[int], *, now: datetime) -> None:
    """Undo the dispatch of these sessions, as far as nobody has taken them up: they are due now."""
    if ids:
        _TAKE_BACK(connection, {"ids": sorted(ids), "now": now})


def recover(connection: Connection, *, now: datetime) -> None:
    """Make due now whatever was leased or handed to a broker: for a process that knows that it is the only one, and
    that its predecessor is dead."""
    _RECOVER(connection, {"now": now})
