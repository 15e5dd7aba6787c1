"""The calendar: wall-clock schedules against a minute-by-minute oracle, and plans that lose nothing."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from wakeloop import calendar, cron_expression
from wakeloop.calendar import Occurrence, Plan, Skip, jittered, next_after, plan
from wakeloop.triggers import MISFIRE_GRACE, Cron, Schedule, at, cron, every

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

ZONES = [
    "Africa/Casablanca",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Europe/London",
    "Pacific/Apia",
    "Pacific/Auckland",
    "UTC",
]


def fires(schedule: Schedule, since: datetime, until: datetime, *, anchor: datetime = NOON) -> list[datetime]:
    """The instants of a schedule from `since` to before `until`."""
    found = []
    after = since - timedelta(microseconds=1)
    while (following := next_after(schedule, after, anchor=anchor)) is not None and following < until:
        found.append(following)
        after = following
    return found


def instants(first_year: int, end_year: int) -> st.SearchStrategy[datetime]:
    """Any instant of some years, to the microsecond."""
    start, end = (datetime(year, 1, 1, tzinfo=UTC) for year in (first_year, end_year))
    return st.timedeltas(timedelta(0), end - start).map(lambda since: start + since)


# The oracle: every minute is looked at, by the standard library's own reading of the zone


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of a cron expression, written out, with their text."""

    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int]  # 0 is Monday

    def __str__(self) -> str:
        def text(values: frozenset[int], size: int, shift: int = 0) -> str:
            return "*" if len(values) == size else ",".join(str(value + shift) for value in sorted(values))

        return f"{text(self.minutes, 60)} {text(self.hours, 24)} * * {text(self.weekdays, 7, 1)}"

    def fit(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and wall.weekday() in self.weekdays


def oracle(
    fields: Fields, zone: ZoneInfo, gap: str, fold: str, since: datetime, until: datetime
) -> list[datetime]:
    """The instants from `since` to before `until`, found by asking about every minute of the clock."""
    if len(fields.hours) == 24:
        minutes = (since + MINUTE * n for n in range((until - since) // MINUTE))
        return [instant for instant in minutes if fields.fit(instant.astimezone(zone))]
    found = set()
    wall = (since - 2 * DAY).replace(tzinfo=None)
    while wall < (until + 2 * DAY).replace(tzinfo=None):
        if fields.fit(wall):
            first, second = (wall.replace(tzinfo=zone, fold=n).astimezone(UTC) for n in (0, 1))
            if first.astimezone(zone).replace(tzinfo=None) != wall:
                if gap == "shift":
                    after_gap = second
                    while after_gap.astimezone(zone).replace(tzinfo=None) < wall:
                        after_gap += MINUTE
                    found.add(after_gap)
            else:
                found |= {"first": {first}, "second": {second}, "both": {first, second}}[fold]
        wall += MINUTE
    return sorted(instant for instant in found if since <= instant < until)


def changes(zone: ZoneInfo, year: int) -> list[datetime]:
    """The hours of a year within which the zone's offset changes."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + HOUR * n for n in range(365 * 24)]
    return [
        later
        for earlier, later in pairwise(hours)
        if earlier.astimezone(zone).utcoffset() != later.astimezone(zone).utcoffset()
    ]


CHANGES = [
    (name, change)
    for name in ZONES
    for year in (1996, 2011, 2026)
    for change in changes(ZoneInfo(name), year) or [datetime(year, 6, 1, tzinfo=UTC)]
]


def subsets(top: int, *, most: int) -> st.SearchStrategy[frozenset[int]]:
    """Some numbers from 0 to before `top`, or all of them."""
    return st.just(frozenset(range(top))) | st.frozensets(st.integers(0, top - 1), min_size=1, max_size=most)


FIELDS = st.builds(
    Fields, minutes=subsets(60, most=4), hours=subsets(24, most=6), weekdays=subsets(7, most=3)
)
NIGHT = st.builds(
    Fields,
    minutes=st.frozensets(st.sampled_from([0, 1, 15, 30, 59]), min_size=1),
    hours=st.frozensets(st.integers(0, 4), min_size=1),
    weekdays=st.just(frozenset(range(7))),
)
GAPS = st.sampled_from(["shift", "skip"])
FOLDS = st.sampled_from(["first", "second", "both"])


@settings(max_examples=150, deadline=None)
@given(FIELDS | NIGHT, st.sampled_from(CHANGES), GAPS, FOLDS, st.timedeltas(-3 * HOUR, 3 * HOUR))
def test_a_cron_fires_exactly_when_every_minute_is_asked(
    fields: Fields, where: tuple[str, datetime], gap: Any, fold: Any, offset: timedelta
) -> None:
    """Around any change of any zone, stepping and counting agree with asking about every minute."""
    name, change = where
    since, middle, until = change - DAY, change + offset, change + 2 * DAY
    schedule = cron(str(fields), tz=name, gap=gap, fold=fold)

    found = fires(schedule, since, until)

    assert oracle(fields, ZoneInfo(name), gap, fold, since, until) == found
    rest = [instant for instant in found if instant >= middle]
    assert rest == fires(schedule, middle, until)
    occurrences = calendar._occurrences(schedule, NOON)
    assert len(found) - len(rest) == occurrences.between(since, middle)
    assert len(rest) == occurrences.between(middle, until)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        ["30 2 * * *", "*/7 * * * *", "0 0 L * *", "0 9 * * MON#1", "0 0 29 2 *", "15 1-3 * * * */20"]
    ),
    st.sampled_from(ZONES),
    GAPS,
    FOLDS,
    instants(1970, 2100),
    st.timedeltas(timedelta(0), timedelta(days=400)),
)
def test_the_next_instant_is_later_and_grows_with_time(
    expr: str, tz: str, gap: Any, fold: Any, after: datetime, later: timedelta
) -> None:
    """The next instant is after the one asked about, has no other between, and never moves back."""
    schedule = cron(expr, tz=tz, gap=gap, fold=fold)

    found = next_after(schedule, after, anchor=NOON)
    found_later = next_after(schedule, after + later, anchor=NOON)

    assert found is not None
    assert found_later is not None
    assert after < found <= found_later
    assert found == next_after(schedule, found - timedelta(microseconds=1), anchor=NOON)
    assert found.microsecond == 0
    assert (after + later < found) is (found == found_later)


@settings(max_examples=200, deadline=None)
@given(FIELDS, st.sampled_from(CHANGES), GAPS, FOLDS, st.timedeltas(-2 * DAY, 2 * DAY))
def test_every_instant_reads_as_the_expression_says_unless_it_was_shifted(
    fields: Fields, where: tuple[str, datetime], gap: Any, fold: Any, offset: timedelta
) -> None:
    """The wall clock shows a matching time at every instant, or it has just jumped over one."""
    name, change = where
    found = next_after(cron(str(fields), tz=name, gap=gap, fold=fold), change + offset, anchor=NOON)
    assert found is not None

    wall = found.astimezone(ZoneInfo(name)).replace(tzinfo=None)
    wall_before = (found - SECOND).astimezone(ZoneInfo(name)).replace(tzinfo=None)

    if not fields.fit(wall):
        assert gap == "shift"
        assert len(fields.hours) < 24
        jumped = (wall_before + SECOND + MINUTE * n for n in range((wall - wall_before) // MINUTE))
        assert any(fields.fit(one) for one in jumped)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [
            "0 9 13 * FRI",
            "0 0 L * *",
            "*/5 9 1,L * *",
            "0 9 * * L5",
            "0 9 * * TUE#5",
            "5 4 29 2 *",
            "0 0 31 * *",
            "1 2 */9 3-9 *",
        ]
    ),
    instants(1990, 2060),
)
def test_without_a_zone_it_is_croniter(expr: str, after: datetime) -> None:
    """In UTC the instants are croniter's own, whatever dates the expression names."""
    steps = croniter(expr, after.replace(tzinfo=None), ret_type=datetime)
    expected = [steps.get_next().replace(tzinfo=UTC) for _ in range(5)]

    found = fires(cron(expr), after + timedelta(microseconds=1), expected[-1] + SECOND)

    assert expected == found


@pytest.mark.parametrize("tz", ["Pacific/Honolulu", "UTC", "Pacific/Kiritimati"])
@pytest.mark.parametrize("hour", [0, 12, 23])
def test_a_rare_schedule_is_found_from_however_far(tz: str, hour: int) -> None:
    """Looking ahead over empty weeks passes no occurrence over, however far the zone is from UTC."""
    schedule = cron(f"0 {hour} 15 * *", tz=tz)
    expected = datetime(2026, 6, 15, hour, tzinfo=ZoneInfo(tz))

    for hours in range(1, 29 * 24):
        assert expected == next_after(schedule, expected.astimezone(UTC) - HOUR * hours, anchor=NOON)


def test_a_question_in_the_middle_of_a_fold_gets_the_same_answer() -> None:
    """Between and within the two passes of a repeated hour it is known which one is meant."""
    again = datetime(2026, 11, 1, 6, tzinfo=UTC)  # 02:00 becomes 01:00
    first = cron("*/15 1 * * *", tz="America/New_York", fold="first")
    second = cron("*/15 1 * * *", tz="America/New_York", fold="second")

    assert again + DAY == next_after(first, again + 10 * MINUTE, anchor=NOON)
    assert again == next_after(second, again - 40 * MINUTE, anchor=NOON)
    for schedule, in_first_pass, in_second_pass in ((first, 4, 0), (second, 0, 3)):
        occurrences = calendar._occurrences(schedule, NOON)
        assert in_first_pass == occurrences.between(again - HOUR, again - 10 * MINUTE)
        assert in_second_pass == occurrences.between(again + 10 * MINUTE, again + HOUR)


def test_seconds_are_the_sixth_field() -> None:
    """A six-field expression fires on its seconds; a five-field one on the full minute."""
    after = NOON + timedelta(microseconds=1)

    assert [one.second for one in fires(cron("* * * * * */20"), after, NOON + MINUTE)] == [20, 40]
    assert fires(cron("* * * * *"), after, NOON + 2 * MINUTE) == [NOON + MINUTE]


@pytest.mark.parametrize("offset", [timedelta(0), timedelta(microseconds=1), timedelta(microseconds=999_999)])
def test_an_instant_is_never_its_own_successor(offset: timedelta) -> None:
    """Fractions of a second neither repeat an instant nor pass one over."""
    schedule = cron("* * * * * *")

    assert next_after(schedule, NOON + offset, anchor=NOON) == NOON + SECOND
    assert next_after(schedule, NOON - timedelta(microseconds=1), anchor=NOON) == NOON


def test_the_argument_s_zone_does_not_matter() -> None:
    """The same instant has the same successor, in UTC, whichever zone it is written in."""
    schedule = cron("30 2 * * *", tz="America/New_York")
    expected = datetime(2026, 3, 8, 7, tzinfo=UTC)

    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        found = next_after(schedule, datetime(2026, 3, 8, tzinfo=UTC).astimezone(ZoneInfo(zone)), anchor=NOON)
        assert expected == found
        assert found is not None
        assert found.tzinfo is UTC


def test_naive_datetimes_are_refused() -> None:
    """A datetime without a zone is a mistake, not local time."""
    naive = NOON.replace(tzinfo=None)

    with pytest.raises(ValueError, match="has no zone"):
        next_after(every(HOUR), naive, anchor=NOON)
    with pytest.raises(ValueError, match="has no zone"):
        next_after(every(HOUR), NOON, anchor=naive)
    with pytest.raises(ValueError, match="has no zone"):
        jittered(every(HOUR), "s", naive)
    with pytest.raises(ValueError, match="has no zone"):
        plan(every(HOUR), schedule_id="s", nominal=NOON, now=naive, anchor=NOON)


def test_the_calendar_ends_quietly() -> None:
    """Near the end of what a datetime can hold there is no next instant, and no error."""
    end = datetime.max.replace(tzinfo=UTC)

    assert next_after(cron("0 0 29 2 *"), end, anchor=NOON) is None
    assert next_after(cron("0 0 29 2 *"), datetime(9897, 1, 1, tzinfo=UTC), anchor=NOON) is None
    assert next_after(every(timedelta(days=400)), end, anchor=NOON) is None


@settings(deadline=None)
@given(
    st.timedeltas(timedelta(microseconds=1), timedelta(days=4000)), instants(2000, 2100), instants(2000, 2100)
)
def test_an_interval_keeps_the_phase_of_its_registration(
    interval: timedelta, anchor: datetime, after: datetime
) -> None:
    """Instants are whole intervals after the registration, from one on, to the microsecond."""
    found = next_after(every(interval), after, anchor=anchor)

    assert found is not None
    assert (found - anchor) % interval == timedelta(0)
    assert found >= anchor + interval
    assert found > after
    assert found - interval <= max(after, anchor)


def test_an_interval_does_not_look_at_the_wall_clock() -> None:
    """24 hours are 24 hours across a change of the clocks."""
    anchor = datetime(2026, 3, 7, 12, tzinfo=ZoneInfo("America/New_York"))
    found = next_after(every(DAY), anchor, anchor=anchor)

    assert found == datetime(2026, 3, 8, 13, tzinfo=ZoneInfo("America/New_York"))


def test_a_single_time_comes_once() -> None:
    """A one-shot's only instant is its own; after it there is none."""
    schedule = at(NOON)

    assert next_after(schedule, NOON - SECOND, anchor=NOON - DAY) == NOON
    assert next_after(schedule, NOON, anchor=NOON - DAY) is None


def test_ten_thousand_schedules_cost_one_step_of_croniter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules with the same expression and zone, asked about the same minute, share one step."""
    schedules = [cron("0 9 * * MON-FRI", tz="Europe/Paris", jitter=SECOND * (n % 60)) for n in range(10_000)]
    steps = 0

    class Counted(croniter):  # type: ignore[misc]
        def get_next(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            return super().get_next(*args, **kwargs)

    calendar._cron_from.cache_clear()
    cron_expression._first_date.cache_clear()
    monkeypatch.setattr(cron_expression, "croniter", Counted)

    found = {next_after(one, datetime(2026, 3, 2, 3, tzinfo=UTC), anchor=NOON) for one in schedules}

    assert found == {datetime(2026, 3, 2, 8, tzinfo=UTC)}
    assert steps == 1


# Jitter


@settings(deadline=None)
@given(st.timedeltas(timedelta(microseconds=1), HOUR), st.text(), instants(1970, 2100))
def test_jitter_delays_by_less_than_it_says_and_always_the_same(
    jitter: timedelta, id: str, nominal: datetime
) -> None:
    """The due time is in [nominal, nominal + jitter), and a function of the id and the nominal time."""
    schedule = every(HOUR, jitter=jitter)

    due = jittered(schedule, id, nominal)

    assert nominal <= due < nominal + jitter
    assert due == jittered(cron("0 * * * *", jitter=jitter), id, nominal.astimezone(ZoneInfo("UTC")))


def test_jitter_spreads() -> None:
    """A thousand schedules on one instant are spread evenly; one schedule's delay changes from day to day."""
    schedule = cron("0 9 * * *", jitter=timedelta(minutes=10))

    spread = [jittered(schedule, f"schedule-{n}", NOON) - NOON for n in range(1000)]
    days = {jittered(schedule, "one", NOON + DAY * n) - DAY * n for n in range(100)}

    for tenth in range(10):
        assert 60 < sum(tenth * MINUTE <= delay < (tenth + 1) * MINUTE for delay in spread) < 140
    assert len(days) == 100


def test_without_jitter_an_occurrence_is_due_at_its_nominal_time() -> None:
    """No jitter, a jitter of zero, and one so short that nothing is shorter, are no delay."""
    assert jittered(every(HOUR), "s", NOON) == NOON
    for n in range(10):
        assert jittered(every(HOUR, jitter=timedelta(microseconds=1)), f"s{n}", NOON) == NOON
    assert jittered(every(HOUR, jitter=timedelta(0)), "s", NOON) == NOON


# Plans


def planned(schedule: Schedule, nominal: datetime, now: datetime, *, anchor: datetime | None = None) -> Plan:
    """The plan of a schedule registered an hour before its oldest open occurrence."""
    return plan(schedule, schedule_id="s", nominal=nominal, now=now, anchor=anchor or nominal - HOUR)


@pytest.mark.parametrize("misfire", ["fire_once", "skip", "fire_all"])
@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), MISFIRE_GRACE])
def test_a_punctual_occurrence_fires_under_every_policy(
    misfire: Literal["fire_once", "skip", "fire_all"], late: timedelta
) -> None:
    """Up to and including the grace period an occurrence is on time and stands for nothing else."""
    expected = Plan(fire=(Occurrence(nominal=NOON),), skipped=(), next=NOON + HOUR)

    assert expected == planned(every(HOUR, misfire=misfire), NOON, NOON + late)


