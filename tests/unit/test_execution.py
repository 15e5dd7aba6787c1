"""One run in memory, driven by hand: replay, stretches, what a retry takes back, without a store or a clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from wakeloop import Agent, Context, agent, step
from wakeloop.engine.commands import SendMessage, Wakeup
from wakeloop.engine.execution import Execution
from wakeloop.engine.journal import DELIVERED, Kind, Record, Wait, dump_waits, load_waits
from wakeloop.engine.operation import RunFacts, UnknownOutcome
from wakeloop.engine.rewinding import Rewind, applied_before, taken_back
from wakeloop.errors import NotFound
from wakeloop.events import Call

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Tally(BaseModel):
    count: int = 0


class World:
    """Surroundings of a run: ids in order, and contacts that are anybody but `nobody`."""

    def __init__(self) -> None:
        self.ids = 0

    def new_id(self) -> UUID:
        self.ids += 1
        return UUID(int=self.ids)

    def check_contact(self, contact: str, via: str | None) -> str:
        if contact == "nobody":
            raise NotFound("there is no contact 'nobody'")
        return "sms"

    def check_agent(self, name: str) -> None:
        pass

    def wakeups(self) -> tuple[Wakeup, ...]:
        return ()


class Run:
    """A run with its journal and its session's state, kept as a store would; memory can be lost at any time."""

    def __init__(self, of: Agent) -> None:
        self.agent = of
        self.world = World()
        self.journal: list[Record] = []
        self.state: str | None = None
        self.applied = -1
        self.waits: tuple[Wait, ...] | None = None
        self.now = BEGIN
        self.said: list[str] = []
        self.execution: Execution | None = None

    def load(self) -> Execution:
        """The run in memory, replayed if it was lost."""
        if self.execution is None:
            self.execution = Execution(
                agent=self.agent,
                facts=RunFacts(id="r", session="s", key="k", event=Call(), started_at=BEGIN),
                journal=list(self.journal),
                applied=self.applied,
                waits=self.waits,
                surroundings=self.world,
            )
            self.execution.begin(self.state)
            self.commit()
        return self.execution

    def commit(self) -> None:
        """Keep what is new."""
        assert self.execution is not None
        records, commands = self.execution.take()
        self.journal += records
        self.said += [one.message.text for one in commands if isinstance(one, SendMessage)]
        self.applied = self.execution.applied
        self.waits = None
        if self.execution.state_changed:
            self.state = self.execution.state_text
            self.execution.state_before = self.execution.state_text

    def lose(self, *, at_rest: bool = True) -> None:
        """Memory is gone; `at_rest`: what it waited for is known."""
        if self.execution is not None:
            self.waits = self.execution.waits() if at_rest and not self.execution.has_undelivered else None
            self.execution.close()
        self.execution = None

    def deliver(self, op: int, value: str | None = None, *, ok: bool = True) -> None:
        execution = self.load()
        execution.deliver(op, at=self.now, ok=ok, value=value, state=self.state)
        self.commit()

    def fire(self) -> bool:
        """Let the earliest timer fire at its time."""
        timers = [one for one in self.load().pending.values() if one.kind is Kind.TIMER]
        if not timers:
            return False
        first = min(timers, key=lambda one: (one.due, one.no))
        assert first.due is not None
        self.now = max(self.now, first.due)
        self.deliver(first.no)
        return True


def named(handler: Any) -> Agent:
    return agent(name="it", state=Tally)(handler)


@step
def work(number: int) -> int:
    return number


# Replay


def test_a_replay_asks_for_the_same_and_records_nothing() -> None:
    """The same journal leads to the same waits, and neither to a record nor to a command."""

    async def handler(ctx: Context[Tally]) -> None:
        await ctx.send("alice", "one")
        await asyncio.gather(work(1), ctx.sleep(60), ctx.receive())

    run = Run(named(handler))
    before = run.load().waits()
    length = len(run.journal)
    for _ in range(3):
        run.lose()
        assert run.load().waits() == before

    assert len(run.journal) == length
    assert run.said == ["one"]
    assert [(wait.op, wait.kind) for wait in before] == [
        (2, Kind.STEP), (3, Kind.TIMER), (4, Kind.RECEIVE),
    ]  # fmt: skip


