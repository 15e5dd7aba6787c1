"""Asking, sending, receiving and sleeping: what a handler does with people and with time."""

from __future__ import annotations

import asyncio
import enum
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from tests.integration.engine_kit import ALICE, PEOPLE, later, says, tell

from wakeloop import Context, NoAnswer, Signal, agent, on_message, on_signal, step
from wakeloop.agent import Handler
from wakeloop.testing import Simulation


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Grade(enum.IntEnum):
    GOOD = 1
    BAD = 2


class Order(BaseModel):
    item: str
    count: int = 1


class Notes(BaseModel):
    lines: list[str] = []


def _texts(sim: Simulation, contact: str | None = None) -> list[str]:
    return [message.text for message in sim.outbox(contact)]


# Questions


@pytest.mark.parametrize(
    ("kind", "reply", "value"),
    [
        (str, "  as it is ", "as it is"),
        (int, "12", 12),
        (float, "2.5", 2.5),
        (bool, "yes", True),
        (bool, "No", False),
        (date, "2026-05-01", date(2026, 5, 1)),
        (datetime, "2026-05-01T10:00:00Z", datetime(2026, 5, 1, 10, tzinfo=UTC)),
        (Size, "large", Size.LARGE),
        (Grade, "2", Grade.BAD),
        (Literal["red", "green"], "green", "green"),
        (Literal[1, 2], "2", 2),
        (Order, '{"item": "tea", "count": 3}', Order(item="tea", count=3)),
        (list[int], "[1, 2]", [1, 2]),
        (int | None, "7", 7),
    ],
    ids=str,
)
def test_an_answer_is_read_as_the_type_that_was_asked_for(kind: Any, reply: str, value: Any) -> None:
    """Words become a number, a date, a choice or a model; the text, the person, the channel and the time come along."""
    seen: list[Any] = []

    @agent()
    async def asks(ctx: Context[None]) -> None:
        seen.append(await ctx.ask("alice", "Well?", answer=kind))
        await ctx.sleep(5)

    with Simulation([asks], contacts=PEOPLE) as sim:
        sim.start(asks)
        sim.advance(60)
        sim.reply("alice", reply)
        at = sim.now
        sim.crash()
        sim.advance(5)

    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert (value, reply.strip(), "alice", "sms", at) == (
        seen[0].value, seen[0].text, seen[0].by, seen[0].channel, seen[0].at,
    )  # fmt: skip
    assert type(value) is type(seen[0].value)


@pytest.mark.parametrize(
    ("kind", "bad", "good"),
    [
        (int, "a few", "3"),
        (bool, "perhaps", "no"),
        (date, "tomorrow", "2026-01-02"),
        (Size, "medium", "small"),
        (Literal["a"], "b", "a"),
    ],
    ids=str,
)
def test_an_answer_that_does_not_fit_is_asked_again_with_the_reason(kind: Any, bad: str, good: str) -> None:
    """The person is told what was wrong and what was asked, and the next answer counts; crashes in between change
    nothing."""

    @agent()
    async def asks(ctx: Context[None]) -> str:
        return str((await ctx.ask("alice", "Well?", answer=kind)).text)

    events = [says("alice", bad), later(1), says("alice", bad), says("alice", good)]
    calm, rough = tell(asks, events), tell(asks, events, crashes=range(5))

    assert calm == rough
    assert (calm.status, calm.result) == ("completed", good)
    assert calm.requests == [("Well?", "answered", good)]
    assert len(calm.said) == 3
    assert all(
        text.startswith("That could not be read (") and text.endswith("Well?") for _, text, _ in calm.said[1:]
    )


def test_options_are_numbered_and_may_be_answered_by_number_or_by_words() -> None:
    """The question lists them, one takes a number, a word in any case, with a full stop; others are asked again."""

    @agent()
    async def asks(ctx: Context[None]) -> list[str]:
        found = []
        for _ in range(4):
            answer = await ctx.ask("alice", "Ship it?", options=["Yes", "not now"])
            found.append(answer.value)
        return found

    with Simulation([asks], contacts=ALICE) as sim:
        run = sim.start(asks)
        first = _texts(sim)[0]
        for reply in ("2", "yes.", "NOT NOW", "perhaps", "1)"):
            sim.reply("alice", reply)
        view = sim.run(run)
        again = [text for text in _texts(sim) if "could not be read" in text]

    assert first == "Ship it?\n1 Yes, 2 not now"
    assert view.result == ["not now", "Yes", "not now", "Yes"]
    assert len(again) == 1
    assert "1 Yes, 2 not now" in again[0]


