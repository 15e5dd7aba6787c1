"""What the tests of the Telegram channel share: settings, requests, and an inlet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wakeloop.channel import ChannelServices, DeliveryUpdate, Incoming, Outgoing, RawRequest
from wakeloop.testing.telegram import BOT_TOKEN, SECRET_TOKEN
from wakeloop_channels.telegram import TelegramChannel

PAYLOADS = Path(__file__).parents[1] / "payloads" / "telegram"
PUBLIC_URL = "https://agents.example.com/hooks/telegram"
BOT = BOT_TOKEN.partition(":")[0]
ALICE = 1111111
GROUP = -1001234567890
BOB = 2222222
YES = "0123456789abcdef0123456789abcdef:yes"
NO = "0123456789abcdef0123456789abcdef:no"


def settings(**changes: Any) -> dict[str, Any]:
    section = {"bot_token": BOT_TOKEN, "secret_tokens": SECRET_TOKEN, **changes}
    return {name: value for name, value in section.items() if value is not None}


def channel(*, webhook_url: str | None = None, **changes: Any) -> TelegramChannel:
    return TelegramChannel.from_settings(settings(**changes), ChannelServices(webhook_url=webhook_url))


def outgoing(text: str = "What comes first?", to: int = ALICE, **more: Any) -> Outgoing:
    return Outgoing(key="d1", address=str(to), text=text, claimed_at=datetime.now(UTC), **more)


def posted(body: bytes, *, secret: str | None = SECRET_TOKEN, **headers: str) -> RawRequest:
    named = {"content-type": "application/json", **headers}
    if secret is not None:
        named["x-telegram-bot-api-secret-token"] = secret
    return RawRequest(method="POST", url=PUBLIC_URL, headers=named, body=body)


def payload(name: str) -> RawRequest:
    return posted((PAYLOADS / f"{name}.json").read_bytes())


class Taking:
    """An inlet that keeps what it is given, and stops the listener after so many takes that had something."""

    cursor: str | None = None

    def __init__(self, takes: int, on_take: Callable[[], None] = lambda: None) -> None:
        self.items: list[Incoming | DeliveryUpdate] = []
        self._left = takes
        self._on_take = on_take

    async def take(self, items: Sequence[Incoming | DeliveryUpdate], *, cursor: str | None = None) -> None:
        if self._left == 0:
            raise asyncio.CancelledError
        self.items += items
        self._on_take()
        self._left -= 1 if items else 0
