"""Files that stand in a URL (`data:`, RFC 2397): what they are, and their bytes."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from urllib.parse import unquote_to_bytes

from wakeloop.errors import PermanentChannelError
from wakeloop.events import Attachment

DEFAULT_TYPE = "text/plain;charset=US-ASCII"


def is_data_url(url: str) -> bool:
    """Whether the bytes stand in the URL itself."""
    return url[:5].lower() == "data:"


def read_data_url(url: str) -> tuple[str, bytes]:
    """The media type and the bytes. Raises ValueError with the reason, which has nothing of the URL in it."""
    head, comma, text = url[5:].partition(",")
    if not is_data_url(url) or not comma:
        raise ValueError("it is no data: URL, which has a comma before the data")
    content_type, separator, last = head.rpartition(";")
    if not separator or last.strip().lower() != "base64":
        return head or DEFAULT_TYPE, unquote_to_bytes(text)
    try:
        return content_type or DEFAULT_TYPE, base64.b64decode(unquote_to_bytes(text), validate=True)
    except binascii.Error as error:
        raise ValueError("its data is no base64") from error


def held_bytes(attachment: Attachment) -> bytes | None:
    """The bytes in the attachment's own URL; None if that is an address of some other kind.

    Raises PermanentChannelError if it is a `data:` URL that cannot be read."""
    if not is_data_url(attachment.url):
        return None
    try:
        return read_data_url(attachment.url)[1]
    except ValueError as error:
        raise PermanentChannelError(
            f"An attachment cannot be read (RFC 2397): {error}.", code=None
        ) from error


def file_name(attachment: Attachment, number: int) -> str:
    """What to call the file: its own name without any folder, or one made from its kind."""
    name = " ".join((attachment.name or "").split()).replace("\\", "/").rpartition("/")[2].lstrip(".").strip()
    return name or f"file-{number}{mimetypes.guess_extension(attachment.content_type) or ''}"