@pytest.mark.parametrize("misfire", ["fire_once", "skip", "fire_all"])
def test_nothing_happens_before_its_time(misfire: Literal["fire_once", "skip", "fire_all"]) -> None:
    """A claim that comes early changes nothing, with jitter too."""
    schedule = every(HOUR, misfire=misfire, jitter=HOUR)
    due = jittered(schedule, "s", NOON)

    expected = Plan(fire=(), skipped=(), next=NOON)

    assert expected == planned(schedule, NOON, NOON - timedelta(microseconds=1))
    assert expected == planned(schedule, NOON, due - timedelta(microseconds=1))
    assert (Occurrence(nominal=NOON),) == planned(schedule, NOON, due).fire


def test_fire_once_runs_the_latest_for_all() -> None:
    """After an outage one run stands for the missed ones, whether the latest is punctual or not."""
    for late in (timedelta(0), 30 * MINUTE):
        found = planned(every(HOUR), NOON, NOON + 3 * HOUR + late)

        missed = (NOON, NOON + HOUR, NOON + 2 * HOUR)
        expected = Occurrence(nominal=NOON + 3 * HOUR, missed=missed, missed_count=3)
        assert Plan(fire=(expected,), skipped=(), next=NOON + 4 * HOUR) == found


def test_fire_once_lists_a_hundred_and_counts_all() -> None:
    """A run that stands for many lists the oldest hundred of them and counts every one."""
    (found,) = planned(every(MINUTE), NOON, NOON + 10 * HOUR).fire

    assert found.nominal == NOON + 10 * HOUR
    assert tuple(NOON + MINUTE * n for n in range(100)) == found.missed
    assert found.missed_count == 600