def test_completions_are_seen_one_at_a_time_in_the_order_of_the_journal() -> None:
    """Of things that happened at once, each is seen, and what follows it done, before the next."""
    order: list[str] = []

    async def handler(ctx: Context[Tally]) -> None:
        async def one(name: str) -> None:
            await step(lambda: None, name=name)()
            order.append(name)
            await ctx.send("alice", name)

        await asyncio.gather(one("a"), one("b"), one("c"))

    run = Run(named(handler))
    execution = run.load()
    for op in (3, 1, 2):
        execution.record_completion(op, at=BEGIN, value="null")
    run.commit()
    while execution.deliver_next(run.state):
        run.commit()

    live, said = list(order), list(run.said)
    order.clear()
    run.lose(at_rest=False)
    run.load()

    assert live == said == order == ["c", "a", "b"]
    assert run.said == said


def test_results_recorded_and_not_seen_are_seen_after_a_loss() -> None:
    """Two steps are recorded, memory is lost before the handler saw them: both are seen then, in order."""

    async def handler(ctx: Context[Tally]) -> list[int]:
        async def one(number: int) -> int:
            found = await work(number)
            ctx.state.count += found
            return found

        return list(await asyncio.gather(one(1), one(2)))

    run = Run(named(handler))
    execution = run.load()
    execution.record_completion(2, at=BEGIN, value="2")
    execution.record_completion(1, at=BEGIN, value="1")
    run.commit()
    run.lose(at_rest=False)
    execution = run.load()

    assert execution.outcome is not None
    assert (execution.outcome.status, execution.outcome.result) == ("completed", "[1,2]")
    assert run.state == '{"count":3}'


def test_a_completion_that_nobody_waits_for_any_more_is_passed_over() -> None:
    """A step that is recorded although its wait was given up does no harm, live or replayed."""

    async def handler(ctx: Context[Tally]) -> str:
        tasks = [asyncio.create_task(work(1)), asyncio.create_task(ctx.sleep(5))]
        _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await ctx.sleep(5)
        return "done"

    run = Run(named(handler))
    execution = run.load()
    execution.record_completion(2, at=BEGIN + timedelta(seconds=5))
    execution.record_completion(1, at=BEGIN + timedelta(seconds=5), value="1")
    while execution.deliver_next(run.state):
        pass
    run.commit()
    run.lose()
    run.fire()

    assert run.execution is not None
    assert run.execution.outcome is not None
    assert run.execution.outcome.status == "completed"


def test_time_never_goes_back_for_a_handler() -> None:
    """A worker whose clock is behind records the time of the last thing at the least."""

    async def handler(ctx: Context[Tally]) -> list[float]:
        times = []
        for _ in range(3):
            await ctx.receive()
            times.append((ctx.now() - BEGIN).total_seconds())
        return times

    message = '{"id": "m", "text": "x", "channel": "sms", "at": "2026-01-01T00:00:00Z"}'
    run = Run(named(handler))
    for op, seconds in ((1, 10), (2, 5), (3, 20)):
        run.now = BEGIN + timedelta(seconds=seconds)
        run.deliver(op, message)

    assert run.execution is not None
    assert run.execution.outcome is not None
    assert run.execution.outcome.result == "[10.0,10.0,20.0]"
    assert [record.at for record in run.journal if record.kind in DELIVERED] == [
        BEGIN + timedelta(seconds=10), BEGIN + timedelta(seconds=10), BEGIN + timedelta(seconds=20),
    ]  # fmt: skip


