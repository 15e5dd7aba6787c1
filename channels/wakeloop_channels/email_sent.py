"""Looking into the mailbox's Sent folder for a message that left before a crash."""

from __future__ import annotations

import asyncio
from imaplib import IMAP4

from imap_tools import AND, BaseMailBox, H, MailBox, MailBoxStartTls, MailBoxUnencrypted
from imap_tools.errors import ImapToolsError

from wakeloop.channel import Outgoing, Receipt
from wakeloop.errors import ChannelError
from wakeloop_channels.email_address import message_id
from wakeloop_channels.email_settings import EmailSettings

LISTED = 5


async def find_sent(settings: EmailSettings, message: Outgoing, known: frozenset[str]) -> Receipt | None:
    """The message's receipt if the Sent folder has one with its Message-ID, which no other delivery has; else None.

    Raises ChannelError if the folder could not be read: the outcome is then as unknown as it was, which neither a
    temporary nor a permanent error would say."""
    id = message_id(message.key, settings.domain)
    if id in known:
        return None
    try:
        found = await asyncio.to_thread(_has, settings, id)
    except (ImapToolsError, IMAP4.error, OSError) as error:
        raise ChannelError(
            f"The Sent folder could not be read ({type(error).__name__}): check channels.email.imap_host, imap_username, "
            "WAKELOOP_EMAIL_IMAP_PASSWORD and imap_sent_folder.",
            code=None,
        ) from error
    return Receipt(provider_id=id, raw={"found in": settings.imap_sent_folder}) if found else None


def _has(settings: EmailSettings, id: str) -> bool:
    password = settings.imap_password.get_secret_value() if settings.imap_password is not None else ""
    mailbox = _open(settings)
    try:
        mailbox.login(settings.imap_username or "", password, initial_folder=None)
        mailbox.folder.set(settings.imap_sent_folder or "", readonly=True)
        # Servers look for a part of the header, and some for words in it.
        found = mailbox.fetch(
            AND(header=H("Message-ID", id)), headers_only=True, mark_seen=False, reverse=True, limit=LISTED
        )
        return any(str(one.obj["Message-ID"]).strip() == id for one in found)
    finally:
        try:
            mailbox.client.logout()
        except (IMAP4.error, OSError):
            mailbox.client.shutdown()


def _open(settings: EmailSettings) -> BaseMailBox:
    host, port, timeout = settings.imap_host or "", settings.imap_port, settings.imap_timeout
    match settings.imap_security:
        case "tls":
            return MailBox(host, port, timeout, ssl_context=settings.tls())
        case "starttls":
            return MailBoxStartTls(host, port, timeout, ssl_context=settings.tls())
        case "none":
            return MailBoxUnencrypted(host, port, timeout)