def test_skip_runs_only_what_is_punctual() -> None:
    """Missed occurrences are skipped one by one; the latest runs if it is on time."""
    schedule = every(HOUR, misfire="skip")
    missed = tuple(Skip(nominal=NOON + HOUR * n, reason="misfire") for n in range(3))

    on_time = planned(schedule, NOON, NOON + 3 * HOUR + MISFIRE_GRACE)
    late = planned(schedule, NOON, NOON + 3 * HOUR + MISFIRE_GRACE + timedelta(microseconds=1))

    assert Plan(fire=(Occurrence(nominal=NOON + 3 * HOUR),), skipped=missed, next=NOON + 4 * HOUR) == on_time
    assert on_time.next == late.next
    assert late.fire == ()
    assert (*missed, Skip(nominal=NOON + 3 * HOUR, reason="misfire")) == late.skipped


def test_fire_all_runs_each_and_never_floods() -> None:
    """Every missed occurrence runs, oldest first, a thousand at a time: what is left is due at once."""
    now = NOON + 30 * HOUR
    schedule = every(MINUTE, misfire="fire_all", catchup=None)

    first = planned(schedule, NOON, now)
    assert first.next is not None
    second = planned(schedule, first.next, now, anchor=NOON - HOUR)

    assert [NOON + MINUTE * n for n in range(1801)] == [one.nominal for one in first.fire + second.fire]
    assert (len(first.fire), len(second.fire)) == (1000, 801)
    assert second.next == now + MINUTE


