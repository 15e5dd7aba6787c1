"""Webhooks whose body is a JSON object: reading one within bounds, and what it holds in the types that it should have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wakeloop.channel import RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop_channels.text import well_formed


def read_object(request: RawRequest, *, limit: int, provider: str) -> dict[str, Any]:
    """The JSON object that a webhook carries, as `read_json` reads it.

    Raises InvalidWebhook: 405 for another method than POST, 413 for more than `limit` bytes, 415 for another content
    type, 400 for anything else that is no JSON object in UTF-8."""
    if request.method.upper() != "POST":
        raise InvalidWebhook(f"{provider} calls this webhook with POST.", status=405)
    if len(request.body) > limit:
        raise InvalidWebhook(f"The body has more than {limit} bytes.", status=413)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidWebhook("The body must be application/json.", status=415)
    found = read_json(request.body)
    if not isinstance(found, dict):
        raise InvalidWebhook("The body is no JSON object.", status=400)
    return found


def read_json(body: bytes) -> Any:
    """What a body says; U+0000 and lone surrogates, which databases refuse, are replaced.

    Raises InvalidWebhook (400) for what is no JSON in UTF-8."""
    try:
        return _clean(json.loads(body.decode(), parse_constant=_refuse))
    except (ValueError, RecursionError) as error:
        raise InvalidWebhook("The body is no JSON in UTF-8.", status=400) from error


def obj(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object of that name, an empty one if there is none. Raises InvalidWebhook (400) if it is something else."""
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidWebhook(f"{name} is no object.", status=400)
    return value


def objects(parent: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The list of objects of that name, an empty one if there is none. Raises InvalidWebhook (400) if it is none."""
    value = parent.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InvalidWebhook(f"{name} is no list of objects.", status=400)
    return value


def text(parent: Mapping[str, Any], name: str) -> str:
    """The text of that name, an empty one if there is none. Raises InvalidWebhook (400) if it is something else."""
    value = parent.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidWebhook(f"{name} is no text.", status=400)
    return value


def whole(parent: Mapping[str, Any], name: str) -> int:
    """The whole number of that name. Raises InvalidWebhook (400) if it is missing or something else."""
    value = parent.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidWebhook(f"{name} is no whole number.", status=400)
    return value


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_clean(one) for one in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(one) for name, one in value.items()}
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
