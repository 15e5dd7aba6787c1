"""When schedules come due: wall-clock times turned into instants, and what becomes of the missed ones.

Pure: no clock is read and nothing is recorded here. Which dates and times of day a cron expression names is
`wakeloop.cron_expression.Expression`'s, in naive wall-clock terms; here they meet a zone.

The zone's timeline is cut where its offset changes. Between two changes wall time and elapsed time run in
step, so the matching walls of a stretch are instants by one subtraction, and all that daylight saving asks is
which walls each stretch stands for. docs/daylight-saving.md has the contract, and is itself run as a test.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from typing import Literal, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from wakeloop.cron_expression import Expression, parse_expression
from wakeloop.triggers import MISFIRE_GRACE, At, Cron, Every, Fold, Gap, Schedule

MISSED_LISTED = 100
"""How many of the occurrences that a run stands for are listed; all are counted."""

SKIPS_LISTED = 1000
"""How many skips one plan lists singly; the rest are counted in one more for each reason."""

FIRES_PER_PLAN = 1000
"""How many occurrences one plan fires; the next plan, due at once, goes on from there."""

_TICK = timedelta(microseconds=1)
_SECOND = timedelta(seconds=1)
_REACH = timedelta(days=2)  # more than any offset, and any one change of an offset, moves a wall clock
_LAST_YEAR = 9900  # so that no reckoning leaves what a datetime can hold


# Occurrences


def next_after(schedule: Schedule, after: datetime, *, anchor: datetime) -> datetime | None:
    """The first nominal instant of a schedule that is later than `after`, in UTC; None if there is none.

    anchor: when the schedule was registered. `Every` counts from there (its first is one interval later); the
    others ignore it.

    Always greater than `after`, and never smaller for a greater `after`. The times of a `Cron` are
    remembered, so that any number of schedules with the same expression and zone cost as much as one. Raises
    ValueError for naive datetimes.
    """
    return _occurrences(schedule, _utc(anchor)).after(_utc(after))


def jittered(schedule: Schedule, schedule_id: str, nominal: datetime) -> datetime:
    """When an occurrence comes due, in UTC: at `nominal` or later, by less than the schedule's jitter.

    The delay is a function of the id and the nominal time only, so every process and every attempt agrees on
    it.
    """
    nominal = _utc(nominal)
    if not schedule.jitter:
        return nominal
    digest = hashlib.blake2b(f"{schedule_id} {nominal.isoformat()}".encode(), digest_size=8).digest()
    return nominal + timedelta(microseconds=int.from_bytes(digest) % (schedule.jitter // _TICK))


class _Occurrences(Protocol):
    """The instants of one schedule, in UTC."""

    def after(self, instant: datetime) -> datetime | None:
        """The first one later than `instant`."""
        ...

    def between(self, start: datetime, end: datetime) -> int:
        """How many there are from `start` to before `end`."""
        ...


def _occurrences(schedule: Schedule, anchor: datetime) -> _Occurrences:
    match schedule:
        case Cron():
            return _OfCron(schedule.expr, schedule.tz, schedule.gap, schedule.fold)
        case Every():
            return _OfEvery(schedule.interval, anchor)
        case At():
            return _OfAt(schedule.when)


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no zone; schedules are reckoned with aware datetimes")
    return instant.astimezone(UTC)


class _OfAt(NamedTuple):
    when: datetime

    def after(self, instant: datetime) -> datetime | None:
        return self.when if self.when > instant else None

    def between(self, start: datetime, end: datetime) -> int:
        return int(start <= self.when < end)


class _OfEvery(NamedTuple):
    interval: timedelta
    anchor: datetime

    def after(self, instant: datetime) -> datetime | None:
        try:
            return self.anchor + self.interval * max(1, (instant - self.anchor) // self.interval + 1)
        except OverflowError:
            return None

    def between(self, start: datetime, end: datetime) -> int:
        def before(instant: datetime) -> int:
            return max(0, -((self.anchor - instant) // self.interval) - 1)

        return max(0, before(end) - before(start))


class _OfCron(NamedTuple):
    expr: str
    tz: str
    gap: Gap
    fold: Fold

    def after(self, instant: datetime) -> datetime | None:
        return (
            _cron_from(self, instant.replace(microsecond=0) + _SECOND) if instant.year < _LAST_YEAR else None
        )

    def between(self, start: datetime, end: datetime) -> int:
        expression = parse_expression(self.expr)
        total = 0
        for stretch in _stretches(self, expression, _whole_second(start), _whole_second(end)):
            walls = _count_walls(expression, stretch.start, stretch.end)
            total += walls if stretch.shifted_to is None else min(walls, 1)
        return total


def _whole_second(instant: datetime) -> datetime:
    """The first whole second that is not before `instant`."""
    return instant if instant.microsecond == 0 else instant.replace(microsecond=0) + _SECOND


@lru_cache(maxsize=16384)
def _cron_from(cron: _OfCron, since: datetime) -> datetime | None:
    """The first instant of a cron schedule that is not before `since`, a whole second."""
    expression = parse_expression(cron.expr)
    while since.year < _LAST_YEAR:
        until = since + _REACH
        for stretch in _stretches(cron, expression, since, until):
            wall = _first_wall(expression, stretch.start)
            if wall is not None and wall < stretch.end:
                return stretch.instant(wall)
        wall = _first_wall(expression, until.replace(tzinfo=None) - _REACH)
        if wall is None:
            break
        since = max(until, wall.replace(tzinfo=UTC) - _REACH)
    return None


# Walls: naive local times, to the second


def _first_wall(expression: Expression, since: datetime) -> datetime | None:
    """The first matching wall that is not before `since`."""
    day, rank = expression.first_date(since.date()), 0
    if day is not None and day == since.date():
        rank = _rank(expression, since)
        if rank == _times_a_day(expression):
            day, rank = expression.first_date(day + timedelta(days=1)), 0
    return None if day is None else datetime.combine(day, _time_at(expression, rank))


def _count_walls(expression: Expression, start: datetime, end: datetime) -> int:
    """How many matching walls there are from `start` to before `end`; takes time by the matching date."""

    def of_day(wall: datetime) -> int:
        return _rank(expression, wall) if expression.first_date(wall.date()) == wall.date() else 0

    dates = _count_dates(expression, start.date(), end.date())
    return dates * _times_a_day(expression) + of_day(end) - of_day(start)


def _count_dates(expression: Expression, start: date, end: date) -> int:
    if expression.every_date:
        return (end - start).days
    count = 0
    day = expression.first_date(start)
    while day is not None and day < end:
        count += 1
        day = expression.first_date(day + timedelta(days=1))
    return count


def _times_a_day(expression: Expression) -> int:
    return len(expression.hours) * len(expression.minutes) * len(expression.seconds)


def _rank(expression: Expression, wall: datetime) -> int:
    """How many of the expression's times of day are before the wall's."""
    rank = 0
    hit = True
    units = (
        (expression.hours, wall.hour),
        (expression.minutes, wall.minute),
        (expression.seconds, wall.second),
    )
    for values, value in units:
        index = bisect_left(values, value) if hit else 0
        hit = hit and index < len(values) and values[index] == value
        rank = rank * len(values) + index
    return rank


def _time_at(expression: Expression, rank: int) -> time:
    """The expression's time of day with so many before it: the inverse of `_rank`."""
    rank, second = divmod(rank, len(expression.seconds))
    hour, minute = divmod(rank, len(expression.minutes))
    return time(expression.hours[hour], expression.minutes[minute], expression.seconds[second])


