"""What a benchmark measures: lines of figures that our side and its peers give in each round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Figures = Mapping[str, float]
"""What one round of one side came to, by the keys of the trial's lines."""

Side = Callable[[], Figures]
"""One round of one side: its own set-up, the work, and what it came to."""


class Better(StrEnum):
    """Which way a figure is better."""

    MORE = "more"
    LESS = "less"


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a figure has to reach: so many times the nearest peer's, or a value; each of those given must hold. times_of: so
    many times the best of the peers whose names begin so."""

    times: float | None = None
    times_of: Mapping[str, float] | None = None
    at_most: float | None = None
    at_least: float | None = None

    def met(self, figure: float, ratios: Mapping[str, float]) -> bool | None:
        """Whether it is reached; None if that cannot be told, as no peer was measured. ratios: to each peer, by name."""
        wanted = {**({"": self.times} if self.times is not None else {}), **(self.times_of or {})}
        told = [
            *(
                ratio >= times
                for begin, times in wanted.items()
                for name, ratio in ratios.items()
                if name.startswith(begin)
            ),
            *([figure <= self.at_most] if self.at_most is not None else []),
            *([figure >= self.at_least] if self.at_least is not None else []),
        ]
        return all(told) if told else None


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table. key: of the sides' figures. limit: the name of one of the machine's limits (see bench.limits)."""

    key: str
    work: str
    unit: str
    better: Better
    bar: Bar | None = None
    limit: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Some lines, and the sides that give their figures, ours first. name: unique among all benchmarks. size: how much work it
    is: only figures of the same size are compared over time. rounds: if fewer than asked for are to be made, as one takes
    minutes."""

    name: str
    lines: tuple[Line, ...]
    ours: Side
    peers: Mapping[str, Side] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
