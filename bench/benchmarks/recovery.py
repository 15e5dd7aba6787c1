"""e. Recovery: the only worker is killed with 10,000 asleep and 100 in the middle of a step."""

from __future__ import annotations

from collections.abc import Iterator

from bench.fleet import recovery
from bench.lab import Lab
from bench.trial import Bar, Better, Line, Trial

SHORT_LEASE_SECONDS = 2.0


def trials(lab: Lab) -> Iterator[Trial]:
    yield _trial(lab, None)
    yield _trial(lab, SHORT_LEASE_SECONDS)


def _trial(lab: Lab, lease: float | None) -> Trial:
    asleep, held = lab.size((10_000, 100), (300, 20))
    of = f"after SIGKILL, {asleep:,} asleep" + (f", lease_seconds = {lease:g}" if lease is not None else "")
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
    return Trial(
        name="recovery" if lease is None else "recovery.short-lease",
        lines=lines,
        ours=lambda: recovery.ours(lab, asleep=asleep, held=held, lease_seconds=lease),
        peers={"DBOS": lambda: recovery.dbos(lab, asleep=asleep, held=held)} if lease is None else {},
        size={"asleep": asleep, "held": held, "lease_seconds": lease},
    )
