"""Slack's requests as they come over the wire: who signed them, and the payload that they carry.

The Events API posts JSON, interactivity a form with the JSON in `payload`; both may call the same address.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from wakeloop.channel import RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop_channels.text import well_formed

MAX_BYTES = 1024 * 1024
WINDOW_SECONDS = 300
"""So far from now, either way, the time of a signed request may be: https://docs.slack.dev/authentication/verifying-requests-from-slack."""

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

_KEYS = frozenset({"token", "response_url", "response_urls"})


def check_signature(request: RawRequest, secrets: Iterable[bytes], now: float) -> None:
    """Check that the raw request was signed with one of `secrets`, in constant time, and not long ago; all are tried.

    Raises InvalidWebhook: 413 for a body over MAX_BYTES, else 403."""
    _check_size(request)
    stamp = request.headers.get("x-slack-request-timestamp", "").strip()
    signature = request.headers.get("x-slack-signature", "").strip()
    if not stamp or not signature:
        raise InvalidWebhook(
            "The request has no X-Slack-Signature with its time: it does not come from Slack."
        )
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise InvalidWebhook("X-Slack-Request-Timestamp is no time.")
    text = b"v0:" + stamp.encode() + b":" + request.body
    given = signature.encode("utf-8", "surrogatepass")
    matches = [hmac.compare_digest(b"v0=" + _digest(secret, text), given) for secret in secrets]
    if not any(matches):
        raise InvalidWebhook(
            "X-Slack-Signature fits this body with no signing secret: the request is forged, or comes from another app."
        )
    if abs(now - int(stamp)) > WINDOW_SECONDS:
        raise InvalidWebhook(
            "The request was signed more than five minutes from now: it is replayed, or a clock is wrong."
        )


def read_payload(request: RawRequest) -> dict[str, Any]:
    """The payload, whichever way it came; see `clean_payload`.

    Raises InvalidWebhook: 405 for another method than POST, 413 for a body over MAX_BYTES, 415 for another content type,
    400 for anything else that is no payload."""
    if request.method.upper() != "POST":
        raise InvalidWebhook("Slack calls this webhook with POST.", status=405)
    _check_size(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in (JSON, FORM):
        raise InvalidWebhook(f"The body must be {JSON} or {FORM}.", status=415)
    try:
        text = request.body.decode("utf-8")
        if content_type == FORM:
            found = parse_qs(
                text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20
            )
            (text,) = found["payload"]
        payload = json.loads(text)
    except (ValueError, KeyError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InvalidWebhook("The body is neither JSON nor a form with a payload.", status=400) from error
    return clean_payload(payload)


def clean_payload(payload: object) -> dict[str, Any]:
    """A payload with U+FFFD for what databases refuse, U+0000 and lone surrogates, and without what opens doors: the old
    verification token, and the address at which anybody may answer.

    Raises InvalidWebhook (400) if it is no object of a type."""
    try:
        cleaned = _cleaned(payload)
    except RecursionError as error:
        raise InvalidWebhook("The payload is nested too deep.", status=400) from error
    if not isinstance(cleaned, dict) or not isinstance(cleaned.get("type"), str):
        raise InvalidWebhook("The payload has no type.", status=400)
    return {name: value for name, value in cleaned.items() if name not in _KEYS}


def text_at(payload: Mapping[str, Any], *path: str) -> str | None:
    """The text at a place in a payload; None if there is none."""
    return found if isinstance(found := _at(payload, path), str) and found else None


def table_at(payload: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The object at a place in a payload; an empty one if there is none."""
    return found if isinstance(found := _at(payload, path), Mapping) else {}


def tables_at(payload: Mapping[str, Any], *path: str) -> list[Mapping[str, Any]]:
    """The objects of the list at a place in a payload."""
    found = _at(payload, path)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _at(payload: Mapping[str, Any], path: Iterable[str]) -> Any:
    found: Any = payload
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def _check_size(request: RawRequest) -> None:
    if len(request.body) > MAX_BYTES:
        raise InvalidWebhook(f"The body has more than {MAX_BYTES} bytes.", status=413)


def _digest(secret: bytes, text: bytes) -> bytes:
    return hmac.digest(secret, text, hashlib.sha256).hex().encode()
