"""The statements of requests: what is asked of people, whom it was asked, and how it was settled."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from pydantic_core import to_json
from sqlalchemy.engine import Connection

from wakeloop import calls
from wakeloop.asking import RequestSpec, with_brief
from wakeloop.status import RequestStatus
from wakeloop.store.batches import Insert, Listed, among, is_postgres
from wakeloop.store.direct import Direct
from wakeloop.store.records import NewRequest, Settlement
from wakeloop.store.schema import OPEN_RECIPIENT, Instant, recipients, requests, sessions

_LETTERS = "ACEFHJKMNPRTWX"
_DIGITS = "3479"
CODES = tuple(letter + digit for letter in _LETTERS for digit in _DIGITS)
"""Short codes of requests: no character that looks or sounds like another, and no word that a carrier acts on."""

_OPEN = str(RequestStatus.OPEN)

_people = sa.func.unnest(sa.bindparam("contacts", type_=Listed(sa.Text()))).column_valued("contact")
_LOCK_CONTACTS = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(_people, 0x77616B65)))
_LOCK_SESSIONS = Direct(
    sa.select(sessions.c.id)
    .where(among(sessions.c.id, "ids"))
    .order_by(sessions.c.id)
    .with_for_update(key_share=True)
)


def _of_session(column: sa.Column[Any]) -> Any:
    found = sa.select(column).where(sessions.c.id == requests.c.session_id)
    return found.scalar_subquery().label(column.name)


_REQUEST = sa.select(requests, _of_session(sessions.c.agent), _of_session(sessions.c.key))
"""A request, with the agent and the key of the session that made it; None of a program's."""
_LOCK_REQUESTS = Direct(
    _REQUEST.where(among(requests.c.id, "ids"))
    .order_by(requests.c.id)
    .with_for_update(key_share=True, of=requests)
)
_LOCK_FREE_REQUESTS = (
    _REQUEST.where(among(requests.c.id, "ids"), requests.c.due_at <= sa.bindparam("now", type_=Instant()))
    .order_by(requests.c.id)
    .with_for_update(key_share=True, skip_locked=True, of=requests)
)
_NOW = sa.bindparam("now", type_=Instant())
_DUE: Any = (
    sa.select(requests.c.id, requests.c.session_id, requests.c.spec)
    .where(requests.c.due_at <= _NOW)
    .order_by(requests.c.due_at)
    .limit(sa.bindparam("most", type_=sa.Integer()))
)
_INSERT = Insert(
    requests,
    (
        "id", "session_id", "run_id", "kind", "status", "spec", "action", "args", "digest", "created_at", "expires_at",
        "due_at", "maker", "state", "callback", "trace",
    ),
    new=("id",),
    returning=("id",),
)  # fmt: skip
_IS_OPEN = requests.c.status == sa.literal_column(f"'{_OPEN}'")
_END: Mapping[str, Any] = {
    "status": sa.bindparam("new_status", type_=sa.Text()),
    "outcome": sa.bindparam("new_outcome", type_=sa.Text()),
    "settled_at": _NOW,
}
_SETTLE = sa.update(requests).where(requests.c.id == sa.bindparam("request"), _IS_OPEN)
_SETTLE_AND_TELL = _SETTLE.values(**_END, due_at=_NOW)
_SETTLE_TOLD = Direct(_SETTLE.values(**_END, due_at=None).returning(requests.c.id))
_SETTLE_OF_RUNS = Direct(
    sa.update(requests)
    .where(among(requests.c.run_id, "runs"), _IS_OPEN)
    .values(**_END, due_at=_NOW)
    .returning(requests.c.id)
)
# Whoever changes several people's rows locks them in one order: see also `note_told`.
_LOCK_ASKED = Direct(
    sa.select(recipients)
    .where(among(recipients.c.request_id, "ids"))
    .order_by(recipients.c.request_id, recipients.c.contact)
    .with_for_update(key_share=True)
)
_CLOSE = Direct(sa.update(recipients).where(among(recipients.c.request_id, "ids")).values(open=False))
_MOVE = (
    sa.update(requests)
    .where(requests.c.id == sa.bindparam("request"))
    .values(
        due_at=sa.bindparam("new_due", type_=Instant()), asked_at=sa.bindparam("new_asked", type_=Instant()),
        reminders=sa.bindparam("new_reminders"), escalations=sa.bindparam("new_escalations"),
    )
)  # fmt: skip
_SET_ARGS = (
    sa.update(requests)
    .where(requests.c.id == sa.bindparam("request"))
    .values(spec=sa.bindparam("new_spec"), args=sa.bindparam("new_args"), digest=sa.bindparam("new_digest"))
)
_FIND = Direct(_REQUEST.where(requests.c.id == sa.bindparam("request")))