def test_a_step_under_way_that_may_not_be_repeated_is_unknown_after_a_loss() -> None:
    """Begun and neither failed nor done: the run cannot go on by itself. Failed attempts are known."""

    async def handler(ctx: Context[Tally]) -> None:
        await step(lambda: None, name="charge", idempotent=False, retries=3)()

    run = Run(named(handler))
    execution = run.load()
    [operation] = execution.steps_to_start(BEGIN)
    execution.note(Kind.STARTED, operation, at=BEGIN)
    execution.note(
        Kind.ATTEMPT, operation, at=BEGIN, ok=False, value='{"again": "2026-01-01T00:00:05+00:00"}'
    )
    run.commit()
    run.lose()
    known = run.load().steps_to_start(BEGIN + timedelta(seconds=5))
    run.load().note(Kind.STARTED, operation, at=BEGIN)
    run.commit()
    run.lose()

    assert [one.name for one in known] == ["charge"]
    with pytest.raises(UnknownOutcome) as caught:
        run.load()
    assert (caught.value.op, caught.value.step) == (1, "charge")


# What a retry takes back


def _journal(*lines: tuple[int, Kind, str, bool]) -> list[Record]:
    return [
        Record(seq=seq, op=op, kind=kind, name=name, ok=ok, at=BEGIN)
        for seq, (op, kind, name, ok) in enumerate(lines, start=1)
    ]


def test_a_retry_takes_back_what_was_asked_for_since_and_keeps_every_result_from_before() -> None:
    """Completions of earlier operations stay, wherever in the journal they are; what came of the failed stretch goes."""
    journal = _journal(
        (0, Kind.STATE, "0", True),
        (1, Kind.STEP, "a", True),
        (2, Kind.STEP, "b", True),
        (3, Kind.SEND, "alice", True),
        (0, Kind.STATE, "3", True),
        (4, Kind.SEND, "bob", True),
        (5, Kind.STARTED, "c", True),
    )

    gone = taken_back(journal, Rewind(begin=3, ops=3))

    assert gone == [5, 6, 7]
    assert applied_before(journal, 3) == 2


def test_a_step_s_failure_that_is_forgotten_takes_its_attempts_along() -> None:
    """The failed step begins anew, with all of its attempts; another one under way keeps its own."""
    journal = _journal(
        (1, Kind.ATTEMPT, "a", False),
        (2, Kind.STARTED, "b", True),
        (1, Kind.STARTED, "a", True),
        (1, Kind.STEP, "a", False),
        (3, Kind.TIMER, "", True),
    )

    gone = taken_back(journal, Rewind(begin=4, ops=2, forget=True))

    assert gone == [1, 3, 4, 5]
    assert applied_before(journal, 4) == 0
    assert applied_before(journal, 0) == -1


# Waits


def test_waits_come_back_as_they_were_written() -> None:
    """Kinds, names, times and what fits them survive the store."""
    waits = (
        Wait(op=1, kind=Kind.TIMER, due=BEGIN),
        Wait(op=2, kind=Kind.RECEIVE, name="alice", match={"type": "message", "from": None}),
        Wait(op=7, kind=Kind.STEP, name="a", due=BEGIN + timedelta(microseconds=1)),
    )

    assert load_waits(dump_waits(waits)) == waits
    assert load_waits(dump_waits(())) == ()


# Any handler, any interleaving, any loss of memory


PLANS = st.recursive(
    st.one_of(
        st.tuples(st.just("sleep"), st.integers(0, 4)),
        st.tuples(st.just("work"), st.booleans()),
        st.tuples(st.sampled_from(["add", "send", "refused"])),
        st.tuples(st.just("patched"), st.integers(0, 2)),
    ),
    lambda parts: st.one_of(
        st.tuples(
            st.sampled_from(["gather", "seq", "group", "race", "completed"]),
            st.lists(parts, min_size=1, max_size=4),
        ),
        st.tuples(st.just("timeout"), st.integers(0, 4), parts),
        st.tuples(st.just("cleanup"), parts, parts),
    ),
    max_leaves=18,
)


