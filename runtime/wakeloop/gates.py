"""Gates: functions that run only with a person's approval of their exact arguments; all of it but the asking.

A person decides on JSON: `GateArguments` turns a call into it and back, `digest` names one call, `shown` and `summary`
put it before people, `define_gate` checks the options, and `require_approval` is the decorator for use within a run.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from inspect import Parameter
from typing import Any, NoReturn, Optional, ParamSpec, Protocol, TypeVar, cast, get_args, get_origin, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json
from typing_extensions import Unpack

from wakeloop.errors import ConfigurationError, NotPossible, NotSerializable, WakeloopError
from wakeloop.logs import get_logger
from wakeloop.steps import CurrentRun, Step, _on_its_loop, current_run, step

P = ParamSpec("P")
R = TypeVar("R")
log = get_logger(__name__)


class InvalidArguments(WakeloopError, ValueError):
    """A call's arguments do not fit the function, or cannot be shown to a person. Facts: `function`, `problems` (by the
    argument's name, or its path such as `order.lines.0`, what is wrong with it)."""

    function: str
    problems: dict[str, str]


class Denied(WakeloopError):
    """A person said no. Facts: `comment` (their words), `option` (the reason they chose), `by`, `request`."""

    comment: str = ""
    option: str | None = None
    by: str
    request: str


class ApprovalExpired(WakeloopError, TimeoutError):
    """Nobody decided in time, which is not a no. Facts: `request`, `by` (whose approval was asked for)."""

    request: str
    by: str


@dataclass(frozen=True, kw_only=True)
class Approval:
    """What was approved, by whom and how.

    args: the arguments as approved, as JSON values. by: id of the contact whose word decided; approvers: of everybody
    who approved. option: a reason they chose. channel: how they said it, at: when. edited: they changed the arguments.
    """

    args: dict[str, Any]
    by: str
    approvers: tuple[str, ...]
    comment: str = ""
    option: str | None = None
    channel: str
    at: datetime
    request: str
    edited: bool = False


# ---------------------------------------------------------------------- one call's name


def digest(action: str, arguments: Mapping[str, Any]) -> str:
    """The name of exactly this call: `sha256:` and the hash of `{"action": …, "args": …}` in one canonical form.

    Equal for equal JSON values, whatever the order of their names; 1 and 1.0 are the same number, 1 and true are not.
    The form is RFC 8785's (no spaces, names sorted by their UTF-16 units, UTF-8), but for numbers: a whole number is
    written with all its digits, where RFC 8785 rounds to a double: two large numbers never share a digest.
    Raises NotSerializable for what JSON does not have: NaN, tuples, names that are no text, half a surrogate pair.
    """
    text = _canonical({"action": action, "args": dict(arguments)})
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: Any, *, ordered: bool = True) -> str:
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
    name = _type_name(value)
    return NotSerializable(f"a {name} {what}", where="the arguments", type_name=name)


def _type_name(value: Any) -> str:
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
    return [(_label(name), *_value(value, max(limit, 3))) for name, value in arguments.items()]


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
        parts = (f"{_label(key)}: {_inline(part, longest, depth + 1)}" for key, part in value.items())
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


def _label(name: Any) -> str:
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


# ---------------------------------------------------------------------- arguments

_CONFIG = ConfigDict(
    extra="forbid",
    allow_inf_nan=False,
    validate_default=True,
    ser_json_bytes="base64",
    val_json_bytes="base64",
    hide_input_in_errors=True,
)
_list: Any = list
_dict: Any = dict
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_FIX = "take JSON values, dataclasses or pydantic models, or an id by which the function finds the rest"


