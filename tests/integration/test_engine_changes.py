"""Code that changes while runs are asleep: it is noticed, shown, and nothing is lost; the old code, or a mark, goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from tests.integration.engine_kit import PEOPLE

from wakeloop import Agent, Context, NonDeterminismError, agent, on_message, step
from wakeloop.agent import Handler
from wakeloop.testing import Simulation

EFFECTS: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EFFECTS.clear()


class Plan(BaseModel):
    done: int = 0


@step
def first(text: str) -> str:
    EFFECTS.append(f"first {text}")
    return text


@step
def second(text: str) -> str:
    EFFECTS.append(f"second {text}")
    return text


@step(name="first")
async def other_first(text: str) -> str:
    EFFECTS.append(f"other {text}")
    return text


def deploy(handler: Handler) -> Agent:
    """This code as the agent `worker`."""
    return agent(on_message(), name="worker", state=Plan)(handler)


async def original(ctx: Context[Plan]) -> str:
    await first("a")
    ctx.state.done += 1
    await ctx.send("alice", "one")
    await ctx.sleep(60)
    await second("b")
    ctx.state.done += 1
    await ctx.send("alice", "two")
    return "original"


async def step_before_the_sleep(ctx: Context[Plan]) -> str:
    await first("a")
    ctx.state.done += 1
    await ctx.send("alice", "one")
    await second("new")
    await ctx.sleep(60)
    return "changed"


async def step_removed(ctx: Context[Plan]) -> str:
    ctx.state.done += 1
    await ctx.send("alice", "one")
    await ctx.sleep(60)
    return "changed"


async def step_renamed(ctx: Context[Plan]) -> str:
    await step(lambda: "a", name="begin")()
    await ctx.send("alice", "one")
    await ctx.sleep(60)
    return "changed"


async def send_removed(ctx: Context[Plan]) -> str:
    await first("a")
    await ctx.sleep(60)
    return "changed"


async def send_inserted(ctx: Context[Plan]) -> str:
    await first("a")
    await ctx.send("alice", "one")
    await ctx.send("alice", "one and a half")
    await ctx.sleep(60)
    return "changed"


async def send_to_another(ctx: Context[Plan]) -> str:
    await first("a")
    await ctx.send("bob", "one")
    await ctx.sleep(60)
    return "changed"


async def sleep_became_receive(ctx: Context[Plan]) -> str:
    await first("a")
    await ctx.send("alice", "one")
    await ctx.receive()
    return "changed"


async def sleep_removed(ctx: Context[Plan]) -> str:
    await first("a")
    await ctx.send("alice", "one")
    return "changed"


async def order_changed(ctx: Context[Plan]) -> str:
    await ctx.send("alice", "one")
    await first("a")
    await ctx.sleep(60)
    return "changed"


async def another_wait_beside(ctx: Context[Plan]) -> str:
    await first("a")
    await ctx.send("alice", "one")
    await asyncio.gather(ctx.sleep(60), second("beside"))
    return "changed"


async def raises_early(ctx: Context[Plan]) -> str:
    raise ValueError("new bug")


async def returns_early(ctx: Context[Plan]) -> str:
    return "changed"


async def swallows_everything(ctx: Context[Plan]) -> str:
    try:
        await ctx.send("alice", "zero")
    except BaseException:
        EFFECTS.append("swallowed")
    try:
        await first("a")
    except Exception:
        EFFECTS.append("swallowed")
    while True:
        try:
            await ctx.sleep(60)
        except Exception:
            EFFECTS.append("swallowed")


CHANGES: list[tuple[Handler, str, str]] = [
    (step_before_the_sleep, "operation 3, timer sleep", "operation 3, step second"),
    (step_removed, "nothing there", "operation 1, send alice"),
    (step_renamed, "operation 1, step first", "operation 1, step begin"),
    (send_removed, "operation 2, send alice", "operation 2, timer sleep"),
    (send_inserted, "nothing there", "operation 3, send alice"),
    (send_to_another, "operation 2, send alice", "operation 2, send bob"),
    (sleep_became_receive, "operation 3, timer sleep", "operation 3, timer; operation 4, receive"),
    (sleep_removed, "operation 3, timer sleep", "the handler's end (returned)"),
    (order_changed, "nothing there", "operation 1, send alice"),
    (another_wait_beside, "operation 3, timer sleep", "operation 3, timer sleep; operation 4, step second"),
    (raises_early, "operation 1, step first", "the handler's end (raised ValueError: new bug)"),
    (returns_early, "operation 1, step first", "the handler's end (returned)"),
    (swallows_everything, "nothing there", "operation 1, send alice"),
]


@pytest.mark.parametrize(
    ("changed", "recorded", "issued"), CHANGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_change_before_a_sleep_is_noticed_and_the_old_code_finishes_the_run(
    changed: Handler, recorded: str, issued: str
) -> None:
    """The run is stuck, both sides are shown, nothing new took effect; with the old code back, a retry finishes it."""
    with Simulation([deploy(original)], contacts=PEOPLE) as sim:
        run = sim.start("worker")
        before = list(EFFECTS)
        sim.replace_agents([deploy(changed)])
        sim.advance(60)
        stuck = sim.run(run)
        meanwhile = [one for one in EFFECTS if one != "swallowed"], [one.text for one in sim.outbox()]
        sim.retry(run)
        still = sim.run(run).status
        sim.replace_agents([deploy(original)])
        sim.retry(run)
        sim.advance(60)
        view = sim.run(run)
        state = sim.session("worker").state
        texts = [one.text for one in sim.outbox()]

    assert stuck.status == "stuck"
    assert (stuck.error or "").startswith("NonDeterminismError: run ")
    assert recorded in (stuck.error or "")
    assert issued in (stuck.error or "") or issued == "operation 3, timer; operation 4, receive"
    assert "wakeloop retry" in (stuck.error or "")
    assert "Or it does not do the same each time" in (stuck.error or "")
    assert meanwhile == (before, ["one"])
    assert still == "stuck"
    assert (view.status, view.result, state.done) == ("completed", "original", 2)
    assert texts == ["one", "two"]
    assert EFFECTS[-1] == "second b"


async def later_change(ctx: Context[Plan]) -> str:
    await other_first("a")
    ctx.state.done += 1
    await ctx.send("alice", "other words")
    await ctx.sleep(600)
    await ctx.send("alice", "new end")
    return "changed"


def test_what_is_not_reached_yet_or_is_the_same_by_name_may_change_freely() -> None:
    """Code after the sleep, words already sent, and how a step does its work are nobody's business in a replay."""
    with Simulation([deploy(original)], contacts=PEOPLE) as sim:
        run = sim.start("worker")
        sim.replace_agents([deploy(later_change)])
        sim.advance(60)
        early = sim.run(run).status
        sim.advance(540)
        view = sim.run(run)
        texts = [one.text for one in sim.outbox()]

    assert early == "waiting"
    assert (view.status, view.result) == ("completed", "changed")
    assert texts == ["one", "new end"]
    assert EFFECTS == ["first a"]


