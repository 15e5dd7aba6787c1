"""Medians, ratios, bars and regressions, computed from the figures that were kept of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.rounds import OURS
from bench.trial import Bar, Better

TOLERANCE = 0.10
"""A ratio that fell by no more than this is not worse, however still the machine was."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a line came to. peer: the best of the peers. ratios: how many times better we are than each, by name, so that more
    is better for every unit. rounds: how many ours are of. basis, value and spread: what is compared over time, and how far
    rounds lay apart, as a share."""

    trial: str
    key: str
    work: str
    unit: str
    ours: float
    peer_name: str | None
    peer: float | None
    ratios: Mapping[str, float]
    bar: Bar | None
    limit: str | None
    size: Mapping[str, Any]
    rounds: int
    basis: str
    value: float
    spread: float

    @property
    def ratio(self) -> float | None:
        """To the best of the peers."""
        return None if self.peer_name is None else self.ratios.get(self.peer_name)

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached."""
        return None if self.bar is None else self.bar.met(self.ours, self.ratios)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must be the same for two runs' values to be compared."""
        return (self.trial, self.key, tuple(sorted((k, str(v)) for k, v in self.size.items())), self.basis)


@dataclass(frozen=True, kw_only=True)
class Change:
    """How a line's value differs from the earlier run's. tolerance: the share by which it may fall and be called the same."""

    work: str
    unit: str
    basis: str
    before: float
    now: float
    tolerance: float

    @property
    def share(self) -> float:
        """By how much it changed: -0.5 is half as good."""
        return self.now / self.before - 1

    @property
    def is_worse(self) -> bool:
        return self.share < -self.tolerance

    @property
    def is_better(self) -> bool:
        return self.now * (1 - self.tolerance) > self.before


def lines_of(trial: Mapping[str, Any]) -> list[Told]:
    """What each line of a kept trial came to; none of those that our side gave no figure for."""
    found = []
    for key, line in trial["lines"].items():
        figures = {
            side: [one[key] for one in rounds if one.get(key) is not None]
            for side, rounds in trial["rounds"].items()
        }
        if figures.get(OURS):
            found.append(_told(trial, key, line, figures))
    return found


def _told(
    trial: Mapping[str, Any], key: str, line: Mapping[str, Any], figures: Mapping[str, list[float]]
) -> Told:
    better = Better(line["better"])
    ours = figures[OURS]
    medians = {side: statistics.median(values) for side, values in figures.items() if values and side != OURS}
    best = max if better is Better.MORE else min
    name = best(medians, key=lambda side: medians[side], default=None)
    peer = medians[name] if name is not None else None
    middle = statistics.median(ours)
    ratios = {side: times_better(middle, one, better) for side, one in medians.items() if one and middle}
    basis, values = _basis(trial, line, ours, figures[name] if name is not None else None, name, better)
    return Told(
        trial=trial["name"], key=key, work=line["work"], unit=line["unit"], ours=middle, peer_name=name, peer=peer,
        ratios=ratios, bar=Bar(**line["bar"]) if line["bar"] is not None else None, limit=line["limit"],
        size=trial["size"], rounds=len(ours), basis=basis, value=statistics.median(values), spread=spread(values),
    )  # fmt: skip


def _basis(
    trial: Mapping[str, Any],
    line: Mapping[str, Any],
    ours: Sequence[float],
    peer: Sequence[float] | None,
    name: str | None,
    better: Better,
) -> tuple[str, list[float]]:
    """What is compared over time, round by round, more being better: beside the peer; without one a time beside the
    yardstick's of that round; anything else as it is."""
    if peer is not None and all(peer) and all(ours):
        return f"beside {name}", [times_better(a, b, better) for a, b in zip(ours, peer, strict=False)]
    if line["unit"] in TIMES and len(trial["yardstick"]) >= len(ours) and all(ours):
        return "beside the yardstick", [
            stick / (value * TIMES[line["unit"]])
            for value, stick in zip(ours, trial["yardstick"], strict=False)
        ]
    return "as it is", [times_better(value, 1.0, better) for value in ours]


TIMES = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


def times_better(ours: float, peer: float, better: Better) -> float:
    """How many times better ours is; without a bound against nothing at all."""
    over, under = (ours, peer) if better is Better.MORE else (peer, ours)
    if under == 0:
        return 1.0 if over == 0 else float("inf")
    return over / under


def spread(values: Sequence[float]) -> float:
    """How far rounds lie from their median, as a share of it: half the range in which the middle half of them lies."""
    middle = statistics.median(values)
    if len(values) < 2 or middle == 0:
        return 0.0
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    return (quarters[2] - quarters[0]) / 2 / abs(middle)


def changes(now: Sequence[Told], before: Sequence[Told]) -> list[Change]:
    """What is to be said of each line that both have, at the same size and beside the same."""
    earlier = {one.identity: one for one in before}
    found = []
    for one in now:
        old = earlier.get(one.identity)
        if old is None or old.value <= 0:
            continue
        tolerance = min(0.9, max(TOLERANCE, 2 * (old.spread + one.spread)))
        found.append(
            Change(
                work=one.work,
                unit=one.unit,
                basis=one.basis,
                before=old.value,
                now=one.value,
                tolerance=tolerance,
            )
        )
    return found
