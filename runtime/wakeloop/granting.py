"""Approvals in advance: which calls are "like this one"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Limit = Literal["equal", "at_most", "any"]


def limits_for(arguments: Mapping[str, Any], chosen: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What later calls must be like, from the arguments of one that a person has seen.

    chosen: by argument, `equal` (the same value), `at_most` (a number not above this one, and not below zero if this
    one is not) or `any`. What is not chosen must be equal. Raises ValueError for an argument that there is not, or
    `at_most` of what is no number.
    """
    chosen = dict(chosen or {})
    unknown = sorted(chosen.keys() - arguments.keys())
    if unknown:
        raise ValueError(f"there is no argument {', '.join(unknown)}; there are: {', '.join(arguments)}")
    limits: dict[str, Any] = {}
    for name, value in arguments.items():
        kind = chosen.get(name, "equal")
        if kind not in ("equal", "at_most", "any"):
            raise ValueError(f"{name}: {kind!r} is no limit; write equal, at_most or any")
        if kind == "at_most" and not _is_number(value):
            raise ValueError(f"{name} is {value!r}, which is no number: at_most cannot be chosen for it")
        limits[name] = {"any": True} if kind == "any" else {kind: value}
    return limits


def covers(limits: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a call with these arguments is within the limits: every argument is named, and fits."""
    return limits.keys() == arguments.keys() and all(
        _fits(limits[name], value) for name, value in arguments.items()
    )


def limit_words(limits: Mapping[str, Any]) -> str:
    """The limits as people read them: `amount at most 40, to = "ACME"`."""
    words = []
    for name, limit in limits.items():
        if "any" in limit:
            words.append(f"{name} any")
        elif "at_most" in limit:
            words.append(f"{name} at most {limit['at_most']}")
        else:
            words.append(f"{name} = {limit['equal']!r}")
    return ", ".join(words) or "no arguments"


def _fits(limit: Mapping[str, Any], value: Any) -> bool:
    if limit.get("any") is True:
        return True
    if "at_most" in limit:
        most = limit["at_most"]
        return _is_number(value) and _is_number(most) and value <= most and (value >= 0 or most < 0)
    return "equal" in limit and _is_same(limit["equal"], value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other)
