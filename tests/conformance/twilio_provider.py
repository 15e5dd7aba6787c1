"""Twilio as the conformance suite wants it: the stand-in, and the adapter wired to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tests.conformance.twilio_kit import ALICE, PUBLIC_URL, settings

from wakeloop.channel import ChannelServices, DeliveryStatus, RawRequest
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop.testing.twilio import AUTH_TOKEN, TwilioStandIn, sign
from wakeloop_channels.twilio import TwilioChannel
from wakeloop_channels.whatsapp import WhatsAppChannel

REPORTED = {
    DeliveryStatus.SENT: "sent",
    DeliveryStatus.DELIVERED: "delivered",
    DeliveryStatus.FAILED: "undelivered",
}


class TwilioProvider(Provider):
    """SMS, or with `prefix` WhatsApp."""

    adapter: type[TwilioChannel] = TwilioChannel
    prefix = ""
    address = ALICE
    services = ChannelServices(webhook_url=PUBLIC_URL)
    secrets = (AUTH_TOKEN,)

    def __init__(self, stand_in: TwilioStandIn) -> None:
        self.twilio = stand_in
        self.settings: dict[str, Any] = settings(api_url=stand_in.url, timeout=1.5)
        self.channel = self.adapter.from_settings(self.settings, self.services)

    def sent(self) -> Sequence[Took]:
        return [
            Took(
                provider_id=message.sid,
                address=message.to.removeprefix(self.prefix),
                text=message.body,
                attachments=tuple(message.media),
            )
            for message in self.twilio.messages
        ]

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                self.twilio.fail_next(429, 20429, retry_after=retry_after)
            case Fault.REFUSED:
                self.twilio.fail_next(400, 21211)
            case Fault.DOWN:
                self.twilio.stop()
            case Fault.SLOW:
                self.twilio.slow_next(6)
            case Fault.LOST:
                self.twilio.drop_next_after_taking()

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        return self._posted(
            self.twilio.message_parameters(
                text, from_=self.prefix + (sender or self.address), answering=answering
            )
        )

    def receipt(self, provider_id: str, status: DeliveryStatus) -> RawRequest | None:
        failed = status == DeliveryStatus.FAILED
        return self._posted(
            self.twilio.status_parameters(provider_id, REPORTED[status], 30005 if failed else None)
        )

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        signature = sign(like.url, parse_qsl(body.decode("latin-1"), keep_blank_values=True), AUTH_TOKEN)
        return replace(like, body=body, headers={**like.headers, "x-twilio-signature": signature})

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        unsigned = {name: value for name, value in request.headers.items() if name != "x-twilio-signature"}
        other = sign(request.url, parse_qsl(request.body.decode(), keep_blank_values=True), "another token")
        return [
            replace(request, headers=unsigned),
            replace(request, headers={**unsigned, "x-twilio-signature": other}),
            replace(request, body=request.body.replace(b"To=", b"Too=")),
            replace(request, body=request.body + b"&Body=no"),
            replace(request, url=request.url + "&more=1"),
        ]

    def _posted(self, parameters: Sequence[tuple[str, str]]) -> RawRequest:
        body = urlencode(parameters).encode()
        headers = {
            "content-type": "application/x-www-form-urlencoded",
            "x-twilio-signature": sign(PUBLIC_URL, parameters, AUTH_TOKEN),
        }
        return RawRequest(method="POST", url=PUBLIC_URL, headers=headers, body=body)


class WhatsAppProvider(TwilioProvider):
    """WhatsApp, within the window of 24 hours."""

    adapter = WhatsAppChannel
    prefix = "whatsapp:"

    def __init__(self, stand_in: TwilioStandIn) -> None:
        super().__init__(stand_in)
        stand_in.hear(self.prefix + self.address)
