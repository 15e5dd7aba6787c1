"""What a campaign is told to do, and what follows from its seed: the calls, in order, and who is asked what."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tests.chaos.agents import BOSSES

SHARED_SESSIONS = 97
SHELVES = 23
SOURCE = "https://chaos.example.com"

Kind = Literal["chain", "nap", "ask", "buy", "family", "order", "signal"]
KINDS: dict[Kind, int] = {
    "chain": 46, "nap": 14, "ask": 10, "buy": 6, "family": 8, "order": 8, "signal": 8
}  # fmt: skip
"""What of a hundred calls is what; a `signal` comes from outside, the others start a run of the agent of that name."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a campaign is told. runs: how many calls are made. kills: how many processes are to be killed, at least.
    every: seconds between two faults, on average. workers: how many. settle: seconds in which all must be over at the
    end. clock: by how many seconds the store's clock is stepped, at most. part: the part of the whole that it is."""

    runs: int = 10_000
    kills: int = 200
    seed: int = 1
    every: float = 1.5
    workers: int = 3
    settle: float = 600.0
    clock: float = 20.0
    part: str = "fleet"

    @property
    def command(self) -> str:
        """What runs the same plan again."""
        return f"ONLY={self.part} RUNS={self.runs} KILLS={self.kills} SEED={self.seed} EVERY={self.every:g} make chaos"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call from outside, and what is to come of it. run: the id of the run that it starts; of a signal, None."""

    number: int
    kind: Kind
    label: str
    key: str
    input: dict[str, Any]
    run: str | None

    def line(self) -> str:
        """What the client sends."""
        if self.run is None:
            path, kind = "/api/v1/signals", "application/cloudevents+json"
            body: dict[str, Any] = {
                "specversion": "1.0", "id": self.label, "source": SOURCE, "type": "order.placed", "data": self.input
            }  # fmt: skip
        else:
            path, kind = f"/api/v1/agents/{self.kind}/runs", "application/json"
            body = {"id": self.run, "key": self.key, "input": self.input}
        return json.dumps({"path": path, "content_type": kind, "body": json.dumps(body)})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All calls of a campaign, which follow from its seed."""

    options: Options

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """In the order in which they are made."""
        return tuple(self._make())

    @cached_property
    def people(self) -> int:
        """How many people are asked questions: several each."""
        return max(4, self.options.runs // 100)

    @cached_property
    def by_label(self) -> dict[str, Call]:
        """The calls by their labels, each of which is on no other."""
        return {call.label: call for call in self.calls}

    def _make(self) -> Iterator[Call]:
        chance = random.Random(self.options.seed)
        for number in range(self.options.runs):
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            label = f"{kind}{number}x"
            input: dict[str, Any] = {"label": label}
            key = label
            if kind in ("chain", "nap"):
                key = f"k{chance.randrange(SHARED_SESSIONS)}"
            if kind == "nap":
                input["seconds"] = chance.choice([2.0, 3.0, 4.0])
            elif kind == "ask":
                input["to"] = f"person{chance.randrange(self.people)}"
            elif kind == "buy":
                input |= {"boss": chance.choice(BOSSES), "amount": chance.randrange(1, 1000)}
            elif kind in ("order", "signal"):
                input["shelf"] = chance.randrange(SHELVES)
            id = None if kind == "signal" else str(uuid.UUID(int=chance.getrandbits(128), version=4))
            yield Call(number=number, kind=kind, label=label, key=key, input=input, run=id)


def wants(call: Call) -> str:
    """The reply that a person gives to it: to an approval by what it costs, so that some are denied."""
    if call.kind == "buy":
        return "yes" if is_approved(call) else "no"
    return f"it is {call.label}"


def is_approved(call: Call) -> bool:
    """Whether a call is one that its boss approves."""
    return bool(call.input["amount"] % 3)
