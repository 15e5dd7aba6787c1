"""How a value becomes JSON text in the journal and comes back equal: pydantic, by the function's annotation."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import (
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import TypeAliasType

from wakeloop.engine.responses import journaled
from wakeloop.errors import NotSerializable, ValueTooLarge
from wakeloop.functions import annotated, resolved

_alias: Any = TypeAliasType
VALUE_LIMIT_BYTES = 1024 * 1024
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
_NATIVE = (str, int, float, bool, type(None))
_NULL = "null"


class Codec:
    """Dumps and loads the values of one annotation.

    A value that was dumped loads equal, or dumping it fails: the handler sees what was loaded, live and in replay
    alike, so there is never a difference between the two.
    """

    __slots__ = ("_adapter", "_native", "_nullable", "annotation", "unresolved")

    def __init__(self, annotation: Any, *, unresolved: str | None = None) -> None:
        """Args: unresolved: why what was really annotated is not known."""
        self.annotation = annotation
        self.unresolved = unresolved
        self._native = annotation is Any
        self._nullable = any(annotation is one for one in (Any, None, type(None)))  # as of every sleep
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(journaled(annotation), config=_CONFIG)
        except PydanticUserError as error:
            if isinstance(error, PydanticSchemaGenerationError) or error.code != "type-adapter-config-unused":
                raise
            self._adapter = _configured(annotation)

    def dump(self, value: Any, where: str) -> str:
        """The value as JSON text. `where` names the value in errors, such as "the result of step fetch".

        Raises NotSerializable naming `where` and the type, ValueTooLarge over 1 MiB of JSON."""
        if value is None and self._nullable:
            return _NULL
        try:
            text = to_json(value, bytes_mode="base64", inf_nan_mode="constants") if self._native else None
            if text is None:
                text = self._adapter.dump_json(value, warnings="error")
        except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise self._refusal(value, where, str(error)) from error
        if len(text) > VALUE_LIMIT_BYTES:
            raise ValueTooLarge(
                f"{where} is {len(text):,} bytes of JSON, over the limit of {VALUE_LIMIT_BYTES:,}: "
                "store it elsewhere in a step (a file, an object store, a table) and return its key",
                where=where, size=len(text), limit=VALUE_LIMIT_BYTES,
            )  # fmt: skip
        if self._native:
            odd = _not_native(value)
            if odd is not None:
                raise self._refusal(value, where, f"it holds a {_type_name(odd)}")
        else:
            try:
                back = self._adapter.validate_json(text)
                same = bool(back == value) or _is_same(value, back)
            except ValidationError as error:
                raise self._refusal(value, where, f"it does not come back: {error}") from error
            except Exception as error:
                raise self._refusal(value, where, f"what comes back cannot be compared: {error!r}") from error
            if not same:
                raise self._refusal(value, where, _difference(value, back))
        return text.decode()

    def load(self, text: str) -> Any:
        """The value again. Raises pydantic's ValidationError if the text does not fit the annotation."""
        if text == _NULL and self._nullable:
            return None
        return self._adapter.validate_json(text)

    def _refusal(self, value: Any, where: str, reason: str) -> NotSerializable:
        name = _type_name(value)
        if self.unresolved is not None:
            advice = (
                f"its annotation cannot be read where it is defined ({self.unresolved}): define the class at the top level of "
                "the module, and import it there, not only for type checkers"
            )
        elif self._native:
            advice = "annotate the function's return type (a pydantic model, dataclass or builtin type), or return plain JSON values"
        else:
            advice = (
                f"return a value that fits the annotation {_annotation_name(self.annotation)}, or change it"
            )
        return NotSerializable(
            f"{where} is a {name} and cannot be kept in the journal ({reason}); {advice}",
            where=where,
            type_name=name,
        )


def _type_name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _annotation_name(annotation: Any) -> str:
    return (
        annotation.__name__
        if isinstance(annotation, type) and not get_origin(annotation)
        else str(annotation)
    )


def _not_native(value: Any) -> Any:
    """The first part of a value that JSON would silently turn into something else, or None."""
    if type(value) in _NATIVE:
        return None
    if type(value) is list:
        return next((odd for part in value if (odd := _not_native(part)) is not None), None)
    if type(value) is dict:
        for key, part in value.items():
            if type(key) is not str:
                return key
            if (odd := _not_native(part)) is not None:
                return odd
        return None
    return value


