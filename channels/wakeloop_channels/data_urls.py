"""Files that stand in a URL (`data:`, RFC 2397): what they are, and their bytes."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

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
