"""Calls as people read them and as digests name them: the arguments are JSON, whoever wrote them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from wakeloop.errors import NotSerializable

DIGEST_PREFIX = "sha256:"


def digest(action: str, arguments: Mapping[str, Any]) -> str:
    """The name of exactly this call: `sha256:` and the hash of `{"action": …, "args": …}` in one canonical form.

    Equal for equal JSON values, whatever the order of their names; 1 and 1.0 are the same number, 1 and true are not.
    The form is RFC 8785's (no spaces, names sorted by their UTF-16 units, UTF-8), but for numbers: a whole number is
    written with all its digits, where RFC 8785 rounds to a double: two large numbers never share a digest.
    Raises NotSerializable for what JSON does not have: NaN, tuples, names that are no text, half a surrogate pair.
    """
    text = canonical({"action": action, "args": dict(arguments)})
    return f"{DIGEST_PREFIX}{hashlib.sha256(text.encode()).hexdigest()}"


def canonical(value: Any, *, ordered: bool = True) -> str:
    """Without `ordered`, lists of the same parts in any order are the same."""
    try:
        return _written(value, ordered)
    except RecursionError as error:
        raise _not_json(value, "is nested too deeply") from error


def _written(value: Any, ordered: bool) -> str:
    kind = type(value)
    if value is None or kind is bool:
        return json.dumps(value)
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _not_json(value, "holds half a surrogate pair") from error
        return json.dumps(value, ensure_ascii=False)
    if kind is int or (kind is float and math.isfinite(value)):
        return _number(value)
    if kind is list:
        parts = [_written(part, ordered) for part in value]
        return f"[{','.join(parts if ordered else sorted(parts))}]"
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise _not_json(key, "is no name that JSON can have")
            _written(key, ordered)
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        pairs = (f"{_written(name, ordered)}:{_written(value[name], ordered)}" for name in names)
        return f"{{{','.join(pairs)}}}"
    raise _not_json(value, "is no number of JSON" if kind is float else "is no value of JSON")


def _number(value: float) -> str:
    """A number as ECMAScript writes it (RFC 8785, 3.2.2.3), but a whole one with all its digits."""
    if isinstance(value, int) or value.is_integer():
        try:
            return str(int(value))
        except ValueError as error:
            raise _not_json(value, "has too many digits") from error
    if abs(value) >= 1e-6:
        return format(Decimal(repr(value)), "f")
    return repr(value).replace("e-0", "e-")


def _not_json(value: Any, what: str) -> NotSerializable:
    name = type_name(value)
    return NotSerializable(f"a {name} {what}", where="the arguments", type_name=name)


def type_name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# ---------------------------------------------------------------------- what people see

_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_JOINERS = "\u200c\u200d"
NAME_CHARACTERS = 60
NESTING_SHOWN = 20


def shown(arguments: Mapping[str, Any], *, limit: int = 200) -> list[tuple[str, str, bool]]:
    """Every argument as a person reads it: its name, its value, and whether that was shortened.

    Whoever wrote a value (a model, as a rule) decides about nothing but that value: text is in quotes, or, if it has
    several lines, each of them starts with `|`; what is invisible or turns the direction of writing is shown as �.
    `limit`: characters of a value; of a longer one the middle is left out (`…`), of lists and objects the end.
    """
    return [(label(name), *_value(value, max(limit, 3))) for name, value in arguments.items()]


def summary(action: str, arguments: Mapping[str, Any], *, limit: int = 1000) -> str:
    """A call as plain text, as for an SMS: the action, then the arguments one below the other, indented.

    At most `limit` characters: values are shortened first, then the last arguments left out, and their number told."""
    head = _cut(_clean(action), NAME_CHARACTERS * 2)
    parts: list[str] = []
    for each in (200, 100, 50, 25):
        parts = [_entry(name, text) for name, text, _ in shown(arguments, limit=each)]
        if len("\n".join([head, *parts])) <= limit:
            return "\n".join([head, *parts])
    for kept in range(len(parts) - 1, -1, -1):
        text = "\n".join([head, *parts[:kept], f"  … and {len(parts) - kept} more that are not shown"])
        if len(text) <= limit:
            return text
    return _cut(head, limit)


def _entry(name: str, text: str) -> str:
    if text.startswith("|"):
        return "\n    ".join([f"  {name}:", *text.split("\n")])
    return f"  {name}: {text}"


def _value(value: Any, limit: int) -> tuple[str, bool]:
    if isinstance(value, str):
        kept = _cut(value, limit)
        lines = _LINE_BREAK.split(kept)
        if len(lines) == 1:
            return _quoted(kept), kept != value
        most = max(3, limit // 16)
        if shortened := len(lines) > most:
            lines = [*lines[: most - most // 3 - 1], "…", *lines[len(lines) - most // 3 :]]
        return "\n".join(f"| {_clean(line)}".rstrip() for line in lines), shortened or kept != value
    text = _inline(value, None)
    if len(text) <= limit:
        return text, False
    text = _inline(value, max(12, limit // 8))
    return (text if len(text) <= limit else text[: limit - 1] + "…"), True


def _inline(value: Any, longest: int | None, depth: int = 0) -> str:
    """A value in one line; `longest`: characters that are kept of each text in it."""
    if depth > NESTING_SHOWN:
        return "…"
    if isinstance(value, Mapping):
        parts = (f"{label(key)}: {_inline(part, longest, depth + 1)}" for key, part in value.items())
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_inline(part, longest, depth + 1) for part in value)}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        try:
            return _number(value) if isinstance(value, int) or math.isfinite(value) else str(value)
        except NotSerializable:
            return f"{int(value):#x}"
    text = str(value)
    return _quoted(text if longest is None else _cut(text, longest))


def _quoted(text: str) -> str:
    """Text in quotes that it cannot close itself."""
    quote = '"' if "'" in text and '"' not in text else "'"
    lines = [_clean(line) for line in _LINE_BREAK.split(text)]
    escaped = (line.replace("\\", "\\\\").replace(quote, f"\\{quote}") for line in lines)
    return quote + "\\n".join(escaped) + quote


def label(name: Any) -> str:
    """An argument's name: bare if it is one that Python could have, else in quotes."""
    text = str(name)
    bare = text.isidentifier() and len(text) <= NAME_CHARACTERS and _clean(text) == text
    return text if bare else _quoted(_cut(text, NAME_CHARACTERS))


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = max(0, limit - 1) // 3
    return text[: max(0, limit - 1 - tail)] + "…" + text[len(text) - tail :]


def _clean(text: str) -> str:
    """One line of text without what steers a screen, and without blanks that push the rest of it out of sight."""
    characters = []
    for place, character in enumerate(text):
        category = unicodedata.category(character)
        if category == "Zs" or character == "\t":
            characters.append(" ")
        elif character in _JOINERS and _is_joining(text[place - 1 : place] + text[place + 1 : place + 2]):
            characters.append(character)
        elif category in _HIDDEN or character in _BLANK:
            characters.append("\N{REPLACEMENT CHARACTER}")
        else:
            characters.append(character)
    return re.sub(r"(?<=\S) {13,}", lambda found: f" [{len(found[0])} spaces] ", "".join(characters))


def _is_joining(neighbours: str) -> bool:
    # Emoji, Persian and the scripts of India need joiners; between ASCII letters they only hide a difference.
    return len(neighbours) == 2 and not any(one.isascii() or one in _JOINERS for one in neighbours)