class GateArguments:
    """The arguments of one function: from a call to JSON that a person decides on, and from there to the call.

    What was approved is what is called with: the function gets its arguments from the JSON, never from the caller. The
    instance (or class) that a method is called on is no argument: nobody is shown it, and no digest holds it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises ConfigurationError, naming the parameter, for what could never be shown to a person."""
        self.function = _name_of(function)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"the arguments of {self.function} are not known ({error}): call it in a function of your own, and gate that"
            ) from error
        self.has_receiver = _has_receiver(function, parameters)
        self._parameters = parameters[1:] if self.has_receiver else parameters
        self._fields = {f"a{number}": one.name for number, one in enumerate(self._parameters)}
        definitions = [self._definition(function, one) for one in self._parameters]
        self._model = _model(self.function, dict(zip(self._fields, definitions, strict=True)))

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments' names, in the function's order."""
        return tuple(self._fields.values())

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments as one object, in which all must be given, and defaults are told."""
        return {**self._model.model_json_schema(), "title": self.function, "required": list(self.names)}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call's arguments as JSON by name: validated (lax, as by `pydantic.validate_call`), defaults filled in.

        `*args` is a list and `**kwargs` an object under their own names. Raises InvalidArguments that names everything
        that is wrong, or that would not come back equal from JSON."""
        given, problems = self._named(args, kwargs)
        return self._plain(self._load(given, problems, is_json=False))

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """JSON arguments that a person edited, checked as by `bind`, in their normal form ("40" for a number becomes 40).

        All must be there, and no others: raises InvalidArguments."""
        return self._plain(self._read(arguments))

    def call_with(self, arguments: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call the function with, for arguments that `bind` or `validate` gave.

        Raises InvalidArguments if the function no longer takes exactly these, as after a deploy: what it would add or
        read otherwise, nobody approved."""
        model = self._read(arguments)
        if _canonical(self._plain(model), ordered=False) != _canonical(dict(arguments), ordered=False):
            self._refuse({"arguments": "would be read as others than were approved; ask again"})
        values = self._typed(model)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for one in self._parameters:
            if one.kind in _POSITIONAL:
                args.append(values[one.name])
            elif one.kind is Parameter.VAR_POSITIONAL:
                args.extend(values[one.name])
            elif one.kind is Parameter.KEYWORD_ONLY:
                kwargs[one.name] = values[one.name]
            else:
                kwargs.update(values[one.name])
        return tuple(args), kwargs

    def typed(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name as the values that the function would get. Raises InvalidArguments."""
        return self._typed(self._read(arguments))

    # ------------------------------------------------------------------ inside

    def _definition(self, function: Callable[..., Any], one: Parameter) -> tuple[Any, Any]:
        """A model's field for a parameter: its type, and its name and default."""
        annotation = _annotation(function, one, self.function)
        default = ... if one.default is Parameter.empty else one.default
        if one.kind is Parameter.VAR_POSITIONAL:
            annotation = _list[annotation]
        elif one.kind is Parameter.VAR_KEYWORD:
            annotation = (
                get_args(annotation)[0] if get_origin(annotation) is Unpack else _dict[str, annotation]
            )
        if default is None and not _accepts_none(annotation):
            annotation = Optional[annotation]  # noqa: UP045  # `x: int = None` means that
        name: Any = {"alias": one.name, "validation_alias": one.name, "serialization_alias": one.name}
        definition = (annotation, Field(default, exclude=False, **name))
        try:
            alone = _model(self.function, {"a0": definition})
            if default is not ...:
                _to_plain(alone.model_validate({}), {"a0": one.name})
            alone.model_json_schema()
        except (ValidationError, _Problems) as error:
            raise ConfigurationError(
                f"{self.function} cannot be gated: the default of its argument {one.name!r}, a {_type_name(default)}, does not "
                f"fit {_shown_type(annotation)} or is no JSON: use None, or a value that a person can be shown"
            ) from error
        except Exception as error:
            raise ConfigurationError(
                f"{self.function} cannot be gated: its argument {one.name!r} is annotated {_shown_type(annotation)}, which "
                f"cannot be shown to a person as JSON; {_FIX}"
            ) from error
        return definition

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The arguments of a call by name, and what is wrong with how they were given."""
        problems: dict[str, str] = {}
        positional = [one.name for one in self._parameters if one.kind in _POSITIONAL]
        kinds = {one.name: one.kind for one in self._parameters}
        rest = {kind: name for name, kind in kinds.items()}
        given: dict[str, Any] = dict(zip(positional, args, strict=False))
        others: dict[str, Any] = {}
        if Parameter.VAR_POSITIONAL in rest:
            given[rest[Parameter.VAR_POSITIONAL]] = list(args[len(positional) :])
        elif len(args) > len(positional):
            problems["(by position)"] = f"there are {len(args)} for the {len(positional)} that it takes"
        for name, value in kwargs.items():
            if kinds.get(name) in _BY_NAME:
                if name in given:
                    problems[name] = "is given twice"
                given[name] = value
            elif Parameter.VAR_KEYWORD in rest:
                others[name] = value
            elif kinds.get(name) is Parameter.POSITIONAL_ONLY:
                problems[name] = "must be given by position"
            else:
                problems[_label(name)] = self._stranger()
        if Parameter.VAR_KEYWORD in rest:
            given[rest[Parameter.VAR_KEYWORD]] = others
        return given, problems

    def _read(self, arguments: Mapping[str, Any]) -> BaseModel:
        if not isinstance(arguments, Mapping):
            self._refuse({"arguments": f"are a {_type_name(arguments)}, not an object of JSON"})
        names = self.names
        problems = {_label(name): self._stranger() for name in arguments if name not in names}
        problems |= {name: "is missing" for name in names if name not in arguments}
        given = {name: value for name, value in arguments.items() if name in names}
        for name, value in given.items():
            try:
                _canonical(value)
            except NotSerializable as error:
                problems[name] = f"is not JSON: {error}"
        for one in self._parameters:
            if one.kind is Parameter.VAR_KEYWORD and isinstance(given.get(one.name), dict):
                taken = {other.name for other in self._parameters if other.kind in _BY_NAME}
                problems |= {
                    f"{one.name}.{key}": "is an argument of its own"
                    for key in given[one.name]
                    if key in taken
                }
        if problems:
            self._refuse(problems)
        return self._load(given, problems, is_json=True)

    def _load(self, given: dict[str, Any], problems: dict[str, str], *, is_json: bool) -> BaseModel:
        try:
            model = (
                self._model.model_validate_json(to_json(given))
                if is_json
                else self._model.model_validate(given)
            )
        except ValidationError as error:
            for found in error.errors(include_url=False, include_context=False, include_input=False):
                missing = found["type"] == "missing"
                problems.setdefault(_path(found["loc"]), "is missing" if missing else found["msg"])
            self._refuse(problems, error)
        if problems:
            self._refuse(problems)
        return model

    def _plain(self, model: BaseModel) -> dict[str, Any]:
        try:
            return _to_plain(model, self._fields)
        except _Problems as error:
            self._refuse(error.args[0], error)

    def _typed(self, model: BaseModel) -> dict[str, Any]:
        return {name: getattr(model, field) for field, name in self._fields.items()}

    def _stranger(self) -> str:
        return f"is no argument of it (it takes: {', '.join(self.names) or 'none'})"

    def _refuse(self, problems: dict[str, str], cause: Exception | None = None) -> NoReturn:
        told = "; ".join(f"{name}: {what}" for name, what in problems.items())
        raise InvalidArguments(
            f"{self.function} was not called, for its arguments are wrong: {told}",
            function=self.function,
            problems=problems,
        ) from cause


class _Problems(Exception):
    """What is wrong, by argument."""


def _model(name: str, definitions: dict[str, Any]) -> type[BaseModel]:
    return create_model(name, __config__=_CONFIG, **definitions)


def _to_plain(model: BaseModel, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields as JSON by their arguments' names. Raises _Problems for what would not come back equal."""
    plain: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field, name in names.items():
        try:
            text = model.model_dump_json(include={field}, by_alias=True, warnings="error")
            plain[name] = _in_order(getattr(model, field), from_json(text)[name])
            _canonical(plain[name])
        except (ValueError, TypeError, LookupError, RecursionError):  # pydantic's own are ValueErrors
            problems[name] = f"holds what JSON does not (it is a {_type_name(getattr(model, field))}); {_FIX}"
    if problems:
        raise _Problems(problems)
    try:
        back = type(model).model_validate_json(to_json(plain))
    except ValidationError as error:
        places = [found["loc"] for found in error.errors(include_url=False, include_input=False)]
        raise _Problems(
            {_path(place): f"does not come back from JSON; {_FIX}" for place in places}
        ) from error
    for field, name in names.items():
        if not _is_same(getattr(model, field), getattr(back, field)):
            name_of_type = _type_name(getattr(model, field))
            problems[name] = (
                f"does not come back equal from JSON (it is a {name_of_type}); annotate its type, or {_FIX}"
            )
    if problems:
        raise _Problems(problems)
    return plain


def _in_order(value: Any, plain: Any) -> Any:
    """The JSON of a value with its sets sorted, which come in another order in each process."""
    if (
        isinstance(value, set | frozenset | list | tuple)
        and isinstance(plain, list)
        and len(value) == len(plain)
    ):
        parts = [_in_order(*pair) for pair in zip(value, plain, strict=True)]
        return sorted(parts, key=_canonical) if isinstance(value, set | frozenset) else parts
    if not isinstance(plain, dict):
        return plain
    if isinstance(value, Mapping) and len(value) == len(plain):
        return {key: _in_order(part, plain[key]) for part, key in zip(value.values(), plain, strict=True)}
    members: dict[str, Any] = {}
    if isinstance(value, BaseModel):
        members = {
            one.serialization_alias or name: getattr(value, name)
            for name, one in type(value).model_fields.items()
        }
    elif is_dataclass(value):
        members = {one.name: getattr(value, one.name) for one in fields(value)}
    return {key: _in_order(members[key], part) if key in members else part for key, part in plain.items()}


def _is_same(value: Any, back: Any) -> bool:
    """Whether what comes back is the value: of the same types, equal part by part, nothing hidden or left out."""
    if isinstance(value, datetime) and isinstance(back, datetime):
        aware = value.tzinfo is not None and back.tzinfo is not None
        # In the hour that comes twice, a time equals none of another zone (PEP 495), be it the same instant.
        return back == value or (aware and value.timestamp() == back.timestamp())
    if isinstance(value, Enum):
        return value is back
    if isinstance(value, bool | int | float | str | bytes | date | time | timedelta):
        return (
            isinstance(value, type(back))
            and bool(back == value)
            and isinstance(value, bool) == isinstance(back, bool)
        )
    if type(value) is not type(back):
        return False
    if isinstance(value, BaseModel):
        return _is_same(value.__dict__, back.__dict__) and _is_same(
            value.__pydantic_extra__, back.__pydantic_extra__
        )
    if isinstance(value, Mapping):
        return value.keys() == back.keys() and all(_is_same(part, back[key]) for key, part in value.items())
    if isinstance(value, list | tuple):
        return len(value) == len(back) and all(map(_is_same, value, back))
    if is_dataclass(value):
        return all(_is_same(getattr(value, one.name), getattr(back, one.name)) for one in fields(value))
    if getattr(type(value), "__eq__", None) is object.__eq__:
        return True
    try:
        return bool(back == value)
    except Exception:  # such as an array of another library: what cannot be compared is refused
        return False


def _layers(function: Any) -> Iterator[Any]:
    """A function, and what is carried out by it, under steps, partials and wrappers."""
    while function is not None:
        yield function
        inner = getattr(function, "__wrapped__", None)
        function = function.func if isinstance(function, functools.partial) else inner


def _innermost(function: Any) -> Any:
    return list(_layers(function))[-1]


def _annotation(function: Any, one: Parameter, name: str) -> Any:
    if one.annotation is Parameter.empty:
        return Any
    target = _innermost(function)
    if not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004
    alone = types.SimpleNamespace(__annotations__={one.name: one.annotation})
    try:
        scope = getattr(target, "__globals__", {})
        hints = typing.get_type_hints(alone, scope, _closure(target), include_extras=True)
    except Exception as error:
        raise ConfigurationError(
            f"{name} cannot be gated: the annotation {_shown_type(one.annotation)} of its argument {one.name!r} cannot be read "
            f"where it is defined ({error}): define or import it at the top of the module, not only for type checkers"
        ) from error
    return hints[one.name]


def _closure(function: Any) -> dict[str, Any]:
    """What a function knows by name from the functions around it."""
    function = getattr(function, "__func__", function)
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet, as the function itself is while it is decorated
    return found


def _has_receiver(function: Any, parameters: Sequence[Parameter]) -> bool:
    """Whether the first parameter is the instance or class of a method, and no argument."""
    target = _innermost(function)
    owner = getattr(target, "__qualname__", "").rpartition(".")[0]
    return bool(
        inspect.isfunction(target)
        and owner
        and not owner.endswith("<locals>")
        and parameters
        and parameters[0].name in ("self", "cls")
        and parameters[0].kind in _POSITIONAL
        and parameters[0].annotation is Parameter.empty
    )


def _accepts_none(annotation: Any) -> bool:
    try:
        _model("one", {"a0": (annotation, ...)}).model_validate({"a0": None})
    except ValidationError:
        return False
    except Exception:  # what has no schema is refused with its name by whoever asks
        return True
    return True


def _path(place: tuple[int | str, ...]) -> str:
    return ".".join(_label(part) if isinstance(part, str) else str(part) for part in place) or "arguments"


def _shown_type(annotation: Any) -> str:
    return (
        annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    )


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)


