"""Attachments that hold their bytes themselves: `data:` URLs (RFC 2397)."""

from __future__ import annotations

import base64
import mimetypes
from urllib.parse import unquote_to_bytes

from wakeloop.errors import PermanentChannelError
from wakeloop.events import Attachment


def held_bytes(attachment: Attachment) -> bytes | None:
    """The bytes in the attachment's own URL; None if that is an address of some other kind.

    Raises PermanentChannelError if it is a `data:` URL that cannot be read."""
    scheme, _, rest = attachment.url.partition(":")
    if scheme.lower() != "data":
        return None
    head, comma, data = rest.partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        found = unquote_to_bytes(data)
        return base64.b64decode(found, validate=True) if head.lower().endswith(";base64") else found
    except ValueError as error:
        raise PermanentChannelError(
            "An attachment's data: URL cannot be read (RFC 2397).", code=None
        ) from error


def file_name(attachment: Attachment, number: int) -> str:
    """What to call the file: its own name without any folder, or one made from its kind."""
    name = (attachment.name or "").replace("\\", "/").rpartition("/")[2].strip()
    return name or f"file-{number}{mimetypes.guess_extension(attachment.content_type) or ''}"
