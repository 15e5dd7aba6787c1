"""What the tests of mail that comes in share: settings, and mail written by hand from the RFCs and from what mail programs
really send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wakeloop.channel import DeliveryUpdate, Incoming
from wakeloop_channels.email_address import tagged
from wakeloop_channels.email_reading import read_message
from wakeloop_channels.email_settings import EmailSettings

PAYLOADS = Path(__file__).parents[1] / "payloads" / "email"
KEY = "01920000-0000-7000-8000-000000000001"
OURS = f"<{KEY}@example.com>"
"""The Message-ID of the message of ours that the payloads answer."""
REPLY_SECRET = "a-secret-of-the-tests"
TAGGED = tagged("agents@example.com", KEY, REPLY_SECRET)


def settings(**changes: Any) -> EmailSettings:
    """Settings of a channel whose own server is mx.example.com."""
    given: dict[str, Any] = {
        "from_address": "Agents <agents@example.com>",
        "smtp_host": "127.0.0.1",
        "authserv_id": "mx.example.com",
        "reply_secret": REPLY_SECRET,
    }
    return EmailSettings.model_validate({**given, **changes})


def mail(name: str) -> bytes:
    """A mail as it came over the wire."""
    return (PAYLOADS / f"{name}.eml").read_bytes().replace(b"@TAGGED@", TAGGED.encode())


def read(name: str, **changes: Any) -> list[Incoming | DeliveryUpdate]:
    """What is made of a payload."""
    return read_message(mail(name), settings(**changes))


def incoming(name: str, **changes: Any) -> Incoming:
    """The one message that a payload is."""
    (item,) = read(name, **changes)
    assert isinstance(item, Incoming)
    return item
