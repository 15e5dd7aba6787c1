"""Forms: what an answer must look like, told by a JSON Schema, and reading a person's words or a program's value as it.

The process that reads an answer does not have the type that the handler asked for, so the type travels as its schema.
What is read here fits the schema; the handler's process validates it with the type itself, which has the last word::

    form = form_of(int)
    read_text("1,200", form)             # 1200
    read_text("a dozen", form)           # raises Unreadable: str() is what to tell the person
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import PydanticInvalidForJsonSchema, PydanticUserError, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from wakeloop.answers import Unreadable
from wakeloop.errors import ConfigurationError
from wakeloop.forms.fields import FieldSpec, field_kind, is_same_text, read_input, spec_of, written
from wakeloop.forms.reading import MISSING, Leaf, assembled, checked, inner_leaves, read_shape
from wakeloop.forms.reasons import Reason, misfits, told
from wakeloop.forms.schema import NAMES_KEYWORD, Shape, describe_shape, shape_of
from wakeloop.forms.text import Choice, choices_of, choose, listed, storable

FLAT_FIELDS_LIMIT: Final = 8


@dataclass(frozen=True, kw_only=True)
class Form:
    """What an answer must look like: fields that a page shows as inputs and that a text dialogue asks one by one.

    schema: the JSON Schema (2020-12) of the value; None for any text. options: what may be chosen, in words.

    A form is compared by its contents and survives JSON: `Form.load(form.dump()) == form`, and so does a pydantic model
    that holds one.
    """

    schema: dict[str, Any] | None = None
    options: tuple[str, ...] = ()

    def dump(self) -> str:
        """The form as JSON text."""
        return json.dumps({"schema": self.schema, "options": self.options}, ensure_ascii=False)

    @classmethod
    def load(cls, text: str) -> Form:
        """The form again. Raises ValueError for what no form was dumped to."""
        data = json.loads(text)
        if not isinstance(data, dict) or not isinstance(data.get("schema"), dict | None):
            raise ValueError("this is no form")
        return cls(schema=data["schema"], options=tuple(data.get("options") or ()))

    @property
    def is_plain(self) -> bool:
        """Whether any text will do."""
        return self.schema is None and not self.options

    @property
    def is_flat(self) -> bool:
        """Whether it is an object of one to eight fields with single values (or lists of them), that a text dialogue
        can ask one by one."""
        leaves = self.leaves
        return len(leaves) <= FLAT_FIELDS_LIMIT and all(
            leaf.path and field_kind(leaf.shape) != "json" for leaf in leaves
        )

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The inputs of a page; exactly one, called "answer", if the value is not an object with fields."""
        return tuple(map(spec_of, self.leaves))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What may be chosen, with the numbers and values; empty if the answer is no choice."""
        return self.shape.choices

    @property
    def shape(self) -> Shape:
        """What the schema and the options ask for."""
        shape = shape_of({"type": "string"} if self.schema is None else self.schema, self.schema or {})
        if not self.options or [choice.label for choice in shape.choices] == list(self.options):
            return shape
        values = [_value_of(option, shape) for option in self.options]
        return replace(shape, kind="choice", choices=choices_of(values, self.options))

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The parts of the value that are asked for by themselves; what the fields are made of."""
        shape = self.shape
        whole = Leaf(
            path=(), label="Answer", shape=shape, required=True, default=shape.schema.get("default", MISSING)
        )
        return (inner_leaves(shape) if not shape.nullable else ()) or (whole,)


