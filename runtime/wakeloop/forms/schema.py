"""What a JSON Schema (2020-12) asks for: the shapes of values, and their description in words for people.

No schema makes this fail: what is not understood is a shape of kind "json". Nothing is ever fetched for a `$ref`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from wakeloop.forms.text import Choice, choices_of, listed, words_of

# Names of an Enum's members, beside its `enum`; the keyword that OpenAPI generators use.
NAMES_KEYWORD: Final = "x-enum-varnames"
_HOPS_LIMIT = 30
_UNION_DEPTH_LIMIT = 4
_SCALARS = frozenset({"choice", "integer", "number", "boolean", "date-time", "date", "time", "text"})
# A text is read as the first of these that it fits, in a union.
_PRECEDENCE = (
    "choice",
    "integer",
    "number",
    "date-time",
    "date",
    "time",
    "boolean",
    "array",
    "object",
    "json",
    "text",
    "any",
)
MOMENTS = {
    "date": "a date such as 2026-11-03",
    "time": "a time such as 14:30",
    "date-time": "a date and time such as 2026-11-03T14:30",
}
FORMATS = {
    **MOMENTS,
    "email": "an email address",
    "idn-email": "an email address",
    "uri": "a web address",
    "uuid": "a UUID",
    "duration": "a length of time such as PT1H30M",
    "ipv4": "an IP address",
    "ipv6": "an IP address",
}
TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object with fields",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a part of a schema asks for.

    kind: text, integer, number, boolean, date, date-time, time, choice, array, object, union, any, or json for what is
    told by JSON only. schema: its keywords, with references followed. source: the schema as it stands, to check
    against. nullable: null will do too. choices: of a choice. parts: the shapes of a union. exact: a Decimal."""

    kind: str
    schema: Mapping[str, Any]
    source: Any
    nullable: bool = False
    choices: tuple[Choice, ...] = ()
    parts: tuple[Shape, ...] = ()
    exact: bool = False
    root: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_scalar(self) -> bool:
        return self.kind in _SCALARS or (self.kind == "union" and all(part.is_scalar for part in self.parts))

    def part(self, source: Any) -> Shape:
        """The shape of a schema within this one's."""
        return shape_of(source, self.root)


def shape_of(source: Any, root: Mapping[str, Any], depth: int = 0) -> Shape:
    """The shape of a schema, or of a part of the schema `root`."""
    return replace(_shape(source, root, depth), root=root)


def _shape(source: Any, root: Mapping[str, Any], depth: int) -> Shape:
    node = followed(source, root)
    if node is None:
        return Shape(kind="json", schema={}, source=source)
    types = node.get("type")
    kinds = [types] if isinstance(types, str) else types
    if kinds is None and "enum" not in node and "const" not in node and (union := _alternatives(node)):
        if depth >= _UNION_DEPTH_LIMIT:
            return Shape(kind="json", schema=node, source=source)
        return _union(node, source, [shape_of(part, root, depth + 1) for part in union])
    if isinstance(kinds, list) and len(kinds) > 1 and "enum" not in node:
        return _union(node, source, [shape_of({**node, "type": one}, root, depth + 1) for one in kinds])
    if "const" in node or isinstance(node.get("enum"), list):
        return _choice(node, source)
    kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
    if kind is None:
        kind = next((word for key, word in _TELLING.items() if key in node), None)
        if kind is None:
            return Shape(kind="any" if not _constraints(node) else "json", schema=node, source=source)
    if kind == "string":
        format = node.get("format")
        return Shape(
            kind=format if isinstance(format, str) and format in MOMENTS else "text",
            schema=node,
            source=source,
        )
    if kind == "null":
        return Shape(kind="null", schema=node, source=source, nullable=True)
    known = kind in ("integer", "number", "boolean", "array", "object")
    return Shape(kind=str(kind) if known else "json", schema=node, source=source)


_TELLING = {"properties": "object", "items": "array", "prefixItems": "array"}
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$defs", "$schema", "$id", "$comment", "deprecated"}
)


def _constraints(node: Mapping[str, Any]) -> set[str]:
    return {key for key in node if key not in _ANNOTATIONS and not key.startswith("x-")}


def followed(source: Any, root: Mapping[str, Any]) -> dict[str, Any] | None:
    """A schema with its reference (or lone `allOf`) replaced by what it names; None if that leads nowhere."""
    node = {} if source is True else source
    for _ in range(_HOPS_LIMIT):
        if not isinstance(node, Mapping):
            return None
        beside = {key: value for key, value in node.items() if key not in ("$ref", "allOf")}
        if "$ref" in node:
            target = _pointed(node["$ref"], root)
            if not isinstance(target, Mapping):
                return None
            node = {**target, **beside, **({"allOf": node["allOf"]} if "allOf" in node else {})}
            if "$defs" in node and "$defs" not in beside:
                node = {key: value for key, value in node.items() if key != "$defs"}
        elif (
            isinstance(node.get("allOf"), list)
            and len(node["allOf"]) == 1
            and isinstance(node["allOf"][0], Mapping)
        ):
            node = {**node["allOf"][0], **beside}
        else:
            return dict(node)
    return None


def _pointed(reference: Any, root: Any) -> Any:
    """What a reference within the schema points to (RFC 6901); None if it points elsewhere or nowhere."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(root, Mapping) and key in root:
            root = root[key]
        elif isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        else:
            return None
    return root


def _alternatives(node: Mapping[str, Any]) -> list[Any] | None:
    if any(key in node for key in _TELLING):
        return None
    found = node.get("anyOf", node.get("oneOf"))
    return found if isinstance(found, list) and found else None


def _union(node: Mapping[str, Any], source: Any, parts: list[Shape]) -> Shape:
    nullable = any(part.nullable for part in parts)
    others = [part for part in parts if part.kind != "null"]
    beside = {key: value for key, value in node.items() if key in _ANNOTATIONS}
    if not others:
        return Shape(kind="null", schema=node, source=source, nullable=True)
    if len(others) == 1:
        return replace(others[0], schema={**others[0].schema, **beside}, source=source, nullable=nullable)
    if node.get("format") == "decimal" and any(part.kind == "number" for part in others):
        number = next(part for part in others if part.kind == "number")
        return replace(
            number, schema={**number.schema, **beside}, source=source, nullable=nullable, exact=True
        )
    ordered = sorted(others, key=lambda part: _PRECEDENCE.index(part.kind) if part.kind in _PRECEDENCE else 7)
    return Shape(kind="union", schema=beside, source=source, nullable=nullable, parts=tuple(ordered))


def _choice(node: Mapping[str, Any], source: Any) -> Shape:
    values: list[Any] = [node["const"]] if "const" in node else list(node["enum"])
    names = node.get(NAMES_KEYWORD)
    if not (
        isinstance(names, list) and len(names) == len(values) and all(isinstance(name, str) for name in names)
    ):
        names = [""] * len(values)
    pairs = [(value, name) for value, name in zip(values, names, strict=True) if value is not None]
    nullable = len(pairs) < len(values)
    if not pairs and nullable:
        return Shape(kind="null", schema=node, source=source, nullable=True)
    if not pairs or not all(isinstance(value, str | int | float) for value, _ in pairs):
        return Shape(kind="json", schema=node, source=source, nullable=nullable)
    if len(pairs) == 2 and all(isinstance(value, bool) for value, _ in pairs):
        return Shape(kind="boolean", schema=node, source=source, nullable=nullable)
    labels = [_label(value, name) for value, name in pairs]
    found = choices_of(
        [value for value, _ in pairs], labels, [name for _, name in pairs] if any(names) else ()
    )
    return Shape(kind="choice", schema=node, source=source, nullable=nullable, choices=found)


def _label(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value or words_of(name) or '""'
    if isinstance(value, bool):
        return "yes" if value else "no"
    return words_of(name) if name else json.dumps(value)


# ---------------------------------------------------------------------- in words


def describe_shape(shape: Shape) -> str:
    """What is asked for, in a few words: "a whole number, at least 1"."""
    said = _described(shape)
    return f"{said}, or - for none" if shape.nullable and shape.kind != "null" else said


def _described(shape: Shape) -> str:
    schema = shape.schema
    if shape.kind == "choice":
        return f"one of: {listed(shape.choices)}"
    if shape.kind == "boolean":
        return "yes or no"
    if shape.kind == "null":
        return "- for none"
    if shape.kind in MOMENTS:
        return MOMENTS[shape.kind]
    if shape.kind in ("integer", "number"):
        return ", ".join([TYPES[shape.kind], *_bounds(schema)])
    if shape.kind == "text":
        length = _between(schema.get("minLength"), schema.get("maxLength"), "characters")
        return ", ".join([format_words(schema) or "text", *length])
    if shape.kind == "array":
        item = shape.part(schema.get("items", True))
        each = _described(item) if item.is_scalar else ""
        several = _between(schema.get("minItems"), schema.get("maxItems"), "entries")
        return ", ".join(
            ["a list with commas between", *several, *([f"each {each}"] if each and each != "text" else [])]
        )
    if shape.kind == "union":
        return " or ".join(dict.fromkeys(_described(part) for part in shape.parts))
    if shape.kind == "object":
        properties = schema.get("properties")
        names = (
            [name for name in properties if isinstance(name, str)] if isinstance(properties, Mapping) else []
        )
        return f'a line "field: value" for each of {", ".join(names)}' if names else "JSON"
    return "anything" if shape.kind == "any" else "JSON"


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than", "multipleOf": "a multiple of"}  # fmt: skip
    return [
        f"{word} {number_words(schema[key])}" for key, word in words.items() if _is_number(schema.get(key))
    ]


def _between(least: Any, most: Any, what: str) -> list[str]:
    if isinstance(least, int) and least == most:
        return [f"exactly {least} {what}"]
    said = [f"at least {least} {what}"] if isinstance(least, int) and least > 0 else []
    return [*said, f"at most {most} {what}"] if isinstance(most, int) else said


def format_words(schema: Mapping[str, Any]) -> str:
    format = schema.get("format")
    return FORMATS.get(format, "") if isinstance(format, str) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number_words(value: Any) -> str:
    return (
        str(int(value))
        if isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        else str(value)
    )
