"""Random handlers, random events, random crashes: what comes of it is what comes of it without the crashes.

A handler here interprets a small program, given as its input: steps that work, fail or come round after a while, sleeps,
questions, messages, locks, state, and every way in which asyncio puts them together.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.integration.engine_kit import ENGINE_POINTS, PEOPLE

from wakeloop import Context, Retry, agent, on_signal, step
from wakeloop.testing import Simulation

Program = list[Any]


class Ledger(BaseModel):
    counts: dict[str, int] = {}
    log: list[str] = []


@dataclass
class Outside:
    """The world that steps act upon: how often each took effect, and what time it is there."""

    sim: Simulation | None = None
    begin: datetime | None = None
    tried: Counter[str] = field(default_factory=Counter)
    worked: Counter[str] = field(default_factory=Counter)
    broken: bool = True

    def seconds(self) -> float:
        assert self.sim is not None
        assert self.begin is not None
        return (self.sim.now - self.begin).total_seconds()


outside = Outside()


def _act(name: str, until: float) -> str:
    outside.tried[name] += 1
    if outside.seconds() < until:
        raise ConnectionError(f"{name} at {outside.seconds():g}")
    outside.worked[name] += 1
    return f"{name} at {outside.seconds():g}"


SYNC = step(_act, retries=2, backoff=Retry(first=1, jitter=0), name="sync")


@step(retries=2, backoff=Retry(first=1, jitter=0), name="async")
async def act_async(name: str, until: float) -> str:
    await asyncio.sleep(0)
    return _act(name, until)


@step(name="bad")
def act_bad(name: str, group: bool) -> None:
    outside.tried[name] += 1
    if group:
        raise ExceptionGroup(name, [ValueError(name), KeyError(name)])
    raise ValueError(name)


class Machine:
    """Interprets a program in a run."""

    def __init__(self, ctx: Context[Ledger]) -> None:
        self.ctx = ctx
        self.lock = asyncio.Lock()
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.event = asyncio.Event()

    def count(self, name: str, by: int = 1) -> None:
        counts = self.ctx.state.counts
        counts[name] = counts.get(name, 0) + by

    async def run(self, node: Program) -> Any:
        kind, name, *rest = node
        self.count(kind)
        return await getattr(self, f"do_{kind}")(name, *rest)

    async def do_seq(self, name: str, parts: list[Program]) -> Any:
        return [await self.run(part) for part in parts]

    async def do_gather(self, name: str, parts: list[Program]) -> Any:
        return await asyncio.gather(*(self.run(part) for part in parts))

    async def do_settle(self, name: str, parts: list[Program]) -> Any:
        found = await asyncio.gather(*(self.run(part) for part in parts), return_exceptions=True)
        return [f"{type(one).__name__}" if isinstance(one, BaseException) else one for one in found]

    async def do_group(self, name: str, parts: list[Program]) -> Any:
        failed = 0
        tasks = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(self.run(part)) for part in parts]
        except* (ValueError, ConnectionError, TimeoutError) as errors:
            failed = len(errors.exceptions)
        if failed:
            return f"{name}: {failed} failed"
        return [task.result() for task in tasks]

    async def do_race(self, name: str, parts: list[Program]) -> Any:
        tasks = [asyncio.create_task(self.run(part)) for part in parts]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return [str(task.exception() or task.result()) for task in tasks if task in done]

    async def do_completed(self, name: str, parts: list[Program]) -> Any:
        found = []
        for one in asyncio.as_completed([self.run(part) for part in parts]):
            try:
                found.append(await one)
            except (ValueError, ConnectionError, TimeoutError, ExceptionGroup) as error:
                found.append(type(error).__name__)
        return found

    async def do_timeout(self, name: str, seconds: float, part: Program) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await self.run(part)
        except TimeoutError:
            self.ctx.state.log.append(f"{name} timed out")
            return "timeout"

    async def do_wait_for(self, name: str, seconds: float, part: Program) -> Any:
        try:
            return await asyncio.wait_for(self.run(part), seconds)
        except TimeoutError:
            return "late"

    async def do_shield(self, name: str, seconds: float, part: Program) -> Any:
        task = asyncio.ensure_future(self.run(part))
        try:
            return await asyncio.wait_for(asyncio.shield(task), seconds)
        except TimeoutError:
            return [f"{name} waits on", await task]

    async def do_attempt(self, name: str, part: Program, instead: Program) -> Any:
        try:
            return await self.run(part)
        except (ValueError, ConnectionError, TimeoutError, ExceptionGroup) as error:
            return [f"{type(error).__name__}: {error}", await self.run(instead)]

    async def do_cleanup(self, name: str, part: Program, after: Program) -> Any:
        try:
            return await self.run(part)
        finally:
            await self.run(after)

    async def do_locked(self, name: str, part: Program) -> Any:
        async with self.lock:
            return await self.run(part)

    async def do_aside(self, name: str, part: Program) -> Any:
        task = asyncio.create_task(self.run(part))
        task.add_done_callback(lambda one: one.cancelled() or one.exception())
        await asyncio.sleep(0)
        return name

    async def do_generate(self, name: str, seconds: float, part: Program) -> Any:
        async def numbers() -> Any:
            try:
                for number in range(5):
                    await asyncio.sleep(seconds)
                    yield number
            finally:
                await self.run(part)

        found = []
        async for number in numbers():
            found.append(number)
            if number == 1:
                break
        return found

    async def do_put(self, name: str) -> Any:
        await self.queue.put(name)
        self.event.set()
        return name

    async def do_get(self, name: str) -> Any:
        return await asyncio.wait_for(self.queue.get(), 4)

    async def do_signalled(self, name: str) -> Any:
        await asyncio.wait_for(self.event.wait(), 4)
        return name

    async def do_sleep(self, name: str, seconds: float) -> Any:
        await self.ctx.sleep(seconds)
        return f"{self.ctx.now().timestamp():g}"

    async def do_asleep(self, name: str, seconds: float) -> Any:
        return await asyncio.sleep(seconds, name)

    async def do_sync(self, name: str, until: float) -> Any:
        found = await SYNC(name, until)
        self.ctx.state.log.append(found)
        return found

    async def do_async(self, name: str, until: float) -> Any:
        return await act_async(name, until)

    async def do_bad(self, name: str, group: bool) -> Any:
        return await act_bad(name, group)

    async def do_add(self, name: str, by: int) -> Any:
        self.count("sum", by)
        return self.ctx.state.counts["sum"]

    async def do_send(self, name: str) -> Any:
        return (await self.ctx.send("bob", f"{name} {self.ctx.random.randrange(100)}")).text

    async def do_emit(self, name: str) -> Any:
        return (await self.ctx.emit("heard", {"from": name})).type

    async def do_note(self, name: str) -> Any:
        talk = self.ctx.conversation
        talk.append("note", name)
        return name in [entry.content for entry in await talk.last(1000)]

    async def do_receive(self, name: str, seconds: float) -> Any:
        message = await self.ctx.receive(timeout=seconds)
        return f"{message.from_}: {message.text}"

    async def do_doze(self, name: str, seconds: float) -> Any:
        until = datetime.fromtimestamp(self.ctx.now().timestamp() + seconds, tz=self.ctx.now().tzinfo)
        message = await self.ctx.sleep_until(until, or_message=True)
        return message.text if message else "slept"

    async def do_ask(self, name: str, seconds: float, remind: float | None) -> Any:
        answer = await self.ctx.ask("alice", f"{name}?", answer=int, timeout=seconds, remind=remind)
        return answer.value

    async def do_uuid(self, name: str) -> Any:
        return len({self.ctx.uuid() for _ in range(3)})

    async def do_buggy(self, name: str) -> Any:
        if outside.broken:
            raise RuntimeError(f"bug {name}")
        return name


@agent(state=Ledger)
async def random_handler(ctx: Context[Ledger]) -> Any:
    """Runs the program that it was started with."""
    machine = Machine(ctx)
    result = await machine.run(ctx.event.input)  # type: ignore[union-attr, arg-type]
    ctx.state.log.append("end")
    return result


@agent(on_signal("heard"), state=Ledger)
async def listener(ctx: Context[Ledger]) -> None:
    """Counts what it hears."""
    ctx.state.counts["heard"] = ctx.state.counts.get("heard", 0) + 1
    await ctx.send("bob", f"heard {ctx.event.data['from']}")  # type: ignore[union-attr, index, call-overload]


# Generating them

seconds = st.sampled_from([0, 0.5, 1, 1, 2, 3, 5])
leaves: st.SearchStrategy[Program] = st.one_of(
    st.tuples(st.just("sync"), st.sampled_from([0, 0, 1, 4, 99])),
    st.tuples(st.just("async"), st.sampled_from([0, 0, 2, 4])),
    st.tuples(st.just("bad"), st.booleans()),
    st.tuples(st.just("sleep"), seconds),
    st.tuples(st.just("asleep"), seconds),
    st.tuples(st.just("add"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["send", "emit", "uuid", "note", "put", "get", "signalled", "buggy"])),
    st.tuples(st.sampled_from(["receive", "doze"]), seconds),
    st.tuples(st.just("ask"), seconds, st.sampled_from([None, 1, 2])),
).map(list)


def _compound(parts: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    some = st.lists(parts, min_size=1, max_size=4)
    many = st.sampled_from(["seq", "seq", "gather", "settle", "group", "race", "completed"])
    return st.one_of(
        st.tuples(many, some),
        st.tuples(st.sampled_from(["timeout", "wait_for", "shield", "generate"]), seconds, parts),
        st.tuples(st.sampled_from(["attempt", "cleanup"]), parts, parts),
        st.tuples(st.sampled_from(["locked", "aside"]), parts),
    ).map(list)


def _named(program: Program) -> Program:
    """The program with a name for each of its parts, by which its effects are told apart."""
    number = 0

    def name(node: Any) -> Any:
        nonlocal number
        if isinstance(node, list) and node and isinstance(node[0], str):
            number += 1
            return [node[0], f"{node[0]}{number}", *(name(part) for part in node[1:])]
        return [name(part) for part in node] if isinstance(node, list) else node

    named: Program = name(program)
    return named


programs = (
    st.lists(st.recursive(leaves, _compound, max_leaves=14), min_size=2, max_size=5)
    .map(lambda parts: ["seq", parts])
    .map(_named)
)
events = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([0.5, 1, 1, 2, 3])),
        st.tuples(st.just("reply"), st.sampled_from(["alice", "bob"]), st.sampled_from(["7", "no idea"])),
        st.tuples(st.just("again")),
    ),
    min_size=2,
    max_size=6,
)
crashes = st.dictionaries(
    st.integers(0, 6), st.sampled_from(["crash", *ENGINE_POINTS]), min_size=1, max_size=4
)


# Running them


@dataclass(frozen=True)
class Outcome:
    """What anybody outside could tell."""

    runs: list[tuple[str, Any, str | None]]
    state: Any
    heard: Any
    said: list[tuple[str, str, str]]
    requests: list[tuple[str, str, str | None]]
    notes: list[str]


def _without_ids(value: Any) -> Any:
    """What was said, without ids and codes of requests: what was drawn before a lost commit is drawn anew."""
    if isinstance(value, list):
        return [_without_ids(part) for part in value]
    return _DRAWN.sub("(drawn)", value) if isinstance(value, str) else value


_DRAWN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[A-Z]\d\b")


def play(
    program: Program, script: list[Any], losses: dict[int, str], *, cancel: bool, retry: bool
) -> tuple[Outcome, Counter[str]]:
    """Run a program through a script, with memory lost at some of its events; how often each step worked."""
    global outside
    with Simulation([random_handler, listener], contacts=PEOPLE) as sim:
        outside = Outside(sim=sim, begin=sim.now)
        settled: Counter[str] = Counter()
        runs: list[str] = []

        def happen(number: int, action: Any) -> None:
            loss = losses.get(number)
            if loss in ENGINE_POINTS:
                sim.kill_at(loss)
            action()
            again = [name for name in settled if outside.worked[name] > settled[name]]
            assert again == [], f"done again after its result was recorded: {again}"
            if loss == "crash":
                sim.crash()
            settled.update(outside.worked - settled)

        happen(0, lambda: runs.append(sim.start(random_handler, program)))
        for number, (kind, *rest) in enumerate(script, start=1):
            if kind == "advance":
                happen(number, lambda rest=rest: sim.advance(*rest))
            elif kind == "reply":
                happen(number, lambda rest=rest: sim.reply(*rest))
            elif len(runs) < 2:
                other = ["seq", "other", [["sleep", "nap", 2], ["add", "plus", 5], ["sleep", "nap", 1]]]
                happen(number, lambda other=other: runs.append(sim.start(random_handler, other)))
        if cancel and sim.run(runs[0]).status == "waiting":
            happen(len(script) + 1, lambda: sim.cancel(runs[0]))
        if retry and sim.run(runs[0]).status == "failed":
            outside.broken = False
            happen(len(script) + 1, lambda: sim.retry(runs[0]))
        for number in range(3):
            happen(len(script) + 2 + number, lambda: sim.advance(11))
        views = [sim.run(run) for run in runs]
        # Whether people are asked what is withdrawn in the same moment depends on where the commits fall in it.
        asked = sim.requests(status=None)
        brief = [one.text for one in asked if one.settled_at == one.created_at]
        said = [one for one in sim.outbox() if not any(text in one.text for text in brief)]
        outcome = Outcome(
            runs=[(view.status, _without_ids(view.result), _without_ids(view.error)) for view in views],
            state=sim.session(random_handler).state,
            heard=sim.session(listener).state if sim.runs(listener) else None,
            said=sorted((one.at.isoformat(), one.to, _without_ids(one.text)) for one in said),
            requests=sorted((one.text, one.status, one.answer) for one in asked),
            notes=sorted(one.text for one in sim.session(random_handler).conversation if one.role == "note"),
        )
        return outcome, outside.worked


INTERLEAVED = _named(
    ["seq", [["gather", [["sync", 0], ["seq", [["async", 0], ["send"], ["buggy"]]], ["cleanup", ["ask", 5, 2], ["send"]]]]]]
)  # fmt: skip


@settings(
    max_examples=45,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(program=programs, script=events, losses=crashes, cancel=st.booleans(), retry=st.booleans())
@example(
    program=INTERLEAVED,
    script=[("advance", 1)],
    losses={0: "engine.step_committed"},
    cancel=False,
    retry=True,
)
@example(
    program=INTERLEAVED,
    script=[("reply", "alice", "7")],
    losses={0: "crash", 1: "engine.committing"},
    cancel=True,
    retry=True,
)
def test_random_handlers_come_to_the_same_end_whatever_is_lost_on_the_way(
    program: Program, script: list[Any], losses: dict[int, str], cancel: bool, retry: bool
) -> None:
    """Results, errors, state, messages with their times, requests and notes are those of the run without crashes; no step
    whose result was recorded works again, and no more of them work again than workers died."""
    calm, once = play(program, script, {}, cancel=cancel, retry=retry)
    rough, often = play(program, script, losses, cancel=cancel, retry=retry)

    assert calm == rough
    # A retry with the bug mended is parked if cleanup had run steps after it: their results stay, and do not fit any more.
    assert retry or all(status != "stuck" for status, _, _ in calm.runs)
    assert max(once.values(), default=1) == 1
    assert set(once) <= set(often)
    deaths = sum(point in ("engine.step_done", "engine.committing") for point in losses.values())
    assert all(times <= 1 + deaths for times in often.values())