class _Schema(GenerateJsonSchema):
    """pydantic's schema, with the names of Enum members (people may answer by them), with Decimals marked, and with no
    titles made up from names."""

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        made = super().enum_schema(schema)
        names = [getattr(member, "name", None) for member in schema["members"]]
        return {**made, NAMES_KEYWORD: names} if all(isinstance(name, str) for name in names) else made

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        return {**super().decimal_schema(schema), "format": "decimal"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def form_of(answer: Any = str, options: Sequence[str] = ()) -> Form:
    """The form of a Python type: str, int, float, bool, a date or time, an Enum, a Literal, lists and unions of those, or
    a pydantic model. A type that only its own validator knows (it has no JSON Schema) takes any text.

    options: the words to choose from, each of which must read as the type. Enums and Literals are options by themselves.

    Raises TypeError for what no answer can be, ConfigurationError for options that do not fit the type or each other."""
    schema = None if answer is str else _schema_of(answer)
    form = Form(schema=schema)
    if not options:
        return replace(form, options=tuple(choice.label for choice in form.choices))
    if isinstance(options, str) or not all(isinstance(option, str) and option.strip() for option in options):
        raise ConfigurationError(
            f"options={options!r}: give a list of texts that are not empty, such as ['yes', 'later']"
        )
    form = replace(form, options=tuple(option.strip() for option in options))
    name = getattr(answer, "__name__", str(answer))
    if shape_of(schema or {}, schema or {}).kind == "array":
        raise ConfigurationError(
            f"options of a list: answer={name} takes none; write the choices as list[Literal[...]]"
        )
    twice = [option for option, count in Counter(map(str.casefold, form.options)).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"options={list(form.options)}: {twice[0]!r} is there more than once; nobody could tell which is meant"
        )
    for choice in form.choices:
        if misfits(choice.value, form.shape):
            raise ConfigurationError(
                f"option {choice.label!r} cannot be an answer of type {name}; change the option, or leave out `answer` "
                "and get its words"
            )
    return form


def describe(form: Form) -> str:
    """What is expected, in one line for a text message: "a whole number, at least 1"; empty for plain text."""
    return "" if form.is_plain else describe_shape(form.shape)


def read_text(text: str, form: Form) -> Any:
    """The JSON value that a person's words say. Raises Unreadable with what to tell them.

    - A text is taken without the white space around it.
    - A choice is named by its number ("2", "#2", "option 2"), its words, both, or (Enums) the member's name; never by
      the beginning of its words. "2" is refused if it is the number of one and the words of another; "#2" counts.
    - Numbers and dates are taken if they can be read one way only; yes and no in the words of `wakeloop.verdicts`.
    - "-" and "none" are null where null will do, and an empty list where it will not.
    - The entries of a list have commas, semicolons or line ends between them.
    - An object is JSON, or lines such as "amount: 5", with a field's name or label.
    - In a union, the text is what it fits best: a choice, a number, a date, yes or no, and text last.
    """
    words = _guarded(text)
    return words if form.is_plain else read_shape(words, form.shape)


def check(value: Any, form: Form) -> Any:
    """A JSON value that a program answered with, if it fits. Raises Unreadable.

    A choice may be given by its value or, as text, as a person would name it."""
    storable(value)
    shape = form.shape
    if shape.kind == "choice" and not (shape.nullable and value is None):
        if any(type(value) is type(choice.value) and value == choice.value for choice in shape.choices):
            return value
        if not isinstance(value, str):
            raise Unreadable("please answer with one of: " + listed(shape.choices))
        return choose(value, shape.choices).value
    return checked(value, shape)


class FormErrors(Unreadable):
    """What is wrong with the fields of a page. Facts: `reasons`, by the name of the field, "" for the whole."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(dict(reasons))
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        return told(f"{name}: {reason}" if name else reason for name, reason in self.reasons.items())


def read_fields(data: Mapping[str, str | Sequence[str]], form: Form, shown: Any = MISSING) -> Any:
    """The JSON value that a page's inputs say, by the names in `form.fields`; other names are ignored.

    shown: the value with which `values_for` filled the page. A field that still has the text that it was shown with, or
    that the page did not have, keeps its value to the letter, and so does what no field stands for; therefore
    `read_fields(values_for(form, value), form, value) == value` for every valid value.

    An empty input is null where null will do, else an empty text or list if the field is not required, else the field
    is left out; the check box of a field that is not sent is not ticked. Texts lose the white space around them.

    Raises FormErrors with a reason for each field that does not fit."""
    before = {} if shown is MISSING else values_for(form, shown)
    reasons: dict[str, str] = {}
    values: dict[tuple[str, ...], Any] = {}
    kept: set[tuple[str, ...]] = set()
    for leaf in form.leaves:
        sent = data.get(leaf.name)
        if shown is not MISSING and is_same_text(sent, before.get(leaf.name), leaf):
            kept.add(leaf.path)
            continue
        try:
            values[leaf.path] = read_input(sent, leaf)
        except Unreadable as reason:
            reasons[leaf.name] = str(reason)
    if reasons:
        raise FormErrors(reasons)
    leaves = form.leaves
    whole = values.get((), shown) if not leaves[0].path else assembled(values, leaves, shown=shown, kept=kept)
    if whole is MISSING:
        raise FormErrors({leaves[0].name: "is missing"})
    if form.shape.kind == "choice":
        try:
            return check(whole, form)
        except Unreadable as reason:
            raise FormErrors({leaves[0].name: str(reason)}) from reason
    for found in misfits(whole, form.shape):
        reasons.setdefault(*_placed(found, leaves))
    if reasons:
        raise FormErrors(reasons)
    return whole


def values_for(form: Form, value: Any = MISSING) -> dict[str, str]:
    """The text of every input, by name, of a page that shows a value (the defaults, if there is none). A check box has
    one only if it is ticked."""
    texts = {}
    for leaf in form.leaves:
        text = written(_part(value, leaf), leaf)
        if field_kind(leaf.shape) != "checkbox" or text:
            texts[leaf.name] = text
    return texts


def fields_for(form: Form, value: Any) -> tuple[FieldSpec, ...]:
    """The inputs of a page that shows a value, of kinds that can hold it: a text with line ends needs a text area, and
    "datetime-local" has no offset from UTC."""
    texts = values_for(form, value)
    fitting = []
    for spec in form.fields:
        text = texts.get(spec.name, "")
        if spec.kind == "text" and ("\n" in text or "\r" in text):
            spec = replace(spec, kind="multiline")
        elif spec.kind in ("datetime-local", "time") and not set(text[10:] if "T" in text else text) <= set(
            "T0123456789:."
        ):
            spec = replace(spec, kind="text")
        fitting.append(spec)
    return tuple(fitting)


def _part(value: Any, leaf: Leaf) -> Any:
    for key in leaf.path:
        if not isinstance(value, Mapping) or key not in value:
            return leaf.default
        value = value[key]
    return leaf.default if value is MISSING else value


def _placed(reason: Reason, leaves: Sequence[Leaf]) -> tuple[str, str]:
    """The field that a reason is about, and the reason without what the field says."""
    for leaf in leaves:
        if leaf.path == reason.path[: len(leaf.path)]:
            return leaf.name, str(replace(reason, path=reason.path[len(leaf.path) :]))
    return "", str(reason)


def _schema_of(answer: Any) -> dict[str, Any] | None:
    name = getattr(answer, "__name__", repr(answer))
    advice = (
        f"answer={name}: no answer can be that; use str, int, a date, an Enum, a Literal or a pydantic model"
    )
    if isinstance(answer, str) or answer is None:
        raise TypeError(advice)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(answer)
    except (PydanticUserError, NameError, TypeError) as error:
        raise TypeError(f"{advice} ({str(error).splitlines()[0]})") from error
    try:
        schema = adapter.json_schema(schema_generator=_Schema)
        text = json.dumps(schema, allow_nan=False)
    except PydanticInvalidForJsonSchema as error:
        if _is_for_objects(adapter.core_schema):
            raise TypeError(f"{advice} ({error.message})") from error
        return None
    except (PydanticUserError, TypeError, ValueError):
        return None
    return None if schema == {"type": "string"} else json.loads(text)


def _is_for_objects(schema: CoreSchema) -> bool:
    """Whether only an object of the right class is valid, which no text can be."""
    inner = schema["schema"] if schema["type"] == "custom-error" else schema
    return inner["type"] in ("is-instance", "is-subclass", "callable")


def _guarded(text: str) -> str:
    try:
        return str(storable(text)).strip()
    except Unreadable as reason:
        raise Unreadable(f"the text {reason}") from reason


def _value_of(option: str, shape: Shape) -> Any:
    """What an option of a handler's is as a value; its words, if they are none."""
    try:
        return read_shape(option.strip(), shape)
    except Unreadable:
        return option
