"""`wakeloop channels`: what is set up, whether it works, tests that go out, and what providers must be told."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit import pretend
from typer.testing import CliRunner, Result

from wakeloop import dev
from wakeloop.channel import DeliveryStatus, DeliveryUpdate
from wakeloop.cli import app
from wakeloop.cli import channels as module
from wakeloop.errors import ConfigurationError
from wakeloop.people import People
from wakeloop.settings import load_settings
from wakeloop.store import queries
from wakeloop.wiring import Runtime, load_channels

SETTINGS = """
[channels.rich]
[contacts.alice]
rich = "U1"
plain = "alice"
[contacts.bob]
plain = "nowhere"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WAKELOOP_CONFIG", "WAKELOOP_DATABASE_URL", "WAKELOOP_BROKER_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    pretend.install(tmp_path, monkeypatch)
    (tmp_path / "agents").mkdir()
    (tmp_path / "wakeloop.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["channels", *arguments], catch_exceptions=False)


def _add(project: Path, *names: str) -> None:
    with (project / "wakeloop.toml").open("a") as file:
        file.writelines(f"[channels.{name}]\n" for name in names)


def _listed(*arguments: str) -> dict[str, Any]:
    return {one["channel"]: one for one in json.loads(_run("--json", *arguments).stdout)}


# ---------------------------------------------------------------------- the list


def test_every_channel_is_listed_with_what_it_can(project: Path) -> None:
    """Those that have a table, that somebody has an address on, and people's pages."""
    shown = _run()

    assert shown.exit_code == 0
    assert _listed() == {
        "plain": {
            "channel": "plain", "directions": ["out"], "can": [], "contacts": 2, "ok": None, "health": "set up"
        },
        "rich": {
            "channel": "rich", "directions": ["in", "out"], "can": ["buttons", "threads", "receipts"], "contacts": 1,
            "ok": True, "health": "works as wakeloop-bot",
        },
        "web": {**_listed()["web"], "directions": ["in", "out"], "contacts": 0, "ok": None},
    }  # fmt: skip
    assert "buttons, threads, receipts" in shown.stdout
    assert "works as wakeloop-bot" in shown.stdout
    assert _run("list").stdout == shown.stdout


def test_what_is_broken_is_told_with_what_to_mend(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself: one that is refused, hangs, or cannot even be loaded keeps no other from being listed."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.5)
    _add(project, "refused", "buggy", "slow", "lacking", "none")
    began = time.monotonic()

    shown, listed = _run(), _listed()

    assert time.monotonic() - began < 20
    assert shown.exit_code == 1
    assert listed["refused"]["health"] == "invalid_auth: the token was revoked: make a new one"
    assert listed["buggy"]["health"] == "the check failed: KeyError('team')"
    assert listed["slow"]["health"] == "the provider did not answer within 0.5 s"
    assert 'pip install "pretend[bells]"' in listed["lacking"]["health"]
    assert "there is no adapter for the channel 'none'" in listed["none"]["health"]
    assert {name for name, one in listed.items() if one["ok"] is False} == {
        "refused", "buggy", "slow", "lacking", "none"
    }  # fmt: skip
    assert listed["rich"]["ok"] is True


def test_without_a_check_no_provider_is_asked(project: Path) -> None:
    """The exit code tells of settings alone then."""
    _add(project, "refused")

    assert _run("--no-check").exit_code == 0
    assert {one["health"] for one in _listed("--no-check").values()} == {"not checked"}


# ---------------------------------------------------------------------- a missing library


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "lacking",
            'the channel lacking needs bells_and_whistles, which is not installed: pip install "pretend[bells]"',
        ),
        (
            "nameless",
            'the channel nameless needs bells_and_whistles, which is not installed: pip install "pretend[nameless]"',
        ),
        ("halved", "the channel halved cannot be loaded (cannot import name 'no_such_name' from 'json'"),
    ],
)
def test_a_missing_library_names_the_extra_that_brings_it(project: Path, name: str, words: str) -> None:
    """As the entry point has it, else by the channel's name."""
    _add(project, name)

    with pytest.raises(ConfigurationError) as raised:
        Runtime(load_settings())

    assert str(raised.value).startswith(words)


def test_all_channels_that_cannot_be_used_are_told_at_once(project: Path) -> None:
    """So that they are mended in one go."""
    _add(project, "lacking", "halved")

    with pytest.raises(ConfigurationError) as raised:
        Runtime(load_settings())

    lines = str(raised.value).splitlines()
    assert [line.split()[2] for line in lines] == ["halved", "lacking"]


