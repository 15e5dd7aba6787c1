"""How an exception is written to the journal and raised again from it, without pickle."""

from __future__ import annotations

import builtins
import sys
import traceback
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from wakeloop.engine.values import VALUE_LIMIT_BYTES, _not_native
from wakeloop.errors import StepFailed


class Failure(BaseModel):
    """An exception as plain data: its class, arguments, plain attributes, words and traceback.

    base: the nearest of its classes that Python itself has, for when its own cannot be made again. parts: the members of
    an exception group."""

    module: str
    name: str
    text: str
    args: list[Any] = []
    facts: dict[str, Any] = {}
    base: str = "Exception"
    parts: list[Failure] = []
    trace: str = ""

    @property
    def title(self) -> str:
        """One line, as at the end of a traceback."""
        return f"{self.name}: {self.text}" if self.text else self.name


TRACE_LIMIT_CHARACTERS = 20_000
PARTS_LIMIT = 100
_OS_FACTS = ("errno", "strerror", "filename", "filename2")


def describe(error: BaseException) -> Failure:
    """An exception as data. What is not plain JSON among its arguments and attributes is left out."""
    failure = _describe(error)
    if len(to_json(failure, serialize_unknown=True)) > VALUE_LIMIT_BYTES:
        failure = failure.model_copy(
            update={"text": failure.text[:2000], "args": [failure.text[:2000]], "facts": {}, "parts": []}
        )
    return failure


def _describe(error: BaseException) -> Failure:
    cls = type(error)
    text = _text(error)
    facts = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    if isinstance(error, OSError):
        facts |= {name: getattr(error, name, None) for name in _OS_FACTS}
    parts: list[Failure] = []
    args = [text]
    if isinstance(error, BaseExceptionGroup):
        args = [_clean(str(error.message))]
        parts = [_describe(part) for part in error.exceptions[:PARTS_LIMIT]]
    elif all(_is_kept(part) for part in error.args):
        args = list(error.args)
    return Failure(
        module=cls.__module__,
        name=cls.__qualname__,
        text=text,
        args=args,
        facts={name: value for name, value in facts.items() if value is not None and _is_kept(value)},
        base=next(one.__name__ for one in cls.__mro__ if one.__module__ == "builtins"),
        parts=parts,
        trace=_clean("".join(traceback.format_exception(error))[-TRACE_LIMIT_CHARACTERS:]),
    )


def _text(error: BaseException) -> str:
    try:
        return _clean(str(error))
    except Exception as problem:
        return f"(its text cannot be had: {type(problem).__name__})"


def _clean(text: str) -> str:
    """Without what JSON cannot hold: lone surrogates, as in the names of files that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_kept(value: Any) -> bool:
    """Whether a value is plain JSON, and comes back from it."""
    if _not_native(value) is not None:
        return False
    try:
        return bool(from_json(to_json(value)) == value)
    except ValueError:
        return False


def rebuild(failure: Failure, step: str, *, kind: str = "step") -> Exception:
    """The exception again: of its own class if that is loaded, so that `except` finds it, with the same words.

    The class's `__init__` is not called; arguments and plain attributes are put back as they were. What cannot be made
    that way is a StepFailed that is also of the nearest class of Python's own: a ValueError stays a ValueError."""
    found: Any = sys.modules.get(failure.module)
    for part in failure.name.split("."):
        found = getattr(found, part, None)
    error = _remade(failure, found, step) if _is_raisable(found) else None
    if error is None:
        error = StepFailed(
            f"{kind} {step} raised {_title_with_module(failure)}",
            step=step,
            error_type=f"{failure.module}.{failure.name}",
        )
        base = getattr(builtins, failure.base, Exception)
        if _is_raisable(base) and not issubclass(StepFailed, base) and base is not ExceptionGroup:
            error = _also(StepFailed, base, error)
    error.add_note(f"(raised by {kind} {step}; its own traceback is in the journal)")
    return error


def _is_raisable(found: Any) -> bool:
    # A Future refuses a StopIteration, and what is no Exception would take the run's own machinery down.
    return isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, StopIteration)


def _remade(failure: Failure, found: type[Exception], step: str) -> Exception | None:
    try:
        if issubclass(found, ExceptionGroup):
            return found(failure.args[0], [rebuild(part, step) for part in failure.parts])
        error = _filled(found, failure)
        if _text(error) != failure.text:
            # What its words were made of is gone, so it is of a class that knows them.
            words = {"__str__": lambda self: failure.text, "__module__": found.__module__}
            error = _filled(
                type(found.__name__, (found,), words | {"__qualname__": found.__qualname__}), failure
            )
    except Exception:  # a class that cannot be made without its __init__ is described instead
        return None
    return error


def _filled(cls: type[Exception], failure: Failure) -> Exception:
    error = cls.__new__(cls, *failure.args)
    error.args = tuple(failure.args)
    for name, value in failure.facts.items():
        if isinstance(error, OSError) and name in _OS_FACTS:
            setattr(error, name, value)
        else:
            error.__dict__[name] = value
    return error


def _also(cls: type[StepFailed], base: type[Exception], error: StepFailed) -> StepFailed:
    """The same exception, of a class that is a `base` too."""
    try:
        made: Any = type(
            cls.__name__, (cls, base), {"__module__": cls.__module__, "__str__": Exception.__str__}
        )
        return made(*error.args, **error.__dict__)  # type: ignore[no-any-return]
    except Exception:
        return error


def _title_with_module(failure: Failure) -> str:
    name = failure.name if failure.module == "builtins" else f"{failure.module}.{failure.name}"
    return f"{name}: {failure.text}" if failure.text else name
