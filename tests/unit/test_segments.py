"""The arithmetic of SMS segments, against the figures that Twilio and the standards publish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeloop_channels.segments import GSM_BASIC, GSM_EXTENSION, Segments, segments


@pytest.mark.parametrize(
    ("text", "encoding", "count", "units"),
    [
        ("", "GSM-7", 0, 0),
        ("a", "GSM-7", 1, 1),
        ("a" * 160, "GSM-7", 1, 160),
        ("a" * 161, "GSM-7", 2, 161),
        ("a" * 306, "GSM-7", 2, 306),
        ("a" * 307, "GSM-7", 3, 307),
        ("Grüße aus Århus: ¿qué? @£$ ΔΩ\r\n", "GSM-7", 1, 31),
        ("€" * 80, "GSM-7", 1, 160),
        ("€" * 81, "GSM-7", 2, 162),
        ("ж" * 70, "UCS-2", 1, 70),
        ("ж" * 71, "UCS-2", 2, 71),
        ("ж" * 134, "UCS-2", 2, 134),
        ("ж" * 135, "UCS-2", 3, 135),
        ("😀" * 35, "UCS-2", 1, 70),
        ("😀" * 36, "UCS-2", 2, 72),
        ("It’s", "UCS-2", 1, 4),
        ("ç", "UCS-2", 1, 1),
    ],
)
def test_published_limits_are_met_exactly(text: str, encoding: str, count: int, units: int) -> None:
    """160/153 septets and 70/67 UTF-16 code units, the extension table counting twice."""
    counted = segments(text)

    assert (encoding, count, units) == (counted.encoding, counted.count, counted.units)


def test_an_escape_sequence_is_not_divided() -> None:
    """One septet left in a part is no room for the two of a euro sign."""
    fits = segments("a" * 153 + "€" + "a" * 151)
    pushed_over = segments("a" * 152 + "€" + "a" * 152)

    assert Segments(encoding="GSM-7", count=2, units=306) == fits
    assert Segments(encoding="GSM-7", count=3, units=306) == pushed_over


def test_a_surrogate_pair_is_not_divided() -> None:
    """One code unit left in a part is no room for the two of an emoji."""
    fits = segments("ж" * 67 + "😀" + "ж" * 65)
    pushed_over = segments("ж" * 66 + "😀" + "ж" * 66)

    assert Segments(encoding="UCS-2", count=2, units=134) == fits
    assert Segments(encoding="UCS-2", count=3, units=134) == pushed_over


def test_the_alphabet_is_complete() -> None:
    """3GPP TS 23.038: 128 codes less the escape, and ten in the extension table."""
    assert len(GSM_BASIC) == 127
    assert len(GSM_EXTENSION) == 10
    assert not GSM_BASIC & GSM_EXTENSION


@given(st.text(max_size=400))
def test_count_lies_within_what_the_units_allow(text: str) -> None:
    """No text takes fewer parts than its units need, nor more than one wasted unit a part explains."""
    counted = segments(text)
    single, part = (160, 153) if counted.encoding == "GSM-7" else (70, 67)

    if counted.units <= single:
        assert min(counted.units, 1) == counted.count
    else:
        assert -(-counted.units // part) <= counted.count <= -(-counted.units // (part - 1))
