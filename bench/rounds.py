"""Runs the sides of a trial in alternating rounds, and keeps each round's figures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.trial import Side, Trial

OURS = "wakeloop"


@dataclass
class Outcome:
    """What a trial came to: of each side the figures of its rounds, in order, and why rounds of it failed."""

    trial: Trial
    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    yardstick: list[float] = field(default_factory=list)
    """Seconds of a fixed piece of work in plain Python, in each round: how fast the machine was just then."""
    loads: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "name": self.trial.name,
            "size": dict(self.trial.size),
            "lines": {
                line.key: {
                    "work": line.work,
                    "unit": line.unit,
                    "better": str(line.better),
                    "limit": line.limit,
                    "bar": None
                    if line.bar is None
                    else {k: v for k, v in vars(line.bar).items() if v is not None},
                }
                for line in self.trial.lines
            },
            "rounds": self.rounds,
            "failures": self.failures,
            "yardstick": self.yardstick,
            "loads": self.loads,
            "seconds": self.seconds,
        }


def yardstick() -> float:
    """The seconds that a fixed piece of work takes now."""
    begun = time.perf_counter()
    total = 0
    for number in range(500_000):
        total += number % 7
    assert total > 0
    return time.perf_counter() - begun


def run_trial(
    trial: Trial, rounds: int, *, peers: bool = True, told: Callable[[str], None] = lambda text: None
) -> Outcome:
    """Do the rounds: ours, each peer, ours, each peer, … A side that fails in a round is noted, and not asked again."""
    outcome = Outcome(trial=trial)
    sides: dict[str, Side] = {OURS: trial.ours, **(trial.peers if peers else {})}
    begun = time.perf_counter()
    count = min(rounds, trial.rounds or rounds)
    for number in range(1, count + 1):
        outcome.yardstick.append(yardstick())
        outcome.loads.append(os.getloadavg()[0])
        for name, side in sides.items():
            if name in outcome.failures:
                continue
            told(f"{trial.name}, round {number} of {count}: {name}")
            try:
                figures = dict(side())
            except Exception as error:
                outcome.failures.setdefault(name, []).append(f"{type(error).__name__}: {error}")
                continue
            outcome.rounds.setdefault(name, []).append(figures)
    outcome.seconds = time.perf_counter() - begun
    return outcome


def run_trials(
    trials: Iterable[Trial],
    rounds: int,
    *,
    peers: bool = True,
    told: Callable[[str], None] = lambda text: None,
    done: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[list[Outcome], bool]:
    """Do all of these; the outcomes, and whether Ctrl-C cut it short: then those of the trials that were over by then."""
    outcomes: list[Outcome] = []
    try:
        for trial in trials:
            outcome = run_trial(trial, rounds, peers=peers, told=told)
            outcomes.append(outcome)
            done(outcome)
    except KeyboardInterrupt:
        return outcomes, True
    return outcomes, False
