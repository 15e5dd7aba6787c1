"""f. Crons: 10,000 schedules on every minute, beside celery beat and celery-redbeat."""

from __future__ import annotations

from collections.abc import Iterator

from bench.fleet import crons
from bench.lab import Lab
from bench.trial import Bar, Better, Line, Trial

LESS = Better.LESS
WORKERS = 2


def trials(lab: Lab) -> Iterator[Trial]:
    count = lab.size(10_000, 300)
    of = f"{count:,} crons on one minute"
    yield Trial(
        name="crons",
        lines=(
            Line(key="late_p50", work=f"{of}: lateness, p50", unit="s", better=LESS),
            Line(key="late_p99", work=f"{of}: lateness, p99", unit="s", better=LESS, bar=Bar(at_most=2)),
            Line(key="late_max", work=f"{of}: lateness, the last", unit="s", better=LESS),
            Line(key="minute_cpu", work=f"{of}: CPU of that minute", unit="s", better=LESS),
            Line(key="idle_cpu", work=f"{of}: CPU of a minute without ticks", unit="s", better=LESS),
        ),
        ours=lambda: crons.ours(lab, count=count, workers=WORKERS),
        peers={
            "celery beat": lambda: crons.beat(lab, count=count, redbeat=False),
            "celery-redbeat": lambda: crons.beat(lab, count=count, redbeat=True),
        },
        size={"count": count, "workers": WORKERS},
    )