def test_nobody_s_answer_in_time_is_no_answer_and_a_timeout_error() -> None:
    """NoAnswer says who and which request, is caught as TimeoutError too, and closes the request as expired."""

    @agent()
    async def asks(ctx: Context[None]) -> list[str]:
        found = []
        try:
            await ctx.ask("alice", "One?", timeout=timedelta(hours=2))
        except NoAnswer as error:
            found.append(f"{error.to} {bool(error.request)}")
        try:
            await ctx.ask("alice", "Two?", timeout=60)
        except TimeoutError as error:
            found.append(type(error).__name__)
        return found

    events = [later(7199), later(1), later(59), later(1)]
    calm, rough = tell(asks, events), tell(asks, events, crashes=range(5))

    assert calm == rough
    assert calm.result == ["alice True", "NoAnswer"]
    assert calm.requests == [("One?", "expired", None), ("Two?", "expired", None)]


def test_a_timeout_around_a_question_cancels_it_and_is_not_taken_for_no_answer() -> None:
    """An outer timeout closes the question as cancelled, and reaches whoever set it."""

    @agent()
    async def asks(ctx: Context[None]) -> str:
        try:
            async with asyncio.timeout(30):
                await ctx.ask("alice", "Well?", timeout=60)
        except NoAnswer:
            return "no answer"
        except TimeoutError:
            return "outer"
        return "answered"

    told = tell(asks, [later(30), later(30)], crashes=[0, 1])

    assert (told.status, told.result) == ("completed", "outer")
    assert told.requests == [("Well?", "cancelled", None)]


def test_reminders_repeat_the_question_until_it_is_answered_or_over() -> None:
    """Every interval once, through crashes, and none after the answer; a long outage is one reminder, not twenty."""

    @agent()
    async def asks(ctx: Context[None]) -> str:
        return (await ctx.ask("alice", "Well?", remind=timedelta(minutes=10), timeout=timedelta(days=1))).text

    with Simulation([asks], contacts=ALICE) as sim:
        run = sim.start(asks)
        begin = sim.now
        for _ in range(5):
            sim.advance(timedelta(minutes=5))
            sim.crash()
        sim.reply("alice", "done")
        sim.advance(timedelta(days=2))
        minutes = [(message.at - begin).total_seconds() / 60 for message in sim.outbox()]
        texts = _texts(sim)
        result = sim.run(run).result

    assert result == "done"
    assert minutes == [0, 10, 20]
    assert texts == ["Well?", "Reminder: Well?", "Reminder: Well?"]


@pytest.mark.parametrize(
    "options",
    [
        {"remind": 0},
        {"remind": timedelta(seconds=-1)},
        {"timeout": "soon"},
        {"via": "pigeon"},
        {"options": "yes"},  # no list of y, e and s
    ],
)
def test_a_question_with_impossible_options_is_refused_before_anybody_is_asked(
    options: dict[str, Any],
) -> None:
    """The handler fails with the reason, and no message leaves."""

    @agent()
    async def asks(ctx: Context[None]) -> None:
        await ctx.ask("alice", "Well?", **options)

    with Simulation([asks], contacts=ALICE) as sim:
        view = sim.run(sim.start(asks))
        texts = _texts(sim)

    assert view.status == "failed"
    assert texts == []


def test_a_late_reply_is_told_so_and_changes_nothing() -> None:
    """After the timeout an answer by its code is recorded, answered with what became of the question, and not used."""

    @agent()
    async def asks(ctx: Context[None]) -> str:
        try:
            await ctx.ask("alice", "Well?", timeout=60)
        except NoAnswer:
            await ctx.sleep(60)
            return "went on"
        return "answered"

    with Simulation([asks], contacts=ALICE) as sim:
        run = sim.start(asks)
        code = sim.requests()[0].code
        sim.advance(60)
        outcome = sim.reply("alice", f"{code} yes")
        sim.advance(60)
        view = sim.run(run)
        texts = _texts(sim)

    assert "too late for request" in outcome
    assert (view.status, view.result) == ("completed", "went on")
    assert "came too late" in texts[-1] and "expired" in texts[-1] and "Well?" in texts[-1]


