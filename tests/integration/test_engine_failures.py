"""Failed, stuck, retried, restarted and cancelled runs: nothing is lost, repeated or counted twice on the way."""

# ruff: noqa: ASYNC221

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from tests.integration.engine_kit import ENGINE_POINTS, PEOPLE

from wakeloop import Agent, Context, agent, on_message, on_signal, step
from wakeloop.errors import NotFound, NotPossible
from wakeloop.store.database import Database
from wakeloop.store.schema import runs
from wakeloop.testing import Simulation

EFFECTS: list[Any] = []
BROKEN: set[str] = set()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EFFECTS.clear()
    BROKEN.clear()


class Tally(BaseModel):
    count: int = 0
    log: list[str] = []


@step
def effect(name: str) -> str:
    EFFECTS.append(name)
    if name in BROKEN:
        raise ValueError(f"{name} is broken")
    return name


def bug(name: str) -> None:
    if name in BROKEN:
        raise RuntimeError(f"bug {name}")


def make_worker() -> Agent:
    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> str:
        """Counts before, between and after its steps."""
        ctx.state.count += 1
        await effect("a")
        ctx.state.count += 10
        await ctx.send("alice", "a is done")
        await ctx.sleep(60)
        ctx.state.count += 100
        await effect("b")
        ctx.state.count += 1000
        bug("last")
        await ctx.send("alice", "b is done")
        return "done"

    return worker


def _texts(sim: Simulation) -> list[str]:
    return [message.text for message in sim.outbox()]


def test_a_handler_that_raises_is_failed_with_its_traceback() -> None:
    """The error in a line, the traceback with file and function, and nothing after it was done."""
    BROKEN.add("last")
    worker = make_worker()

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        sim.advance(60)
        view = sim.run(run)
        texts = _texts(sim)

    assert (view.status, view.error) == ("failed", "RuntimeError: bug last")
    assert "test_engine_failures.py" in (view.traceback or "")
    assert 'in bug\n    raise RuntimeError(f"bug {name}")' in (view.traceback or "")
    assert view.ended_at is not None
    assert texts == ["a is done"]


@pytest.mark.parametrize("broken", ["a", "b", "last"])
@pytest.mark.parametrize("point", [None, *ENGINE_POINTS])
def test_a_retry_goes_on_from_the_last_recorded_step(broken: str, point: str | None) -> None:
    """Steps that succeeded are not computed again, messages are not sent again, state is counted once, whatever broke
    and wherever the worker dies during the retry."""
    BROKEN.add(broken)
    worker = make_worker()

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        sim.advance(60)
        failed = sim.run(run).status
        BROKEN.clear()
        if point is not None:
            sim.kill_at(point)
        sim.retry(run)
        sim.advance(60)
        view = sim.run(run)
        state = sim.session(worker).state
        texts = _texts(sim)

    assert failed == "failed"
    assert (view.status, view.result, view.error) == ("completed", "done", None)
    assert state.count == 1111
    assert texts == ["a is done", "b is done"]
    repeated = point in ("engine.step_done", "engine.committing")
    assert EFFECTS.count("a") in ([1] if broken != "a" else [2, 3] if repeated else [2])
    assert EFFECTS.count("b") in ([2, 3] if broken == "b" else [1, 2] if repeated else [1])


def test_a_retry_that_fails_again_can_be_retried_again() -> None:
    """Each time the broken step runs once more, and the state stays right."""
    BROKEN.add("b")
    worker = make_worker()

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        sim.advance(60)
        for _ in range(3):
            sim.retry(run)
            assert sim.run(run).status == "failed"
            assert sim.session(worker).state.count == 111
        BROKEN.clear()
        sim.retry(run)
        view = sim.run(run)
        state = sim.session(worker).state

    assert (view.status, state.count) == ("completed", 1111)
    assert EFFECTS == ["a", "b", "b", "b", "b", "b"]


