"""Sleepers due at one instant: how late they wake, and what they cost while they sleep."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from bench.fleet import processes
from bench.fleet.answering import quantile
from bench.fleet.dbos_side import Dbos
from bench.fleet.ours import POLL_SECONDS, WORKERS, Ours, wait
from bench.lab import Lab
from bench.restate import Restate

IDLE_SECONDS = 10.0
MARGIN_SECONDS = 5.0
EVE_SECONDS = 6.0
"""So long before the instant the processes' CPU is counted: a side may get ready for it."""
SCAN_SECONDS = 0.25
"""Restate looks through all invocations to tell whether one is open: asked more often, it would be slower at its work."""
FAR_SECONDS = 86_400.0
WARM = 500
"""So many sleep and wake before anything is measured: a process has by then loaded what it needs."""
DRAIN_SECONDS = 900.0
LULL_SECONDS = 3600.0
ATTEMPTS = 3
SLEEPS_PER_SECOND = 100.0
"""How many are put to sleep in a second at the least; rounds after the first go by what was seen."""


class Lead:
    """How long before the instant to begin with putting them to sleep: by what it took the last time. One for each side."""

    def __init__(self, rate: float = SLEEPS_PER_SECOND) -> None:
        self._rate = rate

    def seconds(self, count: int) -> float:
        """From the first start to the instant, so that all are asleep some seconds before it."""
        return count / self._rate * 1.5 + 2 * MARGIN_SECONDS

    def learn(self, count: int, seconds: float) -> None:
        """Note how long it took to put so many to sleep."""
        self._rate = count / seconds


@dataclass(frozen=True, kw_only=True)
class Dormitory:
    """A side that runs. put: start a sleeper of each of these numbers until an instant; asleep: how many sleep. look_seconds: how
    often it is asked whether all is over."""

    side: Ours | Dbos | Restate
    pids: list[int]
    put: Callable[[range, float], None]
    asleep: Callable[[], int]
    look_seconds: float = POLL_SECONDS

    def lull(self, numbers: range, instant: float) -> float:
        """Put them to sleep; the seconds until all of them are, by the database."""
        before = self.asleep()
        begun = time.time()
        self.put(numbers, instant)
        every = max(0.1, len(numbers) / 20_000)
        done = wait(lambda: self.asleep() - before >= len(numbers), LULL_SECONDS, every=every)
        return done - begun

    def wake(self, count: int, instant: float) -> dict[str, float]:
        """Wait for the instant and what follows; how late the handlers went on, and when all was committed."""
        marks = self.side.marks
        noted = marks.count("awake")
        time.sleep(max(0.0, instant - time.time() - EVE_SECONDS))
        spent = processes.cpu(self.pids)
        wait(lambda: marks.count("awake") - noted >= count, DRAIN_SECONDS)
        drained = wait(self.side.is_all_over, DRAIN_SECONDS, every=self.look_seconds)
        spent = processes.cpu(self.pids) - spent
        awake = marks.first("awake", after=noted)
        if len(awake) != count or min(awake.values()) < instant:
            raise RuntimeError(
                f"{len(awake)} of {count} woke, the first at {min(awake.values()) - instant:+.6f} s"
            )
        late = lateness(at - instant for at in awake.values())
        return {**late, "drained": drained - instant, "cpu": spent * 1000 / count}


Opening = contextlib.AbstractContextManager[Dormitory]


@contextlib.contextmanager
def ours(lab: Lab, *, workers: int = WORKERS) -> Iterator[Dormitory]:
    """wakeloop on Celery workers (threads, Redis); sleepers are runs of one agent, in a session each, started through the
    runtime's own intake, a transaction each."""
    with (
        lab.database(sqlite=False) as url,
        Ours(lab.folder(), url, lab.redis) as side,
        side.workers(workers) as programs,
    ):

        def put(numbers: range, instant: float) -> None:
            side.start("sleeper", ((str(number), [number, instant]) for number in numbers))

        yield Dormitory(
            side=side,
            pids=[program.pid for program in programs],
            put=put,
            asleep=lambda: side.with_status("sleeper", "waiting") + side.with_status("sleeper", "completed"),
        )


