"""Sessions: runs beside each other, children, signals between agents, schedules of their own, overlap and while_busy."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from tests.integration.engine_kit import ENGINE_POINTS, PEOPLE

from wakeloop import Agent, ChildFailed, Context, Tick, agent, at, cron, every, on_message, on_signal, step
from wakeloop.errors import NotFound
from wakeloop.store import inbox, queries
from wakeloop.testing import Simulation

EFFECTS: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EFFECTS.clear()


class Notes(BaseModel):
    lines: list[str] = []
    count: int = 0


class Job(BaseModel):
    name: str
    price: Decimal = Decimal(1)


@step
def effect(name: str) -> str:
    EFFECTS.append(name)
    return name


# Children


@agent()
async def cook(ctx: Context[None]) -> Job:
    """A child with a typed result."""
    job = Job.model_validate(ctx.event.input)  # type: ignore[union-attr]
    await ctx.sleep(30)
    await effect(job.name)
    if job.name == "burnt":
        raise ValueError("burnt")
    return job.model_copy(update={"price": job.price * 2})


@pytest.mark.parametrize("crashes", [(), range(8)])
@pytest.mark.parametrize("point", [None, *ENGINE_POINTS])
def test_a_child_s_result_comes_typed_and_its_failure_as_child_failed(
    crashes: Any, point: str | None
) -> None:
    """A parent starts children, awaits them in any order, more than once, and through crashes of both."""

    @agent()
    async def chef(ctx: Context[None]) -> list[Any]:
        soup = await ctx.spawn(cook, Job(name="soup", price=Decimal("1.50")))
        burnt = await ctx.spawn("cook", {"name": "burnt"})
        try:
            await burnt
        except ChildFailed as error:
            failure = f"{error.status}: {error.reason}"
        found = await soup
        again = await soup
        await ctx.sleep(5)
        return [type(found).__name__, str(found.price), found == again == await soup, failure]

    with Simulation([chef, cook]) as sim:
        if point:
            sim.kill_at(point)
        run = sim.start(chef)
        for number in range(8):
            if number in crashes:
                sim.crash()
            if point:
                sim.kill_at(point)
            sim.advance(10)
        view = sim.run(run)
        statuses = sorted(one.status for one in sim.runs(cook))

    assert (view.status, view.error) == ("completed", None)
    assert view.result == ["Job", "3.00", True, "failed: ValueError: burnt"]
    assert statuses == ["completed", "failed"]


def test_children_run_beside_each_other_and_their_parent() -> None:
    """A gather of children takes as long as the longest, and each has a session of its own unless told otherwise."""

    @agent()
    async def sleeper(ctx: Context[None]) -> list[Any]:
        await ctx.sleep(ctx.event.input)  # type: ignore[union-attr, arg-type]
        return [ctx.event.input, ctx.key]  # type: ignore[union-attr]

    @agent()
    async def parent(ctx: Context[None]) -> Any:
        children = [await ctx.spawn(sleeper, number) for number in (30, 10, 20)]
        named = await ctx.spawn(sleeper, 5, key="named")
        found = await asyncio.gather(*children, named)
        return [(ctx.now() - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds(), found]

    with Simulation([parent, sleeper]) as sim:
        run = sim.start(parent)
        for _ in range(6):
            sim.advance(10)
            sim.crash()
        seconds, found = sim.run(run).result

    assert seconds == 30
    assert [number for number, _ in found] == [30, 10, 20, 5]
    assert found[3][1] == "named"
    assert len({key for _, key in found}) == 4


def test_a_parent_that_gives_up_waiting_may_await_its_child_later() -> None:
    """A timeout around a child leaves the child running; its end is kept until it is awaited."""

    @agent()
    async def parent(ctx: Context[None]) -> Any:
        child = await ctx.spawn(cook, Job(name="slow"))
        try:
            async with asyncio.timeout(10):
                await child
        except TimeoutError:
            await ctx.sleep(60)
        return (await child).name

    with Simulation([parent, cook]) as sim:
        run = sim.start(parent)
        for _ in range(8):
            sim.advance(10)
            sim.crash()
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", "slow")


def test_a_cancelled_child_is_a_child_failed() -> None:
    """Whoever waits for a child that was cancelled learns it."""

    @agent()
    async def parent(ctx: Context[None]) -> str:
        child = await ctx.spawn(cook, Job(name="x"))
        try:
            await child
        except ChildFailed as error:
            return error.status
        return "no"

    with Simulation([parent, cook]) as sim:
        run = sim.start(parent)
        sim.cancel(sim.runs(cook)[0].id)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", "cancelled")


def test_a_child_in_its_parent_s_own_session_sees_the_same_state() -> None:
    """An agent may spawn itself with its own key: two runs of one session, interleaving."""

    @agent(state=Notes)
    async def twin(ctx: Context[Notes]) -> int:
        if ctx.event.input == "child":  # type: ignore[union-attr]
            ctx.state.count += 10
            return ctx.state.count
        ctx.state.count += 1
        child = await ctx.spawn("twin", "child", key=ctx.key)
        found = await child
        ctx.state.count += 100
        return int(found)

    with Simulation([twin]) as sim:
        run = sim.start(twin)
        view = sim.run(run)
        count = sim.session(twin).state.count

    assert (view.status, view.result, count) == ("completed", 11, 111)


# Signals


def test_a_signal_reaches_the_session_that_its_key_names_once() -> None:
    """`key="{customer}"` gives each customer a session; a repeated id changes nothing; a match filters."""

    @agent(on_signal("order.*", match={"kind": "real"}, key="{customer}"), state=Notes)
    async def orders(ctx: Context[Notes]) -> None:
        ctx.state.lines.append(str(ctx.event.data["number"]))  # type: ignore[union-attr, index, call-overload]

    def order(customer: str, number: int, kind: str = "real") -> dict[str, Any]:
        return {"customer": customer, "number": number, "kind": kind}

    with Simulation([orders]) as sim:
        sim.signal("order.placed", order("ada", 1), id="a")
        sim.signal("order.placed", order("ada", 1), id="a")
        sim.signal("order.paid", order("bob", 2))
        sim.crash()
        sim.signal("order.paid", order("ada", 3))
        sim.signal("order.paid", order("ada", 4, "test"))
        sim.signal("invoice.paid", order("ada", 5))
        lines = {key: sim.session(orders, key).state.lines for key in ("ada", "bob")}

    assert lines == {"ada": ["1", "3"], "bob": ["2"]}


@pytest.mark.parametrize("point", ENGINE_POINTS)
def test_an_emitted_signal_reaches_every_listener_once_wherever_the_worker_dies(point: str) -> None:
    """Signals are recorded with what emitted them: each listener gets each of them once."""

    @agent()
    async def speaker(ctx: Context[None]) -> None:
        for number in range(3):
            await ctx.emit("news", {"number": number}, subject="x")
            await ctx.sleep(1)

    @agent(on_signal("news"), state=Notes)
    async def reader(ctx: Context[Notes]) -> None:
        ctx.state.lines.append(f"{ctx.event.data['number']}")  # type: ignore[union-attr, index, call-overload]

    @agent(on_signal("n*"), state=Notes)
    async def archive(ctx: Context[Notes]) -> None:
        ctx.state.count += 1

    with Simulation([speaker, reader, archive]) as sim:
        sim.kill_at(point)
        sim.start(speaker)
        for _ in range(4):
            sim.kill_at(point)
            sim.advance(1)
        lines, count = sim.session(reader).state.lines, sim.session(archive).state.count

    assert lines == ["0", "1", "2"]
    assert count == 3


# Runs of one session beside each other


def test_runs_of_a_session_share_its_state_across_waits_and_crashes() -> None:
    """Between two waits a run has the state to itself; across them it sees what others did; nothing is lost."""

    @agent(on_message(), state=Notes)
    async def worker(ctx: Context[Notes]) -> list[int]:
        seen = []
        for _ in range(4):
            before = ctx.state.count
            ctx.state.count = before + 1
            seen.append(ctx.state.count)
            await ctx.sleep(10)
        return seen

    with Simulation([worker]) as sim:
        first = sim.start(worker)
        sim.advance(5)
        second = sim.start(worker)
        for _ in range(10):
            sim.advance(5)
            sim.crash()
        results = sim.run(first).result, sim.run(second).result
        count = sim.session(worker).state.count

    assert results == ([1, 3, 5, 7], [2, 4, 6, 8])
    assert count == 8


def test_a_reference_to_the_state_stays_the_state() -> None:
    """`state = ctx.state` before a wait is the session's state after it too."""

    @agent(state=Notes)
    async def holder(ctx: Context[Notes]) -> int:
        state = ctx.state
        await ctx.sleep(10)
        state.count += 1
        return ctx.state.count

    with Simulation([holder]) as sim:
        first, second = sim.start(holder), sim.start(holder)
        sim.crash()
        sim.advance(10)
        found = sorted([sim.run(first).result, sim.run(second).result])
        count = sim.session(holder).state.count

    assert (found, count) == ([1, 2], 2)