@pytest.mark.parametrize("misfire", ["fire_once", "skip", "fire_all"])
def test_what_is_beyond_catchup_is_skipped_under_every_policy(
    misfire: Literal["fire_once", "skip", "fire_all"],
) -> None:
    """Occurrences late by more than catchup are skipped for that reason; one that is just as late is not."""
    schedule = every(HOUR, misfire=misfire, catchup=2 * HOUR)

    found = planned(schedule, NOON, NOON + 5 * HOUR)

    beyond = tuple(Skip(nominal=NOON + HOUR * n, reason="catchup") for n in range(3))
    assert beyond == found.skipped[:3]
    assert all(skip.reason == "misfire" for skip in found.skipped[3:])
    assert found.fire[-1].nominal == NOON + 5 * HOUR
    assert found.next == NOON + 6 * HOUR


def test_a_schedule_may_have_nothing_left_to_run() -> None:
    """If the only due occurrences are beyond catchup, nothing runs and the next one is still to come."""
    found = planned(cron("0 0 1 * *"), datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 15, tzinfo=UTC))

    skipped = tuple(Skip(nominal=datetime(2026, month, 1, tzinfo=UTC), reason="catchup") for month in (2, 3))
    assert Plan(fire=(), skipped=skipped, next=datetime(2026, 4, 1, tzinfo=UTC)) == found