_TAKEN = sa.select(recipients.c.contact, recipients.c.code).where(
    among(recipients.c.contact, "contacts"), OPEN_RECIPIENT
)
_ADD = Insert(
    recipients,
    ("request_id", "contact", "code", "open", "via", "added_at", "code_told"),
    new=("request_id", "contact"),
)
_CHANGE_RECIPIENT = sa.update(recipients).where(
    recipients.c.request_id == sa.bindparam("request"), recipients.c.contact == sa.bindparam("person")
)
_SET_VIA = _CHANGE_RECIPIENT.values(via=sa.bindparam("new_via"))
_NOTE_TOLD = _CHANGE_RECIPIENT.values(code_told=True)
_SET_DRAFT = _CHANGE_RECIPIENT.values(draft=sa.bindparam("new_draft"))
_SET_VOTE = _CHANGE_RECIPIENT.values(vote=sa.bindparam("new_vote"))
_NOTE_UNREACHABLE = _CHANGE_RECIPIENT.values(unreachable=True)
_RECIPIENTS = Direct(
    sa.select(recipients)
    .where(recipients.c.request_id == sa.bindparam("request"))
    .order_by(recipients.c.added_at, recipients.c.contact)
)
_RECIPIENTS_OF = (
    sa.select(recipients)
    .where(among(recipients.c.request_id, "ids"))
    .order_by(recipients.c.added_at, recipients.c.contact)
)
_ASKED = (
    *requests.columns, recipients.c.contact, recipients.c.code, recipients.c.via, recipients.c.draft,
    recipients.c.code_told, recipients.c.open,
)  # fmt: skip
_OPEN_OF_CONTACT = (
    sa.select(*_ASKED)
    .join(requests, requests.c.id == recipients.c.request_id)
    .where(recipients.c.contact == sa.bindparam("person"), OPEN_RECIPIENT)
    .order_by(recipients.c.request_id)
)
_OF_CONTACT = (
    sa.select(*_ASKED)
    .join(requests, requests.c.id == recipients.c.request_id)
    .where(recipients.c.contact == sa.bindparam("person"))
    .order_by(recipients.c.request_id.desc())
    .limit(sa.bindparam("most", type_=sa.Integer()))
)
_ONE_OF_CONTACT = Direct(
    sa.select(*_ASKED)
    .join(requests, requests.c.id == recipients.c.request_id)
    .where(recipients.c.contact == sa.bindparam("person"), recipients.c.request_id == sa.bindparam("request"))
)
_LATEST_OF_CONTACT = (
    sa.select(*_ASKED)
    .join(requests, requests.c.id == recipients.c.request_id)
    .where(recipients.c.contact == sa.bindparam("person"), recipients.c.code == sa.bindparam("code"))
    .order_by(recipients.c.contact.desc(), recipients.c.request_id.desc())
    .limit(sa.literal_column("1"))
)


# ---------------------------------------------------------------------- made and ended


def new_request(
    spec: RequestSpec, *, id: UUID, now: datetime, run_id: UUID | None = None, maker: str | None = None,
    state: str | None = None, callback: str | None = None,
) -> NewRequest:  # fmt: skip
    """The record of a request that is made at `now`."""
    spec = spec if spec.args is None else with_brief(spec, spec.args)
    return NewRequest(
        id=id, kind=spec.kind, spec=spec.model_dump_json(exclude_defaults=True, exclude={"args"}), run_id=run_id,
        expires_at=None if spec.timeout is None else now + timedelta(seconds=spec.timeout), action=spec.action,
        args=None if spec.args is None else to_json(spec.args).decode(),
        digest=None if spec.args is None else calls.digest(spec.action or "", spec.args),
        maker=maker, state=state, callback=callback,
    )  # fmt: skip


def open_requests(
    connection: Connection, new: Sequence[tuple[int | None, NewRequest]], *, now: datetime
) -> set[UUID]:
    """Record these requests of sessions, or of none, due at once; one whose id is there already changes nothing.

    Gives the ids of those that are new. Nobody is asked yet: that is the desk's."""
    rows = [
        {
            "id": one.id, "session_id": session_id, "run_id": one.run_id, "kind": one.kind, "status": _OPEN,
            "spec": one.spec, "action": one.action, "args": one.args, "digest": one.digest, "created_at": now,
            "expires_at": one.expires_at, "due_at": now, "maker": one.maker, "state": one.state,
            "callback": one.callback, "trace": one.trace,
        }
        for session_id, one in new
    ]  # fmt: skip
    return {row.id for row in _INSERT(connection, rows)}


