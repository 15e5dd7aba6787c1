"""Ticks of a crowd are queued and handed over before their time, and begin when it has come: never before, each once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.conformance.store_kit import EVERY_STORE, claim, make_stores
from tests.integration.ahead_kit import Rig
from tests.servers import until

from wakeloop import Context, agent, at, cron, on_message, on_signal, step, timers
from wakeloop.events import Call, Message, Signal, Tick
from wakeloop.store import ahead
from wakeloop.store.schema import sessions
from wakeloop.timers import AHEAD
from wakeloop.triggers import load_schedule

CROWD = 10
"""What is a crowd here, so that there need not be hundreds."""
MANY = 13
ONCE = "10 14 * * *"
"""The rig's instant, and no other within a day."""
MINUTELY = "* * * * *"
ticks: list[tuple[str, Tick, datetime]] = []
may_end = threading.Event()


@step(retries=0)
def block() -> None:
    """Holds its session."""
    assert may_end.wait(30)


@agent(on_signal("stop"), on_message())
async def ticker(ctx: Context[None]) -> Any:
    """Gives itself a schedule when it is called, works until it may end if it is asked to, and notes its ticks."""
    match ctx.event:
        case Call(input={"work": True}):
            await block()
        case Call(input=spec):
            ctx.schedule.set(load_schedule(json.dumps(spec)))
        case Signal():
            coming = ctx.schedule.list()
            for wakeup in coming:
                ctx.schedule.cancel(wakeup.id)
            return [wakeup.next.isoformat() for wakeup in coming if wakeup.next]
        case Message():
            return "heard"
        case Tick() as tick:
            ticks.append((ctx.key, tick, ctx.now()))
            await ctx.sleep(90)
    return None


@agent(on_signal("stop"), while_busy="reject")
async def prim(ctx: Context[None]) -> str:
    """Takes up nothing while it is busy."""
    if isinstance(ctx.event, Call):
        ctx.schedule.set(cron(ONCE))
    return ctx.event.kind


@agent(cron(ONCE))
async def coded(ctx: Context[None]) -> None:
    """Has its schedule in its code."""
    assert isinstance(ctx.event, Tick)
    ticks.append(("coded", ctx.event, ctx.now()))


@agent(name="coded")
async def without(ctx: Context[None]) -> None:
    """The same agent in a version that has none."""


@pytest.fixture(params=EVERY_STORE)
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(timers, "CROWD", CROWD)
    ticks.clear()
    may_end.clear()
    for store in make_stores(request, tmp_path):
        rig = Rig(store, ticker, prim, coded)
        rig.instant = rig.instant.replace(second=0, microsecond=0)
        yield rig
        may_end.set()
        rig.close()


def spec(trigger: Any) -> Any:
    """A trigger as an input."""
    return trigger.model_dump(mode="json")


def schedule(rig: Rig, count: int, trigger: Any = None, *, first: int = 0) -> None:
    """Let so many sessions give themselves a schedule; by default one whose next time is the instant."""
    before = rig.statuses().get("completed", 0)
    keys = map(str, range(first, first + count))
    rig.start("ticker", keys, spec(trigger or cron(ONCE)))
    until(lambda: rig.statuses().get("completed", 0) == before + count and rig.executor.held == 0)


def of_ticks(rig: Rig, key: str = "%") -> list[Any]:
    """The runs of schedules in these sessions, in the order of their times."""
    return rig.store.rows(
        "SELECT sessions.key, status, nominal, started_at, wake_at, skipped, event FROM runs "
        "JOIN sessions ON sessions.id = session_id WHERE schedule_id IS NOT NULL AND key LIKE :key ORDER BY nominal, key",
        key=key,
    )


def test_ticks_of_a_crowd_are_in_memory_before_their_time_and_begin_at_it(rig: Rig) -> None:
    """They are queued with their time; none begins a microsecond before it, and all do at it, as punctual ones."""
    schedule(rig, MANY)
    early = rig.approach(AHEAD + timedelta(seconds=1))
    swept = rig.approach(AHEAD - timedelta(seconds=1))
    queued = {(row.status, str(row.wake_at) == str(row.nominal)) for row in of_ticks(rig)}
    ticket = rig.executor.submit(swept.sessions)
    until(lambda: rig.executor.held == MANY and rig.executor.is_idle)
    rig.move(rig.instant - timedelta(microseconds=1))
    is_over = ticket.wait(1.5)
    before = list(ticks)
    rig.move(rig.instant)

    assert ticket.wait(30)
    assert early.is_empty
    assert len(swept.sessions) == MANY
    assert queued == {("queued", True)}
    assert not is_over
    assert before == []
    assert len({key for key, _, _ in ticks}) == len(ticks) == MANY
    assert {(tick.nominal, tick.actual, tick.missed_count, now) for _, tick, now in ticks} == {
        (rig.instant, rig.instant, 0, rig.instant)
    }
    assert {(row.status, row.skipped) for row in of_ticks(rig)} == {("waiting", None)}
    assert {json.loads(row.event)["actual"] for row in of_ticks(rig)} == {"2026-11-02T14:10:00Z"}


