"""Writes to a contact for an operator: a code to verify an address, or a test; and tells how their addresses stand."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from wakeloop.store import outbox, verifications
from wakeloop.store.database import Database
from wakeloop.store.records import NewMessage
from wakeloop.world import World


@dataclass(frozen=True, kw_only=True)
class Written:
    """A message to one address of a contact, to be sent by whoever works on the store."""

    message: UUID
    contact: str
    channel: str
    address: str
    at: datetime


@dataclass(frozen=True, kw_only=True)
class AddressState:
    """An address of a contact: since when it is verified, and since when its person asked not to be written to."""

    channel: str
    address: str
    verified_at: datetime | None
    opted_out_at: datetime | None


def write_code(database: Database, world: World, contact: str, via: str | None = None) -> Written:
    """Write a new code to a contact's first address, or to that on the channel `via`, to be sent back from there within
    15 minutes. Raises NotFound if there is no such contact or address."""
    return _write(database, world, contact, via, "Reply {code} to confirm that messages reach you here.")


def write_test(database: Database, world: World, contact: str, via: str | None = None) -> Written:
    """Write a test message to a contact's first address, or to that on the channel `via`. Raises NotFound if there is no
    such contact or address."""
    return _write(database, world, contact, via, "This is a test. Nothing is asked of you.")


def _write(database: Database, world: World, contact: str, via: str | None, text: str) -> Written:
    channel, address = world.people.route(contact, via)[0]
    id = world.ids.new_id()
    with database.begin() as connection:
        now = database.now()
        if "{code}" in text:
            text = text.format(code=verifications.begin(connection, channel, address, now=now))
        # To this address or none; and now, because somebody waits for it.
        message = NewMessage(
            id=id, contact=contact, channel=channel, address=address, via=channel, subject=None, text=text, urgent=True
        )  # fmt: skip
        outbox.put(connection, None, [message], now=now)
    return Written(message=id, contact=contact, channel=channel, address=address, at=now)


def address_states(database: Database, world: World) -> dict[str, list[AddressState]]:
    """How the addresses of all contacts stand, by contact, the preferred one first."""
    addresses: dict[str, list[str]] = defaultdict(list)
    for id in world.people.ids:
        for channel, address in world.people.get(id).addresses.items():
            addresses[channel].append(address)
    with database.read() as connection:
        verified = {
            name: verifications.verified(connection, name, those) for name, those in addresses.items()
        }
        opted_out = {
            name: verifications.opted_out(connection, name, those) for name, those in addresses.items()
        }
    return {
        id: [
            AddressState(
                channel=channel,
                address=address,
                verified_at=verified[channel].get(address),
                opted_out_at=opted_out[channel].get(address),
            )
            for channel, address in world.people.get(id).addresses.items()
        ]
        for id in world.people.ids
    }
