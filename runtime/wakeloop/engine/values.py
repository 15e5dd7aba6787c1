"""How a value becomes JSON text in the journal and comes back equal: pydantic, by the function's annotation."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any, get_args, get_origin

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError, to_json

from wakeloop.errors import NotSerializable, ValueTooLarge

VALUE_LIMIT_BYTES = 1024 * 1024
_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
_NATIVE = (str, int, float, bool, type(None))


class Codec:
    """Dumps and loads the values of one annotation.

    A value that was dumped loads equal, or dumping it fails: the handler sees what was loaded, live and in replay
    alike, so there is never a difference between the two.
    """

    __slots__ = ("_adapter", "_native", "annotation")

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._native = annotation is Any
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=_CONFIG)
        except PydanticUserError as error:
            if isinstance(error, PydanticSchemaGenerationError) or error.code != "type-adapter-config-unused":
                raise
            self._adapter = TypeAdapter(annotation)

    def dump(self, value: Any, where: str) -> str:
        """The value as JSON text. `where` names the value in errors, such as "the result of step fetch".

        Raises NotSerializable naming `where` and the type, ValueTooLarge over 1 MiB of JSON."""
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
                same = type(back) is type(value) or bool(back == value)
            except ValidationError as error:
                raise self._refusal(value, where, f"it does not come back: {error}") from error
            except Exception as error:
                raise self._refusal(value, where, f"what comes back cannot be compared: {error!r}") from error
            if not same:
                raise self._refusal(value, where, f"it would come back as a {_type_name(back)}")
        return text.decode()

    def load(self, text: str) -> Any:
        """The value again. Raises pydantic's ValidationError if the text does not fit the annotation."""
        return self._adapter.validate_json(text)

    def _refusal(self, value: Any, where: str, reason: str) -> NotSerializable:
        name = _type_name(value)
        if self._native:
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


JSON_CODEC = Codec(Any)


@lru_cache(maxsize=4096)
def _hashable_codec(annotation: Any) -> Codec:
    return Codec(annotation)


def codec_for(annotation: Any) -> Codec:
    """The codec of an annotation; no annotation, or one that pydantic cannot read, means plain JSON values."""
    if annotation is Any or annotation is inspect.Parameter.empty:
        return JSON_CODEC
    try:
        return _hashable_codec(annotation)
    except TypeError:
        return Codec(annotation)


def result_codec(function: Callable[..., Any]) -> Codec:
    """The codec of what a function returns (of what it gives when awaited, for an async one).

    An annotation that pydantic has no schema for, such as a class of another library, counts as none: such a value is
    then refused when it is dumped, with the step's name and its type."""
    annotation = return_annotation(function)
    try:
        return codec_for(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return JSON_CODEC


def return_annotation(function: Callable[..., Any]) -> Any:
    """A function's return annotation, resolved; Any if there is none."""
    target = inspect.unwrap(function)
    if not (inspect.isfunction(target) or inspect.ismethod(target)):
        target = getattr(target, "__call__", target)  # noqa: B004
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return Any
    annotation = hints.get("return", Any)
    origin = get_origin(annotation)
    if origin in (typing.Coroutine, typing.Awaitable) or getattr(origin, "__name__", "") in (
        "Coroutine",
        "Awaitable",
    ):
        return get_args(annotation)[-1]
    return annotation