def test_a_tick_that_begins_late_says_so(rig: Rig) -> None:
    """What was queued ahead and taken up by nobody begins when somebody is there again; `actual` is that time."""
    schedule(rig, MANY)
    swept = rig.approach(timedelta(seconds=2))
    rig.move(rig.instant + timedelta(hours=2))
    again = rig.timers.sweep()

    assert rig.executor.submit(again.sessions).wait(30)
    assert sorted(swept.sessions) == sorted(again.sessions)
    assert {(tick.nominal, tick.actual) for _, tick, _ in ticks} == {
        (rig.instant, rig.instant + timedelta(hours=2))
    }
    assert len(ticks) == MANY


def test_what_is_skipped_when_it_is_late_is_skipped_though_it_was_queued_ahead(rig: Rig) -> None:
    """An outage that begins in the seconds before the instant is like one that began earlier."""
    schedule(rig, CROWD, cron(ONCE, misfire="skip"))
    schedule(rig, CROWD, cron(ONCE, catchup=timedelta(hours=1)), first=CROWD)
    rig.approach(timedelta(seconds=2))
    rig.move(rig.instant + timedelta(hours=2))

    assert rig.executor.submit(rig.timers.sweep().sessions).wait(30)
    assert ticks == []
    assert [row.status for row in of_ticks(rig)] == ["cancelled"] * 2 * CROWD
    reasons = [row.skipped for row in of_ticks(rig)]
    assert {reason: reasons.count(reason) for reason in reasons} == {"misfire": CROWD, "catchup": CROWD}


def test_a_few_schedules_are_left_until_they_are_due(rig: Rig) -> None:
    """What is no crowd is queued when its time has come."""
    schedule(rig, CROWD - 1)
    coming = rig.approach(timedelta(seconds=1))
    queued = of_ticks(rig)
    due = rig.approach(timedelta(0))

    assert coming.is_empty
    assert queued == []
    assert len(due.sessions) == len(of_ticks(rig)) == CROWD - 1


