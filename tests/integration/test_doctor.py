"""What `wakeloop doctor` finds out by asking: providers, the public address, the database's clock, and the work in the
store; each finding says what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from wakeloop.cli import app
from wakeloop.cli.doctor import _skew
from wakeloop.clock import VirtualClock
from wakeloop.settings import load_settings
from wakeloop.store import outbox, schema
from wakeloop.store.database import Database
from wakeloop.testing.twilio import AUTH_TOKEN, NUMBER, TwilioStandIn
from wakeloop.web.app import make_app
from wakeloop.web.server import WebServer, listen, url_of
from wakeloop.wiring import Runtime

ALICE = "+14155550100"

AGENT = """
from wakeloop import Context, agent


@agent()
async def echo(ctx: Context[None]) -> None:
    pass
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an agent and Twilio's stand-in, which is the current one."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "echo.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WAKELOOP_SMS_AUTH_TOKEN", AUTH_TOKEN)
    before = list(logging.getLogger().handlers)
    with TwilioStandIn() as twilio:
        (tmp_path / "wakeloop.toml").write_text(
            f'[channels.sms]\naccount_sid = "{twilio.account_sid}"\nfrom_number = "{NUMBER}"\n'
            f'api_url = "{twilio.url}"\n[contacts.alice]\nsms = "{ALICE}"\n'
        )
        yield tmp_path
    logging.getLogger().handlers = before


@pytest.fixture
def runtime(project: Path) -> Iterator[Runtime]:
    """A runtime on the project's store."""
    made = Runtime(load_settings(directory=project))
    made.database.upgrade()
    yield made
    made.stop(grace=0)


def findings(*options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit code, and what was found about each thing."""
    result = CliRunner().invoke(app, ["doctor", "--json", *options], catch_exceptions=False)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(result.stdout)["findings"]:
        found.setdefault(one["about"], []).append(one)
    return result.exit_code, found


def test_a_trigger_that_names_nobody_is_told_with_the_nearest_name(project: Path) -> None:
    """Its agent loads, and would never wake."""
    code = "from wakeloop import Context, agent, on_message\n\n@agent(on_message(channel=['sms', 'smss'], contact='alcie'))\n"
    (project / "agents" / "deaf.py").write_text(f"{code}async def deaf(ctx: Context[None]) -> None: ...\n")

    status, found = findings("--offline")

    assert status == 0
    assert [(one["verdict"], one["what"]) for one in found["agent deaf"]] == [
        ("warn", "on_message(contact='alcie'): there is no such contact; did you mean 'alice'?"),
        ("warn", "on_message(channel='smss'): there is no such channel; did you mean 'sms'?"),
    ]
    assert "agent echo" not in found


def test_a_provider_is_asked_whether_the_credentials_work(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong ones are a failure that says so; offline nobody is asked. The secret is never shown."""
    code, found = findings()
    assert (code, found["channel sms"][1]["verdict"]) == (0, "ok")
    assert found["channel sms"][1]["what"].startswith("works as ")

    monkeypatch.setenv("WAKELOOP_SMS_AUTH_TOKEN", "wrong-hunter2")
    code, found = findings()
    assert (code, found["channel sms"][1]["verdict"]) == (1, "fail")
    assert "docs/channels" in found["channel sms"][1]["advice"]
    assert "hunter2" not in str(found)

    code, found = findings("--offline")
    assert (code, len(found["channel sms"])) == (0, 1)


def test_the_public_address_is_called(
    project: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It should be the web process that answers; an address that only this network has is no good to providers; and what
    the provider must be told is shown."""
    with listen("127.0.0.1", 0) as listening:
        server = WebServer(make_app(runtime), listening)
        server.start()
        monkeypatch.setenv("WAKELOOP_PUBLIC_URL", url_of(listening))
        code, there = findings()
        server.stop(10)
    _, gone = findings()

    assert code == 0
    assert [one["verdict"] for one in there["public_url"]] == ["warn", "ok"]
    assert "only your own network" in there["public_url"][0]["what"]
    assert "/webhooks/sms" in there["channel sms"][-1]["what"]
    assert [one["verdict"] for one in gone["public_url"]] == ["warn", "warn"]
    assert "does not answer" in gone["public_url"][1]["what"]


@pytest.mark.parametrize(
    "url", ["https://10.1.2.3", "https://server", "https://wake.internal", "http://[::1]:8080"]
)
def test_addresses_that_no_provider_reaches_are_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Private networks, names without a domain, this machine."""
    monkeypatch.setenv("WAKELOOP_PUBLIC_URL", url)

    assert "providers cannot reach it" in findings("--offline")[1]["public_url"][0]["advice"]


def test_tls_without_a_trusted_proxy_is_noticed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something in front must end it; unless it is named, all callers are one."""
    monkeypatch.setenv("WAKELOOP_PUBLIC_URL", "https://agents.example.com")
    assert findings("--offline")[1]["trusted_proxies"][0]["verdict"] == "warn"
    monkeypatch.setenv("WAKELOOP_TRUSTED_PROXIES", "10.0.0.1")
    assert "trusted_proxies" not in findings("--offline")[1]


@pytest.mark.parametrize(
    ("ahead", "words"), [(timedelta(minutes=-3), "ahead of"), (timedelta(hours=2), "behind")]
)
def test_skew_is_told_with_its_direction_and_what_it_means(
    tmp_path: Path, ahead: timedelta, words: str
) -> None:
    """Timers go by the database; logs and signatures do not."""
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", clock=VirtualClock(datetime.now(UTC) + ahead))

    found = _skew(database)

    database.close()
    assert (found.verdict, found.about) == ("warn", "clock")
    assert words in found.what
    assert "timers are right" in found.advice and "NTP" in found.advice


def test_work_that_waits_is_told_with_what_to_do(project: Path, runtime: Runtime) -> None:
    """Due sessions that no worker takes, parked runs, deliveries that failed, people who opted out."""
    assert findings("--offline")[0] == 0
    runtime.intake.start("echo", key="late")
    now = runtime.database.now()
    with runtime.database.begin() as connection:
        connection.execute(sa.update(schema.sessions).values(due_at=now - timedelta(minutes=10)))
        connection.execute(sa.update(schema.runs).values(status="stuck", failure="{}"))
        connection.execute(
            sa.insert(schema.messages).values(
                id=(message := runtime.world.ids.new_id()),
                inbound=False,
                contact="alice",
                channel="sms",
                text="x",
                at=now,
            )
        )
        outbox.add_delivery(connection, runtime.world.ids.new_id(), message, "alice", "sms", ALICE, now=now)
        connection.execute(sa.update(schema.deliveries).values(status="failed", due_at=None))
        outbox.set_opt_out(connection, "sms", ALICE, True, now=now)

    code, found = findings("--offline")

    assert code == 0  # it works; it waits for somebody
    assert "no worker takes: 1" in found["work"][0]["what"] and "celery" in found["work"][0]["advice"]
    assert (
        "runs that are stuck: 1" in found["agent echo"][0]["what"]
        and "wakeloop retry" in found["agent echo"][0]["advice"]
    )
    assert any("failed for good" in one["what"] for one in found["channel sms"])
    assert any("START" in one["advice"] for one in found["contact alice"])
    assert all(one["advice"] for group in found.values() for one in group if one["verdict"] != "ok")
