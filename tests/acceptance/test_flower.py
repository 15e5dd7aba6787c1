"""`celery -A wakeloop flower` is not open to others by mistake."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.acceptance.plant import BIN
from tests.servers import Program, Redis, free_port

from wakeloop.errors import ConfigurationError
from wakeloop.flower_guard import check


def flower(folder: Path, redis: Redis, options: Sequence[str], env: Mapping[str, str] = {}) -> Program:
    argv = [BIN / "celery", "-A", "wakeloop", "flower", *options]
    return Program(argv, env={"WAKELOOP_BROKER_URL": redis.url, **env}, cwd=folder)


@pytest.mark.parametrize(
    ("options", "env", "words"),
    [
        (
            [],
            {"FLOWER_ADDRESS": "::", "FLOWER_UNAUTHENTICATED_API": "true"},
            "open to everybody at ::; set FLOWER_BASIC_AUTH=USER:PASSWORD",
        ),
        ([], {"FLOWER_BASIC_AUTH": ":secret"}, "must be USER:PASSWORD"),
    ],
)
def test_flower_refuses_to_be_open_to_others(
    tmp_path: Path, redis_server: Redis, options: list[str], env: dict[str, str], words: str
) -> None:
    """One line says what to set; it ends with a status that is not zero, and never listens."""
    port = free_port()
    with flower(tmp_path, redis_server, [*options, f"--port={port}"], env) as program:
        status = program.wait(60)
        output = program.output

    assert status == 1
    assert words in output
    assert "secret" not in output
    assert "Traceback" not in output
    assert "Visit me" not in output


def test_flower_without_a_login_serves_this_machine_only(tmp_path: Path, redis_server: Redis) -> None:
    """By itself it would listen on every address; here another one is refused."""
    port = free_port()
    with flower(tmp_path, redis_server, [f"--port={port}"]) as program:
        program.wait_for("Visit me at")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=10) as answer:
            assert answer.status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


@pytest.mark.parametrize(
    "login", [{"basic_auth": ["me:word"]}, {"auth": ".*@example.com"}, {"unix_socket": "/run/f"}]
)
def test_flower_with_a_login_may_listen_anywhere(login: dict[str, Any]) -> None:
    """The guard is about what is open, not about addresses."""
    options = SimpleNamespace(**{"basic_auth": None, "auth": "", "unix_socket": "", "address": ""} | login)

    check(options)

    assert options.address == "", "Flower's own: every address"


@pytest.mark.parametrize(
    "given",
    [
        {"address": "0.0.0.0"},
        {"address": "agents.example.com"},
        {"basic_auth": ["secret"]},
        {"basic_auth": [""]},
    ],
)
def test_what_would_be_open_is_refused(given: dict[str, Any]) -> None:
    """An address of others without a login, and a login that is none."""
    with pytest.raises(ConfigurationError) as refused:
        check(SimpleNamespace(**{"basic_auth": None, "auth": "", "unix_socket": "", "address": ""} | given))

    assert "secret" not in str(refused.value)
