"""Telephone numbers in their one form, E.164."""

from __future__ import annotations

import functools
import re

import phonenumbers
from phonenumbers import PhoneNumberFormat, ValidationResult

NUMBERS_KEPT = 10_000
"""Of so many numbers it is kept in mind how they are written: each message asks several times."""

_NUMBER = re.compile(r"\+?[\d\s().\-/\N{NO-BREAK SPACE}\u2010-\u2015]+")


@functools.lru_cache(maxsize=NUMBERS_KEPT)
def normalize_number(address: str, region: str | None = None, *, channel: str = "sms") -> str:
    """The telephone number in E.164; `region` is the country of numbers that are written without one.

    The length must be possible in its country. Whether the range is in use is not asked: numbering plans change
    faster than libraries, and 555 numbers, made for examples, are in none. Raises ValueError with the reason."""
    text = address.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError("a telephone number has only digits, spaces and +().-/")
    if not text.startswith("+") and region is None:
        raise ValueError(
            "it must begin with + and the country code, as in +15555550100 "
            f"(or set channels.{channel}.default_region)"
        )
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as error:
        raise ValueError(_UNREADABLE.get(error.error_type, "it is no telephone number")) from error
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason != ValidationResult.IS_POSSIBLE:
        raise ValueError(
            f"+{number.country_code} numbers do not look like this: {_REASONS.get(reason, 'invalid')}"
        )
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


_UNREADABLE = {
    phonenumbers.NumberParseException.INVALID_COUNTRY_CODE: "there is no such country code",
    phonenumbers.NumberParseException.TOO_SHORT_AFTER_IDD: "too few digits",
    phonenumbers.NumberParseException.TOO_SHORT_NSN: "too few digits",
    phonenumbers.NumberParseException.TOO_LONG: "too many digits",
}
_REASONS = {
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "the area code is missing",
    ValidationResult.INVALID_COUNTRY_CODE: "there is no such country code",
    ValidationResult.TOO_SHORT: "too few digits",
    ValidationResult.INVALID_LENGTH: "the wrong number of digits",
    ValidationResult.TOO_LONG: "too many digits",
}
