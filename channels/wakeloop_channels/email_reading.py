"""Mail as it came over the wire (RFC 5322), read into what the runtime records: what a person says, or what became of a
message of ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any

from wakeloop.channel import DeliveryUpdate, Incoming
from wakeloop_channels.email_address import ids_in, key_of, named, normalize_address
from wakeloop_channels.email_authentication import Finding, aligned, vouch
from wakeloop_channels.email_automatic import automatic, updates
from wakeloop_channels.email_parts import Unreadable, decoded, every, header, parse, plain, read_body
from wakeloop_channels.email_settings import EmailSettings
from wakeloop_channels.email_text import written

MAX_ID = 250
MAX_SUBJECT = 500
_TO = ("x-original-to", "delivered-to", "envelope-to", "x-envelope-to", "x-forwarded-to", "to", "cc")
_BETWEEN = re.compile(r"[\s<>,;:\"()\[\]]+")
_ASIDE = re.compile(r'"(?:[^"\\]|\\.)*"|\((?:[^()\\]|\\.)*\)')


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What a provider tells beside the mail itself. sender: "" is the null sender of bounces, None not told. spf: its
    result for the sender's domain. dkim: (domain, result) of each signature; both None if they were not checked."""

    sender: str | None = None
    recipients: tuple[str, ...] = ()
    spf: str | None = None
    dkim: tuple[tuple[str, str], ...] = ()
    by: str = ""


def read_message(
    raw: bytes, settings: EmailSettings, envelope: Envelope | None = None
) -> list[Incoming | DeliveryUpdate]:
    """What one mail says: a message; the fate of one of ours; or nothing, if it is our own or a report without news.

    Raises Unreadable if it is no mail, or its From does not name exactly one sender."""
    message = parse(raw)
    try:
        return _read(message, raw, settings, envelope or Envelope())
    except Unreadable:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # Python's parser takes anything, and then stumbles over some of it when asked for what it holds.
        raise Unreadable(f"it is malformed ({type(error).__name__})") from error


def _read(
    message: Message, raw: bytes, settings: EmailSettings, envelope: Envelope
) -> list[Incoming | DeliveryUpdate]:
    recipients = _recipients(message, envelope)
    reported = updates(message, settings, recipients)
    if reported:
        return list(reported)
    address = sender_of(message)
    if _is_ours(address, settings):
        return []
    from_machine = automatic(message, envelope.sender)
    if from_machine and message.get_content_type() == "multipart/report" and _waits(message):
        return []
    references = header(message, "references")
    answer = named(
        recipients=recipients,
        in_reply_to=header(message, "in-reply-to"),
        references=references,
        address=settings.reply_address,
        secrets=settings.reply_keys,
        domain=settings.domain,
    )
    subject = decoded(header(message, "subject") or "")[:MAX_SUBJECT]
    body = read_body(message, settings.max_attachment_bytes)
    finding = _finding(message, address, settings, envelope)
    provider_id = _provider_id(message, raw)
    return [
        Incoming(
            provider_id=provider_id,
            address=address,
            text=written(body.text, subject),
            to_address=next(iter(recipients), None),
            subject=subject or None,
            thread=next(iter((*ids_in(references), *ids_in(header(message, "in-reply-to")))), provider_id),
            reply_to=answer.reply_to,
            token=answer.token,
            files=body.files,
            automatic=from_machine,
            vouched=finding.vouched,
            auth=finding.auth,
            raw=_raw(message, body.text, body.left_out, envelope),
        )
    ]


def sender_of(message: Message) -> str:
    """The address in From, normalized.

    One field with one address, and no second one in the name beside it: programs differ in which of several they show
    and check. Raises Unreadable."""
    fields = every(message, "from")
    if len(fields) != 1:
        raise Unreadable("it has no From" if not fields else "it has more than one From")
    outside = _ASIDE.sub(" ", fields[0])
    angled = re.findall(r"<([^<>]*)>", outside)
    around = re.sub(r"<[^<>]*>", " ", outside)
    if len(angled) > 1 or "<" in around or ">" in around:
        raise Unreadable("From has more than one address")
    given = angled[0] if angled else around
    try:
        address = normalize_address(given)
    except ValueError as error:
        raise Unreadable(f"From has no address that can be used: {error}") from None
    if angled and any(other.lower() != address for other in _addresses(around)):
        raise Unreadable("From has more than one address")
    return address


def _recipients(message: Message, envelope: Envelope) -> tuple[str, ...]:
    """Whom it went to: the envelope's first, then what servers noted, then To and Cc."""
    found = [address.strip("<> ") for address in envelope.recipients]
    for name in _TO:
        for field in every(message, name):
            found.extend(_addresses(field))
    return tuple(dict.fromkeys(address.lower() for address in found if address))[:100]


def _addresses(field: str) -> list[str]:
    return [text for text in _BETWEEN.split(field) if "@" in text]


def _is_ours(address: str, settings: EmailSettings) -> bool:
    """Whether we wrote it: From is our sender, or the address of replies, tagged or not."""
    ours = {settings.sender[1], settings.reply_address}
    return address in ours or key_of(address, settings.reply_address, settings.reply_keys) is not None


def _waits(message: Message) -> bool:
    """Whether a report only says that delivery takes longer."""
    actions = [
        plain(value).lower()
        for part in message.walk()
        for name, value in part.raw_items()
        if name.lower() == "action"
    ]
    return bool(actions) and all(action == "delayed" for action in actions)


def _provider_id(message: Message, raw: bytes) -> str:
    """The Message-ID, as others refer to it; of a mail without one, or with an endless one, the hash of its octets."""
    ids = ids_in(header(message, "message-id"))
    if ids and len(ids[0]) <= MAX_ID:
        return ids[0]
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def _finding(message: Message, address: str, settings: EmailSettings, envelope: Envelope) -> Finding:
    """By the provider's own check of SPF and DKIM if it told, else by the receiving server's field."""
    domain = address.rpartition("@")[2]
    if envelope.by:
        for found, result in envelope.dkim:
            if result == "pass" and aligned(found, domain):
                return Finding(vouched=True, auth=f"dkim=pass for {found} by {envelope.by}")
        mail_from = (envelope.sender or "").strip("<> ").rpartition("@")[2].lower()
        if envelope.spf == "pass" and mail_from and aligned(mail_from, domain):
            return Finding(vouched=True, auth=f"spf=pass for {mail_from} by {envelope.by}")
        told = [f"spf={envelope.spf}"] if envelope.spf else []
        told += [f"dkim={result}" for _, result in envelope.dkim]
        words = ", ".join(dict.fromkeys(told)) or "nothing"
        return Finding(vouched=False, auth=f"{words} for the domain in From by {envelope.by}")
    headers: Sequence[tuple[str, str]] = [(name, plain(value)) for name, value in message.raw_items()]
    return vouch(headers, address, settings.authserv_id, settings.trusted_hosts)


def _raw(message: Message, text: str, left_out: tuple[str, ...], envelope: Envelope) -> dict[str, Any]:
    """The mail without its files: every header, and the whole text with what it quotes."""
    kept: dict[str, Any] = {
        "headers": [[name, plain(value)] for name, value in message.raw_items()][:200],
        "text": text.replace("\0", "\ufffd"),
    }
    if left_out:
        kept["files_left_out"] = list(left_out)
    if envelope.recipients:
        kept["envelope"] = {"from": envelope.sender, "to": list(envelope.recipients)}
    return kept
