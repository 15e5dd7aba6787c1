"""Callbacks to real receivers on loopback: signed, repeated with one id, and kept from where they must not go."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from tests.http_kit import HANG_UP, Peer, Reply
from tests.integration.api_kit import Site, sites
from tests.servers import poll

from wakeloop.callbacks import RETRY_SECONDS, is_allowed, is_public, webhook_secret
from wakeloop.channel import Capabilities
from wakeloop.store import listing, queries
from wakeloop.testing.stand_in import Asked


class Receiver(Peer):
    """A program's webhook: answers with these in turn, the last for ever. A silent one takes a call and says nothing."""

    def __init__(self, *answers: tuple[int, Mapping[str, str]], silent: bool = False) -> None:
        super().__init__(self._take)
        self.url += "/hooks/secret-path?key=1"
        self._answers = list(answers) or [(204, {})]
        self._silent = silent

    def _take(self, asked: Asked) -> Reply:
        if self._silent:
            self._stopping.wait(60)
            return HANG_UP
        status, headers = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return Reply(status=status, headers=headers)

    def wait(self, count: int) -> None:
        for _ in poll(20):
            if len(self.came) >= count:
                return
        raise AssertionError(f"{len(self.came)} calls came, not {count}")


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings."""
    with sites(tmp_path) as make:
        yield make


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timetable of attempts in tenths of seconds instead of days."""
    quick = Capabilities(idempotent=True, ordered=False, retry_seconds=(0.1,) * len(RETRY_SECONDS))
    monkeypatch.setattr("wakeloop.callbacks.CallbackSender.capabilities", quick)


def _settle(site: Site, url: str, **fields: Any) -> str:
    made = site.ask(callback_url=url, **fields)
    answer = site.post(f"/requests/{made['id']}/answer", {"contact": "alice", "text": "Monday"})
    assert answer.status == 200
    return str(made["id"])


def _failed(site: Site) -> list[Any]:
    with site.runtime.database.read() as connection:
        return listing.failed_callbacks(connection, limit=10)


def _wait_for_failure(site: Site) -> Any:
    for _ in poll(20):
        if found := _failed(site):
            return found[0]
    raise AssertionError("no callback was given up")


