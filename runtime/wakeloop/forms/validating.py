"""Where a value does not fit a JSON Schema, as jsonschema tells it.

Importing that takes as long as a fifth of wakeloop's own start, so `reasons` asks for this module with the first value
that it checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from jsonschema.exceptions import SchemaError, ValidationError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from pydantic import AnyUrl, IPvAnyAddress, TypeAdapter
from pydantic import ValidationError as Invalid
from referencing import Registry
from referencing.exceptions import Unresolvable

from wakeloop.forms.schema import MOMENTS
from wakeloop.forms.text import is_moment


def errors(value: Any, source: Any, root: Mapping[str, Any]) -> list[Any]:
    """jsonschema's errors of a value against a part `source` of the schema `root`; none if the schema cannot be checked or
    leads nowhere. Nothing is ever fetched for a `$ref`."""
    validator = _validator(json.dumps(root))
    try:
        return [] if validator is None else list(validator.descend(value, source))
    except Unresolvable:
        return []


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    schema = json.loads(text)
    try:
        _Validator.check_schema(schema, format_checker=None)
    except SchemaError:
        return None
    return _Validator(schema, registry=Registry(), format_checker=_FORMAT_CHECKER)


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
    """`pattern` as jsonschema has it; one that only another language's expressions know (Rust's, in pydantic) passes."""
    try:
        fits = not isinstance(instance, str) or re.search(pattern, instance)
    except re.error:
        return
    if not fits:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _by_type(adapter: TypeAdapter[Any]) -> Any:
    def fits(text: object) -> bool:
        if isinstance(text, str):
            try:
                adapter.validate_python(text)
            except Invalid:
                return False
        return True

    return fits


_Validator = extend(Draft202012Validator, {"pattern": _pattern})
_FORMAT_CHECKER = FormatChecker(formats=("email", "idn-email"))
for _kind in MOMENTS:
    _FORMAT_CHECKER.checks(_kind)(lambda text, kind=_kind: is_moment(text, kind))
_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    "uuid": TypeAdapter(UUID), "uri": TypeAdapter(AnyUrl), "duration": TypeAdapter(timedelta),
    "ipv4": TypeAdapter(IPvAnyAddress), "ipv6": TypeAdapter(IPvAnyAddress),
}  # fmt: skip
for _kind, _adapter in _ADAPTERS.items():
    _FORMAT_CHECKER.checks(_kind)(_by_type(_adapter))
