"""Reading single values in a person's words: numbers, dates, yes or no, one of several choices.

What is written one way only is taken; what could mean two things is refused with the way to write it. Nothing is
guessed: a choice is not taken for the beginning of its words, nor a date for the order of its numbers.
"""

from __future__ import annotations

import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from wakeloop.answers import Unreadable
from wakeloop.verdicts import Verdict, read_verdict

TEXT_LIMIT_CHARACTERS: Final = 100_000
VERDICT_LIMIT_CHARACTERS: Final = 5_000
NUMBER_LIMIT_CHARACTERS: Final = 300
ENTRIES_LIMIT: Final = 1000
DEPTH_LIMIT: Final = 40
NOTHING: Final = frozenset({"-", "–", "—", "none", "null", "n/a"})

_DATE: TypeAdapter[date] = TypeAdapter(date)
_DATETIME: TypeAdapter[datetime] = TypeAdapter(datetime)
_TIME: TypeAdapter[time] = TypeAdapter(time)
_MOMENTS: dict[str, tuple[str, TypeAdapter[Any]]] = {
    "date": (r"\d{4}-\d\d-\d\d", _DATE),
    "time": (r"\d\d:\d\d.*", _TIME),
    "date-time": (r"\d{4}-\d\d-\d\d[Tt _]\d\d:\d\d.*", _DATETIME),
}
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_TRUE = frozenset({"true", "1", "on"})
_FALSE = frozenset({"false", "0", "off"})
_PUNCTUATION = "PZC"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s*(?:[ap]\.?m\.?)?\s*(?:Z|[+-]\d{2}:?\d{2})?"
_DAY_AND_TIME = re.compile(
    rf"(?P<day>.*?)(?:\s*,\s*|\s+|(?<=\d)[T_])(?:at\s+)?(?P<time>{_CLOCK})", re.I | re.A
)
_TWELVE_HOURS = re.compile(r"(\d{1,2})(?::(\d{2}))?\s*([ap])\.?m\.?", re.I | re.A)
_BY_NUMBER = re.compile(r"((?:option|number|choice|nr\.?)\s+|#\s*)?\+?(\d+)\s*[.):]?(.*)", re.I | re.A | re.S)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of the values that may be chosen.

    label: what people see. number: what they may write instead, counted from 1. value: the JSON value. names: other
    words for it, such as an Enum member's name."""

    label: str
    number: int
    value: Any
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.number} {self.label}"


def choices_of(values: Sequence[Any], labels: Sequence[str], names: Sequence[str] = ()) -> tuple[Choice, ...]:
    """The choices, numbered from 1. names: the members' names of an Enum."""
    made = []
    for index, (value, label) in enumerate(zip(values, labels, strict=True)):
        others = [words_of(names[index])] if names else []
        if isinstance(value, int) and not isinstance(value, bool):
            others.append(str(value))
        made.append(Choice(label=label, number=index + 1, value=value, names=tuple(others)))
    return tuple(made)


def listed(choices: Iterable[Choice]) -> str:
    """The choices as people see them: "1 red, 2 green"."""
    return ", ".join(map(str, choices))


def words_of(name: str) -> str:
    """An identifier in words: "ship_it" and "SHIP_IT" are "ship it"; "shipIt" stays as it is."""
    words = " ".join(re.split(r"[_\s]+", name)).strip()
    return (words.lower() if words.isupper() and len(words) > 1 else words) or name


