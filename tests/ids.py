"""Names of test cases that are the same in every process: no addresses of memory, and sets in one order."""

from __future__ import annotations

import re
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def stable(value: Any) -> str:
    """The value in words."""
    text = ", ".join(sorted(map(str, value))) if isinstance(value, set | frozenset) else str(value)
    return _ADDRESS.sub("", text)
