"""The statements that forget a person: what was said to and by them gives way to a marker, where nothing needs it any more."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.status import RequestStatus, RunStatus
from wakeloop.store.batches import Insert, among
from wakeloop.store.schema import (
    UNFINISHED_ERASURE,
    Instant,
    amendments,
    audit,
    deliveries,
    erasures,
    files,
    inbox,
    journal,
    messages,
    received,
    recipients,
    requests,
    runs,
    sessions,
    verifications,
)

MARKER = "[erased]"
MARKED_JSON = f'"{MARKER}"'

_PERSON = sa.bindparam("person", type_=sa.Text())
_UNTIL = sa.bindparam("until", type_=Instant())
_MOST = sa.bindparam("most", type_=sa.Integer())
_CHANNEL = sa.bindparam("of_channel", type_=sa.Text())
_ADDRESS = sa.bindparam("of_address", type_=sa.Text())
_OVER = (RunStatus.COMPLETED, RunStatus.CANCELLED)

# ---------------------------------------------------------------------- who is to be forgotten

_ASK = Insert(erasures, ("contact", "asked_at"), new=("contact",))
_ASK_AGAIN = sa.update(erasures).where(erasures.c.contact == _PERSON).values(asked_at=_UNTIL, done_at=None)
_UNFINISHED = sa.select(erasures).where(UNFINISHED_ERASURE).order_by(erasures.c.asked_at).limit(_MOST)
_FINISH = (
    sa.update(erasures)
    .where(erasures.c.contact == _PERSON, erasures.c.asked_at == _UNTIL)
    .values(done_at=sa.bindparam("now", type_=Instant()))
)


def ask(connection: Connection, contact: str, *, now: datetime) -> None:
    """Note that a contact is to be forgotten, as far as they are known now."""
    _ASK(connection, [{"contact": contact, "asked_at": now}])
    connection.execute(_ASK_AGAIN, {"person": contact, "until": now})


def unfinished(connection: Connection, *, limit: int) -> list[sa.Row[Any]]:
    """The contacts of whom something is still to be erased, those asked for first first."""
    return list(connection.execute(_UNFINISHED, {"most": limit}))


def finish(connection: Connection, contact: str, *, asked_at: datetime, now: datetime) -> None:
    """Note that nothing is left of what was asked for then."""
    connection.execute(_FINISH, {"person": contact, "until": asked_at, "now": now})


# ---------------------------------------------------------------------- what was said

_ADDRESSES = (
    sa.select(deliveries.c.channel, deliveries.c.address).where(deliveries.c.contact == _PERSON).distinct()
)
_MESSAGES: Any = (
    sa.select(messages.c.id)
    .where(
        messages.c.contact == _PERSON,
        messages.c.id > sa.bindparam("after", type_=sa.Uuid()),
        messages.c.at <= _UNTIL,
        messages.c.text != MARKER,
    )
    .order_by(messages.c.id)
    .limit(_MOST)
)  # fmt: skip
_DELIVERIES_OF = sa.select(deliveries.c.id).where(among(deliveries.c.message_id, "ids"))
_ERASE_MESSAGES: list[tuple[str, Any, Any]] = [
    ("messages", messages, sa.update(messages).where(among(messages.c.id, "ids")).values(text=MARKER, subject=None, attachments=None)),
    ("received", received, sa.update(received).where(among(received.c.message_id, "ids")).values(raw="", address=MARKER, thread=None, reply_to=None)),
    ("files", files, sa.delete(files).where(among(files.c.message_id, "ids"))),
    ("deliveries", deliveries, sa.update(deliveries).where(among(deliveries.c.message_id, "ids")).values(address=MARKER, error=None)),
]  # fmt: skip
_ERASE_AMENDMENTS = (
    sa.update(amendments).where(among(amendments.c.delivery_id, "deliveries")).values(text=MARKER)
)
_FROM_ADDRESS: Any = sa.select(received.c.id, received.c.message_id).where(
    received.c.channel == _CHANNEL, received.c.address == _ADDRESS, received.c.at <= _UNTIL
)
_KNOWN_MESSAGES = sa.select(messages.c.id).where(among(messages.c.id, "ids"))
_ERASE_RECEIVED = (
    sa.update(received)
    .where(among(received.c.id, "ids"))
    .values(raw="", address=MARKER, thread=None, reply_to=None)
)
_VERIFIED = sa.select(verifications.c.address).where(
    verifications.c.channel == _CHANNEL, verifications.c.address == _ADDRESS
)
_ERASE_VERIFICATION = sa.delete(verifications).where(
    verifications.c.channel == _CHANNEL, verifications.c.address == _ADDRESS
)


def addresses_of(connection: Connection, contact: str) -> set[tuple[str, str]]:
    """Where a contact was written to, as (channel, address), as far as that is not erased."""
    rows = connection.execute(_ADDRESSES, {"person": contact})
    return {(row.channel, row.address) for row in rows if row.address != MARKER}


def messages_of(
    connection: Connection, contact: str, *, until: datetime, after: UUID | None, limit: int
) -> list[UUID]:
    """The next messages to and from a contact, up to a time, whose words are still there."""
    facts = {"person": contact, "until": until, "after": after or UUID(int=0), "most": limit}
    return list(connection.execute(_MESSAGES, facts).scalars())


def erase_messages(connection: Connection, ids: Collection[UUID], *, counting: bool) -> dict[str, int]:
    """Put the marker in place of these messages' words, and take away their files, addresses and raw payloads."""
    if not ids:
        return {}
    given = {"ids": sorted(ids)}
    sent = sorted(connection.execute(_DELIVERIES_OF, given).scalars())
    counts = {name: _do(connection, statement, table, given, counting) for name, table, statement in _ERASE_MESSAGES}  # fmt: skip
    if sent and not counting:
        connection.execute(_ERASE_AMENDMENTS, {"deliveries": sent})
    return counts


