"""How many SMS a text is sent as: the arithmetic that carriers bill by.

Sources: 3GPP TS 23.038 section 6.2.1 (the GSM 7-bit default alphabet and its extension table), 3GPP TS 23.040 sections
9.2.3.16 and 9.2.3.24.1 (140 octets of user data, 6 of them taken by the header of a concatenated message; a character
is never divided between two parts), and Twilio's "SMS Character Limits" page for the resulting 160/153 and 70/67.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

# Position is the 7-bit code; the escape character itself (0x1B) is no text and is left out.
GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
# Sent as an escape and a second septet.
GSM_EXTENSION = frozenset("\f^{}\\[~]|€")

GSM_SINGLE, GSM_PART = 160, 153
UCS2_SINGLE, UCS2_PART = 70, 67


@dataclass(frozen=True, kw_only=True)
class Segments:
    """encoding: what the text is sent in. count: SMS it takes (0 for no text). units: septets in GSM-7, UTF-16 code
    units in UCS-2, without headers or padding."""

    encoding: Literal["GSM-7", "UCS-2"]
    count: int
    units: int


def segments(text: str) -> Segments:
    """Count the SMS that `text` is sent as when nothing replaces characters on the way.

    One character outside the GSM alphabet puts the whole text into UCS-2. A surrogate pair or an escape sequence is
    not divided between two parts, so a part may be one unit short."""
    if all(character in GSM_BASIC or character in GSM_EXTENSION for character in text):
        widths = [2 if character in GSM_EXTENSION else 1 for character in text]
        return _segments("GSM-7", widths, GSM_SINGLE, GSM_PART)
    widths = [2 if ord(character) > 0xFFFF else 1 for character in text]
    return _segments("UCS-2", widths, UCS2_SINGLE, UCS2_PART)


def _segments(encoding: Literal["GSM-7", "UCS-2"], widths: list[int], single: int, part: int) -> Segments:
    units = sum(widths)
    count = _parts(widths, part) if units > single else min(units, 1)
    return Segments(encoding=encoding, count=count, units=units)


def _parts(widths: Iterable[int], size: int) -> int:
    parts, free = 0, 0
    for width in widths:
        if width > free:
            parts, free = parts + 1, size
        free -= width
    return parts
