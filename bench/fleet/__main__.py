"""Does one work of this package once, on servers of its own, and prints its figures: for a profile, or a first look.

python -m bench.fleet due --count 1000            (of our side; --side dbos for the peer)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from bench.fleet import replies, sleepers
from tests.servers import Postgres, Redis

Work = Callable[[Postgres, Redis, argparse.Namespace], dict[str, float]]


def _dormitory(postgres: Postgres, redis: Redis, side: str) -> sleepers.Opening:
    return sleepers.ours(postgres, redis) if side == "ours" else sleepers.dbos(postgres)


def _answered(postgres: Postgres, redis: Redis, chosen: argparse.Namespace, agent: str) -> dict[str, float]:
    opening = (
        replies.ours(postgres, redis, waiting=chosen.count, agent=agent)
        if chosen.side == "ours"
        else replies.dbos(postgres, waiting=chosen.count)
    )
    part = min(1000, chosen.count // 3)
    return replies.answered(opening, waiting=chosen.count, singles=20, burst=part)


WORKS: dict[str, Work] = {
    "due": lambda postgres, redis, chosen: sleepers.due(
        _dormitory(postgres, redis, chosen.side), count=chosen.count, lead=sleepers.Lead()
    ),
    "cost": lambda postgres, redis, chosen: sleepers.cost(
        _dormitory(postgres, redis, chosen.side), count=chosen.count
    ),
    "ask": lambda postgres, redis, chosen: _answered(postgres, redis, chosen, "asker"),
    "receive": lambda postgres, redis, chosen: _answered(postgres, redis, chosen, "listener"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=sorted(WORKS))
    parser.add_argument("--side", default="ours")
    parser.add_argument("--count", type=int, default=1000)
    chosen = parser.parse_args()
    begun = time.monotonic()
    with Postgres(fsync=True) as postgres, Redis() as redis:
        figures = WORKS[chosen.work](postgres, redis, chosen)
    print(json.dumps({"work": chosen.work, "side": chosen.side, "count": chosen.count, **figures}, indent=1))
    print(f"in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