def test_a_change_of_a_result_type_is_noticed() -> None:
    """A recorded value that does not fit the step's new annotation parks the run; it is not handed on broken."""

    def version(kind: Any) -> Agent:
        def count() -> Any: ...

        count.__annotations__["return"] = kind
        counting = step(count, name="count")

        @agent(name="worker")
        async def worker(ctx: Context[None]) -> Any:
            found = await step(lambda: 5, name="count")() if kind is Any else await counting()
            await ctx.sleep(60)
            return found

        return worker

    with Simulation([version(Any)]) as sim:
        run = sim.start("worker")
        sim.replace_agents([version(list[str])])
        sim.advance(60)
        stuck = sim.run(run)
        sim.replace_agents([version(Any)])
        sim.retry(run)
        sim.advance(60)
        view = sim.run(run)

    assert stuck.status == "stuck"
    assert "whose type the recorded value does not fit" in (stuck.error or "")
    assert (view.status, view.result) == ("completed", 5)


def test_messages_for_a_stuck_run_wait_for_its_retry() -> None:
    """What a person writes while the run is parked reaches it when it goes on."""

    async def listens(ctx: Context[Plan]) -> str:
        await first("a")
        return (await ctx.receive()).text

    async def changed(ctx: Context[Plan]) -> str:
        await second("b")
        return (await ctx.receive()).text

    with Simulation([deploy(listens)], contacts=PEOPLE) as sim:
        run = sim.start("worker")
        sim.replace_agents([deploy(changed)])
        sim.reply("alice", "hello?")
        stuck = sim.run(run).status
        sim.advance(600)
        sim.replace_agents([deploy(listens)])
        sim.retry(run)
        view = sim.run(run)
        count = len(sim.runs())

    assert stuck == "stuck"
    assert (view.status, view.result) == ("completed", "hello?")
    assert count == 1


