"""Does one work of this package once, on servers of its own, and prints its figures: for a profile, or a first look.

python -m bench.fleet due --count 1000            (of our side; --side dbos, or restate, for a peer)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated

import typer

from bench.fleet import crons, recovery, replies, sleepers
from bench.lab import Lab, Options

SINGLES = 20
BURST = 1000
HELD = 100

Work = Callable[[Lab, int], dict[str, float]]


def _replies(agent: str) -> Work:
    return lambda lab, count: replies.ours(
        lab, agent=agent, waiting=count, singles=SINGLES, burst=min(BURST, count)
    )


WORKS: dict[tuple[str, str], Work] = {
    ("due", "ours"): lambda lab, count: sleepers.due(sleepers.ours(lab), count=count, lead=sleepers.Lead()),
    ("due", "dbos"): lambda lab, count: sleepers.due(sleepers.dbos(lab), count=count, lead=sleepers.Lead()),
    ("due", "restate"): lambda lab, count: sleepers.due(
        sleepers.restate(lab), count=count, lead=sleepers.Lead()
    ),
    ("cost", "ours"): lambda lab, count: sleepers.cost(sleepers.ours(lab), count=count),
    ("cost", "dbos"): lambda lab, count: sleepers.cost(sleepers.dbos(lab), count=count),
    ("ask", "ours"): _replies("asker"),
    ("receive", "ours"): _replies("listener"),
    ("receive", "dbos"): lambda lab, count: replies.dbos(
        lab, waiting=count, singles=SINGLES, burst=min(BURST, count)
    ),
    ("receive", "restate"): lambda lab, count: replies.restate(
        lab, waiting=count, singles=SINGLES, burst=min(BURST, count)
    ),
    ("recovery", "ours"): lambda lab, count: recovery.ours(lab, asleep=count, held=HELD),
    ("recovery", "dbos"): lambda lab, count: recovery.dbos(lab, asleep=count, held=HELD),
    ("crons", "ours"): lambda lab, count: crons.ours(lab, count=count),
    ("crons", "beat"): lambda lab, count: crons.beat(lab, count=count, redbeat=False),
    ("crons", "redbeat"): lambda lab, count: crons.beat(lab, count=count, redbeat=True),
}


def main(
    work: Annotated[str, typer.Argument(help=", ".join(sorted({work for work, _ in WORKS})))],
    side: Annotated[str, typer.Option(help=", ".join(sorted({side for _, side in WORKS})))] = "ours",
    count: Annotated[int, typer.Option(min=1)] = 1000,
) -> None:
    if (work, side) not in WORKS:
        raise typer.BadParameter(f"{side} has no {work}")
    begun = time.monotonic()
    with Lab(Options()) as lab:
        figures = WORKS[work, side](lab, count)
    print(json.dumps({"work": work, "side": side, "count": count, **figures}, indent=1))
    print(f"in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    typer.run(main)