# ---------------------------------------------------------------------- options

_ESCALATION_FORM = (
    'write escalate=[(timedelta(hours=2), "bob")], with how long after the question, to whom, and if you wish by which '
    'channel: (timedelta(hours=2), "bob", "email")'
)


@dataclass(frozen=True, kw_only=True)
class Escalation:
    """`after` it was asked and not decided, `to` is asked too (or those who were asked first), by the channel `via`."""

    after: timedelta
    to: str | None = None
    via: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.after, timedelta) or self.after <= timedelta(0):
            raise ConfigurationError(f"Escalation(after={self.after!r}): it is a timedelta of more than zero")
        for what, value in (("to", self.to), ("via", self.via)):
            if value is not None and not _is_text(value):
                raise ConfigurationError(f"Escalation({what}={value!r}): it is a name; {_ESCALATION_FORM}")
        if self.to is None and self.via is None:
            raise ConfigurationError(
                f"an escalation goes to somebody, or by another channel: {_ESCALATION_FORM}"
            )


def escalations(given: Any) -> tuple[Escalation, ...]:
    """The timetable that was written, earliest first; times count from when it was asked.

    Each is an `Escalation`, a tuple such as `(timedelta(hours=2), "bob")`, `(7200, "bob", "email")` or `("bob", 7200)`,
    or a mapping of `after`, `to` and `via`; numbers are seconds. Raises ConfigurationError with the form to write."""
    if isinstance(given, Escalation | Mapping):
        given = (given,)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(f"escalate={given!r} says nobody when: {_ESCALATION_FORM}")
    return tuple(sorted(map(_escalation, given), key=lambda one: one.after))


