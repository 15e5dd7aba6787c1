"""Cron expressions: checked field by field, and read as dates and times of day on a wall clock without a zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise

from croniter import CroniterBadDateError, CroniterError, croniter

from wakeloop.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Expression:
    """What a cron expression says, in naive wall-clock terms: on some dates, at some times of day.

    The times of day are every combination of `hours`, `minutes` and `seconds`, each sorted. `dates` are the
    three day fields, for croniter, the authority on them.
    """

    dates: str
    every_date: bool
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]

    @property
    def every_hour(self) -> bool:
        """Whether all 24 hours are named: then it runs on elapsed time, and neither gap nor fold applies."""
        return len(self.hours) == 24

    def first_date(self, day: date) -> date | None:
        """The first matching date that is not before `day`; None if there is none within 50 years."""
        return day if self.every_date else _first_date(self.dates, day)

    def spacing(self) -> timedelta | None:
        """The least time between two occurrences on the wall clock; None if that is left to the dates."""
        steps: list[int] = []
        span = 0  # from the first to the last combination of the units so far
        for unit, values in ((1, self.seconds), (60, self.minutes), (3600, self.hours)):
            steps += ((later - earlier) * unit - span for earlier, later in pairwise(values))
            span += (values[-1] - values[0]) * unit
        if self.every_date:
            steps.append(24 * 3600 - span)
        return timedelta(seconds=min(steps)) if steps else None


@lru_cache(maxsize=16384)
def _first_date(dates: str, day: date) -> date | None:
    just_before = datetime.combine(day, time()) - timedelta(seconds=1)
    try:
        found: datetime = croniter(f"0 0 {dates}", just_before, ret_type=datetime).get_next()
    except CroniterBadDateError:
        return None
    return found.date()


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the fields of a cron expression."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def value(self, text: str) -> int | None:
        if text.upper() in self.names:
            return self.names.index(text.upper()) + self.low
        if re.fullmatch(r"[0-9]{1,4}", text) and self.low <= int(text) <= self.high:
            return int(text)
        return None

    def problem(self, element: str) -> str | None:
        """Why an element of the field's list is refused, and what to write instead; None if it is good."""
        if element == "*":
            return None
        if re.fullmatch(r"[hr](\(.*\))?(/.*)?", element, re.IGNORECASE):
            return "is hashed or random: give a value, and use jitter= to spread the load"
        if self.name == "day of month" and re.search("[LW]", element, re.IGNORECASE):
            return (
                None
                if element in ("L", "l")
                else "is not supported: there is only L, the last day of the month"
            )
        if self.name == "day of week" and "#" in element:
            nth = re.fullmatch("(.+)#[1-5]", element)
            return None if nth and self.value(nth[1]) is not None else "is wrong: FRI#2 is the second Friday"
        if self.name == "day of week" and "L" in element.upper():
            return None if re.fullmatch("[Ll][0-7]", element) else "is wrong: L5 is the last Friday"
        return self._range_problem(element)

    def _range_problem(self, element: str) -> str | None:
        span, slash, step = element.partition("/")
        low, dash, high = span.partition("-")
        top = 6 if self.name == "day of week" else self.high
        first, last = (self.low, top) if span == "*" else (self.value(low), self.value(high) if dash else top)
        if first is None or last is None:
            return f"is not {self._values()}"
        if dash and self.name == "day of week" and high.upper() == "SUN" and first > 0:
            last = 7
        if dash and first == last:
            return f"is a range of one: write {low}"
        if dash and first > last:
            return f"runs backwards: write {low}-{top},{self.low}-{high}"
        if not slash:
            return None
        if not re.fullmatch(r"[0-9]{1,4}", step) or int(step) == 0:
            return f"has the step {step!r}: give a whole number from 1"
        if first + int(step) > last:
            return f"never takes its step and would only mean {first}: write {first}, or a smaller step"
        return None

    def _values(self) -> str:
        named = f" or a name from {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"a number from {self.low} to {self.high}{named}"


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_PARTS = (
    _Part("minute", 0, 59),
    _Part("hour", 0, 23),
    _Part("day of month", 1, 31),
    _Part("month", 1, 12, _MONTHS),
    _Part("day of week", 0, 7, _WEEKDAYS),
    _Part("second", 0, 59),
)
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@lru_cache(maxsize=4096)
def parse_expression(expr: str) -> Expression:
    """What a cron expression says. Raises ConfigurationError: see `cron`."""
    fields = _ALIASES.get(expr.strip().lower(), expr).split()
    if fields and fields[0].startswith("@"):
        raise ConfigurationError(
            f"cron {expr!r}: there is no such alias; use one of {' '.join(_ALIASES)}, or every(...)"
        )
    if len(fields) not in (5, 6):
        raise ConfigurationError(
            f"cron {expr!r}: the number of fields is {len(fields)}; give five, which are minute, hour, day "
            "of month, month and day of week, or six, of which the last is second"
        )
    _check_fields(expr, fields)
    fields[2], fields[4] = ("*" if days == "?" else days for days in (fields[2], fields[4]))
    try:
        expanded, _ = croniter.expand(" ".join(fields))
    except CroniterError as error:
        raise ConfigurationError(f"cron {expr!r}: {error}") from error

    def times(index: int) -> tuple[int, ...]:
        values = tuple(value for value in expanded[index] if isinstance(value, int))
        return tuple(range(_PARTS[index].high + 1)) if "*" in expanded[index] else values

    found = Expression(
        dates=" ".join(fields[2:5]),
        every_date=all(days[0] == "*" for days in expanded[2:5]),
        hours=times(1),
        minutes=times(0),
        seconds=times(5) if len(fields) == 6 else (0,),
    )
    if found.first_date(date(2000, 1, 1)) is None:
        raise ConfigurationError(
            f"cron {expr!r}: never happens: no month {fields[3]!r} has a day of month {fields[2]!r}"
            f"{'' if fields[4] == '*' else f' that is also a day of week {fields[4]!r}'}; change one of them"
        )
    return found


def _check_fields(expr: str, fields: list[str]) -> None:
    hint = " (of six fields, the second is the last)" if len(fields) == 6 else ""
    for part, text in zip(_PARTS, fields, strict=False):
        if text == "?" and part.name.startswith("day"):
            continue
        for element in text.split(","):
            if problem := part.problem(element):
                raise ConfigurationError(f"cron {expr!r}: {part.name} {element!r} {problem}{hint}")
    day_of_month, day_of_week = fields[2], fields[4]
    counted = [re.fullmatch(r".*#.*|L.", element, re.IGNORECASE) for element in day_of_week.split(",")]
    if any(counted) and not all(counted):
        raise ConfigurationError(
            f"cron {expr!r}: day of week {day_of_week!r} mixes weekdays of the month (FRI#2, L5) with "
            "others; use two schedules"
        )
    if any(counted) and day_of_month not in ("*", "?"):
        raise ConfigurationError(
            f"cron {expr!r}: day of month {day_of_month!r} cannot be combined with the day of week "
            f"{day_of_week!r}; use two schedules, or * for one of them"
        )
