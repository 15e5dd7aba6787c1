"""The inputs of a page that ask for a value: what they are, the text that they show, and reading what they send."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from wakeloop.answers import Unreadable
from wakeloop.forms.reading import MISSING, Leaf, checked, read_entries, read_shape
from wakeloop.forms.schema import Shape
from wakeloop.forms.text import Choice, choose, read_json, storable

FieldKind = Literal[
    "text", "multiline", "integer", "number", "checkbox", "date", "datetime-local", "time", "select", "json"
]


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """One input of a page.

    name: of the input; for a field within fields a path, such as "address.city". label: its title. kind: of the input;
    "json" and "multiline" are text areas. A list of single values is "multiline", with one on a line. choices: pairs of
    value and label, of a "select". required: an empty input is refused; never of a checkbox. default: the text to show
    at first, None if there is no default. min, max, step (None is any), max_length, pattern: as in HTML.
    """

    name: str
    label: str
    kind: FieldKind
    description: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    required: bool = True
    default: str | None = None
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    max_length: int | None = None
    pattern: str | None = None


def field_kind(shape: Shape) -> FieldKind:
    """The kind of input that takes a shape."""
    schema = shape.schema
    if shape.kind == "boolean":
        return "select" if shape.nullable else "checkbox"
    if shape.kind == "text":
        length = schema.get("maxLength")
        return "multiline" if isinstance(length, int) and length > 255 else "text"
    if shape.kind == "array":
        item = shape.part(schema.get("items", True))
        return "multiline" if item.is_scalar and not item.nullable and "prefixItems" not in schema else "json"
    if shape.is_scalar:
        return _KINDS.get(shape.kind, "text")
    return "json"


_KINDS: Mapping[str, FieldKind] = {
    "integer": "integer", "number": "number", "date": "date", "date-time": "datetime-local", "time": "time",
    "choice": "select",
}  # fmt: skip


def spec_of(leaf: Leaf) -> FieldSpec:
    """The input that asks for a part of a form."""
    shape, schema, kind = leaf.shape, leaf.shape.schema, field_kind(leaf.shape)

    def number(key: str) -> Any:
        limit = schema.get(key)
        return limit if isinstance(limit, int | float) and not isinstance(limit, bool) else None

    least, most = number("minimum"), number("maximum")
    if kind == "integer":
        least = (
            number("exclusiveMinimum") + 1
            if least is None and number("exclusiveMinimum") is not None
            else least
        )
        most = (
            number("exclusiveMaximum") - 1
            if most is None and number("exclusiveMaximum") is not None
            else most
        )
    pattern = schema.get("pattern")
    anchored = isinstance(pattern, str) and pattern.startswith("^") and pattern.endswith("$")
    is_text = kind in ("text", "multiline") and shape.kind == "text"
    return FieldSpec(
        name=leaf.name, label=leaf.label, kind=kind, description=leaf.description,
        choices=select_choices(shape) if kind == "select" else (),
        required=leaf.required and not shape.nullable and kind != "checkbox",
        default=None if leaf.default is MISSING or leaf.default is None else written(leaf.default, leaf),
        min=least, max=most, step=number("multipleOf") or (1 if kind == "integer" else None),
        max_length=number("maxLength") if is_text else None, pattern=pattern if is_text and anchored else None,
    )  # fmt: skip


def select_choices(shape: Shape) -> tuple[tuple[str, str], ...]:
    """The options of a "select": pairs of the value that is sent, and the label."""
    if shape.kind == "boolean":
        return (("true", "yes"), ("false", "no"))
    return tuple(zip(_codes(shape.choices), (choice.label for choice in shape.choices), strict=True))


def written(value: Any, leaf: Leaf) -> str:
    """The text that an input shows for a value; of a check box "true" or nothing. MISSING and null are empty."""
    shape, kind = leaf.shape, field_kind(leaf.shape)
    if value is MISSING or (value is None and shape.nullable):
        return ""
    if kind == "json":
        return json.dumps(value, ensure_ascii=False, indent=2)
    if kind == "checkbox":
        return "true" if value is True else ""
    if kind == "select" and shape.kind == "choice":
        for code, choice in zip(_codes(shape.choices), shape.choices, strict=True):
            if type(choice.value) is type(value) and choice.value == value:
                return code
    if kind == "multiline" and isinstance(value, list):
        lines = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in value)
        try:
            same = json.dumps(read_entries(lines.strip(), shape, lines_only=True)) == json.dumps(value)
        except Unreadable:
            same = False
        return lines if same else json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shown_default(leaf: Leaf) -> str:
    """A field's default in words for a person; empty if there is none."""
    default, shape = leaf.default, leaf.shape
    if default is MISSING or default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    labels = [
        choice.label
        for choice in shape.choices
        if choice.value == default and type(choice.value) is type(default)
    ]
    if labels:
        return labels[0]
    if isinstance(default, list):
        return ", ".join(one if isinstance(one, str) else json.dumps(one) for one in default)
    return default if isinstance(default, str) else json.dumps(default)


def read_input(sent: str | Sequence[str] | None, leaf: Leaf) -> Any:
    """The value of an input, or MISSING if it is left out. Raises Unreadable.

    sent: what the page's form has for it; several texts are the entries of a list, else the last counts."""
    shape, kind = replace(leaf.shape, nullable=False), field_kind(leaf.shape)
    if sent is not None and not isinstance(sent, str):
        if shape.kind == "array" and len(sent) > 1:
            item = shape.part(shape.schema.get("items", True))
            return checked([read_shape(_text(one), item) for one in sent], shape)
        sent = sent[-1] if sent else None
    if kind == "checkbox":
        return sent is not None and bool(sent.strip()) and read_shape(_text(sent), shape)
    text = None if sent is None else _text(sent)
    if not text:
        if text is not None and leaf.shape.nullable:
            return None
        if leaf.required:
            if shape.kind == "array" and text is not None:
                return checked([], shape)
            raise Unreadable("is missing")
        return (
            checked({"text": "", "array": []}[shape.kind], shape)
            if text is not None and shape.kind in ("text", "array")
            else MISSING
        )
    if kind == "json":
        return checked(read_json(text), leaf.shape)
    if kind == "select" and shape.kind == "choice":
        for code, choice in zip(_codes(shape.choices), shape.choices, strict=True):
            if code == text:
                return choice.value
        return choose(text, shape.choices).value
    if shape.kind == "array":
        return checked(read_entries(text, shape, lines_only=True), shape)
    return read_shape(text, shape)


def is_same_text(sent: str | Sequence[str] | None, shown: str | None, leaf: Leaf) -> bool:
    """Whether an input was left as it was shown, but for the line ends, which a browser sends as CR LF."""
    if not (isinstance(sent, str) or sent is None):
        sent = sent[-1] if len(sent) == 1 else "\n".join(sent)
    if field_kind(leaf.shape) == "checkbox":
        return bool(sent and sent.strip()) == bool(shown)
    return sent is None or _lines(sent) == _lines(shown or "")


def _codes(choices: Sequence[Choice]) -> list[str]:
    plain = [
        choice.value if isinstance(choice.value, str) else json.dumps(choice.value) for choice in choices
    ]
    distinct = len(set(plain)) == len(plain) and "" not in plain
    return plain if distinct else [json.dumps(choice.value) for choice in choices]


def _text(sent: str) -> str:
    return _lines(str(storable(sent))).strip()


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