# Zones


class _Change(NamedTuple):
    """A change of a zone's offset: `at` is the first instant with the new one."""

    at: datetime
    before: timedelta
    after: timedelta


class _Stretch(NamedTuple):
    """Walls from `start` to before `end` that happen, each at itself less `offset`, or all at one instant."""

    start: datetime
    end: datetime
    offset: timedelta
    shifted_to: datetime | None = None

    def instant(self, wall: datetime) -> datetime:
        return self.shifted_to or (wall - self.offset).replace(tzinfo=UTC)


def _stretches(cron: _OfCron, expression: Expression, since: datetime, until: datetime) -> Iterator[_Stretch]:
    """The walls that stand for the instants from `since` to before `until`, in the order of the instants.

    On elapsed time every wall stands wherever it is read on the clock. Else, per change: a gap's walls, and
    the one at its end, are shifted to the change together, so that they make one occurrence; a fold's walls
    are left out of the pass that is not meant.
    """
    changes = _changes(cron.tz, since - _REACH, until + _REACH)
    cuts = [since, *(change.at for change in changes if since < change.at < until), until]
    for start, end in pairwise(cuts):
        offset = _offset(cron.tz, start)
        first = start.replace(tzinfo=None) + offset
        last = end.replace(tzinfo=None) + offset
        if not expression.every_hour:
            for change in changes:
                old, new = (change.at.replace(tzinfo=None) + side for side in (change.before, change.after))
                if change.at == start and old < new and cron.gap == "shift":
                    yield _Stretch(old, new + _SECOND, offset, shifted_to=start)
                    first = new + _SECOND
                elif change.at <= start and new < old and cron.fold == "first":
                    first = max(first, old)
                elif change.at > start and new < old and cron.fold == "second":
                    last = min(last, new)
        if first < last:
            yield _Stretch(first, last, offset)


