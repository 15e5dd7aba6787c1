"""What Prometheus is told: how the store stands, what a process counts, to whom it is shown, and what it costs."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.api_kit import Site, sites
from tests.servers import free_port, poll

from wakeloop import meters
from wakeloop.gauges import Gauges
from wakeloop.store import schema
from wakeloop.testing import Simulation
from wakeloop.tokens import Scope

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring"
_METRIC = re.compile(r"\bwakeloop_[a-z_]+\b")


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings."""
    with sites(tmp_path) as make:
        yield make


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a scrape, by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(site: Site) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What the store of a site measures now, nothing of it remembered."""
    gauges = Gauges(site.runtime.database, lease_seconds=15, cache_seconds=0)
    return values(gauges.render().decode())


def change(site: Site, table: sa.Table, where: Any = None, **facts: Any) -> None:
    """Make rows of the store stand otherwise."""
    statement = sa.update(table).values(**facts)
    with site.runtime.database.begin() as connection:
        connection.execute(statement if where is None else statement.where(where))


def test_the_lag_is_how_long_the_longest_due_session_waits(make_site: Callable[..., Site]) -> None:
    """Counted from its due time, through dispatches that no worker took up, and gone once a worker has it."""
    site = make_site()
    site.runtime.intake.start("echo", "x", key="one")
    site.runtime.intake.start("echo", "y", key="two")
    now = site.runtime.database.now()
    one = schema.sessions.c.key == "one"
    change(site, schema.sessions, one, due_at=now - timedelta(seconds=40))

    first = scrape(site)
    # Dispatched three times: 10 s, 20 s and 40 s were waited for a worker before it is due again.
    change(site, schema.sessions, one, due_at=now + timedelta(seconds=5), dispatches=3)
    dispatched = scrape(site)
    change(site, schema.sessions, due_at=now + timedelta(seconds=14), dispatches=0, owner="worker")
    held = scrape(site)

    assert first["wakeloop_due_sessions", ()] == 2
    assert first["wakeloop_due_lag_seconds", ()] == pytest.approx(40, abs=3)
    assert dispatched["wakeloop_due_sessions", ()] == 2
    assert dispatched["wakeloop_due_lag_seconds", ()] == pytest.approx(65, abs=3)
    assert (held["wakeloop_due_sessions", ()], held["wakeloop_due_lag_seconds", ()]) == (0, 0)
    assert (held["wakeloop_held_leases", ()], first["wakeloop_held_leases", ()]) == (2, 0)


def test_open_requests_are_counted_by_kind_and_age(make_site: Callable[..., Site]) -> None:
    """And the oldest is told; settled ones do not count."""
    site = make_site()
    asked = [site.ask() for _ in range(3)]
    site.propose()
    now = site.runtime.database.now()
    change(
        site, schema.requests, schema.requests.c.id == sa.literal(asked[0]["id"], sa.Uuid(as_uuid=False)),
        created_at=now - timedelta(hours=5),
    )  # fmt: skip
    site.post(f"/requests/{asked[1]['id']}/cancel", {})

    found = scrape(site)

    assert found["wakeloop_open_requests", (("age", "hour"), ("kind", "question"))] == 1
    assert found["wakeloop_open_requests", (("age", "day"), ("kind", "question"))] == 1
    assert found["wakeloop_open_requests", (("age", "hour"), ("kind", "approval"))] == 1
    assert found["wakeloop_oldest_request_seconds", (("kind", "question"),)] == pytest.approx(18_000, abs=5)


def test_parked_runs_deliveries_skips_and_listeners_are_counted(make_site: Callable[..., Site]) -> None:
    """Each by what an operator would ask for first."""
    site = make_site()
    runtime = site.runtime
    runtime.intake.start("echo", "x")
    now = runtime.database.now()
    change(site, schema.runs, status="stuck", failure="{}", ended_at=now, skipped="overlap", skip_count=4)
    site.ask()
    with runtime.database.begin() as connection:
        connection.execute(
            sa.insert(schema.listeners).values(channel="email", owner="p", until=now + timedelta(1))
        )
        connection.execute(sa.insert(schema.listeners).values(channel="slack", owner="p", until=now))
    runtime.timers.sweep()  # the desk writes the message of the question
    change(site, schema.deliveries, status="failed", due_at=now - timedelta(seconds=9))
    channel = runtime_rows(site, schema.deliveries)[0].channel

    found = scrape(site)

    assert found["wakeloop_parked_runs", (("agent", "echo"), ("status", "stuck"))] == 1
    assert found["wakeloop_recent_skips", (("reason", "overlap"),)] == 4
    assert found["wakeloop_listener_held", (("channel", "email"),)] == 1
    assert found["wakeloop_listener_held", (("channel", "slack"),)] == 0
    assert found["wakeloop_recent_deliveries", (("channel", channel), ("status", "failed"))] == 1
    assert found["wakeloop_due_deliveries", (("channel", channel),)] == 1
    assert found["wakeloop_delivery_lag_seconds", ()] == pytest.approx(9, abs=3)


def runtime_rows(site: Site, table: sa.Table) -> list[Any]:
    """Everything that a table of the store holds."""
    with site.runtime.database.read() as connection:
        return list(connection.execute(sa.select(table)))


def test_many_who_ask_cost_the_store_one_measurement(make_site: Callable[..., Site]) -> None:
    """Within a few seconds; and what they get is what was measured."""
    site = make_site()
    statements: list[str] = []
    sa.event.listen(site.runtime.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))

    answers = {
        site.call("GET", "/metrics", at="").text.partition("# HELP wakeloop_turn")[0] for _ in range(5)
    }

    assert len([one for one in statements if "FROM requests" in one]) == 1
    assert len(answers) == 1


def test_a_store_that_is_away_is_told_as_such(make_site: Callable[..., Site]) -> None:
    """An answer all the same, without old numbers."""
    site = make_site()
    with site.runtime.database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE sessions RENAME TO gone")

    found = scrape(site)

    assert found["wakeloop_store_up", ()] == 0
    assert ("wakeloop_due_sessions", ()) not in found


def test_metrics_are_shown_to_this_machine_and_to_tokens_only(make_site: Callable[..., Site]) -> None:
    """Behind a public address a token of scope runs:read or admin is needed; other tokens and forged headers are no help."""
    home, public = make_site(), make_site(public_url="https://agents.example.com")
    reads = public.token("prometheus", Scope.RUNS_READ)
    asks = public.token("asks", Scope.REQUESTS_READ)

    assert home.call("GET", "/metrics", at="").status == 200
    assert home.call("GET", "/metrics", at="", headers={"X-Forwarded-For": "203.0.113.7"}).status == 401
    assert home.call("GET", "/metrics", at="", headers={"Host": "evil.example.com"}).status == 401
    refused = public.call("GET", "/metrics", at="")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Bearer realm="wakeloop"')
    assert "wakeloop_due" not in refused.text
    assert public.call("GET", "/metrics", at="", headers={"Authorization": f"Bearer {reads}"}).status == 200
    assert public.call("GET", "/metrics", at="", headers={"Authorization": f"Bearer {asks}"}).status == 401
    assert public.call("GET", "/metrics", at="", headers={"Authorization": f"Basic {reads}"}).status == 401
    spoofed = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    assert public.call("GET", "/metrics", at="", headers=spoofed).status == 401


def test_a_process_counts_what_it_does(make_site: Callable[..., Site]) -> None:
    """Turns, steps, ends of runs, wakes and attempts at deliveries, by names out of the code only."""
    port = free_port()
    site = make_site(metrics_port=port)
    turns = ("wakeloop_turn_seconds_count", (("agent", "echo"),))
    ended = ("wakeloop_runs_ended_total", (("agent", "echo"), ("status", "completed")))

    def counted() -> dict[Any, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return values(answer.read().decode())

    with site.working():
        before = counted()  # what others did in this process
        site.ask()
        site.runtime.intake.start("echo", "x")
        for _ in poll(20):
            found = counted()
            if all(found.get(one, 0) > before.get(one, 0) for one in (turns, ended)):
                break

    assert found[turns] > before.get(turns, 0)
    assert found[ended] > before.get(ended, 0)
    labels = {label for _, one in found for label, _ in one}
    assert labels <= {"agent", "outcome", "status", "reason", "kind", "channel", "le"}


def test_a_port_that_is_taken_stops_no_work(caplog: pytest.LogCaptureFixture) -> None:
    """It is told on the log, and nothing is shown."""
    first = meters.expose("127.0.0.1", 0)
    assert first is not None
    try:
        assert meters.expose("127.0.0.1", first.port) is None
    finally:
        first.close()
    assert "the port cannot be used" in caplog.text


def test_the_dashboard_and_the_alerts_name_metrics_that_exist(make_site: Callable[..., Site]) -> None:
    """Every metric in docs/monitoring, and in the page on it, is in a real scrape, or is one that a worker declares."""
    site = make_site()
    there = {name for name, _ in scrape(site)}
    for family in meters.WORK.collect():
        there |= {f"{family.name}_total"} if family.type == "counter" else set()
        there |= {f"{family.name}_{end}" for end in ("bucket", "sum", "count") if family.type == "histogram"}
    # What has no sample without rows is declared all the same.
    scraped = Gauges(site.runtime.database, lease_seconds=15, cache_seconds=0)
    there |= {family.name for family in scraped.collect()}

    texts = {
        file.name: file.read_text()
        for file in (MONITORING / "grafana.json", MONITORING / "alerts.yml", ROOT / "docs" / "monitoring.md")
    }
    named = {name: set(_METRIC.findall(text)) for name, text in texts.items()}

    named["monitoring.md"] -= {family.name for family in meters.WORK.collect() if family.type == "histogram"}
    assert all(named.values())
    assert {name: found - there for name, found in named.items()} == {name: set() for name in named}
    assert json.loads(texts["grafana.json"])["panels"]
    rules = [rule for group in yaml.safe_load(texts["alerts.yml"])["groups"] for rule in group["rules"]]
    assert all(_METRIC.search(rule["expr"]) and rule["annotations"]["action"] for rule in rules)
    # And the other way round: what is measured is explained.
    assert {family.name for family in scraped.collect()} - named["monitoring.md"] == set()


def test_a_simulation_counts_its_skips_by_reason() -> None:
    """An occurrence that finds the one before it still open is one more."""
    before = meters.SKIPS.labels("slow", "overlap")._value.get()
    from wakeloop import Context, agent, every

    @agent(every(timedelta(minutes=1)))
    async def slow(ctx: Context[None]) -> None:
        await ctx.sleep(timedelta(minutes=2, seconds=30))

    with Simulation([slow], start="2026-11-02T13:00:00Z") as sim:
        sim.advance(timedelta(minutes=3, seconds=10))

    assert meters.SKIPS.labels("slow", "overlap")._value.get() > before