def test_an_agent_that_is_not_deployed_keeps_its_runs_until_it_is_back() -> None:
    """A removed agent's sleeping run is neither lost nor failed; with the agent deployed again it wakes."""
    with Simulation([deploy(original)], contacts=PEOPLE) as sim:
        run = sim.start("worker")
        sim.replace_agents([])
        sim.advance(600)
        away = sim.run(run).status
        sim.replace_agents([deploy(original)])
        sim.advance(1)
        view = sim.run(run)

    assert away == "waiting"
    assert (view.status, view.result) == ("completed", "original")


# ctx.patched


def _patched(log: list[Any]) -> Handler:
    async def patched(ctx: Context[Plan]) -> str:
        await first("a")
        if ctx.patched("no-greeting"):
            log.append("new")
        else:
            log.append("old")
            await ctx.send("alice", "one")
        await ctx.sleep(60)
        if ctx.patched("better-end"):
            await ctx.send("alice", "patched end")
        await ctx.sleep(60)
        return "new" if ctx.patched("no-greeting") else "old"

    return patched


def test_patched_is_false_for_runs_that_had_passed_it_and_true_for_new_ones() -> None:
    """An old run goes the old way where it has been, the new way where it has not; a new run goes the new way."""
    log: list[Any] = []

    async def before(ctx: Context[Plan]) -> str:
        await first("a")
        await ctx.send("alice", "one")
        await ctx.sleep(60)
        await ctx.sleep(60)
        return "before"

    with Simulation([deploy(before)], contacts=PEOPLE) as sim:
        old = sim.start("worker")
        sim.replace_agents([deploy(_patched(log))])
        new = sim.start("worker", key="other")
        for _ in range(8):
            sim.advance(15)
            sim.crash()
        views = sim.run(old), sim.run(new)
        texts = [one.text for one in sim.outbox()]

    assert [view.status for view in views] == ["completed", "completed"]
    assert [view.result for view in views] == ["old", "new"]
    assert texts == ["one", "patched end", "patched end"]
    assert {"old", "new"} == set(log)


def test_patched_is_the_same_for_the_whole_life_of_a_run() -> None:
    """In a loop that an old run has been through without it, it stays False, replay after replay."""
    answers: list[list[bool]] = []

    async def old_loop(ctx: Context[Plan]) -> None:
        for _ in range(4):
            await ctx.sleep(10)

    async def new_loop(ctx: Context[Plan]) -> list[bool]:
        found = []
        for _ in range(4):
            found.append(ctx.patched("x"))
            await ctx.sleep(10)
        answers.append(found)
        return found

    with Simulation([deploy(old_loop)]) as sim:
        old = sim.start("worker")
        sim.advance(15)
        sim.replace_agents([deploy(new_loop)])
        new = sim.start("worker", key="new")
        for _ in range(10):
            sim.advance(5)
            sim.crash()
        results = sim.run(old).result, sim.run(new).result

    assert results == ([False] * 4, [True] * 4)


# The state's model


class PlanV2(BaseModel):
    done: int = 0
    note: str = "added"


class PlanV3(BaseModel):
    done: list[str] = []


async def counts(ctx: Context[Any]) -> Any:
    await ctx.sleep(60)
    ctx.state.done += 1
    return ctx.state.model_dump()


