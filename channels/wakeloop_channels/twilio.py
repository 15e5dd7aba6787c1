"""The SMS channel: Twilio's Programmable Messaging, API version 2010-04-01.

Twilio takes no idempotency key when a message is created, so a message whose fate is unknown is looked for in
Twilio's own list (`find_sent`) before it is sent again. Set-up and settings: docs/channels/sms.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

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
from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels.text import well_formed
from wakeloop_channels.twilio_api import TwilioApi
from wakeloop_channels.twilio_numbers import normalize_number
from wakeloop_channels.twilio_reading import read_webhook, status_of
from wakeloop_channels.twilio_settings import TwilioSettings, read_twilio_settings
from wakeloop_channels.twilio_webhooks import check_signature, read_form
from wakeloop_channels.twilio_words import STATUSES

CLOCK_SKEW_SECONDS = 5.0
PAGE_SIZE = 200
MAX_LISTED = 5_000
MAX_LENGTH = 1600
"""Characters of one message, of whatever encoding: https://www.twilio.com/docs/api/errors/21617."""
MAX_MEDIA = 10
"""Files of one message: https://www.twilio.com/docs/api/errors/21623."""

_TRIAL_PREFIX = "Sent from your Twilio trial account - "
_EMPTY_TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'


class TwilioChannel:
    """SMS through Twilio. All network traffic of one instance happens on one event loop at a time; call `close` on
    that loop before leaving it."""

    name: ClassVar[str] = "sms"
    title: ClassVar[str] = "SMS"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, media=True, reconcile=True, receipts=True, max_length=MAX_LENGTH
    )
    max_media: ClassVar[int] = MAX_MEDIA

    def __init__(self, settings: TwilioSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._webhook_url = services.webhook_url if settings.status_callbacks else None
        self._tokens = tuple(token.get_secret_value().encode() for token in settings.auth_tokens)
        self._api = TwilioApi(settings)

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.sms]`; nothing is sent.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it; a secret's value
        is never in it."""
        return cls(read_twilio_settings(TwilioSettings, section, title=cls.title), services)

    def normalize(self, address: str) -> str:
        """The number in E.164. Raises ValueError with the reason."""
        return normalize_number(address, self.settings.default_region, channel=self.name)

    async def send(self, message: Outgoing) -> Receipt:
        """Create the message at Twilio, once; SMS has no subject, so only `text` is sent, and exactly as it is.

        Raises TemporaryChannelError if no connection was made or Twilio said 429 or 503, which it documents as not
        processed; PermanentChannelError if it refused with another 4xx, or if the message cannot be sent this way. A
        timeout, a lost connection or another 5xx (error 20500: the message may have been sent) raises something else:
        only `find_sent` can tell."""
        fields = {**self._content(message), **self._sender()}
        if self._webhook_url is not None:
            fields["status_callback"] = self._webhook_url
        # Without smart_encoded a messaging service may change the text, and `find_sent` would not know it again.
        created = await self._api.messages.create_async(
            to=self._at_twilio(message.address), smart_encoded=False, **fields
        )
        if not created.sid:
            raise ChannelError(
                f"Twilio answered delivery {message.key} without a message sid; its outcome is unknown."
            )
        return _receipt(created)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """The oldest message to this address, from this sender, with this text, created since `claimed_at`, whose sid
        is not in `known`; None if there is none.

        Twilio's times are in whole seconds and by its own clock: CLOCK_SKEW_SECONDS are allowed for. Its DateSent
        filter is not used: a message that waits in Twilio's queue has no such date yet. Raises
        TemporaryChannelError if the list could not be read."""
        since = message.claimed_at.replace(microsecond=0) - timedelta(seconds=CLOCK_SKEW_SECONDS)
        service = self.settings.messaging_service_sid
        sender = {name: value for name, value in self._sender().items() if name == "from_"}
        query = {"to": self._at_twilio(message.address), "page_size": PAGE_SIZE, "limit": MAX_LISTED}
        found = []
        async with aclosing(await self._api.messages.stream_async(**query, **sender)) as listed:
            async for record in listed:
                created = record.date_created or message.claimed_at
                if created < since - timedelta(days=1):
                    break  # newest first, by a date that may differ from this one
                if (
                    created >= since
                    and record.sid not in known
                    and str(record.direction).startswith("outbound")
                    and (service is None or record.messaging_service_sid == service)
                    and self._is_said(record.body or "", message)
                ):
                    found.append(record)
        # Newest first within one second, too; `min` takes the first of equals.
        oldest = min(
            reversed(found), key=lambda record: record.date_created or message.claimed_at, default=None
        )
        return _receipt(oldest) if oldest is not None else None

    def verify(self, request: RawRequest) -> None:
        """Check X-Twilio-Signature against every token, in constant time.

        Raises InvalidWebhook: 403 if it is missing or wrong, 413 or 400 if the body cannot be read."""
        check_signature(request, self._tokens)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """See wakeloop_channels.twilio_reading.read_webhook."""
        return read_webhook(request, self._lenient)

    def respond(self, request: RawRequest) -> RawResponse:
        """Empty TwiML for a message, so that Twilio itself replies nothing; 204 for a status callback."""
        if status_of(read_form(request)) is not None:
            return RawResponse(status=204)
        return RawResponse(body=_EMPTY_TWIML, content_type="text/xml; charset=utf-8")

    async def check(self) -> str:
        """As which account, by asking for it; an API key, which may not read the account, by listing one message.

        Raises ChannelError if the credentials are wrong or the account does not work."""
        if self.settings.api_key is not None:
            await self._api.messages.list_async(limit=1, page_size=1)
            return f"account {self.settings.account_sid} with API key {self.settings.api_key}"
        name, status = await self._api.account()
        if status != "active":
            raise PermanentChannelError(
                f"Twilio's account {self.settings.account_sid} is {status}: see Twilio's Console.", code=None
            )
        return f"account {self.settings.account_sid} ({name})"

    async def fetch(self, attachment: Attachment) -> bytes:
        """The file, of at most `media_bytes`. Raises ChannelError, PermanentChannelError if it is gone or too large, or
        lies elsewhere than in this account."""
        return await self._api.fetch(attachment.url)

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """Where messages that come in are to be posted; status callbacks need no setting."""
        service = self.settings.messaging_service_sid
        if service is not None:
            where = (
                f"Messaging > Services > {service} > Integration > Send a webhook > Request URL (HTTP POST)"
            )
        else:
            where = (
                f"Phone Numbers > Active numbers > {self.settings.from_number} > Messaging > A message comes in: "
                "Webhook, HTTP POST"
            )
        return [(f"Twilio's Console > {where}", webhook_url)]

    async def close(self) -> None:
        """Close the connections to Twilio. The channel may be used again afterwards."""
        await self._api.close()

    def _at_twilio(self, address: str) -> str:
        """The address as Twilio writes it."""
        return address

    def _sender(self) -> dict[str, str]:
        settings = self.settings
        if settings.from_number is not None:
            return {"from_": self._at_twilio(settings.from_number)}
        return {"messaging_service_sid": settings.messaging_service_sid or ""}

    def _content(self, message: Outgoing) -> dict[str, Any]:
        """The fields of the request that say what is said. Raises PermanentChannelError if it cannot be said."""
        media = self._media(message)
        return {"body": well_formed(message.text), **({"media_url": media} if media else {})}

    def _media(self, message: Outgoing) -> list[str]:
        """The addresses at which Twilio fetches the files."""
        urls = [attachment.url for attachment in message.attachments]
        if any(urlsplit(url).scheme not in ("http", "https") for url in urls):
            raise PermanentChannelError(
                f"Twilio fetches files itself, from an http or https address: delivery {message.key} has one that "
                f"stands in the message, which {self.title} cannot bring.",
                code=None,
            )
        if len(urls) > self.max_media:
            raise PermanentChannelError(
                f"{self.title} takes {self.max_media} files with a message; delivery {message.key} has {len(urls)}.",
                code=None,
            )
        return urls

    def _is_said(self, listed: str, message: Outgoing) -> bool:
        """Whether a message with this body in Twilio's list is that one."""
        return same_text(listed, well_formed(message.text))

    def _lenient(self, address: str) -> str:
        """Short codes, sender names and addresses of other channels can write, too; they stay as they are."""
        try:
            return self.normalize(address)
        except ValueError:
            return address


def same_text(listed: str, sent: str) -> bool:
    """Trial accounts put a sentence in front; outer white space and the kind of line ends are not kept everywhere."""
    listed, sent = (
        "\n".join(text.splitlines()).strip() for text in (listed.removeprefix(_TRIAL_PREFIX), sent)
    )
    return listed == sent


def _receipt(record: Any) -> Receipt:
    raw = {
        "sid": record.sid,
        "status": record.status,
        "from": record.from_,
        "messaging_service_sid": record.messaging_service_sid,
        "num_segments": record.num_segments,
        "date_created": record.date_created.isoformat() if record.date_created else None,
        "error_code": record.error_code,
        "error_message": record.error_message,
    }
    return Receipt(provider_id=record.sid, status=STATUSES.get(record.status, DeliveryStatus.SENT), raw=raw)
