"""What both clients' `require_approval` share: the checks of a definition, and the id of a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any
from uuid import UUID

from wakeloop.errors import ConfigurationError
from wakeloop.gates import Gate, define_gate

KeyOf = Callable[..., UUID | str]


def gate_of(function: Callable[..., Any], id: KeyOf | None, **options: Any) -> Gate:
    """The gate of a function, and whether `id` can be made for its calls. Raises ConfigurationError."""
    gate = define_gate(function, **options)
    if id is None:
        return gate
    title = f"require_approval of {gate.arguments.function}"
    if not callable(id) or inspect.iscoroutinefunction(id):
        raise ConfigurationError(
            f"{title}: id must be a plain function of the arguments, such as id=lambda invoice: invoice"
        )
    for one in inspect.signature(id).parameters.values():
        if one.kind is Parameter.VAR_KEYWORD:
            continue
        if one.default is Parameter.empty and (
            one.name not in gate.arguments.names or one.kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)
        ):  # fmt: skip
            raise ConfigurationError(
                f"{title}: id asks for {one.name!r}, which is no argument of {gate.arguments.function} (it takes: "
                f"{', '.join(gate.arguments.names) or 'none'})"
            )
    return gate


def key_for(id: KeyOf, values: Mapping[str, Any]) -> UUID | str:
    """The caller's id for a call: `id` called with those arguments that it names."""
    parameters = inspect.signature(id).parameters.values()
    takes_all = any(one.kind is Parameter.VAR_KEYWORD for one in parameters)
    wanted = {one.name for one in parameters}
    return id(**{name: value for name, value in values.items() if takes_all or name in wanted})


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )
