"""Reading a person's words as one part of a form: by its shape, or line by line as the fields of an object."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final

from wakeloop.answers import Unreadable
from wakeloop.forms.reasons import misfits, told
from wakeloop.forms.schema import Shape, describe_shape
from wakeloop.forms.text import (
    ENTRIES_LIMIT,
    NOTHING,
    choose,
    quoted,
    read_boolean,
    read_date,
    read_datetime,
    read_integer,
    read_json,
    read_number,
    read_time,
    words_of,
)

NESTING_LIMIT: Final = 3
# What the one field of a form that is not an object is called on a page.
ANSWER_FIELD: Final = "answer"
MISSING: Final = inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A part of the value that is asked for by itself: where it is, its shape, and what it is when left out."""

    path: tuple[str, ...]
    label: str
    shape: Shape
    required: bool
    default: Any = MISSING

    @property
    def description(self) -> str:
        """What is said of the field itself; not the docstring of its class."""
        said = self.shape.source.get("description") if isinstance(self.shape.source, Mapping) else None
        return said.strip() if isinstance(said, str) else ""

    @property
    def name(self) -> str:
        return ".".join(self.path) or ANSWER_FIELD


def checked(value: Any, shape: Shape) -> Any:
    """The value, if it fits its schema. Raises Unreadable with three reasons at most."""
    if found := misfits(value, shape):
        raise Unreadable(told(found))
    return value


def read_shape(words: str, shape: Shape) -> Any:
    """The value of one part of a form, in words; see `read_text`."""
    if shape.nullable and words.casefold() in NOTHING:
        return None
    if shape.kind == "choice":
        return checked(choose(words, shape.choices).value, shape)
    if shape.kind == "union":
        return _read_union(words, shape)
    if not words and shape.kind != "text":
        raise Unreadable(f"is missing; please write {describe_shape(shape)}")
    if (read := _READERS.get(shape.kind)) is not None:
        return checked(read(words), shape)
    if shape.kind == "number":
        return checked(read_number(words, exact=shape.exact), shape)
    if shape.kind == "array":
        return checked(read_entries(words, shape), shape)
    if shape.kind == "object" and not words.startswith("{") and (leaves := inner_leaves(shape)):
        return checked(
            assembled({leaf.path: value for leaf, value in read_lines(words, leaves)}, leaves), shape
        )
    if shape.kind in ("text", "any"):
        return checked(words, shape)
    if shape.kind == "null":
        raise Unreadable('please write "-" for none')
    return checked(_json(words), shape)


def read_entries(words: str, shape: Shape, *, lines_only: bool = False) -> list[Any]:
    """The entries of a list, each read by itself. `lines_only`: commas are a part of the entries."""
    if words.startswith("["):
        try:
            if isinstance(found := read_json(words), list):
                return found
        except Unreadable:
            pass  # A list of texts may begin with a bracket.
    if words.casefold() in ("-", "–", "—", "none"):
        return []
    between = "\n" if lines_only or "\n" in words else ";" if ";" in words else ","
    entries = [entry.strip() for entry in words.split(between) if entry.strip()]
    if len(entries) > ENTRIES_LIMIT:
        raise Unreadable(f"has too many entries: at most {ENTRIES_LIMIT:,} can be read")
    first = shape.schema.get("prefixItems")
    shapes = [shape.part(one) for one in first] if isinstance(first, list) else []
    others = shape.part(shape.schema.get("items", True))
    shapes += [others] * (len(entries) - len(shapes))
    if any(one.kind in ("array", "object", "json") for one, _ in zip(shapes, entries, strict=False)):
        raise Unreadable('write the list as JSON, such as [{"a": 1}]')
    found = []
    for index, entry in enumerate(entries):
        try:
            found.append(read_shape(entry, shapes[index]))
        except Unreadable as reason:
            raise Unreadable(f"entry {index + 1}: {reason}") from reason
    return found


def read_lines(words: str, leaves: Sequence[Leaf]) -> Iterator[tuple[Leaf, Any]]:
    """Fields and values from lines "field: value"; MISSING for one that is left out. Raises Unreadable for any other."""
    for line in filter(str.strip, words.splitlines()):
        if (found := field_line(line, leaves)) is None:
            names = ", ".join(leaf.name for leaf in leaves)
            raise Unreadable(f'{quoted(line)} is no line "field: value"; the fields are {names}')
        yield found[0], read_leaf(found[1], found[0])


