"""The web channel: what an agent says stands on the person's own page, and what they write there comes back.

An address is the contact's own id, for the page is theirs::

    [contacts.alice]
    web = "alice"

Nothing is sent anywhere: the page shows the conversation from the store. Nobody is called to it either, so a contact who
does not keep it open should have another channel too, before this one or as an escalation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryStatus,
    DeliveryUpdate,
    Incoming,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
)
from wakeloop.errors import InvalidWebhook
from wakeloop_channels.explaining import refuse_settings


class WebChatChannel:
    """Takes every message over at once: being recorded is being on the page."""

    name: ClassVar[str] = "web"
    capabilities: ClassVar[Capabilities] = Capabilities(inbound=True, idempotent=True)

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel; it has no settings.

        Raises ConfigurationError if there are any."""
        refuse_settings(section, channel=cls.name)
        return cls()

    def normalize(self, address: str) -> str:
        """The id as it is. Raises ValueError for what no contact's id can be."""
        blank = any(character.isspace() for character in address)
        if not address or blank or not address.isprintable() or len(address) > 100:
            raise ValueError("a web address is the contact's own id")
        return address

    async def send(self, message: Outgoing) -> Receipt:
        """Say that the message is there. Its id is made from `message.key`, so the same delivery always has the same
        one."""
        return Receipt(provider_id=f"web-{message.key}", status=DeliveryStatus.DELIVERED)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Sending again does no harm, so nobody looks."""
        return None

    def verify(self, request: RawRequest) -> None:
        """Refuse: what people write comes by their page, not by a webhook."""
        raise InvalidWebhook("The web channel takes no webhooks; people write on their pages.", status=404)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """Refuse, as `verify` does."""
        self.verify(request)
        return []

    def respond(self, request: RawRequest) -> RawResponse:
        """Not found."""
        return RawResponse(status=404)

    async def close(self) -> None:
        """There is nothing to let go of."""