def _escalation(given: Any) -> Escalation:
    if isinstance(given, Escalation):
        return given
    if isinstance(given, Mapping):
        if "after" not in given or not given.keys() <= {"after", "to", "via"}:
            raise ConfigurationError(
                f'an escalation has "after", "to" and "via", not {given!r}; or {_ESCALATION_FORM}'
            )
        after = _span(given["after"], "an escalation's time")
        return Escalation(after=after, to=given.get("to"), via=given.get("via"))
    if isinstance(given, tuple | list):
        times = [part for part in given if _is_number(part) or isinstance(part, timedelta)]
        names = [part for part in given if part is None or isinstance(part, str)]
        if len(times) == 1 and len(names) in (1, 2) and len(given) == 1 + len(names):
            return Escalation(
                after=_span(times[0], "an escalation's time"), to=names[0], via=(*names, None)[1]
            )
    raise ConfigurationError(f"an escalation needs a time and a name, not {given!r}: {_ESCALATION_FORM}")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A function and whose approval it needs. `define_gate` makes it and tells what its options mean.

    action: what people are told that it does. function, step: what runs once it is approved. timeout, remind: seconds.
    """

    action: str
    by: tuple[str, ...]
    reject_options: tuple[str, ...]
    edit: bool
    timeout: float | None
    escalate: tuple[Escalation, ...]
    quorum: int
    when: Callable[..., Any] | None
    remind: float | None
    via: str | None
    urgent: bool
    four_eyes: bool
    function: Callable[..., Any]
    arguments: GateArguments
    step: Step[Any, Any]

    def needs_approval(self, arguments: Mapping[str, Any]) -> bool:
        """Whether this call (arguments as `GateArguments.bind` gave them) is one that needs approval: by `when`, if there
        is one. A condition that raises, or gives something to await, has not said that it needs none."""
        if self.when is None:
            return True
        values = self.arguments.typed(arguments)
        try:
            args, kwargs = _wanted(self.when, values)
            verdict = self.when(*args, **kwargs)
            if inspect.isawaitable(verdict):
                getattr(verdict, "close", lambda: None)()
                raise TypeError("an awaitable is no answer")
            return bool(verdict)
        except Exception as error:
            log.warning(
                "condition of a gate failed, so a person is asked",
                action=self.action,
                error=type(error).__name__,
            )
            log.debug("condition of a gate failed", action=self.action, exc_info=True)
            return True

    def for_call(self, args: tuple[Any, ...]) -> tuple[Gate, tuple[Any, ...]]:
        """The gate of the instance that a method is called on, and the arguments without it; else the same again."""
        if not self.arguments.has_receiver:
            return self, args
        if not args:
            raise InvalidArguments(
                f"{self.action} is a method: call it on its instance or class",
                function=self.arguments.function,
                problems={"self": "is missing"},
            )
        bound: Step[Any, Any] = Step(functools.partial(self.step.function, args[0]), self.step.options)
        return replace(self, function=functools.partial(self.function, args[0]), step=bound), args[1:]


def define_gate(
    function: Callable[..., Any],
    *,
    by: str | Sequence[str],
    reject_options: Sequence[str] = (),
    edit: bool = False,
    timeout: float | timedelta | None = None,
    escalate: Any = (),
    quorum: int = 1,
    when: Callable[..., object] | None = None,
    remind: float | timedelta | None = None,
    via: str | None = None,
    urgent: bool = False,
    four_eyes: bool = False,
    name: str | None = None,
) -> Gate:
    """A function (or step) with the options of `require_approval`, checked.

    A function that is no step becomes one with `idempotent=False`: an approval covers exactly one execution.
    Raises ConfigurationError for an option, or a parameter, with which no call could ever be approved."""
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise ConfigurationError(f"write @{kind} above @require_approval, not below it")
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"require_approval needs a function below it, not {function!r}")
    inner = _innermost(function)
    title = f"require_approval of {_name_of(function)}"
    if any(hasattr(layer, "__gate__") for layer in _layers(function)):
        raise ConfigurationError(
            f'{title}: it has one already; name everybody in one: by=["cfo", "cto"], quorum=2'
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigurationError(
            f"{title}: a generator cannot wait for a person before it runs; return a list"
        )
    if name is not None and not _is_text(name):
        raise ConfigurationError(f"{title}: its name must be text, not {name!r}")
    for what, flag in (("edit", edit), ("urgent", urgent), ("four_eyes", four_eyes)):
        if not isinstance(flag, bool):
            raise ConfigurationError(f"{title}: {what} must be True or False, not {flag!r}")
    if not isinstance(quorum, int) or isinstance(quorum, bool) or quorum < 1:
        raise ConfigurationError(f"{title}: quorum must be a whole number from 1, not {quorum!r}")
    if via is not None and not _is_text(via):
        raise ConfigurationError(f'{title}: via must be the name of a channel, such as "sms", not {via!r}')
    people = _texts(
        (by,) if isinstance(by, str) else by, f"{title}: by", 'contacts, such as "cfo" or ["cfo", "cto"]'
    )
    if not people:
        raise ConfigurationError(f'{title}: by names nobody; name at least one contact, such as "cfo"')
    reasons = _texts(
        reject_options, f"{title}: reject_options", 'reasons, such as ["too expensive", "not now"]'
    )
    if len({reason.casefold() for reason in reasons}) < len(reasons):
        raise ConfigurationError(f"{title}: reject_options has a reason twice: {list(reasons)}")
    step_made = function if isinstance(function, Step) else step(function, idempotent=False, name=name)
    while isinstance(function, Step):
        function = function.function
    arguments = GateArguments(function)
    _check_condition(when, arguments, title)
    return Gate(
        action=name or step_made.name,
        by=tuple(dict.fromkeys(people)),
        reject_options=reasons,
        edit=edit,
        timeout=_seconds(timeout, f"{title}: timeout"),
        escalate=escalations(escalate),
        quorum=quorum,
        when=when,
        remind=_seconds(remind, f"{title}: remind"),
        via=via,
        urgent=urgent,
        four_eyes=four_eyes,
        function=function,
        arguments=arguments,
        step=step_made,
    )


def _check_condition(when: Any, arguments: GateArguments, title: str) -> None:
    if when is None:
        return
    if not callable(when):
        raise ConfigurationError(f"{title}: when must be a function of its arguments, not {when!r}")
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    targets = (_innermost(when), getattr(when, "__call__", None))  # noqa: B004
    if isinstance(when, Step) or any(kind(target) for kind in kinds for target in targets):
        raise ConfigurationError(
            f"{title}: when must be a plain function that tells from the arguments alone"
        )
    for one in _signature(when):
        required = one.default is Parameter.empty and one.kind in (*_BY_NAME, Parameter.POSITIONAL_ONLY)
        if required and one.name not in arguments.names:
            raise ConfigurationError(
                f"{title}: when asks for {one.name!r}, which is no argument of {arguments.function} (it takes: "
                f"{', '.join(arguments.names) or 'none'})"
            )


def _wanted(when: Callable[..., Any], values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Those of the values that a condition takes."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for one in _signature(when):
        if one.kind is Parameter.VAR_KEYWORD:
            kwargs.update((name, value) for name, value in values.items() if name not in kwargs)
        elif one.name not in values:
            continue
        elif one.kind is Parameter.POSITIONAL_ONLY:
            args.append(values[one.name])
        elif one.kind in _BY_NAME:
            kwargs[one.name] = values[one.name]
    return args, kwargs


def _signature(when: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(inspect.signature(when).parameters.values())
    except (ValueError, TypeError):  # one of C's, which does not tell
        return [Parameter("arguments", Parameter.VAR_KEYWORD)]


def _texts(given: Any, title: str, what: str) -> tuple[str, ...]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{title} must be {what}, not {given!r}")
    texts = tuple(given)
    if odd := [one for one in texts if not _is_text(one)]:
        raise ConfigurationError(f"{title} must be {what}, not {odd[0]!r}")
    return texts


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(value: Any, title: str) -> timedelta:
    try:
        span = timedelta(seconds=value) if _is_number(value) else value
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(f"{title} must be a number of seconds, not {value!r}") from error
    if not isinstance(span, timedelta):
        raise ConfigurationError(f"{title} must be seconds or a timedelta, not {value!r}")
    if span <= timedelta(0):
        raise ConfigurationError(f"{title} must be more than zero seconds, not {value!r}")
    return span


def _seconds(value: Any, title: str) -> float | None:
    return None if value is None else _span(value, title).total_seconds()


# ---------------------------------------------------------------------- the decorator


class GatedRun(CurrentRun, Protocol):
    """A run that can wait for an approval."""

    async def run_gated(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class ApprovalDecorator(Protocol):
    """What `require_approval(...)` gives: sync or async, the function must be awaited from then on."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