def test_lateness_counts_from_the_jittered_time() -> None:
    """Jitter makes nothing late: a delay longer than grace and catchup is still punctual."""
    schedule = every(6 * HOUR, jitter=6 * HOUR, misfire="skip", catchup=timedelta(minutes=1))
    due = jittered(schedule, "s", NOON)
    assert due - NOON > 2 * MINUTE

    assert (Occurrence(nominal=NOON),) == planned(schedule, NOON, due + SECOND, anchor=NOON - 6 * HOUR).fire
    assert planned(schedule, NOON, due + 2 * MINUTE, anchor=NOON - 6 * HOUR).fire == ()


def test_a_single_time_is_never_given_up_unless_told() -> None:
    """A one-shot runs years late by default; with catchup or skip it does not; in any case it ends."""
    now = NOON + timedelta(days=1000)
    fire = (Occurrence(nominal=NOON),)

    assert Plan(fire=fire, skipped=(), next=None) == planned(at(NOON), NOON, now)
    assert Plan(fire=fire, skipped=(), next=None) == planned(at(NOON, misfire="fire_all"), NOON, now)
    skip = Skip(nominal=NOON, reason="misfire")
    assert Plan(fire=(), skipped=(skip,), next=None) == planned(at(NOON, misfire="skip"), NOON, now)
    skip = Skip(nominal=NOON, reason="catchup")
    assert Plan(fire=(), skipped=(skip,), next=None) == planned(at(NOON, catchup=DAY), NOON, now)


