"""e. Recovery: the only worker is killed with 10,000 asleep and 100 in the middle of a step."""

from __future__ import annotations

from collections.abc import Iterator

from bench.fleet import recovery
from bench.lab import Lab
from bench.trial import Bar, Better, Line, Trial


def trials(lab: Lab) -> Iterator[Trial]:
    asleep, held = lab.size((10_000, 100), (300, 20))
    of = f"after SIGKILL, {asleep:,} asleep"
    lines = (
        Line(key="ready", work=f"{of}: a new run done", unit="s", better=Better.LESS, bar=Bar(at_most=3)),
        Line(
            key="in_order",
            work=f"{of}: {held} in mid-step done",
            unit="s",
            better=Better.LESS,
            bar=Bar(at_most=3),
        ),
    )
    yield Trial(
        name="recovery",
        lines=lines,
        ours=lambda: recovery.ours(lab, asleep=asleep, held=held),
        peers={"DBOS": lambda: recovery.dbos(lab, asleep=asleep, held=held)},
        size={"asleep": asleep, "held": held},
    )
