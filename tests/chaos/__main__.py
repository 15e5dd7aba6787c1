"""`python -m tests.chaos`: a campaign of faults; the exit status says whether every promise was kept."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos import campaign, report
from tests.chaos.evidence import gather
from tests.chaos.invariants import judge
from tests.chaos.plan import Options


def main() -> int:
    """Run it and print the report."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=default.runs, help="how many calls the client makes")
    parser.add_argument("--kills", type=int, default=default.kills, help="how many processes are killed, at least")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the plan and of the faults' order")
    parser.add_argument("--every", type=float, default=default.every, help="seconds between two faults, on average")
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument("--settle", type=float, default=default.settle, help="seconds in which all must be over at the end")
    given = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory(prefix="wakeloop-chaos-") as folder, campaign.world(given, Path(folder)) as (works, people):
        course = campaign.run(works, people, say=lambda line: print(line, file=sys.stderr, flush=True))
        works.runtime.database.close()  # its connections were cut more than once
        with works.runtime.database.read() as connection:
            verdict = judge(gather(connection, course.outside))
        print(report.table(course, verdict))
        print(report.violations(verdict, course, works.runtime.database))
        for process in works.processes:
            if process.last_words:
                print(f"\n{process.name} ended by itself; it had said:\n{process.last_words}", file=sys.stderr)
    return 1 if verdict.violations or any(course.rests) else 0


if __name__ == "__main__":
    raise SystemExit(main())