def _busy_agent(mode: str) -> Agent:
    @agent(on_message(), while_busy=mode, state=Notes)
    async def busy(ctx: Context[Notes]) -> str:
        text = ctx.event.text  # type: ignore[union-attr]
        try:
            await ctx.sleep(60)
        except asyncio.CancelledError:
            ctx.state.lines.append(f"{text} interrupted")
            raise
        ctx.state.lines.append(f"{text} done at {ctx.now():%M:%S}")
        return text

    return busy


@pytest.mark.parametrize(
    ("mode", "lines", "statuses"),
    [
        ("start", ["one done at 01:00", "two done at 01:20"], ["completed", "completed"]),
        ("enqueue", ["one done at 01:00", "two done at 02:00"], ["completed", "completed"]),
        ("interrupt", ["one interrupted", "two done at 01:20"], ["cancelled", "completed"]),
        ("reject", ["one done at 01:00"], ["completed"]),
    ],
)
@pytest.mark.parametrize("crash", [False, True])
def test_while_busy_says_what_a_message_does_beside_an_open_run(
    mode: str, lines: list[str], statuses: list[str], crash: bool
) -> None:
    """Another run, one after the other, instead of it, or not at all."""
    busy = _busy_agent(mode)

    with Simulation([busy], contacts=PEOPLE) as sim:
        sim.reply("alice", "one")
        for number in range(9):
            sim.advance(20)
            if crash:
                sim.crash()
            if number == 0:
                sim.reply("alice", "two")
        found = (
            sim.session(busy, "alice").state.lines
            if _has(sim, busy, "alice")
            else sim.session(busy).state.lines
        )
        views = sim.runs(busy)

    assert found == lines
    assert [view.status for view in views] == statuses