def field_line(line: str, leaves: Sequence[Leaf]) -> tuple[Leaf, str] | None:
    """The field that a line "field: value" (or "field = value") names, and its value in words."""
    if (sign := re.search("[:=]", line)) is None or not (wanted := _key(line[: sign.start()])):
        return None
    found = [leaf for leaf in leaves if wanted == _key(leaf.name)] or [
        leaf for leaf in leaves if wanted == _key(leaf.label)
    ]
    return (found[0], line[sign.end() :].strip()) if len(found) == 1 else None


def read_leaf(words: str, leaf: Leaf) -> Any:
    """The value of a field, or MISSING if it is left out with "-". Raises Unreadable with the field in front."""
    if not leaf.required and words in ("-", "–", "—"):
        return MISSING
    try:
        return read_shape(words, leaf.shape)
    except Unreadable as reason:
        raise Unreadable(f"{leaf.name}: {reason}") from reason


def assembled(
    values: Mapping[tuple[str, ...], Any],
    leaves: Sequence[Leaf],
    *,
    shown: Any = MISSING,
    kept: Collection[tuple[str, ...]] = (),
) -> Any:
    """The object of these fields. What is MISSING is left out; the objects in between are there in any case.

    shown: an object to start from, whose `kept` parts stay as they are."""
    whole: dict[str, Any] = deepcopy(shown) if isinstance(shown, dict) else {}
    for leaf in leaves:
        if leaf.path in kept:
            continue
        inner = whole
        for key in leaf.path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        if (value := values.get(leaf.path, MISSING)) is not MISSING:
            inner[leaf.path[-1]] = value
        else:
            inner.pop(leaf.path[-1], None)
    return whole


def humanised(name: str) -> str:
    """A field's name as a label: "street_name" is "Street name"."""
    words = words_of(name)
    return words[:1].upper() + words[1:]


_READERS: Mapping[str, Any] = {
    "integer": read_integer,
    "boolean": read_boolean,
    "date": read_date,
    "date-time": read_datetime,
    "time": read_time,
}


def _json(words: str) -> Any:
    try:
        return read_json(words)
    except Unreadable as reason:
        raise Unreadable(f"the text {reason}; write JSON") from reason


def _read_union(words: str, shape: Shape) -> Any:
    reasons = []
    for part in shape.parts:
        try:
            return checked(read_shape(words, part), shape)
        except Unreadable as reason:
            reasons.append(reason)
    if len(reasons) == 1:
        raise reasons[0]
    raise Unreadable(f"{quoted(words)} is not {describe_shape(shape)}")


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def inner_leaves(shape: Shape) -> tuple[Leaf, ...]:
    """The parts of an object that are asked for by themselves; empty if it must be written as JSON as a whole."""
    found = tuple(_leaves(Leaf(path=(), label="", shape=replace(shape, nullable=False), required=True)))
    return found if found[0].path else ()


def _leaves(leaf: Leaf) -> Iterator[Leaf]:
    """The parts of an object that are asked for by themselves, or the whole if it must be written as JSON."""
    shape, schema = leaf.shape, leaf.shape.schema
    properties = schema.get("properties")
    if (
        shape.kind != "object"
        or shape.nullable
        or not leaf.required
        or len(leaf.path) >= NESTING_LIMIT
        or not isinstance(properties, Mapping)
        or not properties
        or schema.get("additionalProperties") not in (None, False)
        or not all(isinstance(name, str) and name.strip() and "." not in name for name in properties)
    ):
        yield leaf
        return
    listed_as_required = schema.get("required")
    required = listed_as_required if isinstance(listed_as_required, list) else []
    for name, source in properties.items():
        part = shape.part(source)
        # The title of a model or an Enum is its class's name; only what is said of the field itself is a label.
        title = source.get("title") if isinstance(source, Mapping) else None
        own = title if isinstance(title, str) and title.strip() else humanised(name)
        label = f"{leaf.label}, {own[:1].lower()}{own[1:]}" if leaf.path else own
        inner = Leaf(
            path=(*leaf.path, name),
            label=label,
            shape=part,
            required=name in required,
            default=part.schema.get("default", MISSING),
        )
        yield from _leaves(inner)
