"""One trace from what woke a run to what it sent, through the database, and nothing of what people wrote in it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from tests.integration.api_kit import Site, sites
from tests.integration.engine_kit import PEOPLE, tell
from tests.integration.test_callbacks import Receiver
from tests.trace_kit import Traces, facts, id_of, linked, parent_of, trace_of, tracing_on

from wakeloop import AsyncClient, Client, Context, agent, cron, on_message, step, tracing
from wakeloop.channel import RawResponse
from wakeloop.errors import TemporaryChannelError
from wakeloop.logs import JsonFormatter, get_logger
from wakeloop.store import schema
from wakeloop.testing import Simulation
from wakeloop.tokens import Scope
from wakeloop.webhooks import Webhook, take

OUTSIDE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OUTSIDE_TRACE, OUTSIDE_SPAN = OUTSIDE.split("-")[1:3]
DAYS = timedelta(days=3)
SECRET = "the secret of alice@example.org"

STEPS = """
import asyncio

from opentelemetry import trace

from wakeloop import Context, agent, step


def current() -> str:
    return f"{trace.get_current_span().get_span_context().span_id:016x}"


@step
async def on_the_loop() -> str:
    await asyncio.sleep(0)
    return current()


@step
def in_a_thread() -> str:
    return current()


@agent()
async def looker(ctx: Context[None]) -> list[str]:
    found = await asyncio.gather(on_the_loop(), in_a_thread())
    return [*found, current()]
"""


@pytest.fixture
def traces() -> Iterator[Traces]:
    """Traces are made."""
    with tracing_on() as traces:
        yield traces


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings."""
    with sites(tmp_path) as make:
        (tmp_path / "agents" / "looking.py").write_text(STEPS)
        yield make


@step
async def fetch(what: str) -> str:
    return what.upper()


@step(retries=1, backoff=0.5)
def fail() -> None:
    raise ValueError(SECRET)


@agent(on_message())
async def desk(ctx: Context[None]) -> str:
    """Does something at once, and something after each of two long waits."""
    await fetch("first")
    answer = await ctx.ask("alice", "Go on?")
    await fetch("second")
    await ctx.sleep(DAYS)
    await fetch("third")
    await ctx.send("alice", "Done.")
    return answer.text


def simulation(*agents: Any) -> Simulation:
    return Simulation(list(agents), contacts=PEOPLE, start="2026-11-02T08:00:00Z")


def test_a_run_a_step_and_a_message_belong_to_the_trace_of_what_woke_it(traces: Traces) -> None:
    """The request, what it brought in, the turn, its step, and the question that it led to, each within the other."""
    with simulation(desk) as sim, tracing.span("POST /somewhere", "server", {}):
        sim.reply("alice", "hello")

    assert traces.tree() == [
        "POST /somewhere", "  receive sms", "    turn desk", "      step fetch", "      send sms"
    ]  # fmt: skip
    assert len({trace_of(span) for span in traces.spans}) == 1
    turn, sent = traces.one("turn desk"), traces.one("send sms")
    assert (turn.kind.name, facts(turn)["wakeloop.woken_by"]) == ("CONSUMER", "start")
    assert facts(turn)["messaging.destination.name"] == "desk"
    assert (facts(turn)["wakeloop.session"], facts(turn)["wakeloop.status"]) == ("alice", "waiting")
    assert facts(traces.one("step fetch"))["wakeloop.step"] == "fetch"
    assert (sent.kind.name, facts(sent)["wakeloop.status"]) == ("CLIENT", "sent")
    assert facts(sent)["wakeloop.run"] == facts(turn)["wakeloop.run"]


