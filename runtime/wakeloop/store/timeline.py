"""What a person's page shows: the requests that they were asked, what was said to and by them, and whether it changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Listed, among, is_postgres
from wakeloop.store.schema import OPEN_RECIPIENT, deliveries, messages, recipients, requests, sessions

NEWEST = 3
"""So many messages are looked at to tell whether there is a new one: ids of several processes may come out of order."""

_PERSON = sa.bindparam("person", type_=sa.Text())
_MOST = sa.bindparam("most", type_=sa.Integer())

_ASKED = (
    sa.select(
        *requests.columns, recipients.c.contact, recipients.c.code, recipients.c.vote, sessions.c.agent, sessions.c.key
    )
    .join(requests, requests.c.id == recipients.c.request_id)
    .outerjoin(sessions, sessions.c.id == requests.c.session_id)
    .where(recipients.c.contact == _PERSON)
)  # fmt: skip
_OPEN = _ASKED.where(OPEN_RECIPIENT).order_by(recipients.c.request_id)
_ENDED = (
    _ASKED.where(recipients.c.open.is_(False))
    .order_by(recipients.c.contact.desc(), recipients.c.request_id.desc())
    .limit(_MOST)
)
_ONE: Any = _ASKED.where(recipients.c.request_id == sa.bindparam("request", type_=sa.Uuid()))

_MESSAGES = (
    sa.select(*messages.columns, deliveries.c.status.label("delivery"), sessions.c.agent)
    .outerjoin(
        deliveries,
        sa.and_(deliveries.c.message_id == messages.c.id, deliveries.c.channel == messages.c.channel),
    )
    .outerjoin(sessions, sessions.c.id == messages.c.session_id)
    .where(messages.c.contact == _PERSON)
    .order_by(messages.c.contact.desc(), messages.c.id.desc())
    .limit(_MOST)
)
_MESSAGES_BEFORE = _MESSAGES.where(messages.c.id < sa.bindparam("before", type_=sa.Uuid()))

_REQUESTS = sa.select(requests).where(among(requests.c.id, "ids"))
_VOTES = sa.select(recipients.c.request_id, recipients.c.contact, recipients.c.vote).where(
    among(recipients.c.request_id, "ids"), recipients.c.vote.is_not(None)
)

_STANDING = (
    sa.select(recipients.c.contact, recipients.c.request_id, requests.c.digest)
    .join(requests, requests.c.id == recipients.c.request_id)
    .where(among(recipients.c.contact, "people"), OPEN_RECIPIENT)
    .order_by(recipients.c.contact, recipients.c.request_id)
)
_LAST_IDS = (
    sa.select(messages.c.id)
    .where(messages.c.contact == _PERSON)
    .order_by(messages.c.contact.desc(), messages.c.id.desc())
    .limit(sa.literal_column(str(NEWEST)))
)
_someone = sa.func.unnest(sa.bindparam("people", type_=Listed(sa.Text()))).column_valued("someone")
_last_ids = (
    sa.select(messages.c.id)
    .where(messages.c.contact == _someone)
    .order_by(messages.c.contact.desc(), messages.c.id.desc())
    .limit(sa.literal_column(str(NEWEST)))
    .lateral("newest")
)
_LAST_IDS_OF_ALL = sa.select(_someone, _last_ids.c.id).join(_last_ids, sa.true())


def open_asked(connection: Connection, contact: str) -> list[sa.Row[Any]]:
    """The contact's open requests, oldest first, with their sessions' agents and keys (None for a program's)."""
    return list(connection.execute(_OPEN, {"person": contact}))


def ended_asked(connection: Connection, contact: str, *, limit: int) -> list[sa.Row[Any]]:
    """The same for requests that have ended, newest first."""
    return list(connection.execute(_ENDED, {"person": contact, "most": limit}))


def one_asked(connection: Connection, contact: str, id: UUID) -> sa.Row[Any] | None:
    """One request as it was asked of this contact, if it was."""
    return connection.execute(_ONE, {"person": contact, "request": id}).first()


def messages_of(
    connection: Connection, contact: str, *, before: UUID | None = None, limit: int
) -> list[sa.Row[Any]]:
    """The newest messages to and from a contact, or those before one of them, newest first: with the agent whose they
    are and how the delivery stands."""
    if before is None:
        return list(connection.execute(_MESSAGES, {"person": contact, "most": limit}))
    return list(connection.execute(_MESSAGES_BEFORE, {"person": contact, "before": before, "most": limit}))


def requests_by_id(connection: Connection, ids: Collection[UUID]) -> dict[UUID, sa.Row[Any]]:
    """These requests."""
    if not ids:
        return {}
    return {row.id: row for row in connection.execute(_REQUESTS, {"ids": sorted(ids)})}


def votes_on(connection: Connection, ids: Collection[UUID]) -> Sequence[Any]:
    """Who has approved which arguments of these requests."""
    return connection.execute(_VOTES, {"ids": sorted(ids)}).all() if ids else ()


def standing(connection: Connection, people: Collection[str]) -> Mapping[str, str]:
    """A text for each of these contacts that changes when something new is to be seen on their page: a message, a
    request, its end, other arguments, another approval. Few statements, however many people there are."""
    wanted = sorted(set(people))
    if not wanted:
        return {}
    parts: dict[str, list[str]] = {contact: [] for contact in wanted}
    open_ones = list(connection.execute(_STANDING, {"people": wanted}))
    votes: dict[UUID, list[str]] = {}
    for vote in votes_on(connection, {row.request_id for row in open_ones}):
        votes.setdefault(vote.request_id, []).append(f"{vote.contact}={vote.vote}")
    for row in open_ones:
        voted = ",".join(sorted(votes.get(row.request_id, ())))
        parts[row.contact].append(f"{row.request_id}:{row.digest}:{voted}")
    for contact, id in _last_ids_of(connection, wanted):
        parts[contact].append(str(id))
    return {contact: "\n".join(found) for contact, found in parts.items()}


def _last_ids_of(connection: Connection, people: list[str]) -> list[tuple[str, UUID]]:
    if is_postgres(connection):
        return [(row[0], row[1]) for row in connection.execute(_LAST_IDS_OF_ALL, {"people": people})]
    # SQLite knows no lateral joins; its statements are calls of a function in this process.
    return [
        (contact, id)
        for contact in people
        for id in connection.execute(_LAST_IDS, {"person": contact}).scalars()
    ]