def test_a_retry_with_fixed_code_uses_the_fixed_code() -> None:
    """A bug is fixed by a deploy; the run goes on in the new code with what the old one recorded."""

    def version(fixed: bool) -> Agent:
        @agent(name="worker", state=Tally)
        async def worker(ctx: Context[Tally]) -> str:
            found = await effect("a")
            ctx.state.count += 1
            return found.upper() if fixed else found.uper()  # type: ignore[attr-defined]

        return worker

    with Simulation([version(False)], contacts=PEOPLE) as sim:
        run = sim.start("worker")
        failed = sim.run(run)
        sim.replace_agents([version(True)])
        sim.retry(run)
        view = sim.run(run)
        state = sim.session("worker").state

    assert (failed.status, failed.error) == (
        "failed", "AttributeError: 'str' object has no attribute 'uper'",
    )  # fmt: skip
    assert (view.status, view.result, state.count) == ("completed", "A", 1)
    assert EFFECTS == ["a"]


@pytest.mark.parametrize("broken", ["x", "y"])
def test_what_others_did_in_the_moment_of_the_failure_stays(broken: str) -> None:
    """Two steps end at the same moment; what came of the one that went well is neither lost nor done twice."""
    BROKEN.add(broken)

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> list[str]:
        async def one(name: str) -> str:
            found = await effect(name)
            ctx.state.count += 1
            await ctx.send("alice", f"{name} is done")
            return found

        return await asyncio.gather(one("x"), one("y"))

    with Simulation([worker], contacts=PEOPLE, coalesce_seconds=0) as sim:
        run = sim.start(worker)
        failed = sim.run(run).status
        BROKEN.clear()
        sim.retry(run)
        view = sim.run(run)
        state = sim.session(worker).state
        texts = sorted(_texts(sim))

    assert failed == "failed"
    assert (view.status, view.result, state.count) == ("completed", ["x", "y"], 2)
    assert texts == ["x is done", "y is done"]
    assert sorted(EFFECTS) == sorted(["x", "y", broken])


@pytest.mark.parametrize("broken", ["after x", "after y"])
def test_a_bug_after_one_of_two_steps_costs_neither_of_their_results(broken: str) -> None:
    """Results that were recorded and not seen yet when the handler failed are there for the retry."""
    BROKEN.add(broken)

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> list[str]:
        async def one(name: str) -> str:
            found = await effect(name)
            ctx.state.count += 1
            bug(f"after {name}")
            await ctx.send("alice", f"{name} is done")
            return found

        return await asyncio.gather(one("x"), one("y"))

    with Simulation([worker], contacts=PEOPLE, coalesce_seconds=0) as sim:
        run = sim.start(worker)
        failed = sim.run(run).status
        BROKEN.clear()
        sim.retry(run)
        sim.crash()
        view = sim.run(run)
        state = sim.session(worker).state
        texts = sorted(_texts(sim))

    assert failed == "failed"
    assert (view.status, view.result, state.count) == ("completed", ["x", "y"], 2)
    assert texts == ["x is done", "y is done"]
    assert sorted(EFFECTS) == ["x", "y"]


def test_a_group_of_failed_steps_is_tried_again_as_a_whole() -> None:
    """An exception group of several steps' failures takes each of them back."""
    BROKEN.update("xyz")

    @agent()
    async def worker(ctx: Context[None]) -> list[str]:
        found = await asyncio.gather(*(effect(name) for name in "wxyz"), return_exceptions=True)
        errors = [one for one in found if isinstance(one, Exception)]
        if errors:
            raise ExceptionGroup("several", errors)
        return [str(one) for one in found]

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        failed = sim.run(run).error
        BROKEN.clear()
        sim.retry(run)
        view = sim.run(run)

    assert (failed or "").startswith("ExceptionGroup: several (3 sub-exceptions)")
    assert (view.status, view.result) == ("completed", ["w", "x", "y", "z"])
    assert sorted(EFFECTS) == sorted("wxyzxyz")


def test_a_failure_that_is_wrapped_is_found_at_its_origin() -> None:
    """`raise ... from` and `raise` in an except block lead back to the step that failed."""
    BROKEN.add("a")

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> str:
        try:
            return await effect("a")
        except ValueError as error:
            ctx.state.log.append("tried")
            raise LookupError("no a") from error

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        error, log = sim.run(run).error, sim.session(worker).state.log
        BROKEN.clear()
        sim.retry(run)
        view = sim.run(run)
        state = sim.session(worker).state

    assert (error, log) == ("LookupError: no a", ["tried"])
    assert (view.status, view.result) == ("completed", "a")
    assert state.log == []