def test_after_a_long_wait_a_turn_belongs_to_what_ended_it_and_is_linked_to_where_the_run_began(
    traces: Traces,
) -> None:
    """A reply brings its own trace; a timer begins one. What is replayed on the way makes no span."""
    with simulation(desk) as sim:
        with tracing.span("first request", "server", {}):
            sim.reply("alice", "hello")
        sim.crash()
        with tracing.span("second request", "server", {}):
            sim.reply("alice", "yes")
        sim.crash()
        sim.advance(DAYS)

    first, second, third = traces.named("turn desk")
    assert [trace_of(first), trace_of(second)] == [
        trace_of(traces.one("first request")),
        trace_of(traces.one("second request")),
    ]
    assert parent_of(third) is None
    assert [linked(turn) for turn in (first, second, third)] == [[], [trace_of(first)], [trace_of(first)]]
    assert [facts(turn)["wakeloop.woken_by"] for turn in (first, second, third)] == [
        "start",
        "reply",
        "timer",
    ]
    assert [parent_of(one) for one in traces.named("step fetch")] == [
        id_of(first),
        id_of(second),
        id_of(third),
    ]
    assert facts(third)["wakeloop.status"] == "completed"


@pytest.mark.parametrize("point", ["engine.step_done", "engine.step_committed"])
def test_a_run_that_another_worker_takes_over_goes_on_in_the_same_trace(traces: Traces, point: str) -> None:
    """In its first turn as in one that a reply began, days later."""
    with simulation(desk) as sim:
        sim.kill_at(point)
        with tracing.span("first request", "server", {}):
            sim.reply("alice", "hello")
            sim.advance(60)
        sim.advance(DAYS)
        sim.kill_at(point)
        with tracing.span("second request", "server", {}):
            sim.reply("alice", "yes")
        sim.advance(60)

    in_first, in_second = (trace_of(traces.one(f"{which} request")) for which in ("first", "second"))
    assert {trace_of(turn) for turn in traces.named("turn desk")} == {in_first, in_second}
    assert {facts(turn)["wakeloop.woken_by"] for turn in traces.named("turn desk")} >= {"takeover", "reply"}
    assert {trace_of(one) for one in traces.named("step fetch")} == {in_first, in_second}


def test_two_messages_in_one_turn_each_have_a_span_in_their_own_trace(traces: Traces) -> None:
    """They are worked on together, and no trace ends at the inbox."""

    @agent(on_message())
    async def listener(ctx: Context[None]) -> None:
        await fetch(ctx.event.text)

    with simulation(listener) as sim:
        for name in ("one", "two"):
            with tracing.span(name, "server", {}):
                request = sim.channels["sms"].request(PEOPLE["alice"]["sms"], name)
                sim._intake.webhook("sms", request)
        sim.advance(1)

    for name in ("one", "two"):
        turns = [
            span for span in traces.named("turn listener") if trace_of(span) == trace_of(traces.one(name))
        ]
        steps = [span for span in traces.named("step fetch") if trace_of(span) == trace_of(traces.one(name))]
        assert (len(turns), len(steps)) == (1, 1)
    assert len({facts(span)["wakeloop.turn"] for span in traces.named("turn listener")}) == 1


def test_what_is_recorded_in_one_transaction_stays_in_the_traces_of_its_requests(traces: Traces) -> None:
    """A message that begins a run, and an answer that another run waits for."""

    @agent(on_message(contact="bob"))
    async def listener(ctx: Context[None]) -> None:
        await fetch(ctx.event.text)

    @agent()
    async def asker(ctx: Context[None]) -> None:
        await fetch((await ctx.ask("alice", "Go on?")).text)

    with simulation(listener, asker) as sim:
        sim.start(asker)
        webhooks = []
        for name in ("alice", "bob"):
            with tracing.span(f"request of {name}", "server", {}):
                request = sim.channels["sms"].request(PEOPLE[name]["sms"], "hello")
                webhooks.append(Webhook(request=request, context=contextvars.copy_context()))
        answers = take(sim._intake, "sms", webhooks)
        sim.advance(1)

    assert [answer.status for answer in answers if isinstance(answer, RawResponse)] == [200, 200]
    for name, turn in (("alice", "turn asker"), ("bob", "turn listener")):
        request_span = traces.one(f"request of {name}")
        (of_request,) = [
            span for span in traces.named("receive sms") if parent_of(span) == id_of(request_span)
        ]
        turns = [span for span in traces.named(turn) if trace_of(span) == trace_of(request_span)]
        assert [parent_of(span) for span in turns] == [id_of(of_request)]