def _has(sim: Simulation, of: Agent, key: str) -> bool:
    try:
        sim.session(of, key)
    except LookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("overlap", "ran", "skipped"),
    [
        ("skip", [0, 3], [1, 2, 4]),
        ("buffer_one", [0, 1, 3], [2, 4]),
        ("buffer_all", [0, 1, 2], []),
        ("cancel_other", [4], []),
        ("allow", [0, 1, 2], []),
    ],
)
def test_overlap_says_what_a_tick_does_while_the_last_one_s_run_is_open(
    overlap: Any, ran: list[int], skipped: list[int]
) -> None:
    """Each tick of a minute finds a run that takes two and a half: what finished within five minutes, what was skipped."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    @agent(every(timedelta(minutes=1), overlap=overlap), state=Notes)
    async def slow(ctx: Context[Notes]) -> int:
        event = ctx.event
        assert isinstance(event, Tick)
        await ctx.sleep(150)
        return int((event.nominal - begin).total_seconds() // 60) - 1

    with Simulation([slow], start=begin) as sim:
        for number in range(10):
            sim.advance(30)
            if number % 3 == 0:
                sim.crash()
        sim.advance(0)
        finished_in_five = [view.result for view in sim.runs(slow) if view.status == "completed"]
        left_out = [
            int((view.event.nominal - begin).total_seconds() // 60) - 1  # type: ignore[union-attr]
            for view in sim.runs(slow)
            if view.skipped
        ]
        cancelled = [view for view in sim.runs(slow) if view.status == "cancelled" and not view.skipped]

    assert left_out == [number for number in skipped if number < 5]
    if overlap == "cancel_other":
        assert (finished_in_five, len(cancelled)) == ([], 4)
    else:
        assert finished_in_five == ran[: len(finished_in_five)]
        assert cancelled == []
        assert len(finished_in_five) >= 1


# Schedules of their own


def test_a_session_schedules_lists_and_cancels_its_own_wakeups() -> None:
    """It sees those of its code and its own, soonest first; its own wake it; a cancelled one does not."""

    @agent(cron("0 12 * * *"), state=Notes)
    async def planner(ctx: Context[Notes]) -> list[Any]:
        if isinstance(ctx.event, Tick):
            ctx.state.lines.append(f"{ctx.event.nominal:%d %H:%M}")
            return []
        ctx.schedule.set(at(ctx.now() + timedelta(hours=3)))
        never = ctx.schedule.set(every(timedelta(hours=1)))
        ctx.schedule.set(every(timedelta(hours=10)))
        before = [[one.own, f"{one.next:%d %H:%M}"] for one in ctx.schedule.list()]
        ctx.schedule.cancel(never)
        await ctx.sleep(1)
        after = [one.id for one in ctx.schedule.list()]
        return [before, len(after), never in after]

    with Simulation([planner]) as sim:
        run = sim.start(planner)
        sim.crash()
        sim.advance(timedelta(hours=1))
        result = sim.run(run).result
        for _ in range(8):
            sim.crash()
            sim.advance(timedelta(hours=3))
        lines = sim.session(planner).state.lines
        left = [(one.own, f"{one.next:%d %H:%M}") for one in sim.session(planner).wakeups if one.next]

    before, count, is_there = result
    assert [one[0] for one in before] == [True, True, True, False]
    assert [one[1] for one in before] == ["01 01:00", "01 03:00", "01 10:00", "01 12:00"]
    assert (count, is_there) == (3, False)
    assert lines == ["01 03:00", "01 10:00", "01 12:00", "01 20:00"]
    assert left == [(True, "02 06:00"), (False, "02 12:00")]


@pytest.mark.parametrize("point", ENGINE_POINTS)
def test_a_wakeup_is_set_once_wherever_the_worker_dies(point: str) -> None:
    """An agent that reschedules itself at every wake neither stops nor doubles."""

    @agent(state=Notes)
    async def chain(ctx: Context[Notes]) -> None:
        ctx.state.count += 1
        await effect("tick")
        if ctx.state.count < 5:
            ctx.schedule.set(at(ctx.now() + timedelta(minutes=1)))

    with Simulation([chain]) as sim:
        sim.kill_at(point)
        sim.start(chain)
        for _ in range(10):
            sim.kill_at(point)
            sim.advance(timedelta(minutes=1))
        runs, count = len(sim.runs(chain)), sim.session(chain).state.count

    assert (runs, count) == (5, 5)


def test_thousands_of_sleeping_sessions_wake_each_on_its_own_time() -> None:
    """Sessions do not get in each other's way: a crowd of them sleeps and ends, whatever is lost in between."""

    @agent(state=Notes)
    async def one_of_many(ctx: Context[Notes]) -> int:
        ctx.state.count += 1
        await ctx.sleep(int(ctx.key) % 7)
        ctx.state.count += 1
        return int(ctx.key)

    @agent()
    async def parent(ctx: Context[None]) -> int:
        children = [await ctx.spawn(one_of_many, key=str(number)) for number in range(300)]
        return int(sum(await asyncio.gather(*children)))

    with Simulation([parent, one_of_many]) as sim:
        run = sim.start(parent)
        for _ in range(8):
            sim.advance(1)
            sim.crash()
        view = sim.run(run)
        counts = {sim.session(one_of_many, str(number)).state.count for number in (0, 1, 150, 299)}

    assert (view.status, view.result) == ("completed", sum(range(300)))
    assert counts == {2}


