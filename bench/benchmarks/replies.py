"""d. Replies: from a webhook's request to the next line of the handler that waited, with 10,000 waiting."""

from __future__ import annotations

from collections.abc import Iterator

from bench.fleet import replies
from bench.lab import Lab
from bench.restate import if_there
from bench.trial import Bar, Better, Line, Trial

WORKERS = 2
AGENTS = {"asker": "an answer to a question", "listener": "a message"}


def trials(lab: Lab) -> Iterator[Trial]:
    for agent in AGENTS:
        yield _trial(lab, agent)


def _trial(lab: Lab, agent: str) -> Trial:
    waiting, singles, burst = lab.size((10_000, 200, 1000), (300, 20, 100))
    of = f"{AGENTS[agent]} → resumed, {waiting:,} waiting"
    lines = (
        Line(key="p50", work=f"{of}: p50", unit="ms", better=Better.LESS, bar=Bar(at_most=5)),
        Line(key="p99", work=f"{of}: p99", unit="ms", better=Better.LESS),
        Line(
            key="burst_rate",
            work=f"{of}: {burst:,} at once",
            unit="/s",
            better=Better.MORE,
            bar=Bar(at_least=2000),
        ),
        Line(key="burst_p99", work=f"{of}: {burst:,} at once, p99", unit="ms", better=Better.LESS),
        Line(key="burst_cpu", work=f"{of}: {burst:,} at once, CPU of each", unit="ms", better=Better.LESS),
    )
    size = {"waiting": waiting, "singles": singles, "burst": burst, "workers": WORKERS}
    return Trial(
        name=f"replies.{agent}",
        lines=lines,
        ours=lambda: replies.ours(lab, agent=agent, **size),
        peers={
            "DBOS": lambda: replies.dbos(lab, **size),
            **if_there({"Restate": lambda: replies.restate(lab, **size)}),
        },
        size=size,
    )
