"""What a process knows of the world beside the store: its agents, its people, and where new ids come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from wakeloop.asking import RequestSpec
from wakeloop.errors import NotPossible
from wakeloop.events import Signal, dump_event
from wakeloop.people import People
from wakeloop.registry import Registry
from wakeloop.steps import Step
from wakeloop.store.records import Emitted, Post


class Ids(Protocol):
    """Where new ids come from."""

    def new_id(self) -> UUID: ...


class Reader(Protocol):
    """Reads what came with messages."""

    def step(self, session: int) -> Step[..., bytes]:
        """The step that gives the bytes of an attachment to an agent of this session."""
        ...


@dataclass(kw_only=True)
class World:
    """What this process knows: agents (replaced when their code is loaded anew), people, where ids come from, and what
    reads attachments."""

    registry: Registry
    people: People
    ids: Ids
    reader: Reader | None = None


def check_request(people: People, spec: RequestSpec) -> None:
    """Raises NotFound if somebody whom a request names is not there or cannot be reached, and NotPossible if those who
    are asked, now or later, may not decide about it or are too few to."""
    asked = _reachable(people, spec.to, spec.via)
    for step in spec.escalate:
        asked |= _reachable(people, (step.to,) if step.to is not None else spec.to, step.via)
    if not spec.is_approval:
        return
    allowed = people.approvers(spec.action or "")
    may = {contact for contact in asked if allowed is None or contact in allowed} - {spec.requester}
    if len(may) >= spec.quorum:
        return
    who = ", ".join(sorted(asked))
    why = [] if allowed is None else [f"by [approvers] in wakeloop.toml only {', '.join(allowed)} may"]
    why += [f"{spec.requester} is the one it is asked for"] if spec.requester in asked else []
    needs = f"needs {spec.quorum} approvals" if spec.quorum > 1 else "needs an approval"
    raise NotPossible(
        f"{spec.action} {needs}, and of those who are asked ({who}) {len(may) or 'none'} may give one"
        + (f": {'; '.join(why)}" if why else ""),
        action=spec.action,
    )


def _reachable(people: People, names: Sequence[str], via: str | None) -> set[str]:
    contacts = people.expand(names)
    for contact in contacts:
        people.route(contact, via)
    return set(contacts)


def signal_posts(registry: Registry, signal: Signal) -> tuple[list[Post], Emitted]:
    """The signal, once for every session that a trigger brings it to; and for the runs that wait for it where none does."""
    body, dedupe = dump_event(signal), f"signal:{signal.source}:{signal.id}"
    posts = [
        Post(agent=agent.name, key=key, kind="signal", dedupe=dedupe, body=body)
        for agent, key in registry.listeners(signal)
    ]
    others = frozenset(agent.name for agent in registry.agents if not agent.has_trigger_for(signal))
    # Of an agent that has triggers, any signal is any that they bring: not all that there are.
    wide = frozenset(agent.name for agent in registry.agents if not agent.signal_triggers)
    return posts, Emitted(type=signal.type, agents=others, wide=wide, dedupe=dedupe, body=body)
