"""A channel that can do everything, to try the conformance suite on: a board in memory that people write on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryStatus,
    DeliveryUpdate,
    Incoming,
    Inlet,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import ConfigurationError, InvalidWebhook
from wakeloop.testing.channels.provider import Provider, Took
from wakeloop_channels.text import well_formed


@dataclass
class Board:
    """What hangs there, and what people have done since."""

    messages: dict[str, Outgoing] = field(default_factory=dict)
    happened: list[Incoming | DeliveryUpdate] = field(default_factory=list)


class BoardChannel:
    """Reads the board from the cursor on, which is a count."""

    name: ClassVar[str] = "board"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True,
        buttons=True,
        forms=True,
        threads=True,
        tokens=True,
        media=True,
        amends=True,
        reconcile=True,
        receipts=True,
    )

    def __init__(self, board: Board) -> None:
        self.board = board

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        if not isinstance(section.get("board"), Board) or len(section) > 1:
            unknown = ", ".join(f"channels.board.{name}" for name in section if name != "board")
            raise ConfigurationError(f"set channels.board.board; {unknown} are no settings")
        return cls(section["board"])

    def normalize(self, address: str) -> str:
        if not address.isalnum():
            raise ValueError("a name has letters and digits only")
        return address

    async def send(self, message: Outgoing) -> Receipt:
        id = f"m{len(self.board.messages) + 1}"
        self.board.messages[id] = replace(message, text=well_formed(message.text))
        return Receipt(provider_id=id)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        for id, sent in self.board.messages.items():
            same = (sent.address, sent.text) == (message.address, message.text)
            if same and id not in known and sent.claimed_at >= message.claimed_at:
                return Receipt(provider_id=id)
        return None

    async def amend(self, sent: Sent, text: str) -> None:
        hanging = self.board.messages[sent.provider_id]
        self.board.messages[sent.provider_id] = replace(hanging, text=text, buttons=())

    @property
    def listens(self) -> bool:
        return True

    async def listen(self, inlet: Inlet) -> None:
        seen = int(inlet.cursor or 0)
        while True:
            new = self.board.happened[seen:]
            if new:
                await inlet.take(new, cursor=str(seen + len(new)))
                seen += len(new)
            await asyncio.sleep(0.01)

    async def check(self) -> str:
        return "the board in the hall"

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        return [("On the wall", f"Write to {webhook_url}")]

    def verify(self, request: RawRequest) -> None:
        raise InvalidWebhook("Nobody calls.", status=404)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        return []

    def respond(self, request: RawRequest) -> RawResponse:
        return RawResponse()

    async def close(self) -> None:
        pass


class BoardProvider(Provider):
    """The hall."""

    address = "alice"

    def __init__(self, adapter: type[BoardChannel] = BoardChannel) -> None:
        self.board = Board()
        self.settings = {"board": self.board}
        self.channel = adapter.from_settings(self.settings, self.services)

    def sent(self) -> Sequence[Took]:
        return [
            Took(
                provider_id=id,
                address=message.address,
                text=message.text,
                buttons=tuple(button.label for button in message.buttons),
                attachments=tuple(file.url for file in message.attachments),
            )
            for id, message in self.board.messages.items()
        ]

    def message(
        self, text: str, *, sender: str | None = None, answering: str | None = None
    ) -> RawRequest | None:
        token = self.board.messages[answering].token if answering is not None else None
        return self._happen(text=well_formed(text), reply_to=answering, token=token)

    def press(self, provider_id: str, label: str) -> RawRequest | None:
        buttons = {button.label: button.value for button in self.board.messages[provider_id].buttons}
        return self._happen(text="", reply_to=provider_id, pressed=buttons[label])

    def fill(self, provider_id: str, values: Mapping[str, str]) -> RawRequest | None:
        submit = self.board.messages[provider_id].submit
        return self._happen(text="", reply_to=provider_id, pressed=submit, values=values)

    def receipt(self, provider_id: str, status: DeliveryStatus) -> RawRequest | None:
        error = "fell down" if status == DeliveryStatus.FAILED else None
        self.board.happened[:] = [DeliveryUpdate(provider_id=provider_id, status=status, error=error)]
        return None

    def _happen(self, **facts: Any) -> None:
        id = f"in{len(self.board.happened) + 1}"
        self.board.happened.append(
            Incoming(provider_id=id, address=self.address, raw={"id": id, "text": facts["text"]}, **facts)
        )