def _changes(tz: str, since: datetime, until: datetime) -> list[_Change]:
    """The changes of a zone's offset later than `since` and not later than `until`."""
    years = range(since.year, until.year + 1)
    return [change for year in years for change in _changes_in(tz, year) if since < change.at <= until]


@lru_cache(maxsize=8192)
def _changes_in(tz: str, year: int) -> tuple[_Change, ...]:
    """The changes of a zone's offset later than the first instant of a year (UTC), up to that of the next.

    The standard library does not tell a zone's changes, so they are looked for day by day, then by halving.
    Two that cancel each other within one UTC day would go unseen; no zone has ever had such.
    """
    found = []
    start = datetime(year, 1, 1, tzinfo=UTC)
    before = _offset(tz, start)
    for day in range(1, (datetime(year + 1, 1, 1, tzinfo=UTC) - start).days + 1):
        high = start + timedelta(days=day)
        after = _offset(tz, high)
        if before != after:
            low = high - timedelta(days=1)
            while high - low > _SECOND:
                middle = low + (high - low) // _SECOND // 2 * _SECOND
                low, high = (middle, high) if _offset(tz, middle) == before else (low, middle)
            found.append(_Change(high, before, after))
            before = after
    return tuple(found)


def _offset(tz: str, instant: datetime) -> timedelta:
    offset = instant.astimezone(ZoneInfo(tz)).utcoffset()
    assert offset is not None
    return offset


# Plans


