"""The wire of Twilio's stand-in: what the API refuses and how its answers look, and the signature of a webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from wakeloop.testing.stand_in import Answer, Given

JSON = "application/json;charset=utf-8"

# https://www.twilio.com/docs/api/errors: HTTP status and words of what the API refuses.
ERRORS: Mapping[int, tuple[int, str]] = {
    20003: (401, "Authenticate"),
    20404: (404, "The requested resource {path} was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service Unavailable"),
    21211: (400, "The 'To' number {to} is not a valid phone number."),
    21212: (
        400,
        "The 'From' number {from_} is not a valid phone number, shortcode, or alphanumeric sender ID.",
    ),
    21408: (
        400,
        "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {to}",
    ),
    21602: (400, "Message body is required."),
    21603: (400, "A 'From' phone number is required."),
    21604: (400, "A 'To' phone number is required."),
    21606: (
        400,
        "The From phone number {from_} is not a valid, SMS-capable inbound phone number for your account.",
    ),
    21609: (400, "The 'StatusCallback' URL {callback} is not a valid URL."),
    21610: (400, "Attempt to send to unsubscribed recipient"),
    21611: (429, "This 'From' number has exceeded the maximum number of queued messages"),
    21612: (
        400,
        "The 'To' phone number: {to}, is not currently reachable using the 'From' phone number: {from_}",
    ),
    21614: (400, "'To' number {to} is not a valid mobile number"),
    21617: (400, "The concatenated message body exceeds the 1600 character limit"),
    21620: (400, "Invalid media URL(s)"),
    21623: (400, "Number of media files exceeds allowed limit"),
    21655: (400, "The ContentSid Parameter is Invalid"),
    21656: (400, "The ContentVariables Parameter is invalid"),
    21658: (400, "Parameter exceeded character limit"),
    21910: (400, "Invalid 'From' and 'To' pair. 'From' and 'To' should be of the same channel"),
    63007: (400, "Twilio could not find a Channel with the specified 'From' address"),
}

# Magic numbers of the test credentials: what the API answers to a message to them.
MAGIC_RECIPIENTS: Mapping[str, int] = {
    "+15005550001": 21211,
    "+15005550002": 21612,
    "+15005550003": 21408,
    "+15005550004": 21610,
    "+15005550009": 21614,
}


@dataclass(frozen=True, kw_only=True)
class StatusCallback:
    """A status callback that was made; `answer` is None if nobody could be reached."""

    sid: str
    status: str
    answer: Answer | None


def sign(
    url: str,
    parameters: Iterable[tuple[str, str]],
    secret: str,
    algorithm: Literal["SHA1", "SHA256"] = "SHA1",
) -> str:
    """The X-Twilio-Signature of a request: the URL, then each parameter's name and value in the order of the names
    (a name's different values in their own order), HMAC with the secret, base64."""
    by_name: dict[str, set[str]] = {}
    for name, value in parameters:
        by_name.setdefault(name, set()).add(value)
    text = url
    for name in sorted(by_name):
        for value in sorted(by_name[name]):
            text += name + value
    digest = hashlib.sha256 if algorithm == "SHA256" else hashlib.sha1
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), digest).digest()).decode()


class Refusal(Exception):
    """The API says no, with this error code."""

    def __init__(self, code: int, **facts: str) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


def reply(
    status: int,
    payload: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    then: Callable[[], None] | None = None,
) -> Given:
    """An answer of the API."""
    body = json.dumps(payload).encode()
    return Given(status=status, body=body, content_type=JSON, headers=headers or {}, then=then)


def error_reply(status: int, code: int, words: str, headers: Mapping[str, str] | None = None) -> Given:
    """The API's error body."""
    payload = {
        "code": code,
        "message": words,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }
    return reply(status, payload, headers=headers)


def is_callback(url: str) -> bool:
    """Whether Twilio takes this URL: a host, and no underscore in it."""
    parts = urlsplit(url)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and "_" not in (parts.hostname or "")


def segments(text: str) -> int:
    """Near enough for a stand-in: ASCII for the GSM alphabet."""
    single, part = (160, 153) if text.isascii() else (70, 67)
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    return 1 if units <= single else math.ceil(units / part)
