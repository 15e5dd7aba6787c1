"""Telegram as the conformance suite wants it: the stand-in, and the adapter wired to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.conformance.telegram_kit import ALICE, BOT, PUBLIC_URL, posted, settings

from wakeloop.channel import ChannelServices, RawRequest
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop.testing.telegram import BOT_TOKEN, SECRET_TOKEN, TelegramMessage, TelegramStandIn
from wakeloop_channels.telegram import TelegramChannel

SECRET_HEADER = "x-telegram-bot-api-secret-token"


class TelegramProvider(Provider):
    """A bot with a webhook, or one whose messages are fetched."""

    address = str(ALICE)
    services = ChannelServices(webhook_url=PUBLIC_URL)
    secrets = (BOT_TOKEN, SECRET_TOKEN)

    def __init__(self, stand_in: TelegramStandIn, *, polling: bool) -> None:
        self.telegram = stand_in
        self.telegram.write("/start", chat=ALICE)
        self.telegram.updates.clear()
        self.telegram.webhook = None if polling else PUBLIC_URL
        self.polling = polling
        self.settings = settings(api_url=stand_in.url, timeout=0.4, polling=polling, poll_seconds=1)
        self.channel = TelegramChannel.from_settings(self.settings, self.services)

    def sent(self) -> Sequence[Took]:
        return [
            Took(
                provider_id=f"{BOT}:{message.chat}:{message.message_id}",
                address=str(message.chat),
                text=message.text,
                buttons=tuple(button.label for button in message.buttons),
                attachments=() if message.file is None else (str(message.file),),
            )
            for message in self.telegram.messages
        ]

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                self.telegram.fail_next(429, retry_after=retry_after)
            case Fault.REFUSED:
                self.telegram.fail_next(403)
            case Fault.DOWN:
                self.telegram.stop()
            case Fault.SLOW:
                self.telegram.slow_next(2)
            case Fault.LOST:
                self.telegram.drop_next_after_taking()

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        chat = int(sender or self.address)
        reply_to = None if answering is None else self._sent(answering)
        return self._happens(lambda: self.telegram.write(text, chat=chat, reply_to=reply_to))

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        return self._happens(lambda: self.telegram.press(self._sent(provider_id), label))

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        return replace(like, body=body)

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        """Only the header vouches for a request; the body is under no signature."""
        without = {name: value for name, value in request.headers.items() if name != SECRET_HEADER}
        others = ("", "another", SECRET_TOKEN[:-1], SECRET_TOKEN + "x")
        return [
            replace(request, headers=without),
            *(replace(request, headers={**without, SECRET_HEADER: other}) for other in others),
        ]

    def _happens(self, happening: Callable[[], object]) -> RawRequest | None:
        """The stand-in keeps what happens while it has no webhook."""
        self.telegram.webhook = None
        happening()
        if self.polling:
            return None
        self.telegram.webhook = PUBLIC_URL
        return posted(json.dumps(self.telegram.updates.pop()).encode())

    def _sent(self, provider_id: str) -> TelegramMessage:
        number = int(provider_id.rpartition(":")[2])
        return next(message for message in self.telegram.messages if message.message_id == number)
