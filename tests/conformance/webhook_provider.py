"""A chat system of one's own as the conformance suite wants it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.conformance.webhook_kit import OTHER, PUBLIC_URL, SECRET, ChatSystem, settings, signed
from tests.http_kit import HANG_UP, Reply

from wakeloop.channel import ChannelServices, DeliveryStatus, RawRequest
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop_channels.webhook import WebhookChannel


class WebhookProvider(Provider):
    """Both ways by signed calls."""

    services = ChannelServices(webhook_url=PUBLIC_URL)
    secrets = (SECRET,)

    def __init__(self, chat: ChatSystem) -> None:
        self.chat = chat
        self.address = chat.address
        self.settings: dict[str, Any] = settings(timeout=0.4)
        self.channel = WebhookChannel.from_settings(self.settings, self.services)
        self._numbers = itertools.count(1)

    def sent(self) -> Sequence[Took]:
        return [
            Took(
                provider_id=f"chat-{number}",
                address=body["to"],
                text=self.chat.shown[f"chat-{number}"],
                buttons=tuple(button["label"] for button in body["buttons"])
                if self.chat.shown[f"chat-{number}"] == body["text"]
                else (),
                attachments=tuple(file["name"] or file["url"] for file in body["attachments"]),
            )
            for number, body in enumerate(self.chat.messages.values(), start=1)
        ]

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
                self.chat.faults.append(Reply(status=429, headers=headers))
            case Fault.REFUSED:
                self.chat.faults.append(Reply(status=410))
            case Fault.DOWN:
                self.chat.stop()
            case Fault.SLOW:
                self.chat.faults.append(2.0)
            case Fault.LOST:
                self.chat.faults.append(HANG_UP)

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        reply: dict[str, Any] = {}
        if answering is not None:
            reply = {"reply_to": answering, "token": self._body(answering)["token"]}
        return self._said({"text": text, "from": sender or self.address, **reply})

    def receipt(self, provider_id: str, status: DeliveryStatus) -> RawRequest | None:
        error = {"error": "nobody there"} if status == DeliveryStatus.FAILED else {}
        return signed({"type": "message.status", "id": provider_id, "status": str(status), **error})

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        (value,) = (one["value"] for one in self._body(provider_id)["buttons"] if one["label"] == label)
        return self._said({"from": self.address, "reply_to": provider_id, "pressed": value})

    def fill(self, provider_id: str, values: Mapping[str, str]) -> RawRequest | None:
        submit = self._body(provider_id)["submit"]
        facts = {"from": self.address, "reply_to": provider_id, "pressed": submit, "values": dict(values)}
        return self._said(facts)

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        return signed(body)

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        unsigned = {name: value for name, value in request.headers.items() if name != "webhook-signature"}
        other = signed(request.body, secret=OTHER).headers["webhook-signature"]
        return [
            replace(request, headers=unsigned),
            replace(request, headers={**unsigned, "webhook-signature": other}),
            replace(request, headers={**request.headers, "webhook-id": "other"}),
            replace(request, headers={**request.headers, "webhook-timestamp": "1"}),
            replace(request, body=request.body + b" "),
        ]

    def replayed_old(self, request: RawRequest) -> RawRequest:
        return signed(request.body, at=datetime.now(UTC) - timedelta(minutes=6))

    def _body(self, provider_id: str) -> dict[str, Any]:
        return list(self.chat.messages.values())[int(provider_id.removeprefix("chat-")) - 1]

    def _said(self, facts: Mapping[str, Any]) -> RawRequest:
        return signed({"type": "message.received", "id": f"m-{next(self._numbers)}", **facts})