def choose(text: str, choices: Sequence[Choice]) -> Choice:
    """The choice that a text names: by its words, its number, both ("2 green"), or its other names.

    Words are compared without case, then without the punctuation around them, then without accents; each time they
    must be those of one choice alone. A number that is the place of one choice and the words of another is refused.
    Raises Unreadable with the choices."""
    refused = Unreadable("please answer with one of: " + listed(choices))
    counted, rest, is_plain = _counted(text, choices)
    if counted is not None and not (rest or is_plain):
        exact = [one for one in choices if _folded(text) == _folded(one.label)]
        return exact[0] if exact else counted
    for fold in (_folded, _bare, _unaccented):
        words = fold(text)
        found = [one for one in choices if words == fold(one.label)]
        if not found and (counted is None or rest):
            words = fold(text.replace("_", " "))
            found = [one for one in choices if words in map(fold, one.names)]
        if len(found) > 1:
            raise refused
        if found and counted is not None and not rest and counted is not found[0]:
            pair = sorted((counted, found[0]), key=lambda one: one.number)
            ways = " or ".join(f"#{one.number} for {one.label}" for one in pair)
            raise Unreadable(f"{quoted(text)} could be two of them: write {ways}")
        if found:
            return found[0]
    if counted is None or (
        rest and _unaccented(rest) not in map(_unaccented, (counted.label, *counted.names))
    ):
        raise refused
    return counted


def _counted(text: str, choices: Sequence[Choice]) -> tuple[Choice | None, str, bool]:
    """The choice that a text counts, what it says after the number, and whether the number stands there by itself
    ("2", not "#2", which can do nothing but count)."""
    match = _BY_NUMBER.fullmatch(_folded(text).strip("\"'()[] "))
    if match is None or len(match[2]) > 9 or not 1 <= int(match[2]) <= len(choices):
        return None, "", False
    return choices[int(match[2]) - 1], match[3].strip(" .!,;:-"), match[1] is None


def read_integer(text: str) -> int:
    """ "12", "12.", "+5", "１２", "1,200", "1 200" and "1.200.000" are whole numbers; "1.200" could be 1.2 and is none."""
    words = _numeric(text)
    if re.fullmatch(r"[+-]?\d+(\.0{1,2})?", words, re.A):
        return int(words.partition(".")[0])
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}((,\d{3})+|([ '_]\d{3})+|(\.\d{3}){2,})", words, re.A):
        return int(re.sub(r"[,. '_]", "", words))
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", words, re.A):
        raise Unreadable(
            f"{quoted(text)} could be two numbers: write it without a dot, such as {words.replace('.', '')}"
        )
    raise Unreadable(f"{quoted(text)} is no whole number; write one such as 12")


def read_number(text: str, *, exact: bool = False) -> int | float | str:
    """A number; a dot is the decimal point, and a comma is where it can be nothing else: "2,5" is, "2,500" is refused.

    exact: what a float cannot hold is given as text in full, for a Decimal."""
    words = _numeric(text)
    plain = ""
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", words, re.A):
        plain = words
    elif re.fullmatch(r"[+-]?[1-9]\d{0,2}((,\d{3}){2,}|(\.\d{3}){2,}|([ '_]\d{3})+)", words, re.A):
        plain = re.sub(r"[,. '_]", "", words)
    elif re.fullmatch(r"[+-]?[1-9]\d{0,2}([, '_]\d{3})+\.\d+", words, re.A):
        plain = re.sub(r"[, '_]", "", words)
    elif re.fullmatch(r"[+-]?[1-9]\d{0,2}([. '_]\d{3})+,\d+", words, re.A):
        plain = re.sub(r"[. '_]", "", words).replace(",", ".")
    elif re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", words, re.A):
        raise Unreadable(
            f"{quoted(text)} could be two numbers: write it as {words.replace(',', '')} or as {words.replace(',', '.')}"
        )
    elif re.fullmatch(r"[+-]?\d+,\d+", words, re.A):
        plain = words.replace(",", ".")
    else:
        raise Unreadable(f"{quoted(text)} is no number; write one such as 2.5")
    if re.fullmatch(r"[+-]?\d+", plain) and (exact or abs(int(plain)) < 10**NUMBER_LIMIT_CHARACTERS):
        return int(plain)
    number = float(plain)
    if number in (float("inf"), float("-inf")):
        raise Unreadable(f"{quoted(text)} is too large a number")
    return plain if exact and not _fits_float(plain, number) else number


def read_boolean(text: str) -> bool:
    """Yes or no, in the words of `wakeloop.verdicts`, or as true, false, 1, 0, on and off."""
    words = _bare(text)
    if words in _TRUE or words in _FALSE:
        return words in _TRUE
    verdict = read_verdict(text).verdict if len(text) <= VERDICT_LIMIT_CHARACTERS else Verdict.UNCLEAR
    if verdict is Verdict.UNCLEAR:
        raise Unreadable(f"{quoted(text)} is neither yes nor no; please answer yes or no")
    return verdict is Verdict.YES


def read_date(text: str) -> str:
    """A date as ISO 8601: year first, or with the month in (English) words, or in numbers of which only one can be the
    month."""
    words = _plain(text).rstrip(".")
    try:
        if found := re.fullmatch(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})", words, re.A):
            return date(*(int(part) for part in found.group(1, 3, 4))).isoformat()
        if found := re.fullmatch(
            r"(\d{1,2})(?:st|nd|rd|th)?[\s.-]+(?:of\s+)?([a-z]{3,9})\.?[\s,-]+(\d{4})", words, re.I | re.A
        ):
            return date(int(found[3]), _month(found[2]), int(found[1])).isoformat()
        if found := re.fullmatch(
            r"([a-z]{3,9})\.?\s+(\d{1,2})(?:st|nd|rd|th)?[\s,]+(\d{4})", words, re.I | re.A
        ):
            return date(int(found[3]), _month(found[1]), int(found[2])).isoformat()
        if found := re.fullmatch(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})", words, re.A):
            first, second, year = int(found[1]), int(found[3]), int(found[4])
            # Day first or month first: both are customary.
            days = sorted(
                {(year, *pair) for pair in ((first, second), (second, first)) if pair[0] <= 12}, reverse=True
            )
            meant = [date(*day).isoformat() for day in days]
            if len(meant) == 1:
                return meant[0]
            if meant:
                raise Unreadable(f"{quoted(text)} could be two days: write it as {meant[0]} or as {meant[1]}")
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"{quoted(text)} is no day of the calendar; write one such as 2026-11-03") from error
    raise Unreadable(f"{quoted(text)} is no date; write one such as 2026-11-03")