@contextlib.contextmanager
def dbos(lab: Lab, *, workers: int = WORKERS) -> Iterator[Dormitory]:
    """DBOS in as many processes; sleepers are async workflows, started in the processes that run them, an equal part in
    each, up to 500 at a time."""
    with lab.database(sqlite=False) as url, Dbos(lab.folder(), url) as side, side.apps(workers) as apps:

        def put(numbers: range, instant: float) -> None:
            side.start_on(apps, "sleeper", [(f"s{number}", [number, instant]) for number in numbers])

        yield Dormitory(side=side, pids=[app.program.pid for app in apps], put=put, asleep=side.asleep)


@contextlib.contextmanager
def restate(lab: Lab, *, workers: int = WORKERS) -> Iterator[Dormitory]:
    """Restate with its application in as many processes; sleepers are invocations in `ctx.sleep`, started through the server's
    ingress, 64 at a time, and stay connected to the application. pids: the application's."""
    with Restate(lab.folder(), processes=workers) as side:
        yield Dormitory(
            side=side,
            pids=side.pids,
            put=lambda numbers, instant: side.start("sleeper", ([number, instant] for number in numbers)),
            asleep=side.asleep,
            look_seconds=SCAN_SECONDS,
        )


def due(dormitory: Opening, *, count: int, lead: Lead) -> dict[str, float]:
    """`count` sleepers until one instant, put to sleep before it.

    asleep: seconds from the first start until all of them sleep, by the database. late_p50, late_p99, late_max: when the
    next line of a handler ran, minus the instant, in seconds; the machine has one clock, the database's too. drained:
    seconds from the instant until the database has none open any more (it is asked every `look_seconds` once the last
    handler has gone on). cpu: milliseconds that the side's processes took per sleeper, from EVE_SECONDS before the instant."""
    with dormitory as one:
        warm(one)
        for attempt in range(ATTEMPTS):
            instant = time.time() + lead.seconds(count)
            asleep = one.lull(range(attempt * count, (attempt + 1) * count), instant)
            lead.learn(count, asleep)
            if time.time() < instant - EVE_SECONDS:
                return {"asleep": asleep, **one.wake(count, instant)}
            # Some woke before others slept: they are waited for, and it is begun anew with more time.
            wait(one.side.is_all_over, DRAIN_SECONDS)
    raise RuntimeError(f"{count} could not be put to sleep in time")


def cost(dormitory: Opening, *, count: int) -> dict[str, float]:
    """`count` sleepers until tomorrow, with no state, no step, and an id or key of a few characters.

    bytes: by how much all tables and indexes of the schema grew, as they are once all sleep; compact_bytes: the same after
    VACUUM FULL, before and after; both per sleeper. memory: by how many bytes the resident memory of the processes grew,
    per sleeper, after others had slept and woken in them. idle_cpu: the percentage of one CPU that they take while all sleep."""
    with dormitory as one:
        warm(one)
        one.side.vacuum()
        empty = one.side.sizes()
        before = sum(processes.rss(pid) for pid in one.pids)
        one.lull(range(count), time.time() + FAR_SECONDS)
        time.sleep(1.0)
        grown_by = sum(processes.rss(pid) for pid in one.pids) - before
        full = one.side.sizes()
        share = idle(one.pids)
        one.side.vacuum()
        return {
            "bytes": grown(empty, full) / count,
            "compact_bytes": grown(empty, one.side.sizes()) / count,
            "memory": grown_by / count,
            "idle_cpu": 100 * share,
        }


def warm(one: Dormitory, count: int = WARM) -> None:
    """Let some sleep and wake, so that processes are as they are after a while."""
    instant = time.time() + MARGIN_SECONDS
    one.put(range(-count, 0), instant)
    wait(lambda: one.side.marks.count("awake") >= count, DRAIN_SECONDS)
    wait(one.side.is_all_over, DRAIN_SECONDS)


def lateness(seconds: Iterable[float]) -> dict[str, float]:
    """The usual figures of delays, in seconds."""
    values = list(seconds)
    return {
        "late_p50": statistics.median(values),
        "late_p99": quantile(values, 0.99),
        "late_max": max(values),
    }


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """By how many bytes tables grew together."""
    return sum(after.values()) - sum(before.values())


def idle(pids: list[int], seconds: float = IDLE_SECONDS) -> float:
    """The share of one CPU that processes take while nothing is due."""
    before = processes.cpu(pids)
    begun = time.monotonic()
    time.sleep(seconds)
    return (processes.cpu(pids) - before) / (time.monotonic() - begun)