def _do(connection: Connection, statement: Any, table: Any, given: dict[str, Any], counting: bool) -> int:
    if not counting:
        return connection.execute(statement, given).rowcount
    count = sa.select(sa.func.count()).select_from(table).where(statement.whereclause)
    return int(connection.execute(count, given).scalar_one())


def erase_address(
    connection: Connection, channel: str, address: str, *, until: datetime, counting: bool
) -> dict[str, int]:
    """Take away what came from an address and is in no conversation, and that it was verified. An opt-out stays."""
    where = {"of_channel": channel, "of_address": address}
    rows = list(connection.execute(_FROM_ADDRESS, {**where, "until": until}))
    known = sorted({row.message_id for row in rows if row.message_id is not None})
    there = set(connection.execute(_KNOWN_MESSAGES, {"ids": known}).scalars()) if known else set()
    ids = sorted(row.id for row in rows if row.message_id not in there)
    verified = len(connection.execute(_VERIFIED, where).all())
    if not counting:
        connection.execute(_ERASE_RECEIVED, {"ids": ids})
        connection.execute(_ERASE_VERIFICATION, where)
    return {"received": len(ids), "verifications": verified}


# ---------------------------------------------------------------------- what it led to

_SESSIONS = (
    sa.select(messages.c.session_id)
    .where(messages.c.contact == _PERSON, messages.c.session_id.is_not(None), messages.c.at <= _UNTIL)
    .distinct()
)
_TOLD = (
    sa.select(messages.c.run_id)
    .where(messages.c.contact == _PERSON, messages.c.run_id.is_not(None))
    .distinct()
)
_ASKED: Any = (
    sa.select(
        requests.c.id, requests.c.run_id, requests.c.spec, requests.c.args, requests.c.outcome, requests.c.status,
        requests.c.due_at,
    )
    .join(recipients, recipients.c.request_id == requests.c.id)
    .where(recipients.c.contact == _PERSON, requests.c.created_at <= _UNTIL)
    .order_by(requests.c.id)
)  # fmt: skip
_NAMED = sa.bindparam("named", type_=sa.Text())
_HEARD = sa.select(runs.c.id).where(
    runs.c.session_id == sa.bindparam("session", type_=sa.BigInteger()),
    sa.or_(
        runs.c.event.like(_NAMED, escape="!"),
        sa.select(sa.literal_column("1"))
        .where(journal.c.run_id == runs.c.id, journal.c.value.like(_NAMED, escape="!"))
        .correlate(runs)
        .limit(sa.literal_column("1"))
        .scalar_subquery()
        .is_not(None),
    ),
)
_RUNS: Any = sa.select(runs.c.id, runs.c.status, runs.c.event, runs.c.result, runs.c.failure).where(
    among(runs.c.id, "ids"), runs.c.created_at <= _UNTIL
)
_ERASE_JOURNAL = (
    sa.update(journal)
    .where(among(journal.c.run_id, "ids"), journal.c.value.is_not(None), journal.c.value != MARKED_JSON)
    .values(value=MARKED_JSON)
)
_ERASE_RUN = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("run", type_=sa.Uuid()))
    .values(event=sa.bindparam("new_event"), result=sa.bindparam("new_result"), failure=None)
)
_ERASE_INBOX = (
    sa.update(inbox)
    .where(
        inbox.c.session_id == sa.bindparam("session", type_=sa.BigInteger()), inbox.c.consumed_at.is_not(None),
        inbox.c.body.like(_NAMED, escape="!"),
    )
    .values(body=None)
)  # fmt: skip
_RECIPIENTS = sa.select(recipients.c.contact).where(
    recipients.c.request_id == sa.bindparam("request", type_=sa.Uuid())
)
_ERASE_REQUEST = (
    sa.update(requests)
    .where(requests.c.id == sa.bindparam("request", type_=sa.Uuid()))
    .values(spec=sa.bindparam("new_spec"), args=sa.bindparam("new_args"), outcome=sa.bindparam("new_outcome"))
)
_ERASE_DRAFT = (
    sa.update(recipients)
    .where(
        recipients.c.request_id == sa.bindparam("request", type_=sa.Uuid()), recipients.c.contact == _PERSON
    )
    .values(draft=None)
)
_COMMENTS = (
    sa.select(sa.func.count())
    .select_from(audit)
    .join(recipients, recipients.c.request_id == audit.c.request_id)
    .where(recipients.c.contact == _PERSON, audit.c.contact == _PERSON, audit.c.comment.is_not(None))
)
_STATES: Any = (
    sa.select(sessions.c.agent, sessions.c.key)
    .where(among(sessions.c.id, "ids"), sessions.c.state.is_not(None))
    .order_by(sessions.c.agent, sessions.c.key)
)


