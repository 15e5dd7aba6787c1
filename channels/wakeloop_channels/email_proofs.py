"""Who made a request to the email webhook: the proofs of Mailgun, SendGrid, Postmark and of one's own mail server."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from pydantic import SecretStr

from wakeloop.channel import RawRequest
from wakeloop.errors import InvalidWebhook

TOLERANCE_SECONDS = 300.0
"""How far the time that was signed may be from ours."""


def check_mailgun(
    *, timestamp: str, token: str, signature: str, keys: Iterable[SecretStr], now: float
) -> None:
    """HMAC-SHA256, in hexadecimal, of timestamp and token: Mailgun's "Securing webhooks". It says nothing about the rest
    of the form, so it holds for TOLERANCE_SECONDS only. Raises InvalidWebhook (403)."""
    signed = (timestamp + token).encode("utf-8", "surrogatepass")
    given = signature.encode("utf-8", "surrogatepass")
    matches = [
        hmac.compare_digest(hmac.digest(_bytes(key), signed, hashlib.sha256).hex().encode(), given)
        for key in keys
    ]
    if not token or not any(matches):
        raise InvalidWebhook(
            "The signature fits no signing key: the request is forged, or WAKELOOP_EMAIL_MAILGUN_SIGNING_KEY is not the "
            '"HTTP webhook signing key" of this Mailgun account.'
        )
    _check_time(timestamp, now)


def check_sendgrid(request: RawRequest, public_keys: Sequence[SecretStr]) -> None:
    """ECDSA with SHA-256 over timestamp and body, with the public key of the security policy: SendGrid's "Securing your
    Inbound Parse Webhooks". The time is signed but not limited: a request that is made again is the same mail, and
    counts once. Raises InvalidWebhook (403)."""
    timestamp = request.headers.get("x-twilio-email-event-webhook-timestamp", "")
    try:
        signature = base64.b64decode(
            request.headers.get("x-twilio-email-event-webhook-signature", ""), validate=True
        )
    except (binascii.Error, ValueError):
        signature = b""
    signed = timestamp.encode("utf-8", "surrogatepass") + request.body
    valid = [_signed(key, signature, signed) for key in public_keys]
    if not timestamp or not signature or not any(valid):
        raise InvalidWebhook(
            "The request has no signature of a public key that is set: it is forged, or the security policy is not "
            "attached to this Inbound Parse setting, or WAKELOOP_EMAIL_SENDGRID_PUBLIC_KEY is that of another."
        )


def check_password(request: RawRequest, passwords: Iterable[SecretStr], variable: str) -> None:
    """The password of HTTP's basic authentication, whatever the user's name, or `key` in the URL's query.

    Raises InvalidWebhook (403)."""
    given = [*_basic(request.headers.get("authorization", "")), *_keys(request.url)]
    _check_any(given, passwords, f"Put the password of {variable} into the URL that the provider calls.")


def check_raw(request: RawRequest, secrets: Iterable[SecretStr], now: float) -> None:
    """`Authorization: Bearer SECRET`, or a signature in the form of Standard Webhooks: HMAC-SHA256, in base64, of
    webhook-id, webhook-timestamp and the body with full stops between; for a time of TOLERANCE_SECONDS.

    Raises InvalidWebhook (403)."""
    headers = request.headers
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        _check_any([value.strip()], secrets, "The bearer must be that of WAKELOOP_EMAIL_RAW_SECRET.")
        return
    timestamp = headers.get("webhook-timestamp", "")
    told = ".".join((headers.get("webhook-id", ""), timestamp, ""))
    signed = told.encode("utf-8", "surrogatepass") + request.body
    given = [part.removeprefix("v1,") for part in headers.get("webhook-signature", "").split()]
    made = [
        base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode() for secret in secrets
    ]
    matches = [_same(one, other) for one in made for other in given[:10]]
    if not any(matches):
        raise InvalidWebhook(
            "The request has neither a bearer nor a signature of WAKELOOP_EMAIL_RAW_SECRET: it is forged, or the secrets "
            "differ."
        )
    _check_time(timestamp, now)


def public_key(text: str) -> ec.EllipticCurvePublicKey:
    """A public key as SendGrid shows it, in base64 (DER), or in PEM. Raises ValueError if it is none."""
    try:
        if "BEGIN" in text:
            key = load_pem_public_key(text.encode())
        else:
            key = load_der_public_key(base64.b64decode("".join(text.split()), validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no public key in base64 or PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("it is no public key of an elliptic curve")
    return key


def _signed(key: SecretStr, signature: bytes, signed: bytes) -> bool:
    try:
        public_key(key.get_secret_value()).verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _check_time(timestamp: str, now: float) -> None:
    seconds = int(timestamp) if timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 15 else 0
    if abs(now - seconds) > TOLERANCE_SECONDS:
        raise InvalidWebhook(
            f"The request was signed more than {TOLERANCE_SECONDS:.0f} seconds from now: it is replayed, or this "
            "machine's clock is wrong."
        )


def _check_any(given: Sequence[str], secrets: Iterable[SecretStr], advice: str) -> None:
    matches = [_same(secret.get_secret_value(), one) for secret in secrets for one in given[:4]]
    if not any(matches):
        raise InvalidWebhook(f"The request brings no secret that is known. {advice}")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def _basic(authorization: str) -> list[str]:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        return [base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]]
    except (binascii.Error, ValueError):
        return []


def _keys(url: str) -> list[str]:
    try:
        return parse_qs(urlsplit(url).query, max_num_fields=20).get("key", [])
    except ValueError:
        return []


def _key(secret: SecretStr) -> bytes:
    """The octets of a secret: those behind `whsec_` are in base64."""
    text = secret.get_secret_value()
    if text.startswith("whsec_"):
        try:
            return base64.b64decode(text.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            return text.encode()
    return text.encode()


def _bytes(secret: SecretStr) -> bytes:
    return secret.get_secret_value().encode()