def _configured(annotation: Any) -> TypeAdapter[Any]:
    """The adapter of a model (which has a configuration of its own), or of a dataclass or TypedDict (which take ours, if
    it comes from around them, and they have none)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)
    return TypeAdapter(_alias("Value", annotation), config=_CONFIG)


def _is_same(value: Any, back: Any) -> bool:
    """Whether what comes back is the value: of the same parts, equal one by one; NaN is the same as NaN.

    The parts are looked at because a container compares equal to nothing that holds a NaN, and because what a model
    leaves out (`exclude=True`) or hides (a SecretStr) would be lost without notice. Private attributes do not count."""
    if isinstance(value, BaseModel):
        return (
            type(back) is type(value)
            and _is_same(value.__dict__, back.__dict__)
            and _is_same(value.__pydantic_extra__, back.__pydantic_extra__)
        )
    if isinstance(value, dict):
        return (
            isinstance(back, dict)
            and len(value) == len(back)
            and all(key in back and _is_same(part, back[key]) for key, part in value.items())
        )
    if isinstance(value, list | tuple):
        return (
            isinstance(back, list | tuple)
            and isinstance(value, list) == isinstance(back, list)
            and len(value) == len(back)
            and all(map(_is_same, value, back))
        )
    if isinstance(value, datetime) and isinstance(back, datetime):
        # In the hour that comes twice, a time equals none of another zone (PEP 495), be it the same instant.
        aware = value.tzinfo is not None and back.tzinfo is not None
        return back == value or (aware and value.timestamp() == back.timestamp())
    if isinstance(value, float):
        return bool(back == value) or (value != value and back != back)
    if is_dataclass(value) and not isinstance(value, type):
        return type(back) is type(value) and all(
            _is_same(getattr(value, one.name), getattr(back, one.name)) for one in fields(value)
        )
    if getattr(type(value), "__eq__", None) is object.__eq__:
        return type(back) is type(value)
    return bool(back == value)


def _difference(value: Any, back: Any) -> str:
    """Where a value and what came of it differ, and how: by types only, for its contents may be secret."""
    place = ""
    while type(value) is type(back):
        if isinstance(value, BaseModel):
            value, back = value.__dict__, back.__dict__
        if isinstance(value, dict) and value.keys() == back.keys():
            parts = [(f"[{key!r}]", part, back[key]) for key, part in value.items()]
        elif isinstance(value, list | tuple) and len(value) == len(back):
            parts = [(f"[{i}]", *pair) for i, pair in enumerate(zip(value, back, strict=True))]
        else:
            return f"{place.join(('its part ', ' ')) if place else 'it '}would come back different"
        odd = next((part for part in parts if not (part[1] == part[2] or _is_same(*part[1:]))), None)
        if odd is None:
            return "it would come back different"
        place, value, back = place + odd[0], odd[1], odd[2]
    if not place:
        return f"it would come back as a {_type_name(back)}"
    return f"its part {place} is a {_type_name(value)} and would come back as a {_type_name(back)}"


JSON_CODEC = Codec(Any)


def plain(value: Any) -> Any:
    """What an author may give as JSON: a pydantic model as its JSON values, anything else as it is."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@lru_cache(maxsize=4096)
def _hashable_codec(annotation: Any, written: str) -> Codec:
    # `written` tells apart `str | datetime` and `datetime | str`, which are equal and do not load the same.
    return Codec(annotation)


def codec_for(annotation: Any) -> Codec:
    """The codec of an annotation; no annotation, or one that pydantic cannot read, means plain JSON values."""
    if annotation is Any or annotation is inspect.Parameter.empty:
        return JSON_CODEC
    try:
        return _hashable_codec(annotation, repr(annotation))
    except TypeError:
        return Codec(annotation)


_result_codecs: WeakKeyDictionary[Callable[..., Any], Codec] = WeakKeyDictionary()


def result_codec(function: Callable[..., Any]) -> Codec:
    """The codec of what a function returns (of what it gives when awaited, for an async one).

    An annotation that pydantic has no schema for, such as a class of another library, counts as none: such a value is
    then refused when it is dumped, with the step's name and its type."""
    try:
        known = _result_codecs.get(function)
    except TypeError:  # it cannot be a key
        return _result_codec(function)
    if known is None:
        known = _result_codec(function)
        if known.unresolved is None and not isinstance(function, types.MethodType):
            _result_codecs[function] = known
    return known


def _result_codec(function: Callable[..., Any]) -> Codec:
    try:
        return codec_for(return_annotation(function))
    except NameError as error:
        return Codec(Any, unresolved=str(error))
    except (PydanticSchemaGenerationError, PydanticUserError):
        return JSON_CODEC


def return_annotation(function: Callable[..., Any]) -> Any:
    """A function's return annotation, resolved; Any if there is none.

    Raises NameError if it names something that is not to be found where the function is defined."""
    target = annotated(function)
    written = getattr(target, "__annotations__", {}).get("return", Any)
    try:
        annotation = resolved(target, "return", written)
    except (TypeError, AttributeError, SyntaxError):
        return Any
    origin = get_origin(annotation)
    if origin in (typing.Coroutine, typing.Awaitable) or getattr(origin, "__name__", "") in (
        "Coroutine",
        "Awaitable",
    ):
        return get_args(annotation)[-1]
    return annotation
