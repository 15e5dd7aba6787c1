"""Composing mail: one delivery as a message of RFC 5322, and the envelope that it goes out in."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from email.headerregistry import Address, BaseHeader, HeaderRegistry, UnstructuredHeader
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any
from urllib.parse import urlsplit

from wakeloop.channel import Outgoing
from wakeloop.errors import PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels.data_urls import is_data_url, read_data_url
from wakeloop_channels.email_address import ids_in, message_id, normalize_address, tagged, token_id
from wakeloop_channels.email_settings import EmailSettings
from wakeloop_channels.email_templates import Templates

SUBJECT_CHARACTERS = 78
"""Of a subject that is made from the text; one that is given may have MAX_SUBJECT_CHARACTERS."""
MAX_SUBJECT_CHARACTERS = 250
MAX_REFERENCES = 10
MAX_ID_OCTETS = 250

_REPLY = re.compile(r"(?:re|aw|sv|antw)(?:\[\d+\])?\s*:", re.IGNORECASE)
_TYPE = re.compile(r"([\w.+!#$&^-]+)/([\w.+!#$&^-]+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A message as it goes out. needs_utf8: an address in it is not ASCII, so the server must take SMTPUTF8 (RFC 6531)."""

    message_id: str
    key: str
    sender: str
    recipient: str
    octets: bytes
    needs_utf8: bool


class Composer:
    """Makes mail from deliveries; the same from the same. Raises ConfigurationError for broken templates."""

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        self._templates = Templates(settings.templates)
        self._name, self._from = settings.sender
        self._secret = next(iter(settings.reply_keys), None)

    def compose(self, message: Outgoing) -> Composed:
        """Its mail. Raises PermanentChannelError if the address is none, or its attachments are too large or broken."""
        settings = self._settings
        try:
            recipient = normalize_address(message.address)
        except ValueError as error:
            raise PermanentChannelError(f"That is no address of mail: {error}.", code=None) from None
        text = _plain(message.text)
        subject = subject_of(message)
        files, links = self._files(message.attachments)
        plain, html = self._templates.render(
            message, text=text, subject=subject, sender=self._name, files=links
        )
        addresses = (self._from, settings.reply_address, settings.return_path or "", recipient)
        needs_utf8 = not "".join(addresses).isascii()

        mail = EmailMessage(policy=_POLICY.clone(utf8=needs_utf8))
        mail["Date"] = message.claimed_at
        mail["From"] = _address(self._from, self._name)
        mail["To"] = _address(recipient)
        reply_to = self._reply_to(message.key)
        if reply_to != self._from:
            mail["Reply-To"] = _address(reply_to, self._name)
        mail["Subject"] = subject
        id = message_id(message.key, settings.domain)
        mail["Message-ID"] = id
        thread = [one for one in message.thread if _is_id(one) and one != id]
        if thread:
            mail["In-Reply-To"] = thread[-1]
        references = _references(
            thread, token_id(message.token, settings.domain) if message.token is not None else None
        )
        if references:
            mail["References"] = " ".join(references)
        mail["Auto-Submitted"] = "auto-generated"
        # Not "All", which would suppress bounces, too: [MS-OXCMAIL] section 2.2.3.2.14.
        mail["X-Auto-Response-Suppress"] = "DR, RN, NRN, OOF, AutoReply"
        mail.set_content(plain, charset="utf-8")
        mail.add_alternative(html, subtype="html", charset="utf-8")
        for name, maintype, subtype, data in files:
            mail.add_attachment(data, maintype=maintype, subtype=subtype, filename=name)
        return Composed(
            message_id=id,
            key=message.key,
            sender=settings.return_path or self._from,
            recipient=recipient,
            octets=mail.as_bytes(),
            needs_utf8=needs_utf8,
        )

    def _reply_to(self, key: str) -> str:
        address = self._settings.reply_address
        return tagged(address, key, self._secret) if self._secret is not None else address

    def _files(
        self, attachments: Sequence[Attachment]
    ) -> tuple[list[tuple[str, str, str, bytes]], list[tuple[str, str]]]:
        """What is attached, as (name, type, subtype, bytes), and what is linked, as (name, address)."""
        files, links, total = [], [], 0
        for number, attachment in enumerate(attachments, start=1):
            if is_data_url(attachment.url):
                try:
                    content_type, data = read_data_url(attachment.url)
                except ValueError as error:
                    raise PermanentChannelError(
                        f"Attachment {number} cannot be read: {error}.", code=None
                    ) from None
                total += len(data)
                declared = attachment.content_type
                maintype, subtype = _type_of(
                    content_type if declared == "application/octet-stream" else declared
                )
                files.append(
                    (_file_name(attachment, number, f"{maintype}/{subtype}"), maintype, subtype, data)
                )
            elif urlsplit(attachment.url).scheme in ("http", "https"):
                links.append((_file_name(attachment, number, attachment.content_type), attachment.url))
            else:
                raise PermanentChannelError(
                    f"Attachment {number} has neither an http(s) nor a data: URL.", code=None
                )
        if total > self._settings.max_attachment_bytes:
            raise PermanentChannelError(
                f"The attachments have {total} bytes; channels.email.max_attachment_bytes allows {self._settings.max_attachment_bytes}.",
                code=None,
            )
        return files, links