# A year


class Diary(BaseModel):
    days: int = 0
    focus: list[str] = []
    missed: int = 0


def test_a_year_of_weekdays_with_replies_comes_out_right() -> None:
    """An agent asks every weekday at nine in New York, hears, sleeps until five, and checks back; a crash every month."""

    @agent(cron("0 9 * * MON-FRI", tz="America/New_York"), state=Diary)
    async def standup(ctx: Context[Diary]) -> None:
        try:
            answer = await ctx.ask("alice", "What comes first?", timeout=timedelta(hours=2))
        except TimeoutError:
            ctx.state.missed += 1
            return
        ctx.state.days += 1
        ctx.state.focus.append(answer.text)
        await ctx.sleep_until(ctx.now().replace(hour=17, minute=0, second=0))
        await ctx.send("alice", f"Is '{answer.text}' done?")

    with Simulation([standup], contacts=PEOPLE, start="2026-01-01T00:00:00Z") as sim:
        for day in range(365):
            sim.advance(to=datetime(2026, 1, 1, 14, 30, tzinfo=UTC) + timedelta(days=day))
            if sim.requests() and day % 10:
                sim.reply("alice", f"task {day}")
            if day % 30 == 0:
                sim.crash()
        sim.advance(to="2027-01-01T00:00:00Z")
        diary = sim.session(standup).state
        runs = sim.runs(standup)
        outbox = sim.outbox("alice")

    first = datetime(2026, 1, 1, tzinfo=UTC)
    weekdays = [day for day in range(365) if (first + timedelta(days=day)).weekday() < 5]
    answered = [day for day in weekdays if day % 10]
    assert len(runs) == len(weekdays) == 261
    assert {run.status for run in runs} == {"completed"}
    assert diary == Diary(
        days=len(answered), focus=[f"task {day}" for day in answered], missed=len(weekdays) - len(answered)
    )
    assert [one.text for one in outbox if one.text.startswith("Is ")] == [
        f"Is 'task {day}' done?" for day in answered
    ]
    hours = {(one.at.hour, one.at.minute) for one in outbox if one.text.startswith("Is ")}
    assert hours == {(22, 0), (21, 0)}


