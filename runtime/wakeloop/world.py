"""What a process knows of the world beside the store: its agents, its people, and where new ids come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

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


def signal_posts(registry: Registry, signal: Signal) -> list[Post]:
    """The signal, once for every session that an agent listens for it in."""
    body = dump_event(signal)
    return [
        Post(
            agent=agent.name, key=key, kind="signal", dedupe=f"signal:{signal.source}:{signal.id}", body=body
        )
        for agent, key in registry.listeners(signal)
    ]
