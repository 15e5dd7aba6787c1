"""Slack as the conformance suite wants it: the stand-in, and the adapter wired to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.conformance.slack_kit import ALICE, APP_TOKEN, BOB, BOT_TOKEN, SIGNING_SECRET, URL, settings

from wakeloop.channel import ChannelServices, RawRequest
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop.testing.slack import Answer, SlackStandIn, StandInMessage, sign
from wakeloop_channels.slack import SlackChannel
from wakeloop_channels.slack_text import escape


class HoldingStandIn(SlackStandIn):
    """Keeps what it would post to a webhook."""

    held: RawRequest | None = None

    def post(self, body: bytes, headers: Mapping[str, str], **how: Any) -> Answer:
        named = {name.lower(): value for name, value in headers.items()}
        self.held = signed(RawRequest(method="POST", url=URL, headers=named, body=body))
        return Answer(200, "")


def signed(request: RawRequest, *, secret: str = SIGNING_SECRET, age: float = 0) -> RawRequest:
    stamp = int(time.time() - age)
    proof = {"x-slack-request-timestamp": str(stamp), "x-slack-signature": sign(request.body, secret, stamp)}
    return replace(request, headers={**request.headers, **proof})


class SlackProvider(Provider):
    """A direct conversation. socket_mode: what people do lies ready until the adapter listens."""

    address = ALICE
    services = ChannelServices(webhook_url=URL)
    secrets = (BOT_TOKEN, SIGNING_SECRET, APP_TOKEN)

    def __init__(self, stand_in: HoldingStandIn) -> None:
        self.slack = stand_in
        self.settings: dict[str, Any] = settings(api_url=stand_in.api_url, timeout=0.4)
        if stand_in.socket_mode:
            self.settings |= {"socket_mode": True, "app_token": APP_TOKEN}
        self.channel = SlackChannel.from_settings(self.settings, self.services)

    @classmethod
    @contextmanager
    def running(cls, *, socket_mode: bool = False) -> Iterator[SlackProvider]:
        """A provider and its stand-in."""
        with HoldingStandIn(users=[ALICE, BOB], socket_mode=socket_mode) as stand_in:
            yield cls(stand_in)

    def sent(self) -> Sequence[Took]:
        return [
            Took(
                provider_id=f"{message.channel}:{message.ts}",
                address="U" + message.channel[1:],
                text=message.body,
                buttons=tuple(message.labels),
            )
            for message in self.slack.messages
        ]

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                self.slack.fail_next("ratelimited", status=429, retry_after=retry_after)
            case Fault.REFUSED:
                self.slack.fail_next("restricted_action", method="chat.postMessage")
            case Fault.DOWN:
                self.slack.stop()
            case Fault.SLOW:
                self.slack.slow_next(2, "chat.postMessage")
            case Fault.LOST:
                self.slack.drop_next_after_taking("chat.postMessage")

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        thread = None if answering is None else self._message(answering)
        self._wait_until_nobody_listens()
        self.slack.say(escape(text), user=sender or self.address, thread=thread)
        return self._made()

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        self._wait_until_nobody_listens()
        self.slack.press(self._message(provider_id), label)
        return self._made()

    def fill(self, provider_id: str, values: Mapping[str, str]) -> RawRequest | None:
        message = self._message(provider_id)
        labels = {
            block["block_id"].partition(":")[2]: block["label"]["text"]
            for block in message.blocks
            if block["type"] == "input"
        }
        self._wait_until_nobody_listens()
        self.slack.fill(message, {labels[name]: value for name, value in values.items()})
        return self._made()

    def repeated(self, request: RawRequest) -> RawRequest:
        again = {"x-slack-retry-num": "1", "x-slack-retry-reason": "http_timeout"}
        return signed(replace(request, headers={**request.headers, **again}))

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        return signed(replace(like, body=body))

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        stamp = int(request.headers["x-slack-request-timestamp"])
        without = {name: value for name, value in request.headers.items() if name != "x-slack-signature"}
        return [
            replace(request, headers=without),
            signed(request, secret="another secret"),
            replace(request, body=request.body + b" "),
            replace(request, headers={**request.headers, "x-slack-request-timestamp": str(stamp - 1)}),
        ]

    def replayed_old(self, request: RawRequest) -> RawRequest:
        return signed(request, age=301)

    def _message(self, provider_id: str) -> StandInMessage:
        (found,) = [one for one in self.slack.messages if f"{one.channel}:{one.ts}" == provider_id]
        return found

    def _wait_until_nobody_listens(self) -> None:
        """A socket that the adapter has closed may be open for a moment longer at this end."""
        if self.slack.socket_mode:
            self.slack.wait_for_connections(0)

    def _made(self) -> RawRequest | None:
        made, self.slack.held = self.slack.held, None
        return made
