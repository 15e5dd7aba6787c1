"""The commands on tokens, requests and grants, on the project of a site."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from tests.integration.api_kit import Site, is_problem, sites
from typer.testing import CliRunner, Result

from wakeloop.cli import app


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that needs tokens, with its folder as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wakeloop.toml").write_text('[contacts.alice]\nconsole = "alice"\n')
    handlers = list(logging.getLogger().handlers)
    with sites(tmp_path) as make:
        yield make(public_url="https://agents.example.com")
    logging.getLogger().handlers[:] = handlers


def run(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def data(*args: str) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_token_is_made_used_listed_and_revoked(site: Site) -> None:
    """Its secret is printed once, on a line of its own, and is in no list."""
    made = run(
        "tokens", "create", "shop", "--scope", "requests:write", "--scope", "requests:read", "--days", "7"
    )
    secret = made.stdout.strip().splitlines()[-1]

    assert made.exit_code == 0 and secret.startswith("wl_")
    assert site.get("/requests", token=secret).status == 200
    [listed] = data("tokens")
    assert (listed["name"], listed["state"]) == ("shop", "works")
    assert listed["scopes"] == ["requests:read", "requests:write"] and listed["expires_at"] is not None
    assert secret not in run("tokens").output and "shop" in run("tokens").output
    assert run("tokens", "revoke", "shop").exit_code == 0
    assert is_problem(site.get("/requests", token=secret), 401)
    assert data("tokens")[0]["state"] == "revoked"


def test_tokens_that_cannot_be_are_refused_in_a_line(site: Site) -> None:
    """A name that is taken, reserved or none; a scope that there is not."""
    assert run("tokens", "create", "shop", "--scope", "admin").exit_code == 0
    for args in (["shop", "--scope", "admin"], ["local", "--scope", "admin"], ["a b", "--scope", "admin"]):
        refused = run("tokens", "create", *args)
        assert refused.exit_code == 1 and refused.stdout == ""
    assert run("tokens", "create", "other", "--scope", "everything").exit_code == 2
    assert run("tokens", "revoke", "nobody").exit_code == 1


def test_the_secret_of_callbacks_is_printed(site: Site) -> None:
    """The one that signs, as receivers' libraries take it."""
    secret = run("tokens", "webhook-secret").stdout.strip()

    assert [secret] == list(site.runtime.webhook_secrets())
    assert secret.startswith("whsec_") and Webhook(secret)
    assert data("tokens", "webhook-secret") == {"secret": secret}


def test_requests_are_listed_shown_and_cancelled(site: Site) -> None:
    """With every attempt on record; cancelled once."""
    token = data("tokens", "create", "shop", "--scope", "admin")["token"]
    body = {"kind": "approval", "to": "alice", "action": "pay", "args": {"amount": 40}}
    made = [site.post("/requests", body, token=token).json["id"] for _ in range(2)]

    assert [one["id"] for one in data("requests", "--status", "open")] == made[::-1]
    assert "May I pay?" in run("requests").output
    short = made[0][-8:]
    shown = data("requests", "show", short)
    assert shown["request"]["args"] == {"amount": 40} and shown["audit"][0]["act"] == "ask"
    assert "amount = 40" in run("requests", "show", short).output
    assert data("requests", "cancel", short, "--reason", "found out")["status"] == "cancelled"
    assert run("requests", "cancel", short).exit_code == 1
    assert run("requests", "cancel", short, "--json").exit_code == 1
    assert run("requests", "show", "ffff").exit_code == 1
    line = data("requests", "show", made[0])["audit"][1]
    assert (line["act"], line["channel"], line["comment"]) == ("cancel", "cli", "found out")
    assert "found out" in run("requests", "show", made[0]).output


def test_grants_are_listed_and_revoked(site: Site) -> None:
    """By the end of their id."""
    token = data("tokens", "create", "shop", "--scope", "admin")["token"]
    assert "nothing is approved" in run("grants").output
    body = {"kind": "approval", "to": "alice", "action": "pay", "args": {"amount": 40}}
    made = site.post("/requests", body, token=token).json["id"]
    approval = {"contact": "alice", "grant": {"seconds": 60}}
    assert site.post(f"/requests/{made}/approve", approval, token=token).status == 200

    [grant] = data("grants")
    assert "pay: amount = 40" in run("grants").output
    revoked = data("grants", "revoke", grant["id"][-8:])
    assert (revoked["is_active"], revoked["revoked_by"]) == (False, "operator's shell")
    assert run("grants", "revoke", "0000").exit_code == 1
