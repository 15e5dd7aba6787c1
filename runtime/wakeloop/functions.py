"""What a function is under steps, partials and wrappers: its name, and its annotations as they mean where it is defined."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any


def layers(function: Any) -> Iterator[Any]:
    """A function, and what is carried out by it, under steps, partials and wrappers."""
    while function is not None:
        yield function
        inner = getattr(function, "__wrapped__", None)
        function = function.func if isinstance(function, functools.partial) else inner


def innermost(function: Any) -> Any:
    """What is carried out in the end."""
    return list(layers(function))[-1]


def name_of(function: Any) -> str:
    """What it is called; an object that is called, by its type."""
    return str(getattr(function, "__name__", None) or type(function).__name__)


def annotated(function: Any) -> Any:
    """What bears the annotations: the innermost function, or how an object is called."""
    target = innermost(function)
    return target if inspect.isroutine(target) else getattr(target, "__call__", target)  # noqa: B004


def resolved(target: Any, name: str, written: Any) -> Any:
    """One annotation of what is `annotated`, with the names of the module and the functions around it. It is read alone:
    what the others are called may be known to type checkers only.

    Raises NameError for a name that is not to be found there, and whatever the annotation raises."""
    alone = types.SimpleNamespace(__annotations__={name: written})
    scope = getattr(inspect.unwrap(target), "__globals__", {})
    return typing.get_type_hints(alone, scope, _closure(target), include_extras=True)[name]


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