def test_several_open_questions_are_told_apart_by_their_codes() -> None:
    """A reply without a code is asked back which one it is for; with one it reaches its own question only."""

    @agent()
    async def asks(ctx: Context[None]) -> list[str]:
        answers = await asyncio.gather(ctx.ask("alice", "Tea?"), ctx.ask("alice", "Milk?"))
        return [answer.text for answer in answers]

    with Simulation([asks], contacts=ALICE) as sim:
        run = sim.start(asks)
        tea, milk = (request.code for request in sim.requests())
        which = sim.reply("alice", "yes")
        sim.crash()
        sim.reply("alice", f"{milk} a little")
        sim.reply("alice", "green")
        view = sim.run(run)
        asked = [text for text in _texts(sim) if "Reply with a code" in text]

    assert "could answer 2 questions" in which
    assert len(asked) == 1
    assert tea in asked[0]
    assert view.result == ["green", "a little"]


def test_a_question_of_a_run_that_ends_or_fails_is_closed() -> None:
    """Nothing stays open after its run: a cancelled, a failed and a finished one leave no question behind."""

    @agent()
    async def leaves(ctx: Context[None]) -> None:
        task = asyncio.create_task(ctx.ask("alice", "Well?"))
        await ctx.sleep(10)
        if ctx.event.input == "fail":  # type: ignore[union-attr]
            raise ValueError
        if ctx.event.input == "cancel":  # type: ignore[union-attr]
            await task

    with Simulation([leaves], contacts=ALICE) as sim:
        for how in ("end", "fail", "cancel"):
            run = sim.start(leaves, how)
            sim.advance(10)
            if how == "cancel":
                sim.cancel(run)
        statuses = [request.status for request in sim.requests(status=None)]
        still = sim.requests()

    assert statuses == ["cancelled"] * 3
    assert still == []


# Messages and time


def test_receive_takes_messages_in_order_and_times_out() -> None:
    """Each message is received once, in the order of arrival, by whoever waits first; none is a TimeoutError."""

    @agent(on_message())
    async def listens(ctx: Context[None]) -> list[str]:
        found = [ctx.event.text]  # type: ignore[union-attr]
        while True:
            try:
                found.append((await ctx.receive(timeout=60)).text)
            except TimeoutError:
                return found

    with Simulation([listens], contacts=ALICE) as sim:
        for number in range(4):
            sim.reply("alice", f"message {number}")
            sim.crash()
            sim.advance(59)
        sim.advance(1)
        view = sim.runs()[0]

    assert (view.status, view.result) == ("completed", [f"message {number}" for number in range(4)])


def test_receive_waits_for_the_person_it_names_and_leaves_others_alone() -> None:
    """`from_` takes one contact's messages; a message of somebody else starts a run of its own."""

    @agent(on_message())
    async def listens(ctx: Context[None]) -> str:
        if ctx.event.from_ == "bob":  # type: ignore[union-attr]
            return "bob's own"
        message = await ctx.receive(from_="alice")
        return f"{message.from_}: {message.text}"

    with Simulation([listens], contacts=PEOPLE) as sim:
        sim.reply("alice", "begin")
        sim.reply("bob", "hello")
        sim.reply("alice", "second")
        views = sim.runs()

    assert [(view.status, view.result) for view in views] == [
        ("completed", "alice: second"), ("completed", "bob's own"),
    ]  # fmt: skip


def test_signals_are_received_by_type() -> None:
    """`type="invoice.paid"` takes that one, `type=Signal` any; what fits nobody starts a run."""

    @agent(on_signal("invoice.*"))
    async def listens(ctx: Context[None]) -> list[Any]:
        paid = await ctx.receive(type="invoice.paid", timeout=60)
        anything = await ctx.receive(type=Signal)
        return [ctx.event.type, paid.data, anything.type]  # type: ignore[union-attr]

    with Simulation([listens], contacts=ALICE) as sim:
        sim.signal("invoice.sent", 1)
        sim.crash()
        sim.signal("invoice.paid", {"total": 5})
        sim.crash()
        sim.signal("invoice.lost")
        views = sim.runs()

    assert [(view.status, view.result) for view in views] == [
        ("completed", ["invoice.sent", {"total": 5}, "invoice.lost"])
    ]


