"""Why a value does not fit a JSON Schema, in words that a person can act on.

A schema that cannot be checked accepts, for the type itself has the last word. Nothing is ever fetched for a `$ref`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wakeloop.forms.schema import (
    FORMATS,
    TYPES,
    Shape,
    describe_shape,
    followed,
    format_words,
    number_words,
    shape_of,
)
from wakeloop.forms.text import quoted

REASONS_LIMIT: Final = 3


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a value does not fit: `path` to the part, and what it must be."""

    path: tuple[str | int, ...]
    words: str

    def __str__(self) -> str:
        where = " ".join(f"entry {part + 1}" if isinstance(part, int) else part for part in self.path)
        return f"{where}: {self.words}" if where else self.words


def misfits(value: Any, shape: Shape) -> list[Reason]:
    """Why a value does not fit a shape; none if it does, or if that cannot be told."""
    if shape.exact and isinstance(value, str):
        # A Decimal as text; the schema says no more about it than that it is text.
        try:
            return reasons_against(float(value), dict(shape.schema), shape.root)
        except ValueError:
            return [Reason(path=(), words="must be a number")]
    return reasons_against(value, shape.source, shape.root)


def reasons_against(value: Any, source: Any, root: Mapping[str, Any]) -> list[Reason]:
    """Why a value does not fit a part `source` of the schema `root`; empty if it does, or if that cannot be told."""
    from wakeloop.forms.validating import errors

    try:
        if isinstance(source, Mapping) and followed(source, root) is None:
            return []
        found = errors(value, source, root)
        return list(dict.fromkeys(reason for error in found for reason in _explained(error, root)))
    except (RecursionError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError):
        # An odd schema: a reference that leads nowhere or to itself, a keyword that is none.
        return []


def told(reasons: Iterable[object]) -> str:
    """Reasons in one line for a person: three at most."""
    said = list(dict.fromkeys(map(str, reasons)))
    return "; ".join(said[:REASONS_LIMIT]) + ("; and more" if len(said) > REASONS_LIMIT else "")


def _explained(error: Any, root: Mapping[str, Any]) -> Iterator[Reason]:
    path, limit, value = tuple(error.absolute_path), error.validator_value, error.instance
    if error.validator in ("anyOf", "oneOf") and error.context:
        yield from _of_alternatives(error, root)
    elif error.validator == "required":
        yield from (Reason(path=(*path, name), words="is missing") for name in limit if name not in value)
    elif error.validator in ("additionalProperties", "unevaluatedProperties"):
        known = error.schema.get("properties") or {}
        extra = ", ".join(quoted(name) for name in value if name not in known)
        yield Reason(
            path=path, words=f"has no field {extra}" + (f"; there is {', '.join(known)}" if known else "")
        )
    elif error.validator == "prefixItems" or error.validator == "items":
        yield Reason(path=path, words="has too many entries")
    else:
        yield Reason(path=path, words=_words(error.validator, limit, error.schema, root))


def _of_alternatives(error: Any, root: Mapping[str, Any]) -> Iterator[Reason]:
    """What is wrong with a value that fits no alternative: with the only one of its type, else all there are."""
    branches: dict[Any, list[Any]] = {}
    for part in error.context:
        branches.setdefault(part.schema_path[0], []).append(part)
    near = [
        parts
        for parts in branches.values()
        if not any(part.validator == "type" and not part.path for part in parts)
    ]
    if len(near) == 1:
        for part in near[0]:
            yield from _explained(part, root)
    else:
        shape = shape_of(error.schema, root)
        yield Reason(path=tuple(error.absolute_path), words=f"must be {describe_shape(shape)}")


def _words(keyword: str, limit: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    bounds = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than", "exclusiveMaximum": "less than", "multipleOf": "a multiple of"}  # fmt: skip
    if keyword in bounds:
        return f"must be {bounds[keyword]} {number_words(limit)}"
    amounts = {
        "minLength": "at least {} characters", "maxLength": "at most {} characters", "minItems": "at least {} entries",
        "maxItems": "at most {} entries", "minProperties": "at least {} fields", "maxProperties": "at most {} fields",
    }  # fmt: skip
    if keyword in amounts:
        said = amounts[keyword].format(limit)
        return f"must have {said.replace('entries', 'entry').rstrip('s') if limit == 1 else said}"
    if keyword == "type":
        kinds = limit if isinstance(limit, list) else [limit]
        return f"must be {' or '.join(format_words(schema) or TYPES.get(kind, str(kind)) for kind in kinds)}"
    if keyword in ("enum", "const"):
        return f"must be {describe_shape(shape_of(schema, root))}"
    if keyword == "format":
        return f"must be {FORMATS.get(limit, str(limit))}"
    if keyword == "uniqueItems":
        return "must not have the same entry twice"
    if keyword == "pattern":
        examples = schema.get("examples")
        if isinstance(examples, list) and examples and isinstance(examples[0], str):
            return f"is not in the form asked for, such as {examples[0]}"
        return (
            f"is not in the form asked for ({limit})" if len(limit) <= 40 else "is not in the form asked for"
        )
    return "is not what is accepted here"