def settle(connection: Connection, settlements: Sequence[Settlement], *, now: datetime) -> None:
    """End these requests, those that are still open; the desk is to tell whom it may concern."""
    if settlements:
        rows = [
            {"request": one.id, "new_status": one.status, "new_outcome": one.outcome, "now": now}
            for one in settlements
        ]
        connection.execute(_SETTLE_AND_TELL, rows)
        _close(connection, [one.id for one in settlements])


def settle_of_runs(
    connection: Connection, run_ids: Collection[UUID], status: str, outcome: str, *, now: datetime
) -> bool:
    """End whatever these runs still have open; whether there was anything, of which the desk is to tell whom it concerns."""
    if not run_ids:
        return False
    parameters = {"runs": sorted(run_ids), "new_status": status, "new_outcome": outcome, "now": now}
    ended = [row.id for row in _SETTLE_OF_RUNS(connection, parameters)]
    _close(connection, ended)
    return bool(ended)


def settle_told(
    connection: Connection, id: UUID, status: str, outcome: str, *, now: datetime
) -> list[sa.Row[Any]] | None:
    """End one request if it is still open: the first settlement wins. Whoever calls tells whom it concerns.

    Gives whom it was asked, in the order in which they were; None if it was settled before."""
    parameters = {"request": id, "new_status": status, "new_outcome": outcome, "now": now}
    if not _SETTLE_TOLD(connection, parameters):
        return None
    return sorted(_close(connection, [id]), key=lambda person: (person.added_at, person.contact))


def _close(connection: Connection, ids: Collection[UUID]) -> list[sa.Row[Any]]:
    """Free the codes of requests that have ended; whom they were asked."""
    if not ids:
        return []
    asked = _LOCK_ASKED(connection, {"ids": sorted(ids)})
    _CLOSE(connection, {"ids": sorted(ids)})
    return asked


# ---------------------------------------------------------------------- looking and locking


def find(connection: Connection, id: UUID) -> Any:
    """One request, with the `agent` and the `key` of its session."""
    return _FIND.first(connection, {"request": id})


def lock(connection: Connection, id: UUID) -> Any:
    """The same, locked against every other change until the transaction ends, with its session locked before it:
    the order in which turns lock them."""
    row = find(connection, id)
    if row is None:
        return None
    if row.session_id is not None:
        _LOCK_SESSIONS(connection, {"ids": [row.session_id]})
    return _LOCK_REQUESTS.first(connection, {"ids": [id]})


def lock_all(
    connection: Connection, ids: Collection[UUID], session_ids: Collection[int]
) -> dict[UUID, sa.Row[Any]]:
    """The same for several requests, those that are there, and these sessions, theirs among them."""
    if session_ids:
        _LOCK_SESSIONS(connection, {"ids": sorted(session_ids)})
    return {row.id: row for row in _LOCK_REQUESTS(connection, {"ids": sorted(ids)})} if ids else {}


def await_others(connection: Connection, id: UUID) -> None:
    """Let whoever is changing a request finish, and nobody change it until the transaction ends."""
    _LOCK_REQUESTS(connection, {"ids": [id]})


def look_due(connection: Connection, *, now: datetime, limit: int) -> list[sa.Row[Any]]:
    """Requests that the desk must look at, without locking them: id, session and spec."""
    return list(connection.execute(_DUE, {"now": now, "most": limit}))


def lock_due(
    connection: Connection, ids: Collection[UUID], session_ids: Collection[int], *, now: datetime
) -> list[sa.Row[Any]]:
    """Those of these requests that are due still and that nobody else has in hand, locked after their sessions; for
    sessions that somebody has in hand it waits."""
    if session_ids:
        _LOCK_SESSIONS(connection, {"ids": sorted(session_ids)})
    return list(connection.execute(_LOCK_FREE_REQUESTS, {"ids": sorted(ids), "now": now}))


def lock_contacts(connection: Connection, contacts: Collection[str]) -> None:
    """Of two transactions that ask one person at once the second sees the first one's codes. SQLite has one writer."""
    if contacts and is_postgres(connection):
        connection.execute(_LOCK_CONTACTS, {"contacts": sorted(contacts)}).all()


def move(
    connection: Connection, id: UUID, *, due_at: datetime | None, asked_at: datetime | None, reminders: int,
    escalations: int,
) -> None:  # fmt: skip
    """Note how far a request has come on its timetable, and when it is due next."""
    parameters = {
        "request": id, "new_due": due_at, "new_asked": asked_at, "new_reminders": reminders,
        "new_escalations": escalations,
    }  # fmt: skip
    connection.execute(_MOVE, parameters)


