"""Answers: what a person said to a question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

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
