"""The statements of requests: what is asked of people, and how it was settled."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.status import RequestStatus
from wakeloop.store.batches import Insert, Listed, among, is_postgres
from wakeloop.store.records import NewRequest, Settlement
from wakeloop.store.schema import OPEN_REQUEST, Instant, requests

_LETTERS = "ACEFHJKMNPRTWX"
_DIGITS = "3479"
CODES = tuple(letter + digit for letter in _LETTERS for digit in _DIGITS)
"""Short codes of requests: no character that looks or sounds like another, and no word that a carrier acts on."""

_OPEN = str(RequestStatus.OPEN)

_people = sa.func.unnest(sa.bindparam("contacts", type_=Listed(sa.Text()))).column_valued("contact")
_LOCK_CONTACTS = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(_people, 0x77616B65)))
_TAKEN = sa.select(requests.c.contact, requests.c.code).where(
    among(requests.c.contact, "contacts"), OPEN_REQUEST
)
_INSERT = Insert(
    requests,
    (
        "id", "session_id", "run_id", "kind", "contact", "code", "text", "options", "status", "created_at",
        "expires_at",
    ),
)  # fmt: skip
_NOW = sa.bindparam("now", type_=Instant())
_SETTLE = (
    sa.update(requests)
    .where(requests.c.id == sa.bindparam("request"), OPEN_REQUEST)
    .values(
        status=sa.bindparam("new_status"), answer=sa.bindparam("new_answer"), by=sa.bindparam("new_by"),
        settled_at=_NOW,
    )
)  # fmt: skip
_SETTLE_OF_RUNS = (
    sa.update(requests)
    .where(among(requests.c.run_id, "runs"), OPEN_REQUEST)
    .values(status=sa.bindparam("new_status"), settled_at=_NOW)
)
_OPEN_OF_CONTACT = (
    sa.select(requests)
    .where(requests.c.contact == sa.bindparam("contact"), OPEN_REQUEST)
    .order_by(requests.c.id)
)
_LATEST_OF_CONTACT = (
    sa.select(requests)
    .where(requests.c.contact == sa.bindparam("contact"), requests.c.code == sa.bindparam("code"))
    .order_by(requests.c.contact.desc(), requests.c.id.desc())
    .limit(sa.literal_column("1"))
)
_FIND = sa.select(requests).where(requests.c.id == sa.bindparam("request"))


def open_requests(
    connection: Connection, new: Sequence[tuple[int, NewRequest]], *, now: datetime
) -> dict[UUID, str | None]:
    """Record these requests of sessions, each with a code that no other open request of its contact has.

    Gives the code that the question must carry, or None where it is the contact's only open request."""
    if not new:
        return {}
    contacts = sorted({one.contact for _, one in new})
    if is_postgres(connection):
        # Of two transactions that ask one person at once the second sees the first one's codes. SQLite has one writer.
        connection.execute(_LOCK_CONTACTS, {"contacts": contacts}).all()
    taken: dict[str, set[str]] = defaultdict(set)
    for contact, code in connection.execute(_TAKEN, {"contacts": contacts}):
        taken[contact].add(code)
    shown: dict[UUID, str | None] = {}
    rows = []
    for session_id, one in new:
        others = taken[one.contact]
        code = _free_code(others, random.Random(one.id.int))
        shown[one.id] = code if others else None
        others.add(code)
        rows.append(
            {
                "id": one.id, "session_id": session_id, "run_id": one.run_id, "kind": "question",
                "contact": one.contact, "code": code, "text": one.text, "options": one.options, "status": _OPEN,
                "created_at": now, "expires_at": one.expires_at,
            }
        )  # fmt: skip
    _INSERT(connection, rows)
    return shown


def _free_code(taken: set[str], chance: random.Random) -> str:
    """A code that is not taken: a short one if there is any left, else one of several."""
    free = [code for code in CODES if code not in taken]
    code = chance.choice(free or CODES)
    while code in taken:
        code += chance.choice(CODES)
    return code


def settle(connection: Connection, settlements: Sequence[Settlement], *, now: datetime) -> None:
    """Close these requests, those that are still open: the first settlement wins."""
    if settlements:
        connection.execute(
            _SETTLE,
            [
                {
                    "request": one.id,
                    "new_status": one.status,
                    "new_answer": one.answer,
                    "new_by": one.by,
                    "now": now,
                }
                for one in settlements
            ],
        )


def settle_of_runs(connection: Connection, run_ids: Collection[UUID], status: str, *, now: datetime) -> None:
    """Close whatever these runs still have open."""
    if run_ids:
        connection.execute(_SETTLE_OF_RUNS, {"runs": sorted(run_ids), "new_status": status, "now": now})


def open_of_contact(connection: Connection, contact: str) -> list[sa.Row[Any]]:
    """The contact's open requests, oldest first."""
    return list(connection.execute(_OPEN_OF_CONTACT, {"contact": contact}))


def latest_of_contact(connection: Connection, contact: str, code: str) -> sa.Row[Any] | None:
    """The contact's newest request that had this code."""
    return connection.execute(_LATEST_OF_CONTACT, {"contact": contact, "code": code}).first()


def find(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One request."""
    return connection.execute(_FIND, {"request": id}).first()
