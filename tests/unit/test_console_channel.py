"""The console channel: what is printed, and what is refused."""

from __future__ import annotations

import asyncio
import io
import sys
from datetime import UTC, datetime

import pytest

from wakeloop.channel import Channel, ChannelServices, Outgoing, RawRequest
from wakeloop.errors import ConfigurationError, InvalidWebhook, TemporaryChannelError
from wakeloop_channels.console import ConsoleChannel

REQUEST = RawRequest(method="POST", url="https://example.com/hooks/console", headers={}, body=b"text=yes")


def channel() -> ConsoleChannel:
    return ConsoleChannel.from_settings({}, ChannelServices())


def outgoing(text: str, subject: str | None = None) -> Outgoing:
    at = datetime(2026, 11, 2, 14, 0, tzinfo=UTC)
    return Outgoing(key="d1", address="alice", text=text, subject=subject, claimed_at=at)


def test_it_is_a_channel_that_people_can_answer() -> None:
    """The port is fulfilled, and a reply can come in."""
    assert isinstance(channel(), Channel)
    assert ConsoleChannel.name == "console"
    assert ConsoleChannel.capabilities.inbound
    assert not ConsoleChannel.capabilities.reconcile


def test_a_message_is_one_block_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Address, time, subject and every line; nothing on standard output."""
    receipt = asyncio.run(channel().send(outgoing("Ship it?\n1) yes\n2) no", subject="Release")))

    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == ""
    assert lines[0].startswith("--- to alice at 2026-11-0")
    assert lines[1:5] == ["| [Release]", "| Ship it?", "| 1) yes", "| 2) no"]
    assert "wakeloop reply" in lines[5]
    assert receipt.provider_id == "console-d1"


def test_a_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences and directional overrides are replaced; emoji stay whole."""
    asyncio.run(channel().send(outgoing("\x1b[2Jgone \u202eevil \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}")))

    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}" in printed


def test_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the terminal's encoding lacks is escaped."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))

    asyncio.run(channel().send(outgoing("naïve 👍")))

    assert b"| na\\xefve \\U0001f44d\n" in raw.getvalue()


def test_without_a_terminal_it_may_work_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without standard error has not printed the message."""
    monkeypatch.setattr(sys, "stderr", None)

    with pytest.raises(TemporaryChannelError):
        asyncio.run(channel().send(outgoing("anyone?")))


@pytest.mark.parametrize(
    ("given", "kept"), [("alice", "alice"), ("  Alice   B. ", "Alice B."), ("Zoë", "Zoë")]
)
def test_an_address_is_any_name(given: str, kept: str) -> None:
    """Only its white space is tidied."""
    assert kept == channel().normalize(given)


@pytest.mark.parametrize("address", ["", "   ", "al\x1bice"])
def test_an_address_must_be_printable(address: str) -> None:
    """Nothing, or control characters, are no name."""
    with pytest.raises(ValueError):
        channel().normalize(address)


def test_it_takes_no_settings() -> None:
    """A setting would have no effect, so it is a mistake."""
    with pytest.raises(ConfigurationError, match=r"channels\.console\.colour"):
        ConsoleChannel.from_settings({"colour": True}, ChannelServices())


def test_webhooks_are_refused() -> None:
    """Nobody may speak for a person through the console's webhook."""
    with pytest.raises(InvalidWebhook) as verified:
        channel().verify(REQUEST)
    with pytest.raises(InvalidWebhook):
        channel().parse(REQUEST)

    assert verified.value.status == 404
    assert channel().respond(REQUEST).status == 404


def test_nothing_is_found_and_nothing_is_left_open() -> None:
    """Nobody keeps what was printed."""

    async def look() -> None:
        console = channel()
        assert await console.find_sent(outgoing("hello"), frozenset()) is None
        await console.close()

    asyncio.run(look())
