"""The report of a campaign: one table of counts, then each violation with what is needed to look into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.chaos.campaign import Course
from tests.chaos.invariants import CHECKS, Verdict, Violation
from tests.chaos.outage import Hour

from wakeloop.errors import NotFound
from wakeloop.exporting import export_session
from wakeloop.store.database import Database

SHOWN = 10
LINES = 60
WIDTH = 92


def hour(found: Hour) -> str:
    """The counts of a provider's outage."""
    counts = {
        "runs": found.runs, "crashes": found.crashes, "messages that the provider took": found.sent,
        "askers who were told that nobody was reached, and asked again": found.told,
        **{f"requests {how}": times for how, times in found.faults.items()}, "violations": len(found.wrong),
    }  # fmt: skip
    lines = [f"  {name:<{WIDTH - 2}}{count:>9}" for name, count in counts.items()]
    return "\n".join(["a provider that is away for an hour, on a virtual clock", *lines, *found.wrong])


def table(course: Course, verdict: Verdict) -> str:
    """All counts."""
    return "\n".join(_table(course, verdict))


def _table(course: Course, verdict: Verdict) -> Iterator[str]:
    options = course.options
    yield f"fault campaign, seed {options.seed}: {course.seconds:.0f} s, {options.workers} workers"
    yield from _part("calls taken", {"by the web service": course.calls})
    yield from _part("runs completed, by agent", course.runs)
    yield from _part("kills by SIGKILL", course.kills)
    yield from _part("faults", course.faults)
    yield from _part("poison on the queue", course.poisons)
    yield from _part(
        "how processes ended", {how: n for how, n in course.endings.items() if "killed" not in how}
    )
    yield from _part("people and provider", course.counts)
    yield from _part("leases seen to change hands", {"between two looks": course.takeovers})
    yield from _part("allowed by the guarantees, and happened", verdict.allowed)
    wrong = {one.name: sum(v.check == one.name for v in verdict.violations) for one in CHECKS}
    yield f"\n{'checks (guarantee)':<{WIDTH}}{'checked':>9}{'violated':>10}"
    for one in CHECKS:
        name = f"{one.guarantee or 'all'}: {one.name}"
        yield f"  {name:<{WIDTH - 2}}{verdict.checked[one.name]:>9}{wrong[one.name]:>10}"
    yield f"  {'in all':<{WIDTH - 2}}{sum(verdict.checked.values()):>9}{len(verdict.violations):>10}"
    if course.rests:
        yield f"not over in time: {course.rests}"
    yield f"\n{sum(course.runs.values())} runs, {course.kills.total()} kills, {len(verdict.violations)} violations"


def _part(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    yield f"\n{title:<{WIDTH}}{sum(counts.values()):>9}"
    for name, count in sorted(counts.items()) if len(counts) > 1 else ():
        yield f"  {name:<{WIDTH - 2}}{count:>9}"


def violations(verdict: Verdict, course: Course, database: Database) -> str:
    """The first violations, each with the history of its session and the command that runs the same plan again."""
    lines: list[str] = []
    shown: set[str] = set()
    for one in verdict.violations[:SHOWN]:
        lines.append(f"\nVIOLATED: {one.check}\n  {one.what}\n  again: {course.options.command}")
        if one.session is not None and one.session not in shown:
            shown.add(one.session)
            lines += [f"  history of {one.session}:", *_history(one, database)]
    if len(verdict.violations) > SHOWN:
        lines.append(f"\n… and {len(verdict.violations) - SHOWN} more")
    return "\n".join(lines)


def _history(violation: Violation, database: Database) -> Iterator[str]:
    assert violation.session is not None
    try:
        lines = [line.decode().rstrip() for line in export_session(database, violation.session)]
    except NotFound as error:
        yield f"    {error}"
        return
    kept = lines if len(lines) <= LINES else [*lines[: LINES // 2], "…", *lines[-LINES // 2 :]]
    yield from (f"    {line[:400]}" for line in kept)