def read_time(text: str) -> str:
    """A time of day as ISO 8601: "14:30", "9:05", "2pm", with an offset or without."""
    words = _plain(text).rstrip(".")
    if found := _TWELVE_HOURS.fullmatch(words):
        hour, minute = int(found[1]), int(found[2] or 0)
        if 1 <= hour <= 12 and minute < 60:
            return time(hour % 12 + (12 if found[3] in "pP" else 0), minute).isoformat()
    elif re.fullmatch(_CLOCK, words, re.I | re.A):
        try:
            return _TIME.validate_python(re.sub(r"^(?=\d:)", "0", words).replace(" ", "")).isoformat()
        except ValidationError:
            pass
    raise Unreadable(f"{quoted(text)} is no time of day; write one such as 14:30")


def read_datetime(text: str) -> str:
    """A date and a time as ISO 8601, with an offset from UTC or without one, as they were written."""
    words = _plain(text)
    if found := _DAY_AND_TIME.fullmatch(words):
        moment = f"{read_date(found['day'])}T{read_time(found['time'])}"
        try:
            return _DATETIME.validate_python(moment).isoformat()
        except ValidationError:
            pass
    raise Unreadable(f"{quoted(text)} is no date and time; write one such as 2026-11-03T14:30")


def is_moment(text: object, kind: str) -> bool:
    """Whether a program's text is a "date", "time" or "date-time" as pydantic reads them; a bare number is none."""
    if not isinstance(text, str):
        return True
    pattern, adapter = _MOMENTS[kind]
    if re.fullmatch(pattern, text, re.A | re.S) is None:
        return False
    try:
        adapter.validate_python(text)
    except ValidationError:
        return False
    return True