def subject_of(message: Outgoing) -> str:
    """The subject: as it is given, or else as the thread has it, with "Re:" in a thread; else the beginning of the text's
    first line. Programs such as Gmail's take mail with another subject for another thread, whatever it refers to."""
    given = _one_line(message.subject or "")
    if not given and message.thread:
        given = _one_line(message.topic or "") or _beginning(message.opening or "")
    if given:
        is_reply = bool(message.thread) and not _REPLY.match(given)
        return _shortened(f"Re: {given}" if is_reply else given, MAX_SUBJECT_CHARACTERS)
    return _beginning(message.text) or "A message for you"


def _beginning(text: str) -> str:
    lines = (_one_line(line) for line in text.splitlines())
    return _shortened(next(filter(None, lines), ""), SUBJECT_CHARACTERS)


class _Ids(UnstructuredHeader, BaseHeader):
    """Message ids, one to a line. The standard library's folding would turn those that are longer than a line into
    encoded words, which no program takes for ids."""

    def fold(self, *, policy: Any) -> str:
        return f"{self.name}: {f'{policy.linesep} '.join(str(self).split())}{policy.linesep}"


def _headers() -> HeaderRegistry:
    registry = HeaderRegistry()
    for name in ("message-id", "in-reply-to", "references"):
        registry.map_to_type(name, _Ids)
    return registry


# Seven bits go through every server, and signatures (DKIM) survive.
_POLICY = SMTP.clone(header_factory=_headers(), cte_type="7bit")


def _references(thread: Sequence[str], token: str | None) -> list[str]:
    """The first id of a thread and the latest, bounded; the id with the token before the last, which is answered."""
    kept = list(dict.fromkeys([*thread[:1], *thread[1:][1 - MAX_REFERENCES :]]))
    if kept and kept[-1] != thread[-1]:
        kept = [*(one for one in kept if one != thread[-1]), thread[-1]]
    return [*kept[:-1], *([token] if token is not None else []), *kept[-1:]]


def _is_id(text: str) -> bool:
    return text.isascii() and len(text) <= MAX_ID_OCTETS and ids_in(text) == (text,)


def _address(address: str, name: str = "") -> Address:
    local, _, domain = address.rpartition("@")
    return Address(display_name=name, username=local, domain=domain)


def _plain(text: str) -> str:
    """Text without what no mail can hold: half characters, and control characters but tabs and line ends."""
    whole = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
    return "".join(one for one in whole if one in "\n\t" or unicodedata.category(one) != "Cc")


def _one_line(text: str) -> str:
    """Text for a header: white space of any kind is one space, and control characters are gone."""
    words = " ".join(text.encode("utf-8", "replace").decode().split())
    return "".join(one for one in words if unicodedata.category(one) != "Cc").strip()


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    return (cut.rpartition(" ")[0] or cut).rstrip(" ,;:.-") + "…"


def _type_of(content_type: str) -> tuple[str, str]:
    match = _TYPE.match(content_type)
    if match is None or match[1].lower() in ("multipart", "message"):
        return "application", "octet-stream"
    return match[1].lower(), match[2].lower()


def _file_name(attachment: Attachment, number: int, content_type: str) -> str:
    """What a file is called: its own name without any folder, or one made from its type."""
    name = _one_line(attachment.name or "").replace("\\", "/").rpartition("/")[2].lstrip(".").strip()
    return name or f"file-{number}{mimetypes.guess_extension(content_type) or ''}"