def test_a_thousand_skips_are_listed_and_the_rest_counted() -> None:
    """The oldest thousand skips are single; the rest are one for each reason, at the last one's time."""
    schedule = every(MINUTE, misfire="skip", catchup=HOUR)

    found = planned(schedule, NOON, NOON + DAY)

    assert (
        tuple(Skip(nominal=NOON + MINUTE * n, reason="catchup") for n in range(1000)) == found.skipped[:1000]
    )
    assert found.skipped[1000:] == (
        Skip(nominal=NOON + 23 * HOUR - MINUTE, reason="catchup", count=380),
        Skip(nominal=NOON + DAY - MINUTE, reason="misfire", count=60),
    )
    assert (Occurrence(nominal=NOON + DAY),) == found.fire


@pytest.mark.parametrize("misfire", ["fire_once", "skip", "fire_all"])
@pytest.mark.parametrize("catchup", [DAY, None])
@pytest.mark.parametrize("expr", ["* * * * *", "* * * * * *", "*/5 9-17 * * MON-FRI"])
def test_an_outage_of_years_is_planned_at_once(
    expr: str, misfire: Literal["fire_once", "skip", "fire_all"], catchup: timedelta | None
) -> None:
    """Three years of a busy schedule take well under a second, and each occurrence is still counted."""
    schedule = cron(expr, tz="Europe/Paris", misfire=misfire, catchup=catchup)
    nominal, now = datetime(2023, 3, 1, 8, tzinfo=UTC), NOON

    started = time.process_time()
    found = planned(schedule, nominal, now)
    spent = time.process_time() - started

    assert spent < 1
    assert found.next is not None
    handled = calendar._occurrences(schedule, nominal).between(nominal, found.next)
    assert handled == accounted(found)
    assert misfire == "fire_all" or found.next > now


def accounted(found: Plan) -> int:
    """How many occurrences a plan deals with."""
    return sum(1 + one.missed_count for one in found.fire) + sum(skip.count for skip in found.skipped)