def test_of_a_channel_that_nobody_uses_nothing_is_imported(project: Path) -> None:
    """Its library may be missing, and no time is lost on it."""
    (project / "wakeloop.toml").write_text("")
    settings = load_settings()

    assert set(load_channels(settings, People(settings.contacts))) == {"web"}
    assert "pretend_channels" not in sys.modules
    assert "pretend_lacking" not in sys.modules


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The pretended modules are imported anew in every test."""
    yield
    for name in [name for name in sys.modules if name.startswith("pretend_")]:
        del sys.modules[name]


# ---------------------------------------------------------------------- a test


def test_a_test_is_sent_by_this_process_if_no_worker_does(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits a moment for one, then makes the delivery as a worker would, and says how far reports go."""
    monkeypatch.setattr(module, "WORKER_SECONDS", 0.0)

    result = _run("test", "plain", "alice")

    assert result.exit_code == 0, result.output
    assert "pending" in result.stdout
    assert "✓ sent: plain took it, and reports no more than that" in result.stdout
    told = json.loads(_run("test", "plain", "alice", "--json").stdout)
    assert (told["status"], told["statuses"][-1], told["reports"]) == ("sent", "sent", False)


def test_it_goes_through_that_channel_or_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's reason is told, and the person's other channels are not tried."""
    monkeypatch.setattr(module, "WORKER_SECONDS", 0.0)

    result = _run("test", "plain", "bob")

    assert result.exit_code == 1
    assert "it did not reach bob by plain: 404: no such address" in result.stderr
    assert _run("test", "plain", "bob", "--json").exit_code == 1
    for arguments in (("rich", "bob"), ("none", "alice"), ("plain", "alise")):
        assert _run("test", *arguments).exit_code == 1


@pytest.fixture
def worker(project: Path) -> Iterator[Runtime]:
    """A process that works on the project's store, and gets the provider's report of delivery."""
    runtime = Runtime(load_settings())
    runtime.database.upgrade()
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            runtime.run_deliveries(runtime.timers.sweep().deliveries)
            with runtime.database.read() as connection:
                rows = queries.list_messages(connection, limit=5)
                ids = [queries.deliveries_of(connection, row.id)[0].provider_id for row in rows]
            time.sleep(0.5)
            for id in filter(None, ids):
                runtime.intake.update("rich", DeliveryUpdate(provider_id=id, status=DeliveryStatus.DELIVERED))

    thread = threading.Thread(target=work)
    thread.start()
    yield runtime
    over.set()
    thread.join(30)
    runtime.stop(grace=0)


def test_every_report_is_told_as_it_comes(worker: Runtime) -> None:
    """Up to the delivery, where the channel reports it."""
    result = _run("test", "rich", "alice", "--wait", "20")

    assert result.exit_code == 0, result.output
    assert "✓ delivered: it reached alice by rich" in result.stdout
    assert result.stdout.index(" s  sent") < result.stdout.index(" s  delivered")


def test_a_report_that_does_not_come_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was sent all the same."""
    monkeypatch.setattr(module, "WORKER_SECONDS", 0.0)

    result = _run("test", "rich", "alice", "--wait", "1")

    assert result.exit_code == 0
    assert "no report of delivery came within 1 s" in result.stdout


# ---------------------------------------------------------------------- webhooks


def test_what_providers_must_be_told_is_listed(project: Path) -> None:
    """With the address of the settings, or the one that is given."""
    with_url = _run("webhooks", "--url", "https://tunnel.example.com")
    told = json.loads(_run("webhooks", "--json", "--url", "https://tunnel.example.com/").stdout)

    assert "https://tunnel.example.com/webhooks/rich?kind=press" in with_url.stdout
    assert told == [
        {
            "channel": "rich",
            "enter": [
                {
                    "where": "Event subscriptions, Request URL",
                    "what": "https://tunnel.example.com/webhooks/rich",
                },
                {"where": "Interactivity", "what": "https://tunnel.example.com/webhooks/rich?kind=press"},
            ],
        }
    ]


def test_without_an_address_it_says_what_to_give(project: Path) -> None:
    """There is nothing that a provider could call."""
    result = _run("webhooks")

    assert result.exit_code == 1
    assert "--url https://" in result.stderr


def test_a_channel_that_cannot_be_loaded_is_told_beside_the_others(project: Path) -> None:
    """Its extra is named, and the exit code is 1."""
    _add(project, "lacking")

    result = _run("webhooks", "--url", "https://tunnel.example.com")

    assert result.exit_code == 1
    assert "webhooks/rich" in result.stdout
    assert "pretend[bells]" in result.stderr


def test_the_banner_of_dev_says_what_to_enter_where(project: Path) -> None:
    """If it knows where providers reach it; else there is nothing to enter."""
    for url, lines in (("https://tunnel.example.com", 2), (None, 0)):
        runtime = Runtime(load_settings(public_url=url))
        runtime.database.upgrade()

        banner = dev._banner(runtime, "http://localhost:8080").plain
        runtime.stop(grace=0)

        assert banner.count(f"{url}/webhooks/rich") == lines
        assert ("Interactivity" in banner) == bool(lines)