def sessions_of(connection: Connection, contact: str, *, until: datetime) -> list[int]:
    """The sessions in whose conversation a contact is, up to a time."""
    return sorted(connection.execute(_SESSIONS, {"person": contact, "until": until}).scalars())


def requests_of(connection: Connection, contact: str, *, until: datetime) -> list[sa.Row[Any]]:
    """What a contact was asked up to a time: `due_at` is set as long as somebody is to be told of its end."""
    return list(connection.execute(_ASKED, {"person": contact, "until": until}))


def runs_of(
    connection: Connection, contact: str, sessions: Collection[int], asked: Collection[UUID], *, until: datetime
) -> list[sa.Row[Any]]:  # fmt: skip
    """The runs up to a time that hold something said to or by a contact: those that wrote to them, those that asked them
    (`asked`), and those of these sessions whose event or journal names them."""
    found = set(connection.execute(_TOLD, {"person": contact}).scalars()) | set(asked)
    for session in sessions:
        found |= set(connection.execute(_HEARD, {"session": session, "named": _naming(contact)}).scalars())
    return list(connection.execute(_RUNS, {"ids": sorted(found), "until": until})) if found else []


def is_over(row: sa.Row[Any]) -> bool:
    """Whether a run of `runs_of` is never replayed again."""
    return row.status in _OVER


def is_settled(row: sa.Row[Any]) -> bool:
    """Whether a request of `requests_of` has ended, and everybody was told."""
    return row.status != RequestStatus.OPEN and row.due_at is None


def erase_runs(
    connection: Connection, events: dict[UUID, tuple[str, str | None]], *, counting: bool
) -> dict[str, int]:
    """Put the marker in place of every value in the journals of these runs, and of their results; by id, the event that
    stays and whether there was a result (None if there was none)."""
    if not events:
        return {}
    lines = _do(connection, _ERASE_JOURNAL, journal, {"ids": sorted(events)}, counting)
    if not counting:
        for id, (event, result) in events.items():
            marked = None if result is None else MARKED_JSON
            connection.execute(_ERASE_RUN, {"run": id, "new_event": event, "new_result": marked})
    return {"journal": lines}


def erase_inbox(connection: Connection, contact: str, session: int, *, counting: bool) -> dict[str, int]:
    """Take away what a session was given of a contact's and has consumed."""
    given = {"session": session, "named": _naming(contact)}
    return {"inbox": _do(connection, _ERASE_INBOX, inbox, given, counting)}


def recipients_of(connection: Connection, id: UUID) -> list[str]:
    """Whom a request was asked."""
    return list(connection.execute(_RECIPIENTS, {"request": id}).scalars())


def erase_request(
    connection: Connection, id: UUID, contact: str, *, spec: str, args: str | None, outcome: str | None
) -> None:
    """Put these in place of what a request said and how it was answered, and take away how far the contact's answer had
    come."""
    facts = {"request": id, "new_spec": spec, "new_args": args, "new_outcome": outcome}
    connection.execute(_ERASE_REQUEST, facts)
    connection.execute(_ERASE_DRAFT, {"request": id, "person": contact})


def comments(connection: Connection, contact: str) -> int:
    """How many lines of the audit record hold words of a contact's: these stay."""
    return int(connection.execute(_COMMENTS, {"person": contact}).scalar_one())


def states(connection: Connection, ids: Collection[int]) -> list[str]:
    """Of these sessions the names of those that have a state, which is their agents'."""
    rows = connection.execute(_STATES, {"ids": sorted(ids)}) if ids else ()
    return [f"{row.agent}/{row.key}" for row in rows]


def _naming(contact: str) -> str:
    """A pattern for JSON that has a contact's id as a value."""
    escaped = contact.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f'%"{escaped}"%'
