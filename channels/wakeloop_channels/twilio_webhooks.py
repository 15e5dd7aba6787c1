"""Twilio's webhooks as they come over the wire: who signed them, and the form that they carry."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from wakeloop.channel import RawRequest
from wakeloop.errors import InvalidWebhook

MAX_BYTES = 64 * 1024
MAX_FIELDS = 500
KEPT = 128
"""Of so many bodies and URLs it is kept in mind how they are read: each request is asked for them several times."""

FORM = "application/x-www-form-urlencoded"

_DIGESTS: Mapping[str, Callable[..., Any]] = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}
_ONCE = (
    "MessageSid",
    "From",
    "To",
    "Body",
    "MessageStatus",
    "SmsStatus",
    "OptOutType",
    "ErrorCode",
    "ButtonPayload",
    "ButtonText",
    "OriginalRepliedMessageSid",
)


def check_signature(request: RawRequest, secrets: Iterable[bytes]) -> None:
    """Check that the raw request was signed with one of `secrets`, in constant time; all of them are tried.

    The rules are those of https://www.twilio.com/docs/usage/webhooks/webhooks-security,
    https://www.twilio.com/docs/usage/webhooks/webhook-shared-keys and Twilio's own validators:

    - the HMAC, in base64, of the URL followed by the name and value of each form parameter, decoded and sorted, a
      repeated pair once;
    - of the URL alone if the body is no form; the URL must then hold the body's SHA-256 as `bodySHA256`;
    - HMAC-SHA1, or HMAC-SHA256 if X-Twilio-Webhooks-Signature-Settings says so;
    - the URL with or without its port, for Twilio signs either.

    Raises InvalidWebhook: 403 if the signature is missing or fits none, 413 or 400 if the body cannot be read."""
    _check_size(request)
    urls = _spellings(request.url)
    signature = request.headers.get("x-twilio-signature", "").strip()
    if not signature:
        raise InvalidWebhook("The request has no X-Twilio-Signature header: it does not come from Twilio.")
    digest = _DIGESTS.get(_algorithm(request.headers.get("x-twilio-webhooks-signature-settings", "")))
    if digest is None:
        raise InvalidWebhook("The request is signed with an algorithm other than HMAC_SHA1 and HMAC_SHA256.")
    parameters = ""
    if _content_type(request) == FORM:
        parameters = "".join(name + value for name, value in sorted(set(_pairs(request.body))))
    elif request.body and not _body_hash_matches(request):
        raise InvalidWebhook(
            "The body is neither a form nor named by bodySHA256 in the URL: it is not signed."
        )
    given = signature.encode("utf-8", "surrogatepass")
    signed = [(url + parameters).encode("utf-8", "surrogatepass") for url in urls]
    matches = [
        hmac.compare_digest(base64.b64encode(hmac.digest(secret, text, digest)), given)
        for secret in secrets
        for text in signed
    ]
    if not any(matches):
        raise InvalidWebhook(
            "X-Twilio-Signature fits this URL and body with no auth token: the request is forged, or the public URL "
            "differs from the one that Twilio was given."
        )


def read_form(request: RawRequest) -> Mapping[str, Sequence[str]]:
    """The form, repeated keys kept; U+0000, which databases refuse, replaced.

    A signature runs names and values together without a separator, so whoever has seen a signed request could move
    the boundaries between them: hence no second sid, sender or text.

    Raises InvalidWebhook: 405 for another method than POST, 413 for a body over MAX_BYTES, 415 for another content
    type, 400 for anything else that is no form."""
    if request.method.upper() != "POST":
        raise InvalidWebhook('Twilio must be set to call this webhook with "HTTP POST".', status=405)
    _check_size(request)
    if _content_type(request) != FORM:
        raise InvalidWebhook(f"The body must be {FORM}.", status=415)
    return _form(request.body)


def one(form: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The first value of a parameter, or None."""
    return form[name][0] if name in form else None


@functools.lru_cache(maxsize=KEPT)
def _form(body: bytes) -> Mapping[str, Sequence[str]]:
    form: dict[str, tuple[str, ...]] = {}
    for name, value in _pairs(body):
        if "\0" in name or "\0" in value:
            name, value = name.replace("\0", "\ufffd"), value.replace("\0", "\ufffd")
        form[name] = (*form[name], value) if name in form else (value,)
    for name in _ONCE:
        if name in form and len(set(form[name])) > 1:
            raise InvalidWebhook(f"{name} is given more than once.", status=400)
    return form


def _check_size(request: RawRequest) -> None:
    if len(request.body) > MAX_BYTES:
        raise InvalidWebhook(f"The body has more than {MAX_BYTES} bytes.", status=413)


def _content_type(request: RawRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@functools.lru_cache(maxsize=KEPT)
def _pairs(body: bytes) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(
            parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(body),
                errors="strict",
                max_num_fields=MAX_FIELDS,
            )
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise InvalidWebhook(f"The body is no UTF-8 form ({FORM}).", status=400) from error


def _algorithm(settings: str) -> str:
    """From `key=…,algorithm=…`; HMAC_SHA1 if it is not named."""
    for part in settings.split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip().upper()
    return "HMAC_SHA1"


def _body_hash_matches(request: RawRequest) -> bool:
    named = parse_qs(urlsplit(request.url).query).get("bodySHA256", [""])[0]
    return hmac.compare_digest(hashlib.sha256(request.body).hexdigest().encode(), named.lower().encode())


@functools.lru_cache(maxsize=KEPT)
def _spellings(url: str) -> tuple[str, ...]:
    """The URL as it is, without its port, and with the default one."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidWebhook("The URL of the request is malformed.", status=400) from error
    user, at, host = parts.netloc.rpartition("@")
    host = re.sub(r":\d*$", "", host)
    port = 443 if parts.scheme == "https" else 80
    spelled = (parts._replace(netloc=f"{user}{at}{name}").geturl() for name in (host, f"{host}:{port}"))
    return tuple(dict.fromkeys([url, *spelled]))
