"""What a live handler may ask about the world, answered from the turn that drives it."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from wakeloop.asking import RequestSpec
from wakeloop.engine import commands as cmd
from wakeloop.entries import Entry
from wakeloop.errors import NotPossible
from wakeloop.people import Card
from wakeloop.steps import Step
from wakeloop.store.records import SessionRow
from wakeloop.world import World, check_request


class Held(Protocol):
    """The held session, as far as its handlers may ask about it."""

    world: World
    session: SessionRow

    def wakeups(self) -> tuple[cmd.Wakeup, ...]: ...

    def entries(self, first: int, last: int) -> tuple[Entry, ...]: ...


class Surroundings:
    """See `wakeloop.engine.operation.Surroundings`."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def new_id(self) -> UUID:
        return self._held.world.ids.new_id()

    def check_contact(self, contact: str, via: str | None) -> str:
        return self._held.world.people.route(contact, via)[0][0]

    def check_request(self, spec: RequestSpec) -> None:
        check_request(self._held.world.people, spec)

    def contacts(self) -> tuple[Card, ...]:
        people = self._held.world.people
        return tuple(people.card(id) for id in people.ids)

    def check_agent(self, name: str) -> None:
        self._held.world.registry.get(name)

    def wakeups(self) -> tuple[cmd.Wakeup, ...]:
        return self._held.wakeups()

    def entries(self, first: int, last: int) -> tuple[Entry, ...]:
        return self._held.entries(first, last)

    def reading(self) -> Step[..., bytes]:
        reader = self._held.world.reader
        if reader is None:
            raise NotPossible("attachments cannot be read here")
        return reader.step(self._held.session.id)
