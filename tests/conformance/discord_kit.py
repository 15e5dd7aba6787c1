"""What the tests of the Discord channel share: settings, and signed interactions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wakeloop.channel import ChannelServices, Outgoing, RawRequest
from wakeloop.testing.discord import APPLICATION_ID, BOT_TOKEN, DiscordStandIn
from wakeloop_channels.discord import DiscordChannel

PAYLOADS = Path(__file__).parents[1] / "payloads" / "discord"
PUBLIC_URL = "https://agents.example.com/hooks/discord"
ALICE = "1200000000000000042"
BOB = "1200000000000000043"
ROOM = "1200000000000000200"
YES = "0123456789abcdef0123456789abcdef:yes"
NO = "0123456789abcdef0123456789abcdef:no"


def settings(discord: DiscordStandIn, **changes: Any) -> dict[str, Any]:
    section = {
        "bot_token": BOT_TOKEN,
        "application_id": APPLICATION_ID,
        "public_keys": discord.public_key,
        **changes,
    }
    return {name: value for name, value in section.items() if value is not None}


def channel(discord: DiscordStandIn, *, webhook_url: str | None = None, **changes: Any) -> DiscordChannel:
    """Wired to a stand-in that runs; for one that does not, pass `api_url`."""
    api_url = changes.pop("api_url", None) or discord.url
    section = settings(discord, api_url=api_url, **changes)
    return DiscordChannel.from_settings(section, ChannelServices(webhook_url=webhook_url))


def outgoing(
    text: str = "What comes first?", to: str = ALICE, *, key: str = "d1", age: float = 0.0, **more: Any
) -> Outgoing:
    claimed_at = datetime.now(UTC) - timedelta(seconds=age)
    return Outgoing(key=key, address=to, text=text, claimed_at=claimed_at, **more)


def signed(discord: DiscordStandIn, body: bytes, *, at: float | None = None, **headers: str) -> RawRequest:
    named = {name.lower(): value for name, value in discord.sign(body, at=at).items()}
    return RawRequest(
        method="POST",
        url=PUBLIC_URL,
        headers={"content-type": "application/json", **named, **headers},
        body=body,
    )


def payload(discord: DiscordStandIn, name: str) -> RawRequest:
    return signed(discord, (PAYLOADS / f"{name}.json").read_bytes())