def test_the_rest_of_a_crowd_goes_with_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd that is more than a batch is queued whole, however few are in the last batch; and then no more is early."""
    schedule(rig, MANY)
    monkeypatch.setattr(timers, "BATCH", CROWD)
    first = rig.approach(timedelta(seconds=2))
    second = rig.timers.sweep()
    third = rig.timers.sweep()

    assert [len(first.sessions), len(second.sessions), len(third.sessions)] == [CROWD, MANY - CROWD, 0]
    assert [str(row.wake_at) == str(row.nominal) for row in of_ticks(rig)] == [True] * MANY


def test_many_threads_sweep_and_each_occurrence_is_queued_once(rig: Rig) -> None:
    """Workers queue ahead beside each other."""
    schedule(rig, MANY)
    found = rig.sweep_together(timedelta(seconds=2))

    assert len(found) == len(set(found)) == MANY
    assert len({row.key for row in of_ticks(rig)}) == len(of_ticks(rig)) == MANY


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("trigger", ["cron", "at"])
def test_a_wakeup_that_is_cancelled_in_its_last_seconds_does_not_tick(
    rig: Rig, trigger: str, is_held: bool
) -> None:
    """The session still lists it with the time that is to come, and cancels what was queued; also of a single time."""
    schedule(rig, MANY, cron(ONCE) if trigger == "cron" else at(rig.instant))
    swept = rig.approach(timedelta(seconds=2))
    if is_held:
        rig.executor.submit(swept.sessions)
        until(lambda: rig.executor.held == MANY)
    facts = {"type": "stop", "id": "s", "time": rig.store.now}
    rig.post("ticker", "7", Signal.model_validate(facts))
    if not is_held:
        [session] = rig.store.rows("SELECT id FROM sessions WHERE agent = 'ticker' AND key = '7'")
        rig.executor.submit([session.id])
    until(lambda: [row.status for row in of_ticks(rig, "7")] == ["cancelled"])
    rig.move(rig.instant)
    rig.executor.submit(swept.sessions)

    until(lambda: len(ticks) == MANY - 1)
    assert "7" not in {key for key, _, _ in ticks}
    [stopped] = rig.store.rows("SELECT result FROM runs WHERE result LIKE '[%'")
    assert json.loads(stopped.result) == [rig.instant.isoformat()]


def test_a_cancellation_reaches_what_its_holder_has_not_seen_yet(rig: Rig) -> None:
    """A worker holds the session and cancels; another has just queued the tick. It is cancelled with that commit."""
    schedule(rig, MANY)
    [session] = rig.store.rows("SELECT id FROM sessions WHERE agent = 'ticker' AND key = '7'")
    rig.post("ticker", "7", Signal.model_validate({"type": "stop", "id": "s", "time": rig.store.now}))
    rig.move(rig.instant - timedelta(seconds=10))
    other = rig.worker()
    other.submit([session.id])
    other.cycle()  # claimed, loaded, and the handler has cancelled; not committed
    rig.approach(timedelta(seconds=2))
    queued = [row.status for row in of_ticks(rig, "7")]
    while not other.is_idle:
        other.cycle()

    assert queued == ["queued"]
    assert [(row.status, row.started_at) for row in of_ticks(rig, "7")] == [("cancelled", None)]


def test_a_session_that_is_busy_ticks_beside_that(rig: Rig) -> None:
    """A worker that holds it for something else sees what was queued ahead, and begins it at its time, not before."""
    schedule(rig, MANY)
    rig.move(rig.instant - timedelta(seconds=10))
    rig.start("ticker", ["7"], {"work": True})
    until(lambda: rig.statuses().get("running") == 1)
    swept = rig.approach(timedelta(seconds=2))
    assert not rig.executor.submit(swept.sessions).wait(1.0)
    before = list(ticks)
    rig.move(rig.instant)

    until(lambda: len(ticks) == MANY)
    assert len(swept.sessions) == MANY - 1
    assert before == []
    assert "7" in {key for key, _, _ in ticks}
    may_end.set()
    until(lambda: rig.executor.held == 0)


def test_a_session_is_not_busy_with_what_is_still_to_come(rig: Rig) -> None:
    """`while_busy="reject"` rejects nothing because of a tick that is queued ahead."""
    schedule(rig, MANY)
    rig.start("prim", ["p"], None)
    until(lambda: rig.store.rows("SELECT 1 FROM runs WHERE result = '\"call\"'") != [])
    rig.executor.submit(rig.approach(timedelta(seconds=2)).sessions)
    until(lambda: rig.executor.held == MANY + 1)
    rig.post("prim", "p", Signal.model_validate({"type": "stop", "id": "s", "time": rig.store.now}))

    until(lambda: rig.store.rows("SELECT 1 FROM runs WHERE result = '\"signal\"'") != [])
    assert rig.store.rows("SELECT 1 FROM runs WHERE result = '\"tick\"'") == []
    rig.move(rig.instant)
    until(lambda: rig.store.rows("SELECT 1 FROM runs WHERE result = '\"tick\"'") != [])


@pytest.mark.parametrize(
    ("overlap", "then", "at_last"),
    [
        ("skip", ["waiting", "cancelled"], ["completed", "cancelled"]),
        ("buffer_one", ["waiting", "queued"], ["completed", "waiting"]),
        ("allow", ["waiting", "waiting"], ["completed", "waiting"]),
        ("cancel_other", ["cancelled", "waiting"], ["cancelled", "waiting"]),
    ],
)
def test_whether_it_overlaps_is_decided_when_its_time_has_come(
    rig: Rig, overlap: Any, then: list[str], at_last: list[str]
) -> None:
    """Until then it waits beside the run before it, whatever the policy; and a buffered one makes nothing due."""
    schedule(rig, MANY, cron(MINUTELY, overlap=overlap))
    rig.instant = rig.store.now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    for number in (1, 2):
        rig.executor.submit(rig.approach(timedelta(seconds=2)).sessions)
        until(lambda: rig.executor.held == MANY and rig.executor.is_idle)
        before = [row.status for row in of_ticks(rig, "7")]
        rig.move(rig.instant)
        until(lambda: rig.executor.held == 0)
        if number == 1:
            rig.instant += timedelta(minutes=1)
    after = [row.status for row in of_ticks(rig, "7")]
    idle = rig.timers.sweep()
    rig.move(rig.instant + timedelta(seconds=30))
    rig.executor.submit(rig.timers.sweep().sessions)

    assert before == ["waiting", "queued"]
    assert after == then
    assert idle.is_empty
    until(lambda: [row.status for row in of_ticks(rig, "7")] == at_last)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_deploy_that_ends_a_schedule_takes_back_what_it_had_queued(rig: Rig, is_held: bool) -> None:
    """Whether or not a worker holds it already, and though that begins it before it can have heard of it."""
    rig.timers.sync_schedules()
    schedule(rig, MANY)
    swept = rig.approach(timedelta(seconds=2))
    if is_held:
        rig.executor.submit(swept.sessions)
        until(lambda: rig.executor.held == MANY + 1 and rig.executor.is_idle)
    queued = [row.status for row in of_ticks(rig, "default")]
    rig.deploy(without, ticker, prim)
    rig.move(rig.instant)
    rig.executor.submit(swept.sessions)

    until(lambda: len([key for key, _, _ in ticks if key != "coded"]) == MANY)
    until(lambda: rig.executor.held == 0)
    rig.executor.submit(rig.timers.sweep().sessions).wait(30)
    assert queued == ["queued"]
    assert [(row.status, row.started_at) for row in of_ticks(rig, "default")] == [("cancelled", None)]
    [session] = rig.store.rows("SELECT owner, due_at FROM sessions WHERE agent = 'coded'")
    assert (session.owner, session.due_at) == (None, None)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_deploy_that_is_undone_in_a_crowds_last_seconds_costs_no_tick(rig: Rig, is_held: bool) -> None:
    """What was taken back is not in the way of the same occurrence, which is queued anew."""
    rig.timers.sync_schedules()
    schedule(rig, MANY)
    swept = rig.approach(timedelta(seconds=3))
    if is_held:
        rig.executor.submit(swept.sessions)
        until(lambda: rig.executor.held == MANY + 1 and rig.executor.is_idle)
    rig.deploy(without, ticker, prim)
    rig.approach(timedelta(seconds=2))
    rig.deploy(coded, ticker, prim)
    rig.move(rig.instant)
    rig.executor.submit([*swept.sessions, *rig.timers.sweep().sessions])

    # Who began what was taken back lets go of its session.
    until(lambda: len({key for key, _, _ in ticks}) >= MANY and rig.executor.held == 0)
    rig.executor.submit(rig.timers.sweep().sessions)

    until(lambda: "completed" in {row.status for row in of_ticks(rig, "default")})
    assert sorted(row.status for row in of_ticks(rig, "default")) == ["cancelled", "completed"]


def test_what_was_taken_back_leaves_the_memory_of_its_holder(rig: Rig) -> None:
    """A holder that hears of it in time begins nothing, and lets go."""
    rig.timers.sync_schedules()
    schedule(rig, MANY)
    rig.executor.submit(rig.approach(timedelta(seconds=2)).sessions)
    until(lambda: rig.executor.held == MANY + 1 and rig.executor.is_idle)
    rig.deploy(without, ticker, prim)

    until(lambda: rig.executor.held == MANY)
    rig.move(rig.instant)
    until(lambda: len(ticks) == MANY)
    assert "coded" not in {key for key, _, _ in ticks}


def test_what_a_dead_worker_held_ahead_ticks_with_another(rig: Rig) -> None:
    """Nothing was written while it was held; when the lease has run out it is anybody's, and each ticks once."""
    schedule(rig, MANY)
    held, taken_over = rig.outlive_a_worker()

    assert held == taken_over == len(ticks) == MANY
    assert len(of_ticks(rig)) == MANY


