"""The Apprise channel: settings, names, and notices through Apprise's own plugins to a real HTTP server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http_kit import HANG_UP, Peer, Reply

from wakeloop.channel import Channel, ChannelServices, DeliveryStatus, Outgoing, RawRequest, Receipt
from wakeloop.errors import (
    ChannelError,
    ConfigurationError,
    InvalidWebhook,
    PermanentChannelError,
    TemporaryChannelError,
)
from wakeloop_channels.apprise_notices import AppriseChannel

SECRET = "s3cretpassword"


@pytest.fixture
def service() -> Iterator[Peer]:
    """A service that takes everything."""
    with Peer(lambda request: Reply()) as peer:
        yield peer


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What the program's log would hold. (pytest's own fixture listens to loggers that keep things to themselves, too.)"""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, root = Lines(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield lines
    root.setLevel(level)
    root.removeHandler(handler)


def channel(**section: Any) -> AppriseChannel:
    return AppriseChannel.from_settings(section, ChannelServices())


def at(peer: Peer, **section: Any) -> AppriseChannel:
    """The channel with that peer as the service `ops`, with a password."""
    host = peer.url.removeprefix("http://")
    return channel(service_ops=f"json://me:{SECRET}@{host}/notify", **section)


def send(notices: AppriseChannel, text: str = "It is done.", **more: Any) -> Receipt:
    message = Outgoing(key="d1", address="ops", text=text, claimed_at=datetime.now(UTC), **more)
    return asyncio.run(notices.send(message))


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """A Channel on which nobody can answer."""
        notices = channel(service_ops="json://localhost")

        assert isinstance(notices, Channel)
        assert not notices.capabilities.inbound

    @pytest.mark.parametrize(
        ("section", "named"),
        [
            ({}, "WAKELOOP_APPRISE_SERVICE_<NAME>"),
            ({"services": {"ops": "json://localhost"}}, "WAKELOOP_APPRISE_SERVICE_<NAME>"),
            ({"service_ops": f"nonsense://{SECRET}"}, "WAKELOOP_APPRISE_SERVICE_OPS"),
            ({"service_ops": f"slack://{SECRET}"}, "WAKELOOP_APPRISE_SERVICE_OPS"),
            ({"service_ops": SECRET}, "WAKELOOP_APPRISE_SERVICE_OPS"),
            ({"service_": "json://localhost"}, "WAKELOOP_APPRISE_SERVICE_"),
            ({"service_ops": "json://localhost", "timeout": 0}, "channels.apprise.timeout"),
            ({"service_ops": "json://localhost", "retries": 3}, "channels.apprise.retries is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, section: dict[str, Any], named: str, logged: list[str]) -> None:
        """With the environment variable, and never with its value, which Apprise itself would log."""
        with pytest.raises(ConfigurationError) as raised:
            channel(**section)

        assert named in str(raised.value)
        assert SECRET not in str(raised.value)
        assert SECRET not in str(logged)

    def test_a_url_is_not_shown(self) -> None:
        """Not by the settings' own form either."""
        assert SECRET not in repr(channel(service_ops=f"json://me:{SECRET}@localhost").settings)

    @pytest.mark.parametrize("given_", ["ops", " OPS ", "on_call", "on-call"])
    def test_a_service_is_known_by_its_name(self, given_: str) -> None:
        """In any case; environment variables have no hyphen."""
        notices = channel(service_ops="json://localhost", service_on_call="json://localhost")

        assert notices.normalize(given_) in {"ops", "on_call"}

    @pytest.mark.parametrize(
        ("given_", "reason"),
        [
            ("dev", "WAKELOOP_APPRISE_SERVICE_DEV"),
            ("", "WAKELOOP_APPRISE_SERVICE_<NAME>"),
            (f"slack://{SECRET}", "holds secrets"),
        ],
    )
    def test_anything_else_is_refused_with_the_reason(self, given_: str, reason: str) -> None:
        """A URL belongs into the environment."""
        with pytest.raises(ValueError, match=reason) as raised:
            channel(service_ops="json://localhost").normalize(given_)

        assert SECRET not in str(raised.value)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.text())
    def test_any_address_is_a_name_or_refused(self, address: str) -> None:
        """With ValueError, and nothing else."""
        notices = local()
        try:
            found = notices.normalize(address)
        except ValueError:
            found = "ops"

        assert found == "ops"


@cache
def local() -> AppriseChannel:
    return channel(service_ops="json://localhost")


class TestSend:
    def test_a_notice_is_sent(self, service: Peer) -> None:
        """Text and subject as they are, through Apprise's own plugin."""
        receipt = send(at(service), "Café 👍🏽 :smile: \\n\n*done* & <b>", subject="Invoice 7")

        (came,) = service.came
        assert (came.json["title"], came.json["message"]) == (
            "Invoice 7",
            "Café 👍🏽 :smile: \\n\n*done* & <b>",
        )
        assert receipt == Receipt(provider_id="apprise-d1", status=DeliveryStatus.SENT)

    def test_a_question_has_the_link_with_it(self, service: Peer) -> None:
        """Nobody can write back here, so they answer on their own page."""
        link = "https://agents.example.com/p/alice"

        send(at(service), "Ship it?", kind="question", link=link)
        send(at(service), f"Ship it? {link}", kind="question", link=link)
        send(at(service), "Shipped.", link=link)

        assert [came.json["message"] for came in service.came] == [
            f"Ship it?\n\nAnswer here: {link}",
            f"Ship it? {link}",
            "Shipped.",
        ]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
    def test_a_refusal_is_for_good(self, service: Peer, status: int, logged: list[str]) -> None:
        """The status is read from what Apprise logs; nothing of the URL is told."""
        service.faults.append(Reply(status=status))

        with pytest.raises(PermanentChannelError) as raised:
            send(at(service), "a secret text")

        assert raised.value.code == str(status)
        assert f"answered {status}" in str(raised.value)
        for hidden in (SECRET, "ops", "127.0.0.1", "a secret text"):
            assert hidden not in str(raised.value)
            assert hidden not in str(logged)

    @pytest.mark.parametrize("status", [408, 425, 429, 503])
    def test_what_was_not_processed_may_be_tried_again(self, service: Peer, status: int) -> None:
        """These statuses say so."""
        service.faults.append(Reply(status=status))

        with pytest.raises(TemporaryChannelError) as raised:
            send(at(service))

        assert raised.value.code == str(status)

    @pytest.mark.parametrize("fault", [Reply(status=500), Reply(status=502), HANG_UP], ids=str)
    def test_other_failures_leave_the_outcome_open(self, service: Peer, fault: Reply) -> None:
        """The notice may have gone."""
        service.faults.append(fault)

        with pytest.raises(ChannelError) as raised:
            send(at(service))

        assert not isinstance(raised.value, TemporaryChannelError | PermanentChannelError)
        assert "unknown" in str(raised.value)

    def test_nobody_there_leaves_the_outcome_open(self, service: Peer) -> None:
        """Apprise does not tell a refused connection from a lost one."""
        notices = at(service)
        service.stop()

        with pytest.raises(ChannelError, match="unknown"):
            send(notices)

    def test_a_slow_service_is_waited_for_no_longer_than_set(self, service: Peer) -> None:
        """And holds up nothing else meanwhile."""
        service.faults.append(3.0)
        started = time.monotonic()

        with pytest.raises(ChannelError, match="in time"):
            send(at(service, timeout=0.2))

        assert time.monotonic() - started < 2.5

    def test_many_at_once(self, service: Peer) -> None:
        """None waits for another one of the same service."""
        notices = at(service)

        async def send_all() -> list[Receipt]:
            messages = (
                Outgoing(key=f"d{n}", address="ops", text=f"notice {n}", claimed_at=datetime.now(UTC))
                for n in range(12)
            )
            return await asyncio.gather(*(notices.send(message) for message in messages))

        receipts = asyncio.run(send_all())

        assert [receipt.provider_id for receipt in receipts] == [f"apprise-d{n}" for n in range(12)]
        assert {came.json["message"] for came in service.came} == {f"notice {n}" for n in range(12)}

    def test_a_service_that_was_taken_out_is_refused(self) -> None:
        """A delivery may be older than the settings."""
        with pytest.raises(PermanentChannelError, match="WAKELOOP_APPRISE_SERVICE_OPS"):
            send(channel(service_other="json://localhost"))

    def test_there_are_no_webhooks(self) -> None:
        """404, and nothing is parsed."""
        request = RawRequest(method="POST", url="https://example.com", headers={}, body=b"")
        notices = channel(service_ops="json://localhost")

        for step in (notices.verify, notices.parse):
            with pytest.raises(InvalidWebhook) as raised:
                step(request)
            assert raised.value.status == 404
        assert notices.respond(request).status == 404
