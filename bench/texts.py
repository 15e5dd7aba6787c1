"""The messages of a conversation, the same for every side: words by chance, so that no database can press them to nothing."""

from __future__ import annotations

import random

LENGTH = 200
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def message(number: int) -> str:
    """The message of that number, 200 letters and spaces."""
    chance = random.Random(number)
    words = ("".join(chance.choices(LETTERS, k=chance.randint(2, 9))) for _ in range(LENGTH))
    return " ".join(words)[:LENGTH]
