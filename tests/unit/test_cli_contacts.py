"""`wakeloop contacts`: who the people are, and codes and tests that go out through whoever works on the store."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from wakeloop.channel import Incoming
from wakeloop.cli import app
from wakeloop.cli import sending as module
from wakeloop.cli.contacts import masked
from wakeloop.settings import load_settings
from wakeloop.wiring import Runtime

SETTINGS = """
[contacts.alice]
console = "alice at home"
tz = "Europe/Paris"
groups = ["finance", "board"]
quiet_hours = "00:00-23:59"

[contacts.bob]
name = "Bob"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WAKELOOP_CONFIG", "WAKELOOP_DATABASE_URL", "WAKELOOP_BROKER_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "agents").mkdir()
    (tmp_path / "wakeloop.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def worker(project: Path) -> Iterator[Runtime]:
    """A process that works on the project's store: it sends what is due."""
    runtime = Runtime(load_settings())
    runtime.database.upgrade()
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            runtime.run_deliveries(runtime.timers.sweep().deliveries)

    thread = threading.Thread(target=work)
    thread.start()
    yield runtime
    over.set()
    thread.join(30)
    runtime.stop(grace=0)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["contacts", *arguments], catch_exceptions=False)


def _beside(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _said(runtime: Runtime, like: str) -> str:
    """The newest text in the store that has this in it."""
    for _ in range(200):
        with runtime.database.read() as connection:
            for text in connection.exec_driver_sql("SELECT text FROM messages ORDER BY id DESC").scalars():
                if found := re.search(like, text):
                    return found[0]
        time.sleep(0.05)
    raise AssertionError(f"nothing like {like} was said")


def test_the_list_shows_people_and_hides_addresses(project: Path) -> None:
    """Names, time there, groups and how each address stands; the addresses are whole only if asked for."""
    shown = _run().stdout

    assert "alice at home" not in shown
    assert "…home" in shown
    assert "Europe/Paris" in shown and "finance, board" in shown and "not verified" in shown
    assert "Bob" in shown and "no address" in shown
    assert _run("list").stdout == shown or "not verified" in _run("list").stdout
    assert "alice at home" in _run("--addresses").stdout


def test_the_list_as_json_has_everything_but_addresses(project: Path) -> None:
    """For programs, which may ask for the addresses too."""
    alice, bob = json.loads(_run("list", "--json").stdout)

    assert (alice["id"], alice["groups"], alice["tz"]) == ("alice", ["finance", "board"], "Europe/Paris")
    assert alice["channels"] == [
        {"channel": "console", "address": "…home", "verified_at": None, "opted_out_at": None}
    ]
    assert (bob["name"], bob["channels"]) == ("Bob", [])
    [alice, _] = json.loads(_run("--addresses", "--json").stdout)
    assert alice["channels"][0]["address"] == "alice at home"


def test_short_addresses_are_hidden_whole() -> None:
    """The end of three characters would be all of them."""
    assert [masked(one) for one in ("+14155550100", "alice", "bob", "")] == ["…0100", "…ce", "…", "…"]


def test_whoever_does_not_exist_or_has_no_address_is_told_in_a_line(project: Path) -> None:
    """With what there is."""
    for arguments in (("verify", "alise"), ("test", "bob"), ("verify", "alice", "--via", "sms")):
        result = _run(*arguments)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
    assert "did you mean 'alice'" in _run("verify", "alise").stderr


def test_a_code_that_comes_back_verifies_the_address(worker: Runtime) -> None:
    """The command writes and waits; another process sends, and takes the reply in. Nothing waits for the morning."""

    def answer() -> None:
        code = _said(worker, r"\d{6}")
        incoming: Any = Incoming(provider_id="in-1", address="alice at home", text=f" {code[:3]} {code[3:]}.")
        assert worker.intake.incoming("console", incoming) == "verified"

    thread = _beside(answer)
    result = _run("verify", "alice", "--json", "--timeout", "30")
    thread.join(30)

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["channel"] == "console"
    assert "verified" in _run().stdout
    assert "not verified" not in _run().stdout


def test_a_test_message_tells_what_became_of_it(worker: Runtime) -> None:
    """The console reports nothing after it was sent."""
    result = _run("test", "alice")

    assert result.exit_code == 0, result.output
    assert "✓ sent" in result.stdout
    assert json.loads(_run("test", "alice", "--json").stdout)["status"] == "sent"


def test_whoever_opted_out_is_not_sent_a_test(worker: Runtime) -> None:
    """The command fails with the reason, and the list shows it."""
    worker.intake.incoming(
        "console", Incoming(provider_id="in-1", address="alice at home", text="STOP", opt_out=True)
    )

    result = _run("test", "alice")

    assert result.exit_code == 1
    assert "the person asked not to be written to" in result.stderr
    assert "opted out" in _run().stdout


def test_without_a_worker_it_says_so_and_gives_up_in_time(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forgot to start one is told what to do."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)

    result = _run("verify", "alice", "--timeout", "1")

    assert result.exit_code == 1
    assert "is `wakeloop dev` or a worker running?" in result.stderr
    assert "no code came back" in result.stderr