async def _follow(ctx: Context[Tally], plan: Any) -> Any:
    kind, *rest = plan
    match kind:
        case "sleep":
            await asyncio.sleep(rest[0])
        case "work":
            try:
                return await work(int(rest[0]))
            except ValueError as error:
                return str(error)
        case "add":
            ctx.state.count += 1
            return ctx.state.count
        case "send":
            return (await ctx.send("alice", f"{ctx.random.randrange(1000)}")).text
        case "refused":
            try:
                await ctx.send("nobody", "x")
            except NotFound as error:
                return str(error)
        case "patched":
            return ctx.patched(f"p{rest[0]}")
        case "seq":
            return [await _follow(ctx, part) for part in rest[0]]
        case "gather":
            return await asyncio.gather(*(_follow(ctx, part) for part in rest[0]))
        case "completed":
            return [await one for one in asyncio.as_completed([_follow(ctx, part) for part in rest[0]])]
        case "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_follow(ctx, part)) for part in rest[0]]
            return [task.result() for task in tasks]
        case "race":
            racing = [asyncio.create_task(_follow(ctx, part)) for part in rest[0]]
            done, pending = await asyncio.wait(racing, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            return [task.result() for task in racing if task in done]
        case "timeout":
            try:
                async with asyncio.timeout(rest[0]):
                    return await _follow(ctx, rest[1])
            except TimeoutError:
                return "timeout"
        case "cleanup":
            try:
                return await _follow(ctx, rest[0])
            finally:
                await _follow(ctx, rest[1])
    return kind


def _live(plan: Any, seed: int, losing: Callable[[], str | None]) -> tuple[Any, ...]:
    """Run a plan to its end, steps and timers ending in an order that `seed` gives, memory being lost when told."""

    async def handler(ctx: Context[Tally]) -> Any:
        return await _follow(ctx, plan)

    run = Run(named(handler))
    chance = random.Random(seed)
    for _ in range(500):
        execution = run.load()
        if execution.outcome is not None:
            break
        steps = sorted(one.no for one in execution.pending.values() if one.kind is Kind.STEP)
        if steps and chance.random() < 0.7:
            ended = chance.sample(steps, k=chance.randint(1, len(steps)))
            ends = [chance.random() < 0.8 for _ in ended]
            for op, ok in zip(ended, ends, strict=True):
                value = (
                    f"{op}"
                    if ok
                    else '{"module": "builtins", "name": "ValueError", "text": "no", "args": ["no"]}'
                )
                execution.record_completion(op, at=run.now, ok=ok, value=value)
            run.commit()
            if losing() == "recorded":
                run.lose(at_rest=False)
                run.load()
            else:
                while execution.deliver_next(run.state):
                    run.commit()
        elif not run.fire() and not steps:
            raise AssertionError("nothing left to do, and no end")
        if losing() == "rest" and run.execution is not None and run.execution.outcome is None:
            run.lose()
    assert run.execution is not None
    outcome = run.execution.outcome
    assert outcome is not None
    run.execution.close()
    return outcome.status, outcome.result, run.state, run.said, [record.title for record in run.journal]


@settings(max_examples=600, deadline=None)
@given(
    plan=PLANS,
    seed=st.integers(0, 1000),
    losses=st.lists(st.sampled_from(["rest", "recorded", None]), max_size=40),
)
@example(
    plan=("race", [("cleanup", ("sleep", 1), ("work", False)), ("timeout", 1, ("work", False))]),
    seed=111,
    losses=["recorded", "rest"],
)
def test_any_handler_comes_to_the_same_end_wherever_memory_is_lost(
    plan: Any, seed: int, losses: list[str | None]
) -> None:
    """Status, result, state, what was said and the journal itself are the same with and without losses."""
    calm = _live(plan, seed, lambda: None)
    left = list(losses)
    rough = _live(plan, seed, lambda: left.pop() if left else None)
    always = _live(plan, seed, lambda: "rest")

    assert calm == rough
    assert calm == always