def test_a_failure_from_long_ago_takes_back_what_came_of_it() -> None:
    """A step's failure that the handler keeps, sleeps on and raises later is tried again, and the state follows."""
    BROKEN.add("a")

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> str:
        error: Exception | None = None
        try:
            await effect("a")
        except ValueError as caught:
            error = caught
        ctx.state.count += 1
        await ctx.sleep(60)
        if error is not None:
            raise error
        return "done"

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.advance(60)
        failed = sim.run(run).status
        BROKEN.clear()
        sim.retry(run)
        sim.advance(60)
        view = sim.run(run)
        state = sim.session(worker).state

    assert failed == "failed"
    assert (view.status, state.count) == ("completed", 1)


def test_a_message_that_came_after_a_failure_is_not_lost_by_a_retry() -> None:
    """What a person wrote stays received: a retry does not go back behind it."""
    BROKEN.update({"a", "late"})

    @agent()
    async def worker(ctx: Context[None]) -> str:
        try:
            await effect("a")
        except ValueError:
            pass
        message = await ctx.receive()
        bug("late")
        return message.text

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        sim.reply("alice", "only once")
        failed = sim.run(run).status
        BROKEN.clear()
        sim.retry(run)
        view = sim.run(run)

    assert failed == "failed"
    assert (view.status, view.result) == ("completed", "only once")


def test_a_change_of_the_state_by_another_run_is_not_taken_back() -> None:
    """A retry restores the state only if nobody has changed it since."""
    BROKEN.add("last")

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> None:
        await effect("a")
        ctx.state.count += 1
        bug("last")

    @agent(on_signal("noop"))
    async def unrelated(ctx: Context[None]) -> None:
        pass

    with Simulation([worker, unrelated]) as sim:
        run = sim.start(worker)
        assert sim.session(worker).state.count == 1
        BROKEN.clear()
        sim.start(worker)
        assert sim.session(worker).state.count == 2
        sim.retry(run)
        state = sim.session(worker).state
        status = sim.run(run).status

    assert status == "completed"
    assert state.count == 3


def test_what_is_refused_is_the_same_in_a_replay() -> None:
    """An unknown contact, an empty signal, a bad schedule: caught live, they are caught in the same place in a replay."""
    seen: list[list[str]] = []

    @agent()
    async def clumsy(ctx: Context[None]) -> str:
        log: list[str] = []

        async def attempt(action: Any) -> None:
            try:
                await action()
            except Exception as error:
                log.append(f"{type(error).__name__}: {error}"[:60])

        async def bad_schedule() -> None:
            ctx.schedule.set("0 9 * * *")  # type: ignore[arg-type]

        async def no_wakeup() -> None:
            ctx.schedule.cancel("nothing")

        await attempt(lambda: ctx.send("nobody", "x"))
        await attempt(lambda: ctx.send("alice", "x", via="pigeon"))
        await attempt(lambda: ctx.send("alice", 5))  # type: ignore[arg-type]
        await attempt(lambda: ctx.send("alice", "\ud800"))
        await attempt(lambda: ctx.send("alice", "x" * 2_000_000))
        await attempt(lambda: ctx.ask("nobody", "x?"))
        await attempt(lambda: ctx.emit(""))
        await attempt(lambda: ctx.emit("x", {"when": object()}))
        await attempt(lambda: ctx.spawn("nobody"))
        await attempt(lambda: ctx.spawn("clumsy", key=7))  # type: ignore[arg-type]
        await attempt(lambda: ctx.spawn("clumsy", object()))
        await attempt(bad_schedule)
        await attempt(no_wakeup)
        seen.append(log)
        await ctx.sleep(5)
        return await effect("went on")

    with Simulation([clumsy], contacts=PEOPLE) as sim:
        run = sim.start(clumsy)
        sim.crash()
        sim.advance(5)
        view = sim.run(run)
        said = _texts(sim)

    assert (view.status, view.result) == ("completed", "went on")
    assert len(seen[0]) == 13
    assert seen[0] == seen[1]
    assert said == []


