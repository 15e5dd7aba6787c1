"""Web, worker, Redis and PostgreSQL tell a collector over OTLP: one trace from the webhook to what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.acceptance.plant import ALICE, Plant, make_plant
from tests.collector import Collected, Collector, collecting
from tests.servers import Postgres, Program, Redis

pytestmark = pytest.mark.timeout(300)

AGENTS = '''
from opentelemetry import trace

from wakeloop import Context, agent, on_message, step


@step
def look_up(what: str) -> str:
    with trace.get_tracer("mine").start_as_current_span("my own"):
        return what.upper()


@agent(on_message())
async def clerk(ctx: Context[None]) -> str:
    """Looks something up, writes to Alice, and asks her."""
    found = await look_up(ctx.event.text)
    await ctx.send("alice", f"I found {found}")
    answer = await ctx.ask("alice", "Is that it?")
    return await look_up(answer.text)
'''


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def plant(
    tmp_path: Path, postgres_server: Postgres, redis_server: Redis, collector: Collector
) -> Iterator[Plant]:
    with make_plant(
        tmp_path,
        postgres_server,
        redis_server,
        agents={"clerk.py": AGENTS},
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
        WAKELOOP_LOG_FORMAT="json",
    ) as plant:
        yield plant


def in_process(plant: Plant, name: str) -> Plant:
    """The plant, with the name under which the next process tells of itself."""
    plant.environment["OTEL_SERVICE_NAME"] = name
    return plant


def logged(worker: Program, event: str) -> list[dict[str, str]]:
    """The lines of this event in a worker's log."""
    lines = [json.loads(line) for line in worker.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_one_trace_leads_from_a_webhook_through_two_processes_to_the_provider(
    plant: Plant, collector: Collector
) -> None:
    """A text wakes the agent, and a reply resumes it: each is one trace across web and worker, and the second is linked to
    the first. No address, no text and no secret is told."""
    with in_process(plant, "web").web() as web, in_process(plant, "worker").worker("one") as worker:
        web.wait_for('"listening"')
        worker.wait_for("ready.")
        plant.twilio.reply("the invoice", from_=ALICE)
        plant.twilio.wait_for(2, timeout=60)
        plant.twilio.reply("yes, thank you", from_=ALICE)
        [run] = plant.wait_until_over("clerk", 1, seconds=60)
        turns = collector.wait_for("turn clerk", count=2)
        collector.wait_for("POST /webhooks/{channel}", count=2)
        collector.wait_for("send sms", count=2)
        dispatches = collector.wait_for("dispatch clerk", count=2)
        log = logged(worker, "run started")

    assert run.result == "YES, THANK YOU"
    first, second = (_of(collector, turn) for turn in sorted(turns, key=lambda turn: turn.links))
    for trace in (first, second):
        webhook, received, turn, looked = (
            trace[name] for name in ("POST /webhooks/{channel}", "receive sms", "turn clerk", "step look_up")
        )
        assert (webhook.parent, webhook.kind) == (None, "server")
        assert (webhook.facts["http.route"], webhook.facts["http.response.status_code"]) == (
            "/webhooks/{channel}",
            200,
        )
        assert (received.parent, turn.parent, looked.parent) == (webhook.id, received.id, turn.id)
        assert trace["my own"].parent == looked.id
        assert (webhook.resource["service.name"], turn.resource["service.name"]) == ("web", "worker")
        assert turn.facts["wakeloop.run"] == str(run.id)
    assert first["send sms"].parent == first["turn clerk"].id
    assert second["turn clerk"].links == (first["turn clerk"].trace,)
    assert {one.trace for one in dispatches} == {first["turn clerk"].trace, second["turn clerk"].trace}
    assert [(line["trace_id"], line["span_id"]) for line in log] == [
        (first["turn clerk"].trace, first["turn clerk"].id)
    ]
    assert not any(span.failed or "url.path" in span.facts for span in collector.spans)
    assert not any(span.name.startswith("fastapi") for span in collector.spans)
    told = b"".join(span.raw for span in collector.spans)
    for secret in (ALICE, "invoice", "INVOICE", "thank you", "Is that it", plant.twilio.auth_token):
        assert secret.encode() not in told


def _of(collector: Collector, turn: Collected) -> dict[str, Collected]:
    """The spans of a turn's trace, by name."""
    return {span.name: span for span in collector.spans if span.trace == turn.trace}