def test_a_signal_is_for_every_run_that_waits_for_it_if_no_trigger_brings_it() -> None:
    """In whatever session, of its type or of any, from outside or of another agent; nothing else begins by it."""

    @agent()
    async def waits(ctx: Context[None]) -> Any:
        return (await ctx.receive(type=ctx.event.input or Signal)).data  # type: ignore[union-attr]

    @agent()
    async def tells(ctx: Context[None]) -> None:
        await ctx.emit("paid", {"total": 5})

    with Simulation([waits, tells], contacts=ALICE) as sim:
        first, second = sim.start(waits, "paid", key="one"), sim.start(waits, "lost", key="two")
        sim.crash()
        sim.signal("refunded")
        sim.signal("paid", {"total": 4}, id="evt_1")
        sim.crash()
        third, fourth = sim.start(waits, "paid", key="one"), sim.start(waits, key="three")
        sim.signal("paid", {"total": 4}, id="evt_1")  # session one has had it
        waiting = sim.run(third).status
        sim.start(tells)
        runs = [sim.run(id) for id in (first, second, third, fourth)]
        count = len(sim.runs(waits))

    assert [(run.status, run.result) for run in runs] == [
        ("completed", {"total": 4}), ("waiting", None), ("completed", {"total": 5}), ("completed", {"total": 4}),
    ]  # fmt: skip
    assert waiting == "waiting"
    assert count == 4


def test_a_trigger_says_for_which_session_a_signal_is() -> None:
    """A run in another session that waits for the type does not get it, and one that waits for any signal only what a trigger
    brings, or what it names."""

    @agent(
        on_signal("order.placed", key="{order}"),
        on_signal("order.paid", key="{order}", match={"test": False}),
    )
    async def ships(ctx: Context[None]) -> Any:
        data: Any = (await ctx.receive(type="order.paid")).data
        return data["order"]

    @agent(on_signal("alarm", match={"real": True}))
    async def any_alarm(ctx: Context[None]) -> list[str]:
        return [(await ctx.receive(type="all.clear")).type, (await ctx.receive(type=Signal)).type]

    with Simulation([any_alarm]) as sim:
        sim.signal("alarm", {"real": True})
        sim.signal("all.clear")
        sim.signal("order.placed")
        sim.signal("alarm", {"real": False})
        waiting = sim.runs()[0].status
        sim.signal("alarm", {"real": True})
        assert (waiting, [run.result for run in sim.runs()]) == ("waiting", [["all.clear", "alarm"]])

    with Simulation([ships]) as sim:
        sim.signal("order.placed", {"order": 1})
        sim.signal("order.placed", {"order": 2})
        sim.signal("order.paid", {"order": 2, "test": True})
        sim.signal("order.paid", {"order": 2, "test": False})
        runs = sim.runs()

    assert [(run.status, run.result) for run in runs] == [("waiting", None), ("completed", 2)]


def test_a_signal_counts_once_by_its_id() -> None:
    """A provider that repeats a signal changes nothing."""

    @agent(on_signal("paid"), state=Notes)
    async def listens(ctx: Context[Notes]) -> None:
        ctx.state.lines.append(ctx.event.data)  # type: ignore[union-attr]

    with Simulation([listens]) as sim:
        for _ in range(3):
            sim.signal("paid", "five", id="evt_1")
            sim.crash()
        sim.signal("paid", "six", id="evt_2")
        lines = sim.session(listens).state.lines

    assert lines == ["five", "six"]


@pytest.mark.parametrize(
    ("when", "result"), [(20, "hello at 20"), (None, "slept until 60"), (59, "hello at 59")]
)
def test_a_message_wakes_a_sleep_early_if_it_may(when: int | None, result: str) -> None:
    """`sleep_until(..., or_message=True)` gives the message, or None at the time."""

    @agent(on_message())
    async def naps(ctx: Context[None]) -> str:
        begin = ctx.now()
        message = await ctx.sleep_until(begin + timedelta(seconds=60), or_message=True)
        seconds = int((ctx.now() - begin).total_seconds())
        return f"{message.text} at {seconds}" if message is not None else f"slept until {seconds}"

    events = [later(when), says("alice", "hello")] if when else [later(30), later(30)]
    calm, rough = tell(naps, events), tell(naps, events, crashes=range(4))

    assert calm == rough
    assert calm.result == result