def test_a_failure_in_what_was_asked_for_is_done_again_by_a_retry() -> None:
    """A run that failed for want of a contact finishes once there is one."""

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> str:
        await effect("a")
        ctx.state.count += 1
        await ctx.send("carol", "hello")
        return "sent"

    from wakeloop.people import People

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        failed = sim.run(run)
        sim._world.people = People({**PEOPLE, "carol": {"sms": "+15555550102"}})
        sim.retry(run)
        view = sim.run(run)
        state = sim.session(worker).state
        sent = [(message.to, message.text) for message in sim.outbox()]

    assert (failed.status, (failed.error or "")[:9]) == ("failed", "NotFound:")
    assert (view.status, view.result, state.count) == ("completed", "sent", 1)
    assert sent == [("carol", "hello")]
    assert EFFECTS == ["a"]


# Restart, cancel


def test_a_restart_runs_the_same_event_again_from_the_beginning() -> None:
    """A new run of the same event; the failed one is closed, and its steps are done again."""
    BROKEN.add("last")

    @agent()
    async def worker(ctx: Context[None]) -> Any:
        await effect("a")
        bug("last")
        return ctx.event.input  # type: ignore[union-attr]

    with Simulation([worker]) as sim:
        run = sim.start(worker, {"x": [1]})
        BROKEN.clear()
        again = sim.restart(run)
        first, second = sim.run(run), sim.run(again)

    assert again != run
    assert (first.status, second.status, second.result) == ("cancelled", "completed", {"x": [1]})
    assert EFFECTS == ["a", "a"]


def test_a_cancelled_run_may_clean_up_and_wait_while_it_does() -> None:
    """Cleanup runs steps, sends, and sleeps, through crashes; its question is closed; then the run is cancelled."""

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> None:
        try:
            await ctx.ask("alice", "Shall I?")
        finally:
            await effect("undo")
            await ctx.sleep(30)
            ctx.state.log.append("tidy")
            await ctx.send("bob", "undone")

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        sim.cancel(run)
        sim.crash()
        during = sim.run(run).status
        sim.advance(10)
        sim.crash()
        sim.advance(20)
        view = sim.run(run)
        log = sim.session(worker).state.log
        statuses = [one.status for one in sim.requests(status=None)]
        texts = _texts(sim)

    assert during in ("waiting", "running")
    assert view.status == "cancelled"
    assert log == ["tidy"]
    assert statuses == ["cancelled"]
    assert texts == ["Shall I?", "No longer needed: “Shall I?”", "undone"]
    assert EFFECTS == ["undo"]


@pytest.mark.parametrize("point", ENGINE_POINTS)
def test_a_cancellation_survives_a_death_at_any_point(point: str) -> None:
    """Wherever the worker dies while it cancels, the run ends cancelled, cleaned up once."""

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await effect("undo")
            ctx.state.count += 1

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.kill_at(point)
        sim.cancel(run)
        view = sim.run(run)
        state = sim.session(worker).state

    assert (view.status, state.count) == ("cancelled", 1)
    assert len(EFFECTS) <= 2


def test_a_run_that_refuses_to_be_cancelled_goes_on() -> None:
    """CancelledError may be caught, as in asyncio; the run then ends as it likes."""

    @agent()
    async def stubborn(ctx: Context[None]) -> str:
        try:
            await ctx.sleep(1000)
        except asyncio.CancelledError:
            await ctx.sleep(10)
        return "finished anyway"

    with Simulation([stubborn]) as sim:
        run = sim.start(stubborn)
        sim.cancel(run)
        sim.crash()
        sim.advance(10)
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", "finished anyway")


def test_a_failure_during_cleanup_is_shown_and_can_be_retried() -> None:
    """A cancelled run whose cleanup fails is failed, not lost; a retry cleans up and ends it cancelled."""
    BROKEN.add("undo")

    @agent()
    async def worker(ctx: Context[None]) -> None:
        try:
            await ctx.sleep(1000)
        finally:
            await effect("undo")

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.cancel(run)
        failed = sim.run(run)
        BROKEN.clear()
        sim.retry(run)
        view = sim.run(run)

    assert (failed.status, failed.error) == ("failed", "ValueError: undo is broken")
    assert view.status == "cancelled"


