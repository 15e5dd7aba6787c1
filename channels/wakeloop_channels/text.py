"""Text that every encoding, provider and database takes."""

from __future__ import annotations

import re

_ILL_FORMED = re.compile("[\0\ud800-\udfff]")


def well_formed(text: str) -> str:
    """The text with U+FFFD in place of what is no character in UTF-8 (half of a surrogate pair, which JSON can carry) and
    of U+0000, which PostgreSQL does not store."""
    return _ILL_FORMED.sub("\N{REPLACEMENT CHARACTER}", text)