def test_an_occurrence_of_a_schedule_begins_a_trace(traces: Traces) -> None:
    """The tick, the turn, and what it does."""

    @agent(cron("0 9 * * *"))
    async def daily(ctx: Context[None]) -> None:
        await fetch("news")

    with simulation(daily) as sim:
        sim.advance(timedelta(hours=2))

    assert traces.tree() == ["tick daily", "  turn daily", "    step fetch"]
    assert facts(traces.one("tick daily"))["wakeloop.nominal"] == "2026-11-02 09:00:00+00:00"


def test_a_child_and_its_end_stay_in_the_trace(traces: Traces) -> None:
    """The parent spawns it, and is woken by its end."""

    @agent()
    async def child(ctx: Context[None]) -> str:
        return await fetch("x")

    @agent()
    async def parent(ctx: Context[None]) -> str:
        started = await ctx.spawn(child)
        return await started

    with simulation(parent, child) as sim, tracing.span("request", "server", {}):
        run = sim.start(parent)
        assert sim.run(run).result == "X"

    assert traces.tree() == [
        "request", "  turn parent", "    turn child", "      step fetch", "      turn parent"
    ]  # fmt: skip


def test_a_reminder_has_a_trace_of_its_own_with_a_link_to_where_it_was_asked(traces: Traces) -> None:
    """And so has the turn that the end of the time leads to."""

    @agent()
    async def asker(ctx: Context[None]) -> str:
        try:
            await ctx.ask("alice", "Well?", remind=timedelta(days=1), timeout=timedelta(days=1, hours=1))
        except TimeoutError:
            return "no answer"
        return "answer"

    with simulation(asker) as sim:
        with tracing.span("request", "server", {}):
            run = sim.start(asker)
        sim.advance(timedelta(days=2))
        assert sim.run(run).result == "no answer"

    assert traces.tree() == [
        "request", "  turn asker", "  " * 2 + "send sms",
        "follow up question", "  send sms",
        "follow up question", "  turn asker",
    ]  # fmt: skip
    asked = trace_of(traces.one("request"))
    assert [linked(one) for one in traces.named("follow up question")] == [[asked], [asked]]
    assert linked(traces.named("turn asker")[1]) == [asked]


def test_failures_are_noted_by_their_class_and_nothing_of_their_words(traces: Traces) -> None:
    """Each attempt at the step, and the run; no address, no message and no text of an exception is in any span."""

    @agent(on_message())
    async def unlucky(ctx: Context[None]) -> None:
        await ctx.send("alice", "a private word")
        await fail()

    with simulation(unlucky) as sim, tracing.span("request", "server", {}):
        sim.reply("alice", "a private question")
        sim.advance(5)

    attempts = traces.named("step fail")
    assert [facts(one)["wakeloop.attempt"] for one in attempts] == [1, 2]
    for span in [*attempts, traces.named("turn unlucky")[-1]]:
        assert span.status.status_code.name == "ERROR"
        assert facts(span)["error.type"] == "ValueError"
        assert (span.events[0].attributes or {})["exception.type"] == "ValueError"
    assert "raise ValueError" in str((attempts[0].events[0].attributes or {})["exception.stacktrace"])
    for secret in (SECRET, "a private", PEOPLE["alice"]["sms"]):
        assert secret not in traces.everything()


