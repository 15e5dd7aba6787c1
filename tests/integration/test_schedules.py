"""Schedules fire as written: on time, once, and with every skip on record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wakeloop import Agent, Context, Tick, agent, at, cron, every
from wakeloop.testing import Simulation

START = "2026-11-02T08:00:00Z"


def ticker(*triggers: object) -> Agent:
    """An agent that only notes its ticks."""

    @agent(*triggers, name="ticker")  # type: ignore[arg-type]
    async def tick(ctx: Context[None]) -> str:
        assert isinstance(ctx.event, Tick)
        return ctx.now().isoformat()

    return tick


def nominal(sim: Simulation) -> list[str]:
    return [f"{run.event.nominal:%d %H:%M}" for run in sim.runs() if not run.skipped]


def test_a_cron_agent_wakes_at_its_times_in_its_zone() -> None:
    """Nine in New York is two in the afternoon in UTC; ctx.now() is in the trigger's zone."""
    with Simulation([ticker(cron("0 9 * * MON-FRI", tz="America/New_York"))], start=START) as sim:
        sim.advance(to="2026-11-07T00:00:00Z")

        assert nominal(sim) == [f"{day:02} 14:00" for day in range(2, 7)]
        assert sim.runs()[0].result == "2026-11-02T09:00:00-05:00"


def test_every_counts_from_when_it_was_first_known_through_restarts() -> None:
    """A restart does not begin the interval anew."""
    with Simulation([ticker(every(timedelta(minutes=40)))], start=START) as sim:
        sim.advance(timedelta(minutes=30))
        sim.crash()
        sim.advance(timedelta(minutes=60))

        assert nominal(sim) == ["02 08:40", "02 09:20"]


def test_one_that_is_gone_from_the_code_ends_and_a_new_one_counts_from_the_deployment() -> None:
    """Code decides which schedules there are."""
    with Simulation([ticker(every(timedelta(hours=1)))], start=START) as sim:
        sim.advance(timedelta(hours=1))
        sim.replace_agents([ticker(cron("30 * * * *"))])
        sim.advance(timedelta(hours=2))

        assert nominal(sim) == ["02 09:00", "02 09:30", "02 10:30"]


def outage(tmp_path: Path, *triggers: object, hours: float) -> list[tuple[str, str | None, int]]:
    """What a ticker's runs are after nothing ran for a while: nominal time, skip reason, how many it stands for."""
    store = tmp_path / "store.db"
    with Simulation([ticker(*triggers)], start=START, store=store):
        pass
    back = datetime(2026, 11, 2, 8, tzinfo=UTC) + timedelta(hours=hours)
    with Simulation([ticker(*triggers)], start=back, store=store) as sim:
        sim.advance(0)
        return [
            (f"{run.event.nominal:%d %H:%M}", run.skipped, run.event.missed_count)
            for run in sorted(sim.runs(), key=lambda run: run.event.nominal)
        ]


def test_fire_once_makes_one_late_run_that_says_what_it_stands_for(tmp_path: Path) -> None:
    """The latest occurrence is run, and carries the earlier ones."""
    runs = outage(tmp_path, cron("0 * * * *"), hours=4.5)

    assert runs == [("02 12:00", None, 3)]


def test_fire_all_runs_each_missed_occurrence(tmp_path: Path) -> None:
    """With an overlap that lets them."""
    runs = outage(tmp_path, cron("0 * * * *", misfire="fire_all", overlap="allow"), hours=3.5)

    assert runs == [("02 09:00", None, 0), ("02 10:00", None, 0), ("02 11:00", None, 0)]


def test_skip_records_each_missed_occurrence_with_the_reason(tmp_path: Path) -> None:
    """Nothing late is run, and nothing is silent."""
    runs = outage(tmp_path, cron("0 * * * *", misfire="skip"), hours=3.5)

    assert runs == [("02 09:00", "misfire", 0), ("02 10:00", "misfire", 0), ("02 11:00", "misfire", 0)]


def test_what_is_older_than_the_catchup_is_skipped_under_every_policy(tmp_path: Path) -> None:
    """An agent that was away for long does not work off the whole time."""
    runs = outage(tmp_path, cron("0 * * * *", catchup=timedelta(hours=2)), hours=4.5)

    assert runs == [("02 09:00", "catchup", 0), ("02 10:00", "catchup", 0), ("02 12:00", None, 1)]


def test_jitter_only_delays_and_the_tick_tells_both_times() -> None:
    """Nominal stays as written; actual is up to the jitter later."""
    with Simulation([ticker(cron("0 * * * *", jitter=timedelta(minutes=10)))], start=START) as sim:
        sim.advance(timedelta(hours=12))

        delays = [run.event.actual - run.event.nominal for run in sim.runs()]
        assert len(delays) in (11, 12)
        assert all(timedelta(0) <= delay < timedelta(minutes=10) for delay in delays)
        assert len(set(delays)) > 5


def test_a_one_shot_fires_once() -> None:
    """At its instant, and never again."""
    with Simulation([ticker(at(datetime(2026, 11, 2, 9, 15, tzinfo=UTC)))], start=START) as sim:
        sim.advance(timedelta(days=3))

        assert nominal(sim) == ["02 09:15"]


@pytest.mark.parametrize("point", ["timers.claimed", "engine.committing", "engine.committed"])
def test_a_crash_at_any_point_neither_loses_nor_doubles_a_tick(point: str) -> None:
    """An occurrence is keyed by its schedule and nominal time."""
    with Simulation([ticker(every(timedelta(minutes=1)))], start=START) as sim:
        for _ in range(5):
            sim.kill_at(point)
            sim.advance(timedelta(minutes=1))

        assert nominal(sim) == [f"02 08:0{minute}" for minute in range(1, 6)]
        assert {run.status for run in sim.runs()} == {"completed"}


def test_nothing_is_ever_early() -> None:
    """By the clock of the database, whatever is asked for."""
    woken: list[timedelta] = []

    @agent(every(timedelta(seconds=7)))
    async def sleeper(ctx: Context[None]) -> None:
        for seconds in (0.001, 1 / 3, 2.999999):
            until = ctx.now() + timedelta(seconds=seconds)
            await ctx.sleep_until(until)
            woken.append(ctx.now() - until)

    with Simulation([sleeper], start=START) as sim:
        sim.advance(timedelta(minutes=1))

    assert len(woken) >= 24
    assert min(woken) >= timedelta(0)
