"""`python -m tests.chaos`: a campaign of faults; the exit status says whether every promise was kept."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.chaos import campaign, disks, outage, report
from tests.chaos.evidence import gather
from tests.chaos.faults import FleetFaults
from tests.chaos.invariants import judge
from tests.chaos.people import People
from tests.chaos.plan import Options, Plan
from tests.chaos.works import Fleet

SHARE_OF_RUNS = 100
SHARE_OF_KILLS = 40
"""The part of all calls, and of all kills, that the smaller parts have."""


def main() -> int:
    """Run what is wanted and print the reports."""
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=default.runs, help="how many calls the client makes")
    parser.add_argument(
        "--kills", type=int, default=default.kills, help="how many processes are killed, at least"
    )
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="of the plan and of the order of the faults"
    )
    parser.add_argument(
        "--every", type=float, default=default.every, help="seconds between two faults, on average"
    )
    parser.add_argument("--workers", type=int, default=default.workers)
    parser.add_argument(
        "--settle", type=float, default=default.settle, help="seconds in which all must be over at the end"
    )
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    given = vars(parser.parse_args())
    only = given.pop("only")
    options = Options(**given)
    if only is not None:
        return 0 if PARTS[only](options) else 1
    few = {
        "provider": replace(options, runs=max(1, options.runs // SHARE_OF_RUNS)),
        "disk": replace(
            options, runs=max(1, options.runs // SHARE_OF_RUNS), kills=max(1, options.kills // SHARE_OF_KILLS)
        ),
    }
    kept = [hold_part(few.get(part, options)) for part, hold_part in PARTS.items()]
    return 0 if all(kept) else 1


def hold_provider(options: Options) -> bool:
    """An hour without a provider, on a virtual clock."""
    hour = outage.hold(options.runs, options.seed)
    print(report.hour(hour), flush=True)
    return not hour.wrong


def hold_disk(options: Options) -> bool:
    """SQLite on a disk that fills up."""
    with tempfile.TemporaryDirectory(prefix="wakeloop-chaos-") as folder:
        return hold(replace(options, part="disk"), Path(folder), disk=True)


def hold_fleet(options: Options) -> bool:
    """Workers, a web service and servers."""
    with tempfile.TemporaryDirectory(prefix="wakeloop-chaos-") as folder:
        return hold(options, Path(folder), disk=False)


PARTS: dict[str, Callable[[Options], bool]] = {
    "provider": hold_provider,
    "disk": hold_disk,
    "fleet": hold_fleet,
}


def hold(options: Options, folder: Path, *, disk: bool) -> bool:
    """Hold one campaign, and print its report; whether every promise was kept."""
    plan = Plan(options=options)
    people = People(plan)
    works = (disks.Desk if disk else Fleet)(folder, plan, heard=people.hear)
    with works.running():
        faults = disks.DeskFaults(works) if isinstance(works, disks.Desk) else FleetFaults(works)  # type: ignore[arg-type]
        course = campaign.run(
            works, people, faults, say=lambda line: print(line, file=sys.stderr, flush=True)
        )
        works.runtime.database.close()  # its connections were cut more than once
        with works.runtime.database.read() as connection:
            verdict = judge(gather(connection, course.outside))
        how = f" ({works.disk.how})" if isinstance(works, disks.Desk) else ""
        print(f"\n{'SQLite on a disk that fills up' if disk else 'workers, web service and servers'}{how}")
        print(
            report.table(course, verdict),
            report.violations(verdict, course, works.runtime.database),
            sep="\n",
        )
        for process in works.processes:
            if process.last_words:
                print(
                    f"\n{process.name} ended by itself; it had said:\n{process.last_words}", file=sys.stderr
                )
    return not verdict.violations and not course.rests


if __name__ == "__main__":
    raise SystemExit(main())
