"""The parts of a mail as Python's parser leaves them, read without ever failing: whatever the charset, the encoding or
the nesting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.errors import HeaderParseError, MessageError
from email.header import decode_header
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32

from wakeloop.channel import File
from wakeloop_channels.email_text import MAX_TEXT, text_of

MAX_PARTS = 200
MAX_DEPTH = 20
MAX_HEADER = 10_000
MAX_NAME = 200
# Signatures over a mail say nothing to people.
_SIGNATURES = frozenset(
    {"application/pkcs7-signature", "application/x-pkcs7-signature", "application/pgp-signature"}
)


class Unreadable(ValueError):
    """This is no mail, or one that names no single sender."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """text: what is meant to be read. files: within the limit. left_out: names of those beyond it."""

    text: str
    files: tuple[File, ...]
    left_out: tuple[str, ...]


def parse(raw: bytes) -> Message:
    """The mail in its parts. Raises Unreadable if it has no header, or is nested beyond reason."""
    try:
        message = BytesParser(policy=compat32).parsebytes(raw)
    except (RecursionError, MessageError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unreadable("the mail cannot be taken apart") from error
    if not message.keys():
        raise Unreadable("it has no header")
    return message


def plain(value: object) -> str:
    """A header's value in one line, octets beyond ASCII read as UTF-8 or else as Windows-1252, at most MAX_HEADER of it."""
    text = str(value)[:MAX_HEADER]
    octets = text.encode("utf-8", "surrogateescape")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        text = octets.decode("cp1252", "replace")
    return " ".join(text.replace("\0", "\ufffd").split())


def header(message: Message, name: str) -> str | None:
    """The first field of this name, not decoded; None if there is none."""
    return next((plain(value) for key, value in message.raw_items() if key.lower() == name), None)


def every(message: Message, name: str) -> list[str]:
    """Every field of this name, not decoded."""
    return [plain(value) for key, value in message.raw_items() if key.lower() == name]


def decoded(value: str) -> str:
    """A header's text with its encoded words (RFC 2047) read; as it stands if they are malformed."""
    try:
        pieces = decode_header(value)
    except (HeaderParseError, ValueError):
        return value
    text = "".join(
        piece if isinstance(piece, str) else _text(piece, charset or "ascii") for piece, charset in pieces
    )
    return " ".join(text.replace("\0", "\ufffd").split())


def children(message: Message) -> Iterator[Message]:
    """The parts directly within."""
    payload = message.get_payload()
    if isinstance(payload, list):
        yield from (part for part in payload[:MAX_PARTS] if isinstance(part, Message))


def read_body(message: Message, max_bytes: int) -> Body:
    """Text and files. Of alternatives the plain one is read, unless it is empty; texts one after the other are joined; a
    mail within the mail is a file. Files are taken in their order as long as all together have at most max_bytes."""
    texts: list[str] = []
    found: list[File] = []
    _collect(message, texts, found, depth=0)
    files, left_out, size = [], [], 0
    for file in found:
        if size + len(file.data) > max_bytes:
            left_out.append(file.name)
        else:
            size += len(file.data)
            files.append(file)
    text = "\n\n".join(text.strip("\n") for text in texts if text.strip())
    return Body(text=text[:MAX_TEXT], files=tuple(files), left_out=tuple(left_out))


def _collect(part: Message, texts: list[str], files: list[File], *, depth: int) -> None:
    kind = part.get_content_type()
    if kind in _SIGNATURES or len(files) >= MAX_PARTS or len(texts) >= MAX_PARTS:
        return
    if depth > MAX_DEPTH or kind.startswith("message/"):
        files.append(_file(part, len(files)))
    elif kind == "multipart/alternative":
        _choose(list(children(part)), texts, files, depth=depth + 1)
    elif part.is_multipart():
        for child in children(part):
            _collect(child, texts, files, depth=depth + 1)
    elif kind in ("text/plain", "text/html") and not _attached(part):
        texts.append(content(part))
    else:
        files.append(_file(part, len(files)))


def _choose(parts: list[Message], texts: list[str], files: list[File], *, depth: int) -> None:
    """The first plain text that says anything; else the last that does, being the richest (RFC 2046 section 5.1.4).
    Files in the others, pictures of the rich text among them, are taken, too."""
    read: list[tuple[Message, list[str]]] = []
    for part in parts:
        said: list[str] = []
        _collect(part, said, files, depth=depth)
        if any(text.strip() for text in said):
            read.append((part, said))
    chosen = next((said for part, said in read if part.get_content_type() == "text/plain"), None)
    texts.extend(chosen or (read[-1][1] if read else []))


def content(part: Message) -> str:
    """The text of a part, whatever its charset says; HTML as text."""
    text = _text(_octets(part)[: 10 * MAX_TEXT], str(part.get_param("charset") or "utf-8"))
    return text_of(text) if part.get_content_type() == "text/html" else text


def _text(octets: bytes, charset: str) -> str:
    """In its charset, else as UTF-8, else as Windows-1252, which takes nearly everything."""
    charset = charset.strip("\"' ").lower()
    for candidate in (charset if charset not in ("us-ascii", "ascii") else "utf-8", "utf-8"):
        try:
            return octets.decode(candidate)
        except (UnicodeError, LookupError, ValueError):
            continue
    return octets.decode("cp1252", "replace")


def _octets(part: Message) -> bytes:
    try:
        payload = part.get_payload(decode=True)
    except (ValueError, LookupError, TypeError, AttributeError):
        payload = None
    return payload if isinstance(payload, bytes) else b""


def _attached(part: Message) -> bool:
    return part.get_content_disposition() == "attachment" or part.get_filename() is not None


def _file(part: Message, number: int) -> File:
    kind = part.get_content_type()
    inner = next(children(part), None)
    data = _octets(part)
    if not data and part.is_multipart():
        data = _source(inner if kind == "message/rfc822" and inner is not None else part)
    try:
        name = decoded(plain(part.get_filename() or ""))
    except (ValueError, LookupError, TypeError):
        name = ""
    if not name and inner is not None and kind == "message/rfc822":
        name = decoded(header(inner, "subject") or "") + ".eml"
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]+', "_", name).strip(". ")
    return File(
        name=name[-MAX_NAME:] or f"file-{number + 1}{_ENDINGS.get(kind, '')}", content_type=kind, data=data
    )


def _source(message: Message) -> bytes:
    """A part as it came, or as near as it can be had."""
    try:
        return message.as_bytes(unixfrom=False)
    except (UnicodeError, LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return str(message.get_payload()).encode("utf-8", "replace")


_ENDINGS = {
    "application/pdf": ".pdf",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "message/rfc822": ".eml",
    "text/calendar": ".ics",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/plain": ".txt",
}