def test_sleeping_never_ends_early_and_the_past_is_over_at_once() -> None:
    """A sleep ends at its instant and not before; one in the past, or of no length, takes no time at all."""

    @agent()
    async def sleeps(ctx: Context[None]) -> list[float]:
        begin = ctx.now()
        times = []
        await ctx.sleep_until(begin - timedelta(days=1))
        await ctx.sleep(0)
        await ctx.sleep(timedelta(seconds=-5))
        times.append((ctx.now() - begin).total_seconds())
        await ctx.sleep(timedelta(microseconds=1))
        times.append((ctx.now() - begin).total_seconds())
        await ctx.sleep(0.1 + 0.2)
        times.append((ctx.now() - begin).total_seconds())
        return times

    with Simulation([sleeps]) as sim:
        run = sim.start(sleeps)
        sim.advance(10)
        view = sim.run(run)

    assert view.result == [0.0, 0.000001, 0.300001]


@pytest.mark.parametrize(
    "handler",
    [
        lambda ctx: ctx.sleep_until(datetime(2026, 1, 2)),  # noqa: DTZ001
        lambda ctx: ctx.sleep("an hour"),
        lambda ctx: ctx.sleep(True),
        lambda ctx: ctx.receive(type=int),
        lambda ctx: ctx.receive(from_="nobody"),
        lambda ctx: ctx.receive(timeout="soon"),
        lambda ctx: ctx.spawn("asks", key=""),
        lambda ctx: ctx.spawn("asks", key="k" * 201),
        lambda ctx: ctx.spawn("asks", key="\x00"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(handler: Any) -> None:
    """A time without a zone, a duration that is none, an unknown contact, a key that no list could show: the run fails with
    the reason."""

    @agent()
    async def asks(ctx: Context[None]) -> None:
        await handler(ctx)

    with Simulation([asks], contacts=ALICE) as sim:
        view = sim.run(sim.start(asks))

    assert view.status == "failed"
    assert view.error is not None


def test_a_late_worker_fires_what_was_due_meanwhile_in_order() -> None:
    """Timers that came due while nobody ran fire one after the other, in the order of their times."""
    order: list[int] = []

    @agent()
    async def sleeps(ctx: Context[None]) -> list[int]:
        order.clear()

        async def one(number: int) -> None:
            await ctx.sleep(number)
            order.append(number)

        await asyncio.gather(*(one(number) for number in (30, 10, 20, 40)))
        return list(order)

    with Simulation([sleeps]) as sim:
        run = sim.start(sleeps)
        sim._clock.move(sim.now + timedelta(seconds=100))
        sim.advance(0)
        view = sim.run(run)

    assert view.result == [10, 20, 30, 40]


def test_now_random_and_uuid_are_the_same_in_every_replay() -> None:
    """Time and chance belong to the run: a replay sees the same, another run sees others."""
    seen: list[Any] = []

    @agent()
    async def rolls(ctx: Context[None]) -> Any:
        found = [ctx.random.random(), str(ctx.uuid()), ctx.now().isoformat()]
        await ctx.sleep(10)
        found += [ctx.random.random(), str(ctx.uuid()), ctx.now().isoformat()]
        seen.append(found[:3])
        return found

    with Simulation([rolls]) as sim:
        run = sim.start(rolls)
        sim.crash()
        sim.advance(10)
        first = sim.run(run).result
        other = sim.start(rolls)
        sim.advance(10)
        second = sim.run(other).result

    assert seen[0] == first[:3]
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert len(set(first)) == 6


async def _sends_and_sleeps(ctx: Context[None]) -> None:
    message = await ctx.send("alice", "hello", subject="greeting")
    assert message.to == "alice"
    assert message.at == ctx.now()
    await ctx.sleep(60)
    await ctx.send("bob", "bye")


async def _sends_and_steps(ctx: Context[None]) -> None:
    await ctx.send("alice", "hello")
    await step(lambda: None, name="nothing")()
    await ctx.send("bob", "bye")


@pytest.mark.parametrize("handler", [_sends_and_sleeps, _sends_and_steps])
@pytest.mark.parametrize(
    "point", ["engine.committing", "engine.committed", "outbox.claimed", "outbox.sent", "timers.claimed"]
)
def test_a_message_leaves_once_wherever_the_worker_dies(handler: Handler, point: str) -> None:
    """Recorded with the state, then sent: a death before, between or after gives one message each."""
    sends = agent(name="sends")(handler)

    with Simulation([sends], contacts=PEOPLE) as sim:
        sim.kill_at(point)
        sim.start(sends)
        sim.kill_at(point)
        sim.advance(600)
        taken = [(one.address, one.text) for one in sim.channels["sms"].sent]

    assert taken == [("+15555550100", "hello"), ("+15555550101", "bye")]