def set_args(connection: Connection, id: UUID, spec: str, args: str, digest: str) -> None:
    """Note the arguments that a person gave an approval instead of those that it was asked for."""
    parameters = {"request": id, "new_spec": spec, "new_args": args, "new_digest": digest}
    connection.execute(_SET_ARGS, parameters)


# ---------------------------------------------------------------------- the people asked


def add_recipients(
    connection: Connection, id: UUID, people: Mapping[str, str | None], *, now: datetime
) -> dict[str, bool]:
    """Note that these contacts are asked, each with a code that no other open request of theirs has, and through which
    channel only, if any. Gives, for each, whether this is their only open request. Their contacts must be locked."""
    taken: dict[str, set[str]] = defaultdict(set)
    for contact, code in connection.execute(_TAKEN, {"contacts": sorted(people)}):
        taken[contact].add(code)
    chance = random.Random(id.int)
    everywhere = set().union(*taken.values()) if taken else set()
    own = [row.code for row in recipients_of(connection, id)]
    free = next((code for code in own if code not in everywhere), None)
    common = free or _free_code(everywhere, chance)
    rows = [
        {
            "request_id": id, "contact": contact, "code": common, "open": True, "via": via, "added_at": now,
            "code_told": bool(taken[contact]),
        }
        for contact, via in people.items()
    ]  # fmt: skip
    _ADD(connection, rows)
    return {contact: not taken[contact] for contact in people}


def _free_code(taken: set[str], chance: random.Random) -> str:
    """A code that is not taken: a short one if there is any left, else one of several."""
    free = [code for code in CODES if code not in taken]
    code = chance.choice(free or CODES)
    while code in taken:
        code += chance.choice(CODES)
    return code


def set_via(connection: Connection, id: UUID, contact: str, via: str | None) -> None:
    """Ask a contact through another channel from now on."""
    connection.execute(_SET_VIA, {"request": id, "person": contact, "new_via": via})


def note_told(connection: Connection, asked: Collection[tuple[UUID, str]]) -> None:
    """Note that contacts were told the codes of requests, each as (request, contact)."""
    if asked:
        connection.execute(_NOTE_TOLD, [{"request": id, "person": contact} for id, contact in sorted(asked)])


def note_unreachable(connection: Connection, id: UUID, contact: str) -> None:
    """Note that a contact could be reached through no channel."""
    connection.execute(_NOTE_UNREACHABLE, {"request": id, "person": contact})


def set_draft(connection: Connection, id: UUID, contact: str, draft: str | None) -> None:
    """Note how far a contact's answer in a dialogue has come."""
    connection.execute(_SET_DRAFT, {"request": id, "person": contact, "new_draft": draft})


def set_vote(connection: Connection, id: UUID, contact: str, digest: str) -> None:
    """Note that a contact approves the call of this digest."""
    connection.execute(_SET_VOTE, {"request": id, "person": contact, "new_vote": digest})


def recipients_of(connection: Connection, id: UUID) -> list[sa.Row[Any]]:
    """Whom a request was asked, in the order in which they were."""
    return _RECIPIENTS(connection, {"request": id})


def recipients_of_all(connection: Connection, ids: Collection[UUID]) -> dict[UUID, list[sa.Row[Any]]]:
    """The same for several requests."""
    found: dict[UUID, list[sa.Row[Any]]] = {id: [] for id in ids}
    if ids:
        for row in connection.execute(_RECIPIENTS_OF, {"ids": sorted(ids)}):
            found[row.request_id].append(row)
    return found


def open_of_contact(connection: Connection, contact: str) -> list[sa.Row[Any]]:
    """The contact's open requests, oldest first, each with the contact's own code, draft and channel."""
    return list(connection.execute(_OPEN_OF_CONTACT, {"person": contact}))


def of_contact(connection: Connection, contact: str, *, limit: int) -> list[sa.Row[Any]]:
    """The contact's requests, open and settled, newest first."""
    return list(connection.execute(_OF_CONTACT, {"person": contact, "most": limit}))


def one_of_contact(connection: Connection, contact: str, id: UUID) -> Any:
    """A request as it was asked of this contact, if it was."""
    return _ONE_OF_CONTACT.first(connection, {"person": contact, "request": id})


def latest_of_contact(connection: Connection, contact: str, code: str) -> sa.Row[Any] | None:
    """The contact's newest request that had this code."""
    return connection.execute(_LATEST_OF_CONTACT, {"person": contact, "code": code}).first()
