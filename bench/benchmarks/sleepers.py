"""c. Sleepers: 10,000 and 100,000 due at one instant, and what they cost while they sleep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bench.fleet import idling, sleepers
from bench.lab import Lab
from bench.restate import if_there
from bench.rounds import OURS
from bench.trial import Bar, Better, Line, Side, Trial

LESS = Better.LESS
WORKERS = 2


def trials(lab: Lab) -> Iterator[Trial]:
    # Kept over rounds and trials: how fast each side puts them to sleep is learned from the round before.
    leads = defaultdict[str, sleepers.Lead](sleepers.Lead)
    yield _due(lab, lab.size(10_000, 500), leads)
    if not lab.options.quick:
        yield _due(lab, 100_000, leads)
    yield _cost(lab, lab.size(10_000, 500))
    yield _idle(lab, lab.size((0, 10_000, 1_000_000), (0, 1000)))


def _due(lab: Lab, count: int, leads: defaultdict[str, sleepers.Lead]) -> Trial:
    """A round of 100,000 takes many minutes: one is made, of our side only."""
    many = count > 10_000
    of = f"{count:,} due at once"
    openings = {OURS: sleepers.ours, "DBOS": sleepers.dbos, **if_there({"Restate": sleepers.restate})}

    def side(name: str) -> Side:
        return lambda: sleepers.due(openings[name](lab, workers=WORKERS), count=count, lead=leads[name])

    lines = (
        Line(key="late_p50", work=f"{of}: lateness, p50", unit="s", better=LESS),
        Line(key="late_p99", work=f"{of}: lateness, p99", unit="s", better=LESS),
        Line(key="late_max", work=f"{of}: lateness, the last", unit="s", better=LESS),
        Line(
            key="drained",
            work=f"{of}: until all are committed",
            unit="s",
            better=LESS,
            bar=None if many else Bar(at_most=2),
        ),
        Line(key="cpu", work=f"{of}: CPU of a wake", unit="ms", better=LESS),
        Line(key="asleep", work=f"{count:,} put to sleep", unit="s", better=LESS),
    )
    return Trial(
        name=f"sleepers.due.{count}",
        lines=lines,
        ours=side(OURS),
        peers={} if many else {name: side(name) for name in openings if name != OURS},
        size={"count": count, "workers": WORKERS},
        rounds=1 if many else None,
    )


def _cost(lab: Lab, count: int) -> Trial:
    lines = (
        Line(
            key="bytes",
            work="a sleeper without state, PostgreSQL, as it was put to sleep",
            unit="bytes",
            better=LESS,
        ),
        Line(
            key="compact_bytes",
            work="a sleeper without state, PostgreSQL, after VACUUM FULL",
            unit="bytes",
            better=LESS,
            bar=Bar(at_most=600),
        ),
        Line(key="memory", work="a sleeper, memory of the workers", unit="bytes", better=LESS),
        Line(key="idle_cpu", work=f"{WORKERS} workers, {count:,} asleep", unit="% of a CPU", better=LESS),
    )
    return Trial(
        name="sleepers.cost",
        lines=lines,
        ours=lambda: sleepers.cost(sleepers.ours(lab, workers=WORKERS), count=count),
        peers={"DBOS": lambda: sleepers.cost(sleepers.dbos(lab, workers=WORKERS), count=count)},
        size={"count": count, "workers": WORKERS},
        rounds=3,
    )


def _idle(lab: Lab, counts: tuple[int, ...]) -> Trial:
    """Our side only: of a peer that keeps each sleeper in memory a million cannot be had."""
    lines = [
        line
        for count in counts
        for line in (
            Line(
                key=f"rss-{count}",
                work=f"a fresh worker, {count:,} asleep: memory",
                unit="bytes",
                better=LESS,
            ),
            Line(
                key=f"cpu-{count}", work=f"a fresh worker, {count:,} asleep", unit="% of a CPU", better=LESS
            ),
        )
    ]
    return Trial(
        name="sleepers.idle",
        lines=tuple(lines),
        ours=lambda: idling.ours(lab, counts=counts),
        size={"counts": list(counts)},
        rounds=1,
    )