@dataclass(frozen=True, kw_only=True, slots=True)
class Occurrence:
    """An occurrence to run. `missed` are earlier ones that it stands for: the oldest 100; all are counted."""

    nominal: datetime
    missed: tuple[datetime, ...] = ()
    missed_count: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    """An occurrence that does not run, and why; or `count` of them, of which `nominal` is the last."""

    nominal: datetime
    reason: Literal["misfire", "catchup"]
    count: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a claimed schedule does. `next` is the oldest occurrence that is left, None if there is none."""

    fire: tuple[Occurrence, ...]
    skipped: tuple[Skip, ...]
    next: datetime | None


def plan(schedule: Schedule, *, schedule_id: str, nominal: datetime, now: datetime, anchor: datetime) -> Plan:
    """What to do at `now` about a schedule whose oldest occurrence not yet dealt with is `nominal`.

    Occurrences are dealt with in order. Those that are late by more than the schedule's `catchup` are
    skipped. Of those that remain and are due, one is missed if a later one is due too, or it is late by more
    than MISFIRE_GRACE. Then `misfire` decides: `"fire_once"` runs the latest, which stands for all; `"skip"`
    runs the latest if it is punctual; `"fire_all"` runs each, at most FIRES_PER_PLAN now, so that `next` may
    be due already. Lateness is counted from the time at which an occurrence came due, its jitter included.

    Every occurrence from `nominal` to before `next` is in the plan exactly once: fired, stood for, or
    skipped. Nothing that is not yet due is; if `nominal` is not, the plan is empty and `next` is `nominal`.
    The same arguments give the same plan.

    At most a few thousand occurrences are stepped through, however long the outage. The rest are counted,
    exactly, by the matching date (nothing if the schedule names every date, under a second for a decade of
    weekdays), not by the time.
    """
    occurrences = _occurrences(schedule, _utc(anchor))
    nominal, now = _utc(nominal), _utc(now)

    def first_due_from(instant: datetime) -> datetime | None:
        certain = instant - (schedule.jitter or timedelta(0))  # what is nominal before this was due before it
        found = nominal if nominal >= certain else occurrences.after(certain - _TICK)
        while found is not None and jittered(schedule, schedule_id, found) < instant:
            found = occurrences.after(found)
        return found

    due_end = now + _TICK  # an occurrence that is due is nominally before this
    following = first_due_from(due_end)
    end = due_end if following is None else min(following, due_end)
    fresh = nominal if schedule.catchup is None else first_due_from(now - schedule.catchup)
    start = end if fresh is None else min(fresh, end)

    skipped = _skips(occurrences, nominal, start, "catchup", SKIPS_LISTED)
    if start == end:
        return Plan(fire=(), skipped=skipped, next=following)
    if schedule.misfire == "fire_all":
        fire = tuple(islice(_each(occurrences, start, end), FIRES_PER_PLAN))
        return Plan(
            fire=tuple(Occurrence(nominal=one) for one in fire),
            skipped=skipped,
            next=occurrences.after(fire[-1]),
        )
    latest = _last(occurrences, start, end)
    if schedule.misfire == "fire_once":
        one = Occurrence(
            nominal=latest,
            missed=tuple(islice(_each(occurrences, start, latest), MISSED_LISTED)),
            missed_count=occurrences.between(start, latest),
        )
        return Plan(fire=(one,), skipped=skipped, next=following)
    punctual = now - jittered(schedule, schedule_id, latest) <= MISFIRE_GRACE
    room = max(0, SKIPS_LISTED - len(skipped))
    skipped += _skips(occurrences, start, latest if punctual else end, "misfire", room)
    return Plan(fire=(Occurrence(nominal=latest),) if punctual else (), skipped=skipped, next=following)


def outdated(schedule: Schedule, due_at: datetime, now: datetime) -> Literal["misfire", "catchup"] | None:
    """Why an occurrence is not to be run at `now` that came due so long ago and was queued by itself; None if it is."""
    late = now - due_at
    if schedule.catchup is not None and late > schedule.catchup:
        return "catchup"
    return "misfire" if schedule.misfire == "skip" and late > MISFIRE_GRACE else None


def _each(occurrences: _Occurrences, first: datetime, end: datetime) -> Iterator[datetime]:
    """The occurrences from `first`, which is one, to before `end`."""
    found: datetime | None = first
    while found is not None and found < end:
        yield found
        found = occurrences.after(found)


def _last(occurrences: _Occurrences, first: datetime, end: datetime) -> datetime:
    """The last occurrence before `end`, by halving; `first` is one."""
    last, empty_from = first, end
    while (found := occurrences.after(last)) is not None and found < end:
        last = found
        middle = last + (empty_from - last) / 2
        found = occurrences.after(middle)
        if found is not None and found < end:
            last = found
        else:
            empty_from = middle
    return last


def _skips(
    occurrences: _Occurrences,
    first: datetime,
    end: datetime,
    reason: Literal["misfire", "catchup"],
    room: int,
) -> tuple[Skip, ...]:
    """Skips of the occurrences from `first`, which is one, to before `end`: some listed, the rest counted."""
    walk = _each(occurrences, first, end)
    listed = tuple(Skip(nominal=one, reason=reason) for one in islice(walk, room))
    rest = next(walk, None)
    if rest is None:
        return listed
    count = occurrences.between(rest, end)
    return (*listed, Skip(nominal=_last(occurrences, rest, end), reason=reason, count=count))