@pytest.mark.usefixtures("soon")
def test_a_program_is_told_of_the_end_with_its_state_and_a_signature(make_site: Callable[..., Site]) -> None:
    """The receiver verifies it with the library of Standard Webhooks; after a 500 it comes again with the same id."""
    site = make_site()
    state = {"invoice": 7, "ü": ["x"]}
    with Receiver((500, {}), (200, {})) as receiver, site.working():
        id = _settle(site, receiver.url, state=state)
        receiver.wait(2)

    [secret] = site.runtime.webhook_secrets()
    for came in receiver.came:
        told = Webhook(secret).verify(came.body, dict(came.headers))
        assert told["type"] == "request.answered"
        assert told["data"]["id"] == id and told["data"]["state"] == state
        assert (told["data"]["text"], told["data"]["by"]) == ("Monday", "alice")
        assert came.headers["content-type"] == "application/json"
    first, second = receiver.came
    assert first.headers["webhook-id"] == second.headers["webhook-id"] and first.body == second.body
    assert _failed(site) == []
    forged = dict(first.headers) | {"webhook-id": "other"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(first.body, forged)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("status", [410, 404, 400, 302])
def test_a_final_refusal_is_not_repeated(make_site: Callable[..., Site], status: int) -> None:
    """Nor is a redirect followed; the operator sees the host and the reason, never the whole address."""
    site = make_site()
    with Receiver((200, {})) as elsewhere, Receiver((status, {"location": elsewhere.url})) as receiver:
        with site.working():
            _settle(site, receiver.url)
            row = _wait_for_failure(site)
        assert (len(receiver.came), len(elsewhere.came)) == (1, 0)

    assert str(status) in row.error and "secret-path" not in row.error
    with site.runtime.database.read() as connection:
        assert queries.failed_deliveries(connection, limit=10) == []
        assert {message.contact for message in queries.list_messages(connection, limit=10)} == {"alice"}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_what_may_pass_is_tried_again(make_site: Callable[..., Site], status: int) -> None:
    """Until it is taken."""
    site = make_site()
    with Receiver((status, {"retry-after": "0"}), (200, {})) as receiver, site.working():
        _settle(site, receiver.url)
        receiver.wait(2)


@pytest.mark.usefixtures("soon")
def test_retry_after_is_honoured(make_site: Callable[..., Site]) -> None:
    """The next attempt is not before it."""
    site = make_site()
    with Receiver((429, {"retry-after": "3600"})) as receiver, site.working():
        _settle(site, receiver.url)
        receiver.wait(1)
        for _ in poll(10):
            with site.runtime.database.read() as connection:
                found = connection.exec_driver_sql(
                    "SELECT due_at - updated_at FROM deliveries WHERE channel = 'callback' AND status = 'pending' AND tries = 1"
                    " AND owner IS NULL"
                ).scalar()
            if found:
                break
    assert found is not None and 3500e6 < found <= 3600e6


@pytest.mark.usefixtures("soon")
def test_a_receiver_that_never_answers_keeps_nobody_else_waiting(make_site: Callable[..., Site]) -> None:
    """Others are told meanwhile, also those who were to be told later."""
    site = make_site(lease_seconds=30)
    with Receiver(silent=True) as dead, Receiver() as alive, site.working():
        for _ in range(20):
            _settle(site, dead.url)
        dead.wait(1)
        for _ in range(3):
            _settle(site, alive.url)
        alive.wait(3)
        dead.stop()


def test_ten_attempts_are_made_in_three_days() -> None:
    """What Standard Webhooks advises."""
    assert len(RETRY_SECONDS) == 9
    assert 3 * 86400 < sum(RETRY_SECONDS) < 4 * 86400


def test_bodies_and_addresses_are_not_logged(
    make_site: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    """The address may be a secret by itself."""
    caplog.set_level(logging.INFO)
    site = make_site()
    with Receiver((404, {})) as receiver, site.working():
        _settle(site, receiver.url, state="hush-hush")
        _wait_for_failure(site)

    assert "secret-path" not in caplog.text and "hush-hush" not in caplog.text


# Where it may go


def test_a_server_that_others_reach_calls_no_address_within(make_site: Callable[..., Site]) -> None:
    """Whoever may make requests could else have us call what only we can reach."""
    site = make_site(public_url="https://agents.example.com")
    token = site.token("t", "admin")  # type: ignore[arg-type]
    body = {"kind": "question", "to": "alice", "text": "Which day?"}
    with Receiver() as receiver, site.working():
        made = site.post("/requests", {**body, "callback_url": receiver.url}, token=token).json
        site.post(f"/requests/{made['id']}/cancel", token=token)
        row = _wait_for_failure(site)
        assert receiver.came == []

    assert "no public address" in row.error and "127.0.0.1" in row.error


def test_the_settings_can_allow_an_address_within(make_site: Callable[..., Site]) -> None:
    """A network, or a host by its name."""
    site = make_site(public_url="https://agents.example.com", callback_hosts=["127.0.0.0/8"])
    token = site.token("t", "admin")  # type: ignore[arg-type]
    body = {"kind": "question", "to": "alice", "text": "Which day?"}
    with Receiver() as receiver, site.working():
        made = site.post("/requests", {**body, "callback_url": receiver.url}, token=token).json
        site.post(f"/requests/{made['id']}/cancel", token=token)
        receiver.wait(1)

    assert receiver.came[0].json["type"] == "request.cancelled"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("169.254.169.254", False), ("192.168.0.1", False), ("100.64.0.1", False), ("0.0.0.0", False),
        ("224.0.0.1", False), ("::1", False), ("::", False), ("fe80::1", False), ("fd00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("2002:7f00:1::", False), ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True), ("::7f00:1", False), ("64:ff9b:1::1", False),
    ],
)  # fmt: skip
def test_a_public_address_is_known_however_it_is_written(address: str, public: bool) -> None:
    """An IPv4 address within an IPv6 one counts as itself."""
    assert is_public(ipaddress.ip_address(address)) is public


def test_hosts_are_allowed_by_name_end_or_network() -> None:
    """And no others."""
    inside = ipaddress.ip_address("10.1.2.3")

    assert is_allowed(["shop.internal"], "Shop.internal.", inside)
    assert is_allowed([".internal"], "shop.internal", inside)
    assert is_allowed(["10.1.0.0/16"], "anything", inside)
    assert not is_allowed(["10.2.0.0/16", "internal", ".internal", "shop"], "shopinternal", inside)


def test_the_keys_of_the_settings_sign_each_during_a_change(make_site: Callable[..., Site]) -> None:
    """A receiver that has either secret can verify it."""
    site = make_site(secret_keys=["new key", "old key"])
    with Receiver() as receiver, site.working():
        _settle(site, receiver.url)
        receiver.wait(1)

    (came,) = receiver.came
    for key in ("new key", "old key"):
        assert (
            Webhook(webhook_secret(key)).verify(came.body, dict(came.headers))["type"] == "request.answered"
        )
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook_secret("another")).verify(came.body, dict(came.headers))
