"""What the tests of the Slack channel share: settings, signed requests, and an office where it is used."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.conformance.channel_kit import send, using
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Button, ChannelServices, Field, Incoming, Outgoing, RawRequest
from wakeloop.testing.slack import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, SlackStandIn, sign
from wakeloop_channels.slack import SlackChannel

PAYLOADS = Path(__file__).parents[1] / "payloads" / "slack"
URL = "https://agents.example.com/webhooks/slack"
ALICE, BOB, CAROL = "U0ALICE001", "U0BOB00001", "U0CAROL001"
TEAM, OTHER = "C0TEAM0001", "C0OTHER001"
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
REQUEST = "0123456789abcdef0123456789abcdef"
APPROVAL = (
    Button(label="Yes", value=f"{REQUEST}:yes", style="yes"),
    Button(label="No", value=f"{REQUEST}:no", style="no"),
)
FIELDS = (
    Field(name="title", label="Title", kind="text", description="as readers see it"),
    Field(name="body", label="Body", kind="multiline", required=False, default="Once upon a time"),
    Field(name="count", label="How many", kind="integer"),
    Field(name="price", label="Price", kind="number", required=False),
    Field(name="urgent", label="Urgent", kind="checkbox", required=False),
    Field(name="day", label="Day", kind="date", default="2026-12-01"),
    Field(name="at", label="When", kind="datetime-local"),
    Field(name="hour", label="Hour", kind="time", required=False),
    Field(name="size", label="Size", kind="select", choices=(("s", "Small"), ("l", "Large"))),
    Field(name="more.data", label="Data", kind="json", required=False),
)


def settings(**changes: Any) -> dict[str, Any]:
    section = {"bot_token": BOT_TOKEN, "signing_secret": SIGNING_SECRET, **changes}
    return {name: value for name, value in section.items() if value is not None}


def channel(slack: SlackStandIn | None = None, **changes: Any) -> SlackChannel:
    if slack is not None:
        changes = {"api_url": slack.api_url, **changes}
    return SlackChannel.from_settings(settings(**changes), ChannelServices(webhook_url=URL))


def listening(slack: SlackStandIn, **changes: Any) -> SlackChannel:
    return channel(slack, socket_mode=True, app_token=APP_TOKEN, **changes)


def outgoing(text: str = "Publish?", to: str = ALICE, *, age: float = 0.0, **more: Any) -> Outgoing:
    claimed_at = datetime.now(UTC) - timedelta(seconds=age)
    return Outgoing(**{"key": "d1", "address": to, "text": text, "claimed_at": claimed_at, **more})


def approval(to: str = ALICE, **more: Any) -> Outgoing:
    return outgoing("Publish?", to, kind="approval", buttons=APPROVAL, **more)


def signed(
    body: bytes, *, content_type: str = JSON, secret: str = SIGNING_SECRET, age: float = 0.0, **headers: str
) -> RawRequest:
    stamp = int(time.time() - age)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RawRequest(
        method="POST",
        url=URL,
        headers={
            "content-type": content_type,
            "x-slack-request-timestamp": str(stamp),
            "x-slack-signature": sign(body, secret, stamp),
            **named,
        },
        body=body,
    )


def request(payload: dict[str, Any]) -> RawRequest:
    """A payload as Slack posts it: events as JSON, interactions in a form."""
    text = json.dumps(payload)
    if payload.get("type") in ("block_actions", "view_submission"):
        return signed(urlencode({"payload": text}).encode(), content_type=FORM)
    return signed(text.encode())


def payload(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())
    return found


def said(slack: SlackChannel, found: dict[str, Any]) -> list[Incoming]:
    """What a payload says, after its signature was checked."""
    made = request(found)
    slack.verify(made)
    return [item for item in slack.parse(made) if isinstance(item, Incoming)]


class Office:
    """A stand-in that calls a receiver, and a channel to write with; as `with office() as it`."""

    def __init__(self, **changes: Any) -> None:
        members = {TEAM: [ALICE, BOB, CAROL], OTHER: [ALICE]}
        self.slack = SlackStandIn(channels=members, users=[ALICE, BOB, CAROL], webhook_timeout=10.0)
        self._changes = changes

    def __enter__(self) -> Office:
        self.slack.start()
        self.channel = channel(self.slack, **self._changes)
        called = channel(self.slack, **self._changes)
        reacting = threading.Lock()  # a channel is used on one event loop at a time

        def react(request: RawRequest) -> None:
            with reacting:
                using(called, lambda it: it.react(request))

        self.receiver = Receiver(called, then=react).__enter__()
        self.slack.webhook = self.receiver.url
        return self

    def __exit__(self, *exc: object) -> None:
        self.receiver.__exit__(*exc)
        self.slack.stop()

    def send(self, message: Outgoing) -> Any:
        """Send a message; as it stands in Slack."""
        receipt = send(self.channel, message)
        (found,) = [one for one in self.slack.messages if f"{one.channel}:{one.ts}" == receipt.provider_id]
        return found