SCHEDULES = st.one_of(
    st.builds(
        cron,
        st.sampled_from(["30 * * * *", "*/20 1-3 * * *", "30 2 * * *", "0 9 * * MON-FRI"]),
        tz=st.sampled_from(["America/New_York", "Australia/Lord_Howe", "UTC"]),
        jitter=st.none() | st.timedeltas(timedelta(0), 20 * MINUTE),
        misfire=st.sampled_from(["fire_once", "skip", "fire_all"]),
        catchup=st.none() | st.timedeltas(MINUTE, 2 * DAY),
        gap=GAPS,
        fold=FOLDS,
    ),
    st.builds(
        every,
        st.timedeltas(45 * MINUTE, 2 * DAY),
        jitter=st.none() | st.timedeltas(timedelta(0), 10 * MINUTE),
        misfire=st.sampled_from(["fire_once", "skip", "fire_all"]),
        catchup=st.none() | st.timedeltas(MINUTE, 2 * DAY),
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    SCHEDULES,
    st.sampled_from(
        [
            datetime(2026, 3, 6, tzinfo=UTC),
            datetime(2026, 4, 3, tzinfo=UTC),
            datetime(2026, 10, 31, tzinfo=UTC),
        ]
    ),
    st.lists(
        st.timedeltas(timedelta(0), 2 * HOUR) | st.timedeltas(timedelta(0), 3 * DAY), min_size=1, max_size=12
    ),
)
def test_no_occurrence_is_lost_or_doubled_whenever_it_is_claimed(
    schedule: Schedule, start: datetime, pauses: list[timedelta]
) -> None:
    """Whenever claims come, each occurrence is fired, stood for or skipped exactly once, in order."""
    nominal = next_after(schedule, start, anchor=start)
    now = start
    dealt: list[datetime] = []

    for pause in pauses:
        now += pause
        assert nominal is not None
        found = plan(schedule, schedule_id="s", nominal=nominal, now=now, anchor=start)
        again = plan(schedule, schedule_id="s", nominal=nominal, now=now, anchor=start)
        assert again == found
        assert all(skip.count == 1 for skip in found.skipped)
        assert all(one.missed_count == len(one.missed) for one in found.fire)
        batch = [skip.nominal for skip in found.skipped]
        batch += [each for one in found.fire for each in (*one.missed, one.nominal)]
        assert all(jittered(schedule, "s", one) <= now for one in batch)
        dealt += sorted(batch)
        nominal = found.next

    assert nominal is not None
    assert jittered(schedule, "s", nominal) > now
    assert fires(schedule, start + timedelta(microseconds=1), nominal, anchor=start) == dealt


@settings(max_examples=100, deadline=None)
@given(SCHEDULES, st.timedeltas(timedelta(0), 40 * DAY), st.timedeltas(timedelta(0), 40 * DAY))
def test_counting_agrees_with_stepping(schedule: Schedule, start: timedelta, length: timedelta) -> None:
    """However far apart the ends, the number of occurrences is what stepping through them finds."""
    since = datetime(2026, 2, 20, tzinfo=UTC) + start

    for anchor in (since - HOUR, since + HOUR):
        found = fires(schedule, since, since + length, anchor=anchor)
        assert len(found) == calendar._occurrences(schedule, anchor).between(since, since + length)


# The documentation


def test_the_example_in_the_documentation_is_what_happens() -> None:
    """The table of an outage in docs/schedules.md, and the page's code, are executed."""
    page = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d):00 \| (.+) \| (.+) \| (.+) \|$", page, flags=re.MULTILINE)
    day = datetime(2026, 3, 1, tzinfo=UTC)

    for column, misfire in enumerate(["fire_once", "skip", "fire_all"], start=1):
        schedule = cron("0 * * * *", catchup=3 * HOUR, misfire=misfire)  # type: ignore[arg-type]
        found = planned(schedule, day + 9 * HOUR, day + 14 * HOUR + 10 * MINUTE)
        outcome = {skip.nominal: f"skipped: {skip.reason}" for skip in found.skipped}
        outcome |= {one.nominal: "fires" for one in found.fire}
        outcome |= {missed: "stood for" for one in found.fire for missed in one.missed}
        assert {day + int(row[0]) * HOUR: row[column] for row in rows} == outcome
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "docs/schedules.md", "exec"), {})


def test_a_schedule_in_a_page_is_a_schedule() -> None:
    """Every expression in the documentation's table of expressions is accepted."""
    page = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text(encoding="utf-8")
    section = page.split("## Expressions")[1].split("Refused")[0]
    expressions = re.findall(r"`([^`]+)`", section.split("| --- | --- |")[1])

    assert len(expressions) >= 8
    for expr in expressions:
        assert isinstance(cron(expr), Cron)