def test_the_clock_of_a_simulation_stands_still_unless_it_is_moved() -> None:
    """`advance()` does what is due and no more; two ways to say how far are one too many."""

    @agent(every(timedelta(minutes=1)))
    async def ticker(ctx: Context[None]) -> None: ...

    with Simulation([ticker], start="2026-01-01T00:00:00Z") as sim:
        began = sim.now

        sim.advance()
        assert (sim.now, sim.runs()) == (began, [])

        sim.advance(timedelta(minutes=1))
        sim.advance()
        assert (sim.now, len(sim.runs())) == (began + timedelta(minutes=1), 1)
        with pytest.raises(TypeError, match="either"):
            sim.advance(60, to=began + timedelta(minutes=2))


@pytest.mark.parametrize("id", ["nobody", "019b76da-a800-7000-8000-77f23af8c44e"])
def test_what_a_simulation_does_not_know_is_not_found(id: str) -> None:
    """Whether the id could be one or not."""
    with Simulation([]) as sim:
        calls = (sim.run, sim.cancel, sim.retry, sim.restart, sim.approve, sim.deny)
        for call in calls:
            with pytest.raises(NotFound, match=id):
                call(id)


def test_a_session_that_is_due_for_nothing_is_let_go() -> None:
    """A session that was made for something that then did not come is looked at once, and sleeps."""

    @agent()
    async def idle(ctx: Context[None]) -> None:
        await ctx.sleep(1)

    with Simulation([idle]) as sim:
        with sim._database.begin() as connection:
            inbox.ensure_recipients(connection, [("idle", "default")], now=sim.now)

        sim.advance(timedelta(days=1))

        with sim._database.read() as connection:
            row = queries.find_session(connection, "idle", "default")
    assert row is not None
    assert (row.owner, row.due_at, row.dispatches, row.token) == (None, None, 0, 1)
