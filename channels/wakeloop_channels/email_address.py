"""Addresses of mail, the ids of our messages, and what in a reply names the message or the request that it answers.

A reply can name ours in three ways, from the surest to the weakest: by the signed tag of the address it went to
(`agents+TAG@example.com`), by the Message-ID in In-Reply-To and References, and by a token of the runtime that rides in
References, where a program that answers copies it along. The token itself is too long for an address: it has over 90
octets of which case matters, and all before the `@` may have 64 (RFC 5321 section 4.5.3.1.1). So the tag holds the key
of the delivery instead, which is all that a Message-ID is made of.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from uuid import UUID

import idna

MAX_LOCAL_OCTETS = 64
MAX_DOMAIN_OCTETS = 253
MAX_BASE_OCTETS = 20
"""Octets before the `@` of an address that can be tagged with the key of a delivery, a UUID."""
MAC_OCTETS = 10

# dot-atom of RFC 5322 section 3.2.3, with the characters beyond ASCII that RFC 6531 adds.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a0-\U0010ffff]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?")
_MAILBOX = re.compile(r'\s*(?:"(?P<quoted>[^"\\<>]*)"|(?P<name>[^"\\<>]*?))\s*<(?P<address>[^<>]*)>\s*')
_KEY = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_ID = re.compile(r"<([^<>@\s]+)@([^<>@\s]+)>")
_IDS = re.compile(r"<[^<>\s]{1,900}>")
_TOKEN_ID = re.compile(r"t\.([A-Za-z0-9_\-]+)")
_TAG = re.compile(r"([ku])([a-z2-7]+)")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a message says of what it answers: `reply_to` is the Message-ID of ours, token one of the runtime."""

    reply_to: str | None = None
    token: str | None = None


def normalize_address(address: str) -> str:
    """The address in one canonical form: lower-case throughout, its domain in ASCII (IDNA 2008), what is before the `@`
    in Unicode's NFC. By RFC 5321 the case before the `@` could matter; no provider of note lets it, and people type
    theirs either way. Raises ValueError with the reason if it is no address."""
    text = unicodedata.normalize("NFC", address.strip())
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise ValueError("an address has the form name@example.com")
    if any(unicodedata.category(character)[0] in "CZ" for character in text):
        raise ValueError("it must be the address alone, without spaces or control characters")
    if not _LOCAL.fullmatch(local):
        raise ValueError("before the @ there are characters that have no place there, or dots too many")
    local = unicodedata.normalize("NFC", local.lower())
    if len(local.encode()) > MAX_LOCAL_OCTETS:
        raise ValueError(f"before the @ there are more than {MAX_LOCAL_OCTETS} octets")
    return f"{local}@{_domain(domain)}"


def _domain(domain: str) -> str:
    if domain.startswith("["):
        raise ValueError("behind the @ there must be a domain, not a number in brackets")
    try:
        found = domain.lower() if domain.isascii() else idna.encode(domain, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"{domain!r} is no domain: {error}") from None
    if len(found) > MAX_DOMAIN_OCTETS or not all(_LABEL.fullmatch(label) for label in found.split(".")):
        raise ValueError(f"{domain!r} is no domain")
    return found


