"""The statements of requests: what is asked of people, and how it was settled."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.status import RequestStatus
from wakeloop.store.records import NewRequest, Settlement
from wakeloop.store.schema import requests

_LETTERS = "ACEFHJKMNPRTWX"
_DIGITS = "3479"
CODES = tuple(letter + digit for letter in _LETTERS for digit in _DIGITS)
"""Short codes of requests: no character that looks or sounds like another, and no word that a carrier acts on."""


def open_requests(
    connection: Connection, session_id: int, new: Sequence[NewRequest], *, now: datetime
) -> dict[UUID, str | None]:
    """Record these requests, each with a code that no other open request of its contact has.

    Gives the code that the question must carry, or None where it is the contact's only open request."""
    shown: dict[UUID, str | None] = {}
    for one in new:
        taken = set(
            connection.execute(
                sa.select(requests.c.code).where(
                    requests.c.contact == one.contact, sa.text("status = 'open'")
                )
            ).scalars()
        )
        free = [code for code in CODES if code not in taken]
        chance = random.Random(one.id.int)
        code = chance.choice(free) if free else f"{chance.choice(CODES)}{chance.choice(CODES)}"
        connection.execute(
            sa.insert(requests).values(
                id=one.id, session_id=session_id, run_id=one.run_id, kind="question", contact=one.contact, code=code,
                text=one.text, options=one.options, status=str(RequestStatus.OPEN), created_at=now,
                expires_at=one.expires_at,
            )
        )  # fmt: skip
        shown[one.id] = code if taken else None
    return shown


def settle(connection: Connection, settlements: Sequence[Settlement], *, now: datetime) -> None:
    """Close these requests, those that are still open: the first settlement wins."""
    for one in settlements:
        connection.execute(
            sa.update(requests)
            .where(requests.c.id == one.id, requests.c.status == str(RequestStatus.OPEN))
            .values(status=one.status, answer=one.answer, by=one.by, settled_at=now)
        )


def settle_of_runs(connection: Connection, run_ids: Collection[UUID], status: str, *, now: datetime) -> None:
    """Close whatever these runs still have open."""
    if run_ids:
        connection.execute(
            sa.update(requests)
            .where(requests.c.run_id.in_(sorted(run_ids)), requests.c.status == str(RequestStatus.OPEN))
            .values(status=status, settled_at=now)
        )


def open_of_contact(connection: Connection, contact: str) -> list[sa.Row[Any]]:
    """The contact's open requests, oldest first."""
    statement = (
        sa.select(requests)
        .where(requests.c.contact == contact, sa.text("status = 'open'"))
        .order_by(requests.c.id)
    )
    return list(connection.execute(statement))


def latest_of_contact(connection: Connection, contact: str, code: str) -> sa.Row[Any] | None:
    """The contact's newest request that had this code."""
    statement = (
        sa.select(requests)
        .where(requests.c.contact == contact, requests.c.code == code)
        .order_by(requests.c.contact.desc(), requests.c.id.desc())
        .limit(1)
    )
    return connection.execute(statement).first()


def find(connection: Connection, id: UUID) -> sa.Row[Any] | None:
    """One request."""
    return connection.execute(sa.select(requests).where(requests.c.id == id)).first()
