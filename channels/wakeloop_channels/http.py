"""What an exchange with a provider over HTTP means: taken, certainly not taken, never to be taken, or nobody knows.

An answer is a status, headers and words, from whatever client; `exchange` and `read_bounded` are for aiohttp.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from aiohttp import ClientConnectorError, ClientError, ClientResponse, ConnectionTimeoutError

from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError

UNTAKEN_STATUSES = frozenset({408, 425, 429, 503})
"""Answers that say the request was not processed, and that asking again later may help (RFC 9110, 8470 and 6585)."""

REPEATABLE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Idempotent ones: RFC 9110 section 9.2.2."""

_PERSONAL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+|(?<![0-9A-Za-z])\+?\d{7,15}(?![0-9A-Za-z])")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How many seconds to wait before asking again, by the header Retry-After; None if it does not say.

    RFC 9110 section 10.2.3: seconds, or a date. That is read against the answer's own Date, so that no clock here has to
    be right; one that has passed means now. The names of `headers` may be in any case."""
    named = {name.lower(): value for name, value in headers.items()}
    value = named.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", value):  # fractions are not in the RFC, but some send them
        return float(value)
    try:
        waits = parsedate_to_datetime(value) - parsedate_to_datetime(named["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(0.0, waits.total_seconds())


def json_object(text: str) -> dict[str, Any]:
    """The JSON object that the body of an answer is; an empty one for anything else, such as a gateway's page."""
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return payload if isinstance(payload, dict) else {}


def masked(words: str) -> str:
    """A provider's words without the telephone numbers and mail addresses in them, since errors are logged."""
    return _PERSONAL.sub(lambda match: "…" + match[0][-2:], words)


def refusal(
    provider: str,
    status: int,
    headers: Mapping[str, str],
    words: str = "",
    *,
    code: str | None = None,
    method: str = "POST",
    repeatable: bool | None = None,
    untaken: Container[int] = UNTAKEN_STATUSES,
    untaken_codes: Container[str] = (),
    advice: str = "",
) -> ChannelError:
    """The error to raise for an answer that is no 2xx. A redirect is one: credentials go nowhere but where they were set.

    provider: its name, which begins the message. words, code: what it said, and its own error code. repeatable: whether
    the same request twice has no more effect than once; by default so if its `method` is idempotent. untaken,
    untaken_codes: statuses and codes with which this provider says that it did nothing, and that trying again may help.
    advice: what to do about it, as a sentence.

    Gives TemporaryChannelError for those, and for a 5xx to a repeatable request; a ChannelError, so an unknown outcome,
    for any other 5xx; PermanentChannelError for the rest. Each has `code`."""
    if repeatable is None:
        repeatable = method.upper() in REPEATABLE_METHODS
    said = masked(words).strip().rstrip(".") or "no reason given"
    message = f"{provider} answered {status}{f' ({code})' if code else ''}: {said}. {advice}".rstrip()
    if status in untaken or (code is not None and code in untaken_codes) or (status >= 500 and repeatable):
        return TemporaryChannelError(message, code=code, retry_after=retry_after(headers))
    if status >= 500:
        return ChannelError(f"{message} Whether the message was taken is unknown.", code=code)
    return PermanentChannelError(message, code=code)


@contextmanager
def exchange(provider: str, *, method: str = "POST", repeatable: bool | None = None) -> Iterator[None]:
    """Around one request by aiohttp, until its answer has been read.

    Raises TemporaryChannelError if no connection was made, so nothing left, or if it broke and the request is
    `repeatable` (see `refusal`). What aiohttp raises otherwise passes through: it may have had its effect. For this the
    session's `ClientTimeout` must have `connect` run out before `total`."""
    if repeatable is None:
        repeatable = method.upper() in REPEATABLE_METHODS
    try:
        yield
    except (ClientError, TimeoutError) as error:
        unsent = isinstance(error, ClientConnectorError | ConnectionTimeoutError)
        if not unsent and not repeatable:
            raise
        # Only a connector's words are known not to hold the URL, in whose path some providers want a secret.
        reason = str(error) if isinstance(error, ClientConnectorError) else type(error).__name__
        raise TemporaryChannelError(
            f"{provider} could not be reached: {reason}", code=None, retry_after=None
        ) from error


async def read_bounded(response: ClientResponse, limit: int, *, what: str) -> bytes:
    """The body of an answer, of at most `limit` bytes; `what` names it in the error.

    Raises PermanentChannelError if there are more, without having read them."""
    found = bytearray()
    if (response.content_length or 0) <= limit:
        async for chunk in response.content.iter_any():
            found += chunk
            if len(found) > limit:
                break
        else:
            return bytes(found)
    response.close()
    raise PermanentChannelError(f"{what} has more than {limit} bytes and was not fetched.", code=None)
