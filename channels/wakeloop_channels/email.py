"""The email channel: SMTP out; in by IMAP, or by webhook from Mailgun, SendGrid, Postmark or anything that posts RFC 822.

SMTP takes no idempotency key. The Message-ID is made from the delivery's key, so a second copy of a message has the
same one. Set-up and settings: docs/channels/email.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Inlet,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
)
from wakeloop.errors import ConfigurationError
from wakeloop_channels import email_imap, email_sent, email_webhooks
from wakeloop_channels.email_address import normalize_address
from wakeloop_channels.email_message import Composer
from wakeloop_channels.email_settings import ALIASES, HINTS, EmailSettings
from wakeloop_channels.email_smtp import SmtpPool
from wakeloop_channels.explaining import read_settings
from wakeloop_channels.http import masked

BODY_LIMIT = 40 * 1024 * 1024
"""Of a webhook: providers take mail of 25 to 35 MB, and Base64 makes it a third longer."""
RETRY_SECONDS = (5.0, 30.0, 60.0, 300.0, 600.0, 900.0)
"""Half an hour in all, so that greylisting is outwaited."""

# Where each provider is told the address that it calls.
_CONSOLES: Mapping[str, str] = {
    "mailgun": "Mailgun > Send > Receiving > Create route > Forward (or Store and notify)",
    "sendgrid": "SendGrid > Settings > Inbound Parse > Add host & URL > Destination URL",
    "postmark": "Postmark > Servers > your server > Inbound stream > Settings > Webhook",
    "raw": "Whatever takes your mail: POST each message (message/rfc822) to",
}


class EmailChannel:
    """Mail. All network traffic of one instance happens on one event loop at a time; call `close` on that loop before
    leaving it."""

    name: ClassVar[str] = "email"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True,
        threads=True,
        tokens=True,
        media=True,
        body_limit=BODY_LIMIT,
        retry_seconds=RETRY_SECONDS,
    )

    def __init__(self, settings: EmailSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._services = services
        self._composer = Composer(settings)
        self._pool = SmtpPool(settings)

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.email]`; nothing is sent. With a Sent folder to look into it is one that can
        tell after a crash whether a message had left.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it, or with the template
        that is broken; a secret's value is never in it."""
        settings = read_settings(
            EmailSettings, section, channel=cls.name, title="email", hints=HINTS, aliases=ALIASES
        )
        try:
            settings.tls()
        except OSError as error:
            raise ConfigurationError(
                f"The email channel cannot start: channels.email.ca_file holds no certificates ({error})."
            ) from error
        if settings.imap_sent_folder is not None and cls is EmailChannel:
            return ReconcilingEmailChannel(settings, services)  # type: ignore[return-value]
        return cls(settings, services)

    def normalize(self, address: str) -> str:
        """The address in small letters, its domain in ASCII. Raises ValueError with the reason."""
        return normalize_address(address)

    async def send(self, message: Outgoing) -> Receipt:
        """Hand the message to the SMTP server, once; the receipt's id is its Message-ID.

        Raises TemporaryChannelError if the server said 4xx or was lost before the message had left, PermanentChannelError
        if it said 5xx or the message cannot be composed. If the connection is lost after the final dot, and before the
        server's answer, it raises something else."""
        mail = self._composer.compose(message)
        words = await self._pool.send(mail)
        return Receipt(provider_id=mail.message_id, raw={"response": masked(words)})

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Whether the Sent folder has the message, by its Message-ID; see ReconcilingEmailChannel."""
        return None

    @property
    def listens(self) -> bool:
        """Whether mail is fetched by IMAP."""
        return self.settings.inbound == "imap"

    async def listen(self, inlet: Inlet) -> None:
        """Hand in what arrives in the mailbox, until cancelled. Raises PermanentChannelError if the server refuses the
        login, or has no such folder."""
        await email_imap.listen(self.settings, inlet)

    def verify(self, request: RawRequest) -> None:
        """Check that the provider made this request, each in its own way, with every secret, in constant time.

        Raises InvalidWebhook: 403, 404 if no provider is to call, or another 4xx if the request cannot be read."""
        email_webhooks.verify(request, self.settings, time.time())

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """What a verified request says: a message, or that one of ours came back. Raises InvalidWebhook with a 4xx
        status if it is malformed."""
        return email_webhooks.parse(request, self.settings)

    def respond(self, request: RawRequest) -> RawResponse:
        """What the provider wants to hear once the request is recorded."""
        return email_webhooks.respond(request)

    async def check(self) -> str:
        """Sign in at the SMTP server, and at the IMAP server if mail is fetched; as whom. Raises ChannelError with what to
        mend."""
        found = f"{self.settings.sender[1]} through {await self._pool.check()}"
        return f"{found}; {await email_imap.check(self.settings)}" if self.listens else found

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """Where the provider that takes mail for us is told to call; nothing if mail is fetched, or none comes in."""
        console = _CONSOLES.get(self.settings.inbound or "")
        return [(console, webhook_url)] if console is not None else []

    async def close(self) -> None:
        """Close the connections to the SMTP server. The channel may be used again afterwards."""
        await self._pool.close()


class ReconcilingEmailChannel(EmailChannel):
    """Mail whose server keeps a copy of what was sent, in a folder that can be asked by IMAP."""

    capabilities: ClassVar[Capabilities] = replace(EmailChannel.capabilities, reconcile=True)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Whether the Sent folder has the message, by its Message-ID.

        Raises ChannelError if the folder could not be read."""
        return await email_sent.find_sent(self.settings, message, known)