def test_a_parked_run_can_be_cancelled_and_then_nothing_more() -> None:
    """A failed run is closed by a cancellation; a run that is over can be neither retried nor cancelled."""
    BROKEN.add("a")

    @agent()
    async def worker(ctx: Context[None]) -> None:
        await effect("a")

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        sim.cancel(run)
        status = sim.run(run).status

        with pytest.raises(NotPossible, match="nothing left to cancel"):
            sim.cancel(run)
        with pytest.raises(NotPossible, match="only failed and stuck runs"):
            sim.retry(run)
        with pytest.raises(NotFound):
            sim.retry("00000000-0000-7000-8000-000000000000")

    assert status == "cancelled"


@pytest.mark.parametrize("repair_it", [Simulation.retry, Simulation.cancel], ids=["retry", "cancel"])
def test_of_two_who_set_a_parked_run_right_at_once_the_second_is_refused(
    tmp_path: Path, repair_it: Callable[[Simulation, str], None]
) -> None:
    """It had looked at the run before the first was done with it; what the first made of the run stays."""
    BROKEN.add("a")

    @agent()
    async def worker(ctx: Context[None]) -> None:
        await effect("a")

    with Simulation([worker], store=tmp_path / "store.db") as sim, ThreadPoolExecutor() as pool:
        run = sim.start(worker)
        first = Database(f"sqlite:///{tmp_path / 'store.db'}")
        with first.begin() as connection:
            second = pool.submit(repair_it, sim, run)
            time.sleep(0.5)
            connection.execute(sa.update(runs).values(status="completed", failure=None))
        first.close()

        with pytest.raises(NotPossible, match="somebody else"):
            second.result(10)
        assert sim.run(run).status == "completed"


def test_a_queued_run_is_cancelled_before_it_begins() -> None:
    """A run that waits for its turn ends without a trace of its handler."""

    @agent(on_message(), while_busy="enqueue")
    async def worker(ctx: Context[None]) -> None:
        await effect("begun")
        await ctx.sleep(60)

    with Simulation([worker], contacts=PEOPLE) as sim:
        sim.reply("alice", "one")
        sim.reply("alice", "two")
        first, *rest = sim.runs()
        sim.advance(timedelta(minutes=5))
        statuses = [run.status for run in sim.runs()]

    assert first.status == "waiting"
    assert len(rest) <= 1
    assert set(statuses) == {"completed"}


def test_a_handler_that_cancels_itself_has_failed() -> None:
    """CancelledError that nobody asked for is an error, not a quiet end."""

    @agent()
    async def worker(ctx: Context[None]) -> None:
        raise asyncio.CancelledError

    with Simulation([worker]) as sim:
        view = sim.run(sim.start(worker))

    assert view.status == "failed"
    assert "cancelled itself" in (view.error or "")


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, StopAsyncIteration, BaseExceptionGroup])
def test_whatever_a_handler_raises_only_ends_its_own_run(kind: type[BaseException]) -> None:
    """Even what ends programs only fails the run; other sessions go on."""

    @agent()
    async def wild(ctx: Context[None]) -> None:
        await ctx.sleep(1)
        raise kind("all", [ValueError()]) if kind is BaseExceptionGroup else kind()

    @agent()
    async def other(ctx: Context[None]) -> str:
        await ctx.sleep(2)
        return "fine"

    with Simulation([wild, other]) as sim:
        run, fine = sim.start(wild), sim.start(other)
        sim.advance(2)
        views = sim.run(run), sim.run(fine)

    assert (views[0].status, views[1].status) == ("failed", "completed")


def test_a_result_that_cannot_be_kept_fails_the_run_and_a_fix_finishes_it() -> None:
    """The handler's own result is a journaled value: refused by name, and retried without doing the steps again."""

    def version(fixed: bool) -> Agent:
        @agent(name="worker")
        async def worker(ctx: Context[None]) -> Any:
            await effect("a")
            return ["x"] if fixed else {"x"}

        return worker

    with Simulation([version(False)]) as sim:
        run = sim.start("worker")
        failed = sim.run(run)
        sim.replace_agents([version(True)])
        sim.retry(run)
        view = sim.run(run)

    assert failed.status == "failed"
    assert "the result of agent worker is a set" in (failed.error or "")
    assert (view.status, view.result) == ("completed", ["x"])
    assert EFFECTS == ["a"]


