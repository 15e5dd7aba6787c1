"""The arguments of a gated function: from a call to the JSON that a person decides on, and from there to the call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum
from inspect import Parameter
from typing import Any, NoReturn, Optional, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json
from typing_extensions import Unpack

from wakeloop.calls import canonical, label, type_name
from wakeloop.errors import ConfigurationError, InvalidArguments, NotSerializable
from wakeloop.functions import annotated, innermost, name_of, resolved

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
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_FIX = "take JSON values, dataclasses or pydantic models, or an id by which the function finds the rest"


class GateArguments:
    """The arguments of one function: from a call to JSON that a person decides on, and from there to the call.

    What was approved is what is called with: the function gets its arguments from the JSON, never from the caller. The
    instance (or class) that a method is called on is no argument: nobody is shown it, and no digest holds it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises ConfigurationError, naming the parameter, for what could never be shown to a person."""
        self.function = name_of(function)
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
        if canonical(self._plain(model), ordered=False) != canonical(dict(arguments), ordered=False):
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
                f"{self.function} cannot be gated: the default of its argument {one.name!r}, a {type_name(default)}, does not "
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
            if kinds.get(name) in BY_NAME:
                if name in given:
                    problems[name] = "is given twice"
                given[name] = value
            elif Parameter.VAR_KEYWORD in rest:
                others[name] = value
            elif kinds.get(name) is Parameter.POSITIONAL_ONLY:
                problems[name] = "must be given by position"
            else:
                problems[label(name)] = self._stranger()
        if Parameter.VAR_KEYWORD in rest:
            given[rest[Parameter.VAR_KEYWORD]] = others
        return given, problems

    def _read(self, arguments: Mapping[str, Any]) -> BaseModel:
        if not isinstance(arguments, Mapping):
            self._refuse({"arguments": f"are a {type_name(arguments)}, not an object of JSON"})
        names = self.names
        problems = {label(name): self._stranger() for name in arguments if name not in names}
        problems |= {name: "is missing" for name in names if name not in arguments}
        given = {name: value for name, value in arguments.items() if name in names}
        for name, value in given.items():
            try:
                canonical(value)
            except NotSerializable as error:
                problems[name] = f"is not JSON: {error}"
        for one in self._parameters:
            if one.kind is Parameter.VAR_KEYWORD and isinstance(given.get(one.name), dict):
                taken = {other.name for other in self._parameters if other.kind in BY_NAME}
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
            canonical(plain[name])
        except (ValueError, TypeError, LookupError, RecursionError):  # pydantic's own are ValueErrors
            problems[name] = f"holds what JSON does not (it is a {type_name(getattr(model, field))}); {_FIX}"
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
            name_of_type = type_name(getattr(model, field))
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
        return sorted(parts, key=canonical) if isinstance(value, set | frozenset) else parts
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


def _annotation(function: Any, one: Parameter, name: str) -> Any:
    if one.annotation is Parameter.empty:
        return Any
    try:
        return resolved(annotated(function), one.name, one.annotation)
    except Exception as error:
        raise ConfigurationError(
            f"{name} cannot be gated: the annotation {_shown_type(one.annotation)} of its argument {one.name!r} cannot be read "
            f"where it is defined ({error}): define or import it at the top of the module, not only for type checkers"
        ) from error


def _has_receiver(function: Any, parameters: Sequence[Parameter]) -> bool:
    """Whether the first parameter is the instance or class of a method, and no argument."""
    target = innermost(function)
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
    return ".".join(label(part) if isinstance(part, str) else str(part) for part in place) or "arguments"


def _shown_type(annotation: Any) -> str:
    return (
        annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    )
