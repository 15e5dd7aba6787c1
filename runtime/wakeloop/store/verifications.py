"""The statements of verification: a code is sent to an address, and whoever has it sends the code back."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from wakeloop.store.batches import Insert, among
from wakeloop.store.schema import Instant, opt_outs, verifications

CODE_DIGITS = 6
"""No code of a request is of digits alone, so that no answer is taken for a verification."""
VALID_SECONDS = 15 * 60
WRONG_TRIES = 5

_NOW = sa.bindparam("now", type_=Instant())
_CODE = re.compile(rf"[\W_]*((?:[0-9][\W_]*){{{CODE_DIGITS}}})")
_OF = sa.and_(
    verifications.c.channel == sa.bindparam("of_channel"),
    verifications.c.address == sa.bindparam("of_address"),
)
_FIND = sa.select(verifications).where(_OF)
_LOCK_PENDING = (
    sa.select(verifications)
    .where(_OF, verifications.c.code.is_not(None), verifications.c.expires_at > _NOW)
    .with_for_update(key_share=True)
)
_ADD = Insert(
    verifications, ("channel", "address", "salt", "sent_at", "expires_at"), new=("channel", "address")
)
_RENEW = (
    sa.update(verifications)
    .where(_OF)
    .values(
        salt=sa.bindparam("new_salt", type_=sa.Text()), code=sa.bindparam("new_code", type_=sa.Text()), sent_at=_NOW,
        expires_at=sa.bindparam("until", type_=Instant()), wrong_tries=0,
    )
)  # fmt: skip
_CONFIRM = sa.update(verifications).where(_OF).values(code=None, verified_at=_NOW)
_WRONG = (
    sa.update(verifications)
    .where(_OF)
    .values(
        wrong_tries=verifications.c.wrong_tries + 1,
        code=sa.case(
            (verifications.c.wrong_tries + 1 >= sa.literal_column(str(WRONG_TRIES)), sa.null()),
            else_=verifications.c.code,
        ),
    )
)
_VERIFIED = sa.select(verifications.c.address, verifications.c.verified_at).where(
    verifications.c.channel == sa.bindparam("of_channel"), among(verifications.c.address, "addresses"),
    verifications.c.verified_at.is_not(None),
)  # fmt: skip
_OPTED_OUT = sa.select(opt_outs.c.address, opt_outs.c.at).where(
    opt_outs.c.channel == sa.bindparam("of_channel"), among(opt_outs.c.address, "addresses")
)


def begin(connection: Connection, channel: str, address: str, *, now: datetime) -> str:
    """A new code for an address, valid for 15 minutes; an earlier one is not any more. Only its hash is kept.

    An address that was verified before stays so."""
    code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
    salt = secrets.token_hex(16)
    until = now + timedelta(seconds=VALID_SECONDS)
    row = {"channel": channel, "address": address, "salt": salt, "sent_at": now, "expires_at": until}
    _ADD(connection, [row])
    facts = {"of_channel": channel, "of_address": address, "new_salt": salt, "new_code": _hashed(code, salt)}
    connection.execute(_RENEW, facts | {"now": now, "until": until})
    return code


def take(connection: Connection, channel: str, address: str, text: str, now: datetime) -> bool:
    """Whether a text that came from an address is just the code that was sent to it: then the address is verified.

    Spaces and punctuation do not matter. After five wrong codes, or 15 minutes, there is none that would be right; any
    other text is no try."""
    found = _CODE.fullmatch(text)
    if found is None:
        return False
    parameters = {"of_channel": channel, "of_address": address, "now": now}
    row = connection.execute(_LOCK_PENDING, parameters).first()
    if row is None:
        return False
    if _hashed(re.sub(r"\D", "", found[1]), row.salt) == row.code:
        connection.execute(_CONFIRM, parameters)
        return True
    connection.execute(_WRONG, {"of_channel": channel, "of_address": address})
    return False


def may_be_code(text: str) -> bool:
    """Whether a text looks like a code that was sent."""
    return _CODE.fullmatch(text) is not None


def find(connection: Connection, channel: str, address: str) -> sa.Row[Any] | None:
    """How the verification of an address stands. `code` is None once it was returned, or is void."""
    return connection.execute(_FIND, {"of_channel": channel, "of_address": address}).first()


def verified(connection: Connection, channel: str, addresses: Sequence[str]) -> dict[str, datetime]:
    """Since when those of a channel's addresses are verified that are."""
    wanted = {"of_channel": channel, "addresses": sorted(addresses)}
    return {row.address: row.verified_at for row in connection.execute(_VERIFIED, wanted)}


def opted_out(connection: Connection, channel: str, addresses: Sequence[str]) -> dict[str, datetime]:
    """Since when those of a channel's addresses are not to be written to that opted out."""
    wanted = {"of_channel": channel, "addresses": sorted(addresses)}
    return {row.address: row.at for row in connection.execute(_OPTED_OUT, wanted)}


def _hashed(code: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{code}".encode()).hexdigest()