def read_json(text: str) -> Any:
    """A JSON value that can be stored. Raises Unreadable; a text that is no JSON at all is refused with the place."""
    try:
        value = json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is no JSON ({error.msg}, line {error.lineno} column {error.colno})") from error
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except ValueError as error:
        raise Unreadable("has a number in it that cannot be stored") from error
    return storable(value)


def storable(value: Any) -> Any:
    """A JSON value, if it can be stored: bounded in size, depth and numbers, and of characters that a database takes.

    Raises Unreadable with what is wrong."""
    size = 0
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        size += 1
        if depth > DEPTH_LIMIT:
            raise Unreadable("is nested too deeply")
        if isinstance(part, str):
            size += len(part)
            if "\x00" in part or any("\ud800" <= letter <= "\udfff" for letter in part):
                raise Unreadable(
                    "has a character in it that cannot be stored; please write it again without it"
                )
        elif isinstance(part, dict):
            waiting += [(one, depth + 1) for pair in part.items() for one in pair]
            if not all(isinstance(key, str) for key in part):
                raise Unreadable("is no JSON: a key is no text")
        elif isinstance(part, list):
            waiting += [(one, depth + 1) for one in part]
        elif isinstance(part, int | float):
            if not (
                math.isfinite(part) if isinstance(part, float) else abs(part) < 10**NUMBER_LIMIT_CHARACTERS
            ):
                raise Unreadable("has a number in it that cannot be stored")
        elif part is not None:
            raise Unreadable(f"is no JSON: it holds a {type(part).__name__}")
        if size > TEXT_LIMIT_CHARACTERS:
            raise Unreadable(f"is too long: at most {TEXT_LIMIT_CHARACTERS:,} characters can be read")
    return value


def quoted(text: str) -> str:
    """A person's words within a sentence, cut short."""
    words = " ".join(text.split())
    return f'"{words[:30]}…"' if len(words) > 31 else f'"{words}"'


def _no_number(name: str) -> Any:
    raise ValueError(name)


def _plain(text: str) -> str:
    """Full-width and other compatible forms as ASCII, dashes and spaces as the plain ones."""
    plain = unicodedata.normalize("NFKC", text).replace("−", "-")
    return " ".join(plain.split())


def _numeric(text: str) -> str:
    words = _plain(text).replace("’", "'").rstrip("!").rstrip()
    words = words[:-1] if re.search(r"\d\.$", words) else words
    if len(words) > NUMBER_LIMIT_CHARACTERS:
        raise Unreadable(f"{quoted(text)} is too long a number")
    return words


def _fits_float(text: str, number: float) -> bool:
    """Whether a decimal number that was read as a float is the same for whoever reads that. Beyond fifteen digits that
    rests on the reader: pydantic's parser of JSON is a unit off in the last one of some."""
    digits = _digits(text)
    return len(digits[0]) <= sys.float_info.dig and digits == _digits(repr(number))


def _digits(number: str) -> tuple[str, int]:
    """What a decimal number is, whatever way it is written: its digits, and the power of ten of the last."""
    mantissa, _, exponent = number.lower().lstrip("+-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    power = int(exponent or 0) - len(fraction)
    return digits.rstrip("0"), power + len(digits) - len(digits.rstrip("0")) if digits else 0


def _month(name: str) -> int:
    wanted = name.lower()
    for number, month in enumerate(_MONTHS, start=1):
        if wanted in (month, month[:3]) or (wanted, number) == ("sept", 9):
            return number
    raise ValueError(name)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _bare(text: str) -> str:
    """Folded, without the punctuation around it (unless there is nothing else)."""
    words = _folded(text)
    start, end = 0, len(words)
    while start < end and unicodedata.category(words[start])[0] in _PUNCTUATION:
        start += 1
    while end > start and unicodedata.category(words[end - 1])[0] in _PUNCTUATION:
        end -= 1
    return words[start:end] or words


def _unaccented(text: str) -> str:
    letters = unicodedata.normalize("NFKD", _bare(text))
    return "".join(letter for letter in letters if not unicodedata.combining(letter)) or letters
