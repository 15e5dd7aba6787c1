"""The WhatsApp channel: WhatsApp senders of Twilio's Programmable Messaging.

It is SMS's twin but for addresses, and for WhatsApp's window: whoever has not written for 24 hours can only be sent a
template that WhatsApp has approved (https://www.twilio.com/docs/api/errors/63016). Set-up: docs/channels/whatsapp.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Self

from pydantic import Field

from wakeloop.channel import Capabilities, ChannelServices, DeliveryUpdate, Incoming, Outgoing, RawRequest
from wakeloop.errors import InvalidWebhook, PermanentChannelError
from wakeloop_channels.text import well_formed
from wakeloop_channels.twilio import MAX_LENGTH, TwilioChannel, same_text
from wakeloop_channels.twilio_numbers import normalize_number
from wakeloop_channels.twilio_settings import TwilioSettings, read_twilio_settings
from wakeloop_channels.twilio_webhooks import one, read_form
from wakeloop_channels.twilio_words import OUTSIDE_WINDOW

PREFIX = "whatsapp:"
WINDOW = timedelta(hours=24)
MARGIN = timedelta(minutes=1)
"""How long before its end the window counts as closed, for the message must arrive within it."""
MAX_TEMPLATE_LENGTH = 1024
"""Characters of a template's body with its variables filled in, and so the most that a variable can have."""


class WhatsAppSettings(TwilioSettings):
    """The table `[channels.whatsapp]`. content_sid: the approved content template for those who have not written within
    24 hours; its one variable, {{1}}, is what is to be said."""

    channel: ClassVar[str] = "whatsapp"

    content_sid: str | None = Field(default=None, pattern=r"^HX\w+$")

    @classmethod
    def normalize_sender(cls, value: str) -> str:
        """A number in E.164, with or without Twilio's prefix. Raises ValueError with the reason."""
        return normalize_number(value.removeprefix(PREFIX), channel=cls.channel)


class WhatsAppChannel(TwilioChannel):
    """WhatsApp through Twilio. An address is the person's number, as for SMS."""

    name: ClassVar[str] = "whatsapp"
    title: ClassVar[str] = "WhatsApp"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, threads=True, media=True, reconcile=True, receipts=True, max_length=MAX_LENGTH
    )
    max_media: ClassVar[int] = 1

    def __init__(self, settings: WhatsAppSettings, services: ChannelServices) -> None:
        super().__init__(settings, services)
        self._template = settings.content_sid

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.whatsapp]`; nothing is sent. Raises ConfigurationError as SMS does."""
        return cls(read_twilio_settings(WhatsAppSettings, section, title=cls.title), services)

    def normalize(self, address: str) -> str:
        """The number in E.164, without Twilio's prefix. Raises ValueError with the reason."""
        return super().normalize(address.strip().removeprefix(PREFIX))

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """As SMS; besides which of our messages is answered, and the button of a template that was pressed.

        Raises InvalidWebhook, with 400 also for what came by SMS: its sender is known less well."""
        items = super().parse(request)
        sender = one(read_form(request), "From") or ""
        if any(isinstance(item, Incoming) for item in items) and not sender.startswith(PREFIX):
            raise InvalidWebhook("The message does not come by WhatsApp.", status=400)
        return items

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """Where messages that come in are to be posted; status callbacks need no setting."""
        if self.settings.messaging_service_sid is not None:
            return super().guide(webhook_url)
        where = (
            f"Messaging > Senders > WhatsApp senders > {self.settings.from_number} > Endpoint configuration"
        )
        return [(f"Twilio's Console > {where} > Webhook URL for incoming messages (HTTP POST)", webhook_url)]

    def _at_twilio(self, address: str) -> str:
        return PREFIX + address

    def _content(self, message: Outgoing) -> dict[str, Any]:
        """Free text within the window, the template outside of it."""
        heard_at = message.heard_at
        if heard_at is not None and message.claimed_at - heard_at < WINDOW - MARGIN:
            return super()._content(message)
        if self._template is None:
            raise PermanentChannelError(
                f"WhatsApp cannot bring delivery {message.key}: {OUTSIDE_WINDOW}.", code="63016"
            )
        if message.attachments:
            raise PermanentChannelError(
                f"WhatsApp cannot bring the files of delivery {message.key}: they have not written within 24 hours, and "
                "the template carries none.",
                code=None,
            )
        said = flattened(message.text)
        if not said or len(said) > MAX_TEMPLATE_LENGTH:
            raise PermanentChannelError(
                f"WhatsApp cannot bring delivery {message.key}: they have not written within 24 hours, and the template "
                f"takes from 1 to {MAX_TEMPLATE_LENGTH} characters, not {len(said)}.",
                code=None,
            )
        return {"content_sid": self._template, "content_variables": json.dumps({"1": said})}

    def _is_said(self, listed: str, message: Outgoing) -> bool:
        """The text itself, or a template's text around it: which it was depends on when it was sent."""
        if same_text(listed, well_formed(message.text)):
            return True
        said = flattened(message.text)
        return self._template is not None and bool(said) and said in listed


def flattened(text: str) -> str:
    """The text as a template's variable: without line ends, tabs and runs of spaces, which WhatsApp refuses
    (https://www.twilio.com/docs/api/errors/21656)."""
    return " ".join(well_formed(text).split())