def require_approval(
    by: str | Sequence[str],
    *,
    reject_options: Sequence[str] = (),
    edit: bool = False,
    timeout: float | timedelta | None = None,
    escalate: Any = (),
    quorum: int = 1,
    when: Callable[..., object] | None = None,
    remind: float | timedelta | None = None,
    via: str | None = None,
    urgent: bool = False,
    four_eyes: bool = False,
    name: str | None = None,
) -> ApprovalDecorator:
    """Let a function run only with the recorded approval of exactly its arguments, once for each approval.

    by: the contacts and groups who may decide. reject_options: reasons to choose from for a no. edit: they may change
    the arguments. timeout: seconds (or timedelta) until nobody's word counts any more. escalate: who is asked later, see
    `escalations`. quorum: how many must approve. when: a plain function of those arguments that it names; only if what
    it gives is true is anybody asked. remind: how often to repeat it (seconds or timedelta). via: the only channel to
    use. urgent: in quiet hours too. four_eyes: the person on whose behalf the run acts may not approve. name: what the
    function is called before people; its own name by default.

    The function becomes a coroutine function with the same signature. It may be a step (`@require_approval("cfo")` above
    `@step(retries=3)`), whose options stay; else it is never repeated after a crash in its middle. Of a method, neither
    instance nor class is an argument that is shown; `@staticmethod` and `@classmethod` stand above this decorator.

    A call raises Denied, ApprovalExpired, InvalidArguments (nobody was asked), or NotPossible outside a run.
    Raises ConfigurationError for what could never be approved.
    """
    if callable(by) or isinstance(by, staticmethod | classmethod):
        called = _name_of(by)
        raise ConfigurationError(
            f'require_approval does not know whose: write @require_approval("cfo") above {called}'
        )

    def decorate(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        gate = define_gate(
            function, by=by, reject_options=reject_options, edit=edit, timeout=timeout, escalate=escalate,
            quorum=quorum, when=when, remind=remind, via=via, urgent=urgent, four_eyes=four_eyes, name=name,
        )  # fmt: skip

        @functools.wraps(gate.function)
        async def gated(*args: Any, **kwargs: Any) -> Any:
            run = current_run.get()
            if run is None or not _on_its_loop(run):
                raise NotPossible(
                    f"{gate.action} runs only with the approval of {', '.join(gate.by)}: await it in an agent's handler (not in "
                    "a step or another thread), or ask through wakeloop.Client from any program"
                )
            of_call, rest = gate.for_call(args)
            return await cast("GatedRun", run).run_gated(of_call, rest, kwargs)

        gated.__gate__ = gate  # type: ignore[attr-defined]
        if not hasattr(gate.function, "__name__"):  # a partial, or an object that is called
            gated.__name__ = gated.__qualname__ = _name_of(gate.function)
            gated.__annotations__ = {}
        return gated

    return cast("ApprovalDecorator", decorate)