def test_a_delivery_that_fails_says_so(traces: Traces) -> None:
    """With the class of what the channel raised."""

    @agent()
    async def sender(ctx: Context[None]) -> None:
        await ctx.send("alice", "hello")

    with simulation(sender) as sim:
        sim.channels["sms"].fail_next(TemporaryChannelError(f"{SECRET} is busy"))
        sim.start(sender)
        sim.advance(3600)

    failed, sent = traces.named("send sms")
    assert (failed.status.status_code.name, facts(failed)["error.type"]) == (
        "ERROR",
        "wakeloop.errors.TemporaryChannelError",
    )
    assert (facts(failed)["wakeloop.status"], facts(sent)["wakeloop.status"]) == ("pending", "sent")
    assert [facts(one)["wakeloop.attempt"] for one in (failed, sent)] == [1, 2]
    assert SECRET not in traces.everything()


def test_a_retry_goes_on_in_the_trace_of_whoever_asked_for_it(traces: Traces) -> None:
    """With a link to where the run began."""

    @agent()
    async def once(ctx: Context[None]) -> None:
        await fail()

    with simulation(once) as sim:
        with tracing.span("request", "server", {}):
            run = sim.start(once)
            sim.advance(5)
        with tracing.span("retry", "server", {}):
            sim.retry(run)

    last = traces.named("turn once")[-1]
    assert trace_of(last) == trace_of(traces.one("retry"))
    assert linked(last) == [trace_of(traces.one("request"))]


def test_what_a_run_does_is_the_same_with_and_without_traces() -> None:
    """The same story, through a crash after every event."""
    events = [
        lambda sim: sim.reply("alice", "yes"),
        lambda sim: sim.advance(DAYS),
    ]  # fmt: skip
    plain = tell(desk, events, crashes=range(3))
    with tracing_on() as traces:
        traced = tell(desk, events, crashes=range(3))

    assert traced == plain
    assert traces.named("turn desk")


def test_without_traces_rows_carry_nothing() -> None:
    """And with them each that leads to more work does."""

    def carried() -> dict[str, set[bool]]:
        with simulation(desk) as sim, tracing.span("request", "server", {}):
            sim.reply("alice", "hello")
            sim.reply("alice", "yes")
            with sim._database.read() as connection:
                tables = (schema.runs, schema.inbox, schema.deliveries, schema.requests)
                return {
                    table.name: {
                        one is not None for one in connection.execute(sa.select(table.c.trace)).scalars()
                    }
                    for table in tables
                }

    assert set(map(frozenset, carried().values())) == {frozenset({False})}
    with tracing_on():
        assert set(map(frozenset, carried().values())) == {frozenset({True})}


# ---------------------------------------------------------------------- a real runtime


def test_what_a_step_does_is_within_its_span_on_the_loop_and_in_a_thread(
    traces: Traces, make_site: Callable[..., Site]
) -> None:
    """The handler itself has none: it is replayed. The dispatch is in the trace, too."""
    site = make_site()
    with site.working():
        started = site.post("/agents/looker/runs", {}, headers={"traceparent": OUTSIDE}).json
        run = site.get(f"/runs/{started['run']}?wait=20").json

    steps = [id_of(traces.one(f"step {name}")) for name in ("on_the_loop", "in_a_thread")]
    assert run["result"] == [*steps, "0" * 16]
    server = traces.wait_for("POST /api/v1/agents/{agent}/runs")[0]
    assert (trace_of(server), parent_of(server)) == (OUTSIDE_TRACE, OUTSIDE_SPAN)
    assert facts(server)["http.response.status_code"] == 201
    for name in ("dispatch looker", "turn looker"):
        assert parent_of(traces.one(name)) == id_of(server)
    assert facts(traces.one("dispatch looker"))["messaging.system"] == "celery"


def test_a_webhook_goes_on_in_a_trace_that_a_trusted_proxy_brings_and_is_linked_to_any_other(
    traces: Traces, make_site: Callable[..., Site]
) -> None:
    """Nobody outside chooses what our traces are."""
    headers = {"traceparent": OUTSIDE}
    make_site().post("/webhooks/nobody", b"", headers=headers, at="")
    make_site(trusted_proxies=["127.0.0.1"]).post("/webhooks/nobody", b"", headers=headers, at="")

    direct, proxied = traces.wait_for("POST /webhooks/{channel}", 2)
    assert (parent_of(direct), linked(direct)) == (None, [OUTSIDE_TRACE])
    assert (parent_of(proxied), linked(proxied)) == (OUTSIDE_SPAN, [])