# Putting a run to sleep is not an end


def test_a_run_that_only_sleeps_does_nothing_of_its_cleanup() -> None:
    """When a sleeping run leaves memory, steps, messages and I/O in `finally` and `except` blocks do not happen."""

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> str:
        try:
            try:
                await ctx.sleep(60)
            except BaseException:
                await ctx.send("alice", "something is wrong")
                await effect("alarm")
                raise
        finally:
            with contextlib.suppress(OSError):
                subprocess.run(["true"], check=False)
                EFFECTS.append("program")
            await effect("undo")
            ctx.state.count += 1
            await ctx.send("alice", "bye")
        return "slept well"

    with Simulation([worker], contacts=PEOPLE) as sim:
        run = sim.start(worker)
        for _ in range(3):
            sim.advance(10)
            sim.crash()
        asleep = list(EFFECTS), _texts(sim), sim.session(worker).state.count
        sim.cancel(run)
        sim.advance(60)
        status = sim.run(run).status

    assert asleep == ([], [], 0)
    assert "program" not in EFFECTS
    assert status in ("failed", "cancelled")


def test_results_that_were_recorded_and_not_seen_before_a_crash_all_change_the_state() -> None:
    """After a crash, several results are seen one after the other; each change of the state builds on the last."""

    @agent(state=Tally)
    async def worker(ctx: Context[Tally]) -> int:
        async def one(name: str) -> None:
            await effect(name)
            ctx.state.count += 1
            ctx.state.log.append(name)

        await asyncio.gather(*(one(name) for name in "abcd"))
        await ctx.sleep(10)
        return ctx.state.count

    with Simulation([worker]) as sim:
        sim.kill_at("engine.step_committed")
        run = sim.start(worker)
        state = sim.session(worker).state
        sim.advance(10)
        view = sim.run(run)

    assert (state.count, state.log) == (4, ["a", "b", "c", "d"])
    assert (view.status, view.result) == ("completed", 4)
    assert sorted(EFFECTS) == ["a", "b", "c", "d"]


def test_a_bug_before_a_cleanup_that_ran_a_step_is_parked_by_a_retry_and_can_be_restarted() -> None:
    """The cleanup's recorded result stays, so mended code that does not come by there is stuck, told so, and loses
    nothing; with the bug still there a retry just fails again, and a restart begins anew."""
    BROKEN.add("bug")

    @agent()
    async def worker(ctx: Context[None]) -> str:
        await effect("a")
        try:
            bug("bug")
            await ctx.sleep(10)
        finally:
            await effect("release")
        return "done"

    with Simulation([worker]) as sim:
        run = sim.start(worker)
        failed = sim.run(run).status
        sim.retry(run)
        again = sim.run(run).error
        BROKEN.clear()
        sim.retry(run)
        stuck = sim.run(run)
        new = sim.restart(run)
        sim.advance(10)
        view = sim.run(new)

    assert (failed, again) == ("failed", "RuntimeError: bug bug")
    assert stuck.status == "stuck"
    assert "operation 2, step effect" in (stuck.error or "")
    assert (view.status, view.result) == ("completed", "done")
    assert EFFECTS == ["a", "release", "a", "release"]


def test_a_run_that_will_not_be_cancelled_is_ended_by_a_second_cancel() -> None:
    """The first lets it clean up for as long as it likes; the second does not."""

    @agent()
    async def stubborn(ctx: Context[None]) -> None:
        while True:
            try:
                await ctx.sleep(timedelta(days=1))
            except asyncio.CancelledError:
                pass

    with Simulation([stubborn]) as sim:
        run = sim.start("stubborn")

        sim.cancel(run)
        sim.crash()
        assert sim.run(run).status == "waiting"
        sim.cancel(run)

        assert sim.run(run).status == "cancelled"
