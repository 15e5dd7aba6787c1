"""What the tests of the engine share: one way to run a handler through a crash, and to say what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wakeloop import Agent
from wakeloop.testing import Simulation

ALICE = {"alice": {"sms": "+15555550100", "tz": "Europe/Paris"}}
PEOPLE = ALICE | {"bob": {"sms": "+15555550101"}}

ENGINE_POINTS = ["engine.step_done", "engine.step_committed", "engine.committing", "engine.committed"]

Event = Callable[[Simulation], Any]


def later(seconds: float) -> Event:
    """The clock moves."""
    return lambda sim: sim.advance(seconds)


def says(contact: str, text: str) -> Event:
    """A person writes."""
    return lambda sim: sim.reply(contact, text)


@dataclass(frozen=True, kw_only=True)
class Story:
    """What came of a run, as far as anybody outside could tell."""

    status: str
    result: Any
    error: str | None
    state: Any
    said: list[tuple[str, str, str]] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)


def story_of(sim: Simulation, run: str, agent: Agent) -> Story:
    """The story of one run."""
    view = sim.run(run)
    return Story(
        status=view.status,
        result=view.result,
        error=view.error,
        state=sim.session(agent).state,
        said=[(message.to, message.text, message.at.isoformat()) for message in sim.outbox()],
        requests=[(one.text, one.status, one.answer) for one in sim.requests(status=None)],
    )


def tell(
    agent: Agent,
    events: Sequence[Event],
    *,
    crashes: Iterable[int] = (),
    others: Sequence[Agent] = (),
    input: Any = None,
) -> Story:
    """Start an agent and let events happen; every thing in memory is lost after those whose number is in `crashes`
    (0 is the start itself)."""
    losses = set(crashes)
    with Simulation([agent, *others], contacts=PEOPLE) as sim:
        run = sim.start(agent, input)
        if 0 in losses:
            sim.crash()
        for number, event in enumerate(events, start=1):
            event(sim)
            if number in losses:
                sim.crash()
        return story_of(sim, run, agent)