def test_probes_pages_and_metrics_make_no_spans(traces: Traces, make_site: Callable[..., Site]) -> None:
    """Only what leads to work does; a form that is sent, by its route without its signed token."""
    site = make_site()
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        site.call("GET", path, at="")
    site.call("POST", "/nowhere/secret-token", b"", at="")
    site.call("POST", "/people/secret-token/messages", b"", at="")

    traces.wait_for("POST /people/{token}/messages")
    traces.wait_for("POST")
    assert len(traces.spans) == 2
    assert "secret-token" not in traces.everything()


def test_a_client_takes_the_span_of_its_caller_along(traces: Traces, make_site: Callable[..., Site]) -> None:
    """Both clients; and what they start is in that trace. Without a span nothing is sent."""
    site = make_site()
    token = site.token("program", Scope.AGENTS_START, Scope.RUNS_READ)
    mine = traces.provider.get_tracer("mine")

    async def start() -> None:
        async with AsyncClient(site.url, token) as client:
            await client.start("echo", "async")

    with Client(site.url, token) as client:
        with mine.start_as_current_span("my program"):
            client.start("echo", "sync")
        with mine.start_as_current_span("my async program"):
            asyncio.run(start())
        client.start("echo", "alone")

    servers = traces.wait_for("POST /api/v1/agents/{agent}/runs", 3)
    programs = [traces.one("my program"), traces.one("my async program")]
    assert [parent_of(one) for one in servers] == [*map(id_of, programs), None]


def test_a_callback_takes_the_trace_to_the_program(traces: Traces, make_site: Callable[..., Site]) -> None:
    """The program's own spans can be children of the delivery."""
    site = make_site(callback_hosts=["127.0.0.1"])
    with Receiver() as receiver, site.working():
        made = site.ask(callback_url=receiver.url)
        site.post(f"/requests/{made['id']}/answer", {"contact": "alice", "text": "Monday"})
        receiver.wait(1)

    sent = traces.wait_for("send callback")[0]
    [decided] = traces.wait_for("POST /api/v1/requests/{id}/answer")
    assert receiver.came[0].headers["traceparent"].startswith(f"00-{trace_of(decided)}-{id_of(sent)}-")


def test_a_line_of_the_log_names_the_current_span(traces: Traces, caplog: pytest.LogCaptureFixture) -> None:
    """Trace and span; outside of one a line has neither."""
    caplog.set_level(logging.INFO, logger="wakeloop.runs")
    lines: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(JsonFormatter().format(record)))  # type: ignore[method-assign]
    logging.getLogger("wakeloop").addHandler(handler)
    try:
        with simulation(desk) as sim, tracing.span("request", "server", {}):
            sim.reply("alice", "hello")
        get_logger("wakeloop.runs").info("outside")
    finally:
        logging.getLogger("wakeloop").removeHandler(handler)

    by_event = {line["event"]: line for line in lines}
    turn = traces.one("turn desk")
    assert by_event["run waits"]["trace_id"] == trace_of(turn)
    assert by_event["run waits"]["span_id"] == id_of(turn)
    assert "trace_id" not in by_event["outside"]


def test_a_state_that_a_trace_brings_goes_on_with_it(traces: Traces) -> None:
    """W3C's tracestate is stored with the rest, and a text that is no context is no trace."""
    tracer = tracing.tracer
    assert tracer is not None
    brought = tracer.received({"traceparent": OUTSIDE, "tracestate": "vendor=a b"})
    assert brought == f"{OUTSIDE} vendor=a b"
    with tracing.resumed(brought):
        assert tracing.carried() == brought
        assert trace.get_current_span().get_span_context().is_remote
    assert tracer.received({"traceparent": "00-nonsense"}) is None
