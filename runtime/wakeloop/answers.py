"""Reading a person's words as the typed answer that a question asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[T]):
    """A person's answer. `text` is what they wrote, `value` what it means, `by` the contact's id, `channel` how it
    came and `at` when."""

    text: str
    value: T
    by: str
    channel: str
    at: datetime


class Unreadable(ValueError):
    """The words do not say what was asked for. `str()` is what to tell the person."""


def read_answer(text: str, kind: Any, options: Sequence[str]) -> Any:
    """The value of a reply: of one of the `options` (by its number or its words), else of type `kind`.

    Raises Unreadable with a reason that a person can act on."""
    words = text.strip()
    if options:
        words = _chosen(words, options)
    if kind is str:
        return words
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_strings(words)
    except ValidationError as error:
        first = error
    try:
        return adapter.validate_json(words)
    except ValidationError:
        reasons = "; ".join(problem["msg"] for problem in first.errors()[:3])
        raise Unreadable(reasons) from first


def _chosen(words: str, options: Sequence[str]) -> str:
    plain = words.rstrip(".!)").strip().casefold()
    for number, option in enumerate(options, start=1):
        if plain in (str(number), option.strip().casefold()):
            return option
    raise Unreadable("please answer with one of: " + numbered(options))


def numbered(options: Sequence[str]) -> str:
    """The options as people see them: "1 yes, 2 no"."""
    return ", ".join(f"{number} {option}" for number, option in enumerate(options, start=1))
