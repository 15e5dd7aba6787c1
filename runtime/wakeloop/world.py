"""What a process knows of the world beside the store: its agents, its people, and where new ids come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from wakeloop.errors import NotPossible
from wakeloop.events import Signal, dump_event
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.store.records import Post


class Ids(Protocol):
    """Where new ids come from."""

    def new_id(self) -> UUID: ...


@dataclass(kw_only=True)
class World:
    """What this process knows: agents (replaced when their code is loaded anew), people, and where ids come from."""

    registry: Registry
    people: People
    ids: Ids


def check_people(people: People, names: Sequence[str], via: str | None, action: str | None) -> None:
    """Raises NotFound if one of these contacts or groups is not there, or cannot be reached (through `via`), and
    NotPossible if the settings allow none of them to approve the function `action`."""
    contacts = people.expand(names)
    for contact in contacts:
        people.route(contact, via)
    allowed = people.approvers(action) if action is not None else None
    if allowed is not None and not set(contacts) & set(allowed):
        raise NotPossible(
            f"{', '.join(contacts)} may not approve {action}: by [approvers] in wakeloop.toml only "
            f"{', '.join(allowed) or 'nobody'} may",
            action=action,
        )


def signal_posts(registry: Registry, signal: Signal) -> list[Post]:
    """The signal, once for every session that an agent listens for it in."""
    body = dump_event(signal)
    return [
        Post(
            agent=agent.name, key=key, kind="signal", dedupe=f"signal:{signal.source}:{signal.id}", body=body
        )
        for agent, key in registry.listeners(signal)
    ]