def test_a_session_that_kills_its_workers_is_parked_and_a_tick_to_come_is_not(rig: Rig) -> None:
    """What has not begun is no reason for a death; once its time has come it may be."""
    schedule(rig, MANY)
    swept = rig.approach(timedelta(seconds=2))
    with rig.store.database.begin() as connection:
        connection.exec_driver_sql("UPDATE sessions SET takeovers = 5")
    rig.executor.submit(swept.sessions)
    until(lambda: rig.executor.held == MANY)
    ahead_of_time = {row.status for row in of_ticks(rig)}
    rig.executor.drop()
    rig.move(rig.instant + timedelta(seconds=15))
    rig.executor.submit(rig.timers.sweep().sessions)

    until(lambda: {row.status for row in of_ticks(rig)} == {"stuck"})
    assert ahead_of_time == {"queued"}
    assert ticks == []


def test_what_expects_a_tick_makes_a_session_due_no_later(rig: Rig) -> None:
    """One that is due before stays so; one that is held is due when its lease ends."""
    [soon, late, never, held] = rig.store.sessions("soon", "late", "never", "held")
    due = rig.store.now + timedelta(seconds=2)
    with rig.store.database.begin() as connection:
        for id, seconds in ((soon, 1), (late, 60), (held, 0)):
            ahead.expect(connection, [(id, rig.store.now + timedelta(seconds=seconds))])
    with rig.store.database.begin() as connection:
        lease = rig.store.now + timedelta(seconds=15)
        claim(connection, [held], owner="w", now=rig.store.now, until=lease)
        ahead.expect(connection, [(id, due) for id in (soon, late, never, held)])

    found = {id: rig.store.session(id) for id in (soon, late, never, held)}
    with rig.store.database.read() as connection:
        rows = connection.execute(sa.select(sessions.c.id, sessions.c.due_at))
        when = {row.id: (row.due_at - rig.store.now).total_seconds() for row in rows}
    assert [when[id] for id in (soon, late, never, held)] == [1, 2, 2, 15]
    assert [row.arrivals for row in found.values()] == [2, 2, 1, 2]
