"""How an exception is written to the journal and raised again from it, without pickle."""

from __future__ import annotations

import sys
import traceback
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from wakeloop.engine.values import VALUE_LIMIT_BYTES, _not_native
from wakeloop.errors import StepFailed


class Failure(BaseModel):
    """An exception as plain data: its class, arguments, plain attributes, words and traceback."""

    module: str
    name: str
    text: str
    args: list[Any] = []
    facts: dict[str, Any] = {}
    trace: str = ""

    @property
    def title(self) -> str:
        """One line, as at the end of a traceback."""
        return f"{self.name}: {self.text}" if self.text else self.name


TRACE_LIMIT_CHARACTERS = 20_000


def describe(error: BaseException) -> Failure:
    """An exception as data. What is not plain JSON among its arguments and attributes is left out."""
    cls = type(error)
    plain = all(_not_native(part) is None for part in error.args)
    facts = {k: v for k, v in vars(error).items() if not k.startswith("_") and _not_native(v) is None}
    failure = Failure(
        module=cls.__module__,
        name=cls.__qualname__,
        text=str(error),
        args=list(error.args) if plain else [str(error)],
        facts=facts,
        trace="".join(traceback.format_exception(error))[-TRACE_LIMIT_CHARACTERS:],
    )
    if len(to_json(failure, serialize_unknown=True)) > VALUE_LIMIT_BYTES:
        failure = failure.model_copy(
            update={"text": failure.text[:2000], "args": [failure.text[:2000]], "facts": {}}
        )
    return failure


def rebuild(failure: Failure, step: str) -> Exception:
    """The exception again: of its own class if that is loaded, so that `except` finds it, else StepFailed.

    The class's `__init__` is not called; arguments and plain attributes are put back as they were."""
    found: Any = sys.modules.get(failure.module)
    for part in failure.name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return StepFailed(
            f"step {step} raised {failure.module}.{failure.name}: {failure.text}",
            step=step, error_type=f"{failure.module}.{failure.name}",
        )  # fmt: skip
    try:
        error = found.__new__(found, *failure.args)
        error.args = tuple(failure.args)
        error.__dict__.update(failure.facts)
    except Exception:  # a class that cannot be made without its __init__ is described instead
        return StepFailed(
            f"step {step} raised {failure.title}", step=step, error_type=f"{failure.module}.{failure.name}"
        )
    error.add_note(f"(raised by step {step}; its own traceback is in the journal)")
    return error