def split_mailbox(text: str) -> tuple[str, str]:
    """A display name ("" if there is none) and the normalized address, of `Name <name@example.com>` or the address alone.

    Raises ValueError with the reason."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("control characters have no place in an address")
    match = _MAILBOX.fullmatch(text)
    if match is None:
        return "", normalize_address(text)
    return (match["quoted"] or match["name"] or "").strip(), normalize_address(match["address"])


# ---------------------------------------------------------------------- ids


def message_id(key: str, domain: str) -> str:
    """The Message-ID of the delivery with this key: the same whenever it is sent again."""
    left = key if _KEY.fullmatch(key) else "k." + _base64(key.encode())
    return f"<{left}@{domain}>"


def token_id(token: str, domain: str) -> str:
    """An id for References that carries a token of the runtime."""
    return f"<t.{_base64(token.encode())}@{domain}>"


def ids_in(header: str | None) -> tuple[str, ...]:
    """The message ids in a header such as References, in its order, without what is none. Some programs encode ids that
    are longer than a line as if they were words (RFC 2047)."""
    text = header or ""
    if "=?" in text:
        try:
            text = str(make_header(decode_header(text)))
        except (LookupError, ValueError, MessageError):
            pass
    return tuple(_IDS.findall(text))


# ---------------------------------------------------------------------- the tag


def tagged(address: str, key: str, secret: str) -> str:
    """`address` with a tag that names the delivery with this key, signed with the secret; the address as it is if that
    would be too long. The tag has only small letters and digits: case may be lost on the way."""
    local, _, domain = address.rpartition("@")
    kind, octets = _packed(key)
    tag = kind + _base32(octets + _mac(octets, address, secret))
    made = f"{local}+{tag}"
    return address if len(made.encode()) > MAX_LOCAL_OCTETS else f"{made}@{domain}"


def key_of(recipient: str, address: str, secrets: Iterable[str]) -> str | None:
    """The key in the tag of an address that a message went to, if it is `address` with a tag that one of these secrets
    signed."""
    local, _, domain = address.rpartition("@")
    given, _, given_domain = recipient.strip().lower().rpartition("@")
    if given_domain != domain or not given.startswith(f"{local}+"):
        return None
    match = _TAG.fullmatch(given.removeprefix(f"{local}+"))
    if match is None:
        return None
    try:
        octets = base64.b32decode(match[2].upper() + "=" * (-len(match[2]) % 8))
    except binascii.Error:
        return None
    packed, mac = octets[:-MAC_OCTETS], octets[-MAC_OCTETS:]
    valid = [hmac.compare_digest(mac, _mac(packed, address, secret)) for secret in secrets]
    if not packed or not any(valid):
        return None
    try:
        return str(UUID(bytes=packed)) if match[1] == "u" else packed.decode()
    except ValueError:
        return None


def named(
    *,
    recipients: Iterable[str],
    in_reply_to: str | None,
    references: str | None,
    address: str,
    secrets: Sequence[str],
    domain: str,
) -> Named:
    """What a message names by whom it went to (every recipient's address, also Delivered-To and the envelope's) and by
    its headers In-Reply-To and References. address, secrets: those that our replies go to, and are signed with; domain:
    of our Message-IDs.

    Without a tag, reply_to is the last of In-Reply-To; without that, the last in References, ours before others."""
    token = None
    ids = []
    for one in (*ids_in(references), *ids_in(in_reply_to)):
        found = _token_of(one, domain)
        token = found or token
        if found is None:
            ids.append(one)
    keys = (key_of(recipient, address, secrets) for recipient in recipients)
    key = next((key for key in keys if key is not None), None)
    if key is not None:
        return Named(reply_to=message_id(key, domain), token=token)
    answered = [one for one in ids_in(in_reply_to) if one in ids]
    ours = [one for one in ids if one.lower().endswith(f"@{domain}>")]
    return Named(reply_to=next((found[-1] for found in (answered, ours, ids) if found), None), token=token)


def _token_of(id: str, domain: str) -> str | None:
    match = _ID.fullmatch(id)
    held = _TOKEN_ID.fullmatch(match[1]) if match is not None and match[2].lower() == domain else None
    if held is None:
        return None
    try:
        return base64.urlsafe_b64decode(held[1] + "=" * (-len(held[1]) % 4)).decode()
    except ValueError:
        return None


def _packed(key: str) -> tuple[str, bytes]:
    """The key in few octets, and how: "u" for a UUID, "k" for any other text."""
    try:
        id = UUID(key)
    except ValueError:
        return "k", key.encode()
    return ("u", id.bytes) if str(id) == key else ("k", key.encode())


def _mac(octets: bytes, address: str, secret: str) -> bytes:
    told = b"wakeloop reply address\0" + address.encode() + b"\0" + octets
    return hmac.digest(secret.encode(), told, hashlib.sha256)[:MAC_OCTETS]


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode().rstrip("=").lower()


def _base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")
