"""Discord as the conformance suite wants it: the stand-in, and the adapter wired to it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.conformance.discord_kit import ALICE, PUBLIC_URL, settings, signed

from wakeloop.channel import ChannelServices, RawRequest
from wakeloop.testing.channels.provider import Fault, Provider, Took
from wakeloop.testing.discord import BOT_TOKEN, DiscordMessage, DiscordStandIn
from wakeloop_channels.discord import DiscordChannel
from wakeloop_channels.discord_messages import ANSWER, dialog

LINKED = re.compile(r"\n[^\n]+: (https://files\.example\.com/\S+)$")
ANSWERABLE = {"type": 1, "components": [{"type": 2, "style": 1, "label": "Answer…", "custom_id": ANSWER}]}


class DiscordProvider(Provider):
    """A bot, and a person who has a question from earlier, below which they can write at any time."""

    address = ALICE
    services = ChannelServices(webhook_url=PUBLIC_URL)
    secrets = (BOT_TOKEN,)

    def __init__(self, stand_in: DiscordStandIn) -> None:
        self.discord = stand_in
        self.discord.endpoint = PUBLIC_URL
        self.discord.faults_at = "/messages"
        self.earlier = stand_in.plant(ALICE, "Anything new?", [ANSWERABLE])
        self.settings = settings(stand_in, api_url=stand_in.url, timeout=0.4)
        self.channel = DiscordChannel.from_settings(self.settings, self.services)

    def sent(self) -> Sequence[Took]:
        return [self._took(message) for message in self.discord.messages if message.id != self.earlier.id]

    def fail_next(self, fault: Fault, *, retry_after: int | None = None) -> None:
        match fault:
            case Fault.BUSY:
                self.discord.fail_next(429, retry_after=retry_after)
            case Fault.REFUSED:
                self.discord.fail_next(403)
            case Fault.DOWN:
                self.discord.stop()
            case Fault.SLOW:
                self.discord.slow_next(2)
            case Fault.LOST:
                self.discord.drop_next_after_taking()

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        """By the dialog that *Answer…* opens, below that message, or below the one from earlier."""
        below = self.earlier if answering is None else self._sent(answering)
        return self._posted(self.discord.submitted(below, dialog(ANSWER), text, by=sender))

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        return self._posted(self.discord.pressed(self._sent(provider_id), label))

    def signed(self, body: bytes, like: RawRequest) -> RawRequest:
        return signed(self.discord, body)

    def tampered(self, request: RawRequest) -> Sequence[RawRequest]:
        unsigned = {
            name: value for name, value in request.headers.items() if not name.startswith("x-signature")
        }
        other = self.discord.sign(request.body, key=Ed25519PrivateKey.generate())
        later = str(int(request.headers["x-signature-timestamp"]) + 1)
        return [
            replace(request, headers=unsigned),
            replace(request, headers={**unsigned, **{name.lower(): value for name, value in other.items()}}),
            replace(request, headers={**request.headers, "x-signature-timestamp": later}),
            replace(request, body=request.body + b" "),
            replace(request, body=request.body.replace(ALICE.encode(), ALICE[::-1].encode())),
        ]

    def replayed_old(self, request: RawRequest) -> RawRequest:
        return signed(self.discord, request.body, at=time.time() - 310)

    def _posted(self, interaction: dict[str, object]) -> RawRequest:
        return signed(self.discord, json.dumps(interaction).encode())

    def _sent(self, provider_id: str) -> DiscordMessage:
        return next(one for one in self.discord.messages if one.id == provider_id.partition(":")[2])

    def _took(self, message: DiscordMessage) -> Took:
        """A file that Discord does not hold is a link below the text."""
        linked = LINKED.search(message.text)
        return Took(
            provider_id=f"{message.channel}:{message.id}",
            address=message.to or message.channel,
            text=LINKED.sub("", message.text),
            buttons=tuple(button.label for button in message.buttons),
            attachments=(*(file.name for file in message.files), *([linked[1]] if linked else [])),
        )