def with_state(model: type[BaseModel]) -> Agent:
    return agent(name="worker", state=model)(counts)


def test_a_state_that_gained_a_field_with_a_default_goes_on() -> None:
    """A compatible model reads what the old one wrote, in new runs and in those that were asleep."""
    with Simulation([with_state(Plan)]) as sim:
        sim.start("worker")
        sim.advance(60)
        asleep = sim.start("worker")
        sim.replace_agents([with_state(PlanV2)])
        sim.advance(60)
        view = sim.run(asleep)
        state = sim.session("worker").state

    assert (view.status, view.result) == ("completed", {"done": 2, "note": "added"})
    assert state == PlanV2(done=2)


def test_a_state_that_does_not_fit_any_more_parks_the_run_and_a_deploy_mends_it() -> None:
    """An incompatible model loses nothing: the run is stuck with both sides shown, the state can still be looked at, and
    the right model goes on."""
    with Simulation([with_state(Plan)]) as sim:
        sim.start("worker")
        sim.advance(60)
        asleep = sim.start("worker")
        sim.replace_agents([with_state(PlanV3)])
        fresh = sim.start("worker")
        sim.advance(60)
        stuck = sim.run(asleep), sim.run(fresh)
        shown = sim.session("worker").state
        sim.replace_agents([with_state(PlanV2)])
        sim.retry(asleep)
        sim.retry(fresh)
        sim.advance(120)
        views = sim.run(asleep), sim.run(fresh)
        state = sim.session("worker").state

    assert [view.status for view in stuck] == ["stuck", "stuck"]
    assert all("PlanV3" in (view.error or "") for view in stuck)
    assert shown == {"done": 1}
    assert [view.status for view in views] == ["completed", "completed"]
    assert state == PlanV2(done=3)


@pytest.mark.parametrize("bad", ["x", {"a": object()}])
def test_a_state_that_cannot_be_kept_parks_the_run_and_leaves_the_session_as_it_was(bad: Any) -> None:
    """A field set to what its type does not allow is noticed at the wait; the stored state is not touched."""

    async def spoils(ctx: Context[Plan]) -> None:
        ctx.state.done += 1
        await ctx.sleep(60)
        ctx.state.done = bad
        await ctx.sleep(60)

    with Simulation([deploy(spoils)]) as sim:
        run = sim.start("worker")
        sim.advance(60)
        view = sim.run(run)
        state = sim.session("worker").state

    assert view.status == "stuck"
    assert "the state of session worker/default" in (view.error or "")
    assert state == Plan(done=1)


def test_a_state_of_another_class_is_refused() -> None:
    """`ctx.state = ...` takes an instance of the agent's model and nothing else."""

    async def replaces(ctx: Context[Any]) -> int:
        ctx.state = Plan(done=5)
        await ctx.sleep(1)
        ctx.state = {"done": 6}
        await ctx.sleep(1)
        return 1

    with Simulation([deploy(replaces)]) as sim:
        run = sim.start("worker")
        sim.advance(5)
        view = sim.run(run)
        state = sim.session("worker").state

    assert view.status == "stuck"
    assert "it must stay a Plan" in (view.error or "")
    assert state == Plan(done=5)


def test_results_of_old_code_stay_readable() -> None:
    """A run that ended before its handler's return type changed is shown with what it returned."""

    def version(kind: Any, value: Any) -> Agent:
        async def worker(ctx: Context[None]) -> Any:
            return value

        worker.__annotations__["return"] = kind
        return agent(name="worker")(worker)

    with Simulation([version(int, 5)]) as sim:
        run = sim.start("worker")
        sim.replace_agents([version(list[str], ["x"])])
        view = sim.run(run)

    assert (view.status, view.result) == ("completed", 5)


def test_non_determinism_says_both_sides_as_facts() -> None:
    """The exception has the two sides as attributes, for programs."""
    error = NonDeterminismError("words", recorded="operation 1, step a", issued="operation 1, step b")

    assert (error.recorded, error.issued) == ("operation 1, step a", "operation 1, step b")
