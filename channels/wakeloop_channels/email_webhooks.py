"""Mail that comes by webhook, from Mailgun, SendGrid, Postmark or one's own mail server: what the requests hold.

Wherever the provider hands over the mail as it came (MIME), that is read. Mailgun and Postmark can also send it taken
apart; it is then put together again, so that everything is read in one way."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from wakeloop.channel import DeliveryUpdate, File, Incoming, RawRequest, RawResponse
from wakeloop.errors import InvalidWebhook
from wakeloop_channels.email_parts import Unreadable
from wakeloop_channels.email_proofs import check_mailgun, check_password, check_raw, check_sendgrid
from wakeloop_channels.email_reading import Envelope, read_message
from wakeloop_channels.email_settings import EmailSettings

MAX_BYTES = 40 * 1024 * 1024
"""Of one request: providers take mail of 25 to 35 MB, and Base64 makes it a third longer."""
MAX_PARTS = 500

_MULTIPART = "multipart/form-data"
_URLENCODED = "application/x-www-form-urlencoded"
_DKIM = re.compile(r"@?([\w.\-]+)\s*:\s*(\w+)")
# Headers that say how the body was encoded before the provider took it apart.
_ENCODING = frozenset({"content-type", "content-transfer-encoding", "mime-version", "content-length"})
_NAME = re.compile(r"[!-9;-~]{1,100}")


@dataclass(frozen=True, kw_only=True)
class Form:
    """The parts of a form: values by name, the first of each, and files."""

    values: Mapping[str, bytes] = field(default_factory=dict)
    files: Sequence[File] = ()

    def text(self, name: str) -> str | None:
        """A value as text; None if there is none."""
        value = self.values.get(name)
        return None if value is None else value.decode("utf-8", "replace").replace("\0", "\ufffd")


def verify(request: RawRequest, settings: EmailSettings, now: float) -> None:
    """Check that the provider that `inbound` names made this request, in constant time, with each of its secrets.
    now: seconds since 1970. Raises InvalidWebhook: 403, or 4xx if the request cannot be read."""
    _check_request(request)
    if settings.inbound == "mailgun":
        form = _form(request)
        check_mailgun(
            timestamp=form.text("timestamp") or "",
            token=form.text("token") or "",
            signature=form.text("signature") or "",
            keys=settings.mailgun_signing_keys,
            now=now,
        )
    elif settings.inbound == "sendgrid":
        # Where a public key is set, a password alone is not enough: it is in logs of URLs.
        if settings.sendgrid_public_keys:
            check_sendgrid(request, settings.sendgrid_public_keys)
        if settings.sendgrid_passwords:
            check_password(request, settings.sendgrid_passwords, "WAKELOOP_EMAIL_SENDGRID_PASSWORD")
    elif settings.inbound == "postmark":
        check_password(request, settings.postmark_passwords, "WAKELOOP_EMAIL_POSTMARK_PASSWORD")
    elif settings.inbound == "raw":
        check_raw(request, settings.raw_secrets, now)
    else:
        raise InvalidWebhook(
            "The email channel takes no mail by webhook: set channels.email.inbound.", status=404
        )


def parse(request: RawRequest, settings: EmailSettings) -> list[Incoming | DeliveryUpdate]:
    """What a verified request says. Raises InvalidWebhook (400, 405, 413, 415)."""
    _check_request(request)
    read = {"mailgun": _mailgun, "sendgrid": _sendgrid, "postmark": _postmark, "raw": _raw}[
        settings.inbound or "raw"
    ]
    raw, envelope = read(request)
    try:
        return read_message(raw, settings, envelope)
    except Unreadable as error:
        raise InvalidWebhook(f"The mail is malformed: {error}.", status=400) from error


def respond(request: RawRequest) -> RawResponse:
    """200 without words is what all of them want."""
    return RawResponse()


# ---------------------------------------------------------------------- the providers


def _mailgun(request: RawRequest) -> tuple[bytes, Envelope]:
    """Routes: `body-mime` if the URL ends with "mime", else the mail in parts. Its headers on SPF and DKIM do not say for
    which domain, and stand among the sender's own: nothing is made of them."""
    form = _form(request)
    recipient = form.text("recipient")
    envelope = Envelope(
        sender=form.text("sender"), recipients=tuple(recipient.split(",")) if recipient else ()
    )
    if "body-mime" in form.values:
        return form.values["body-mime"], envelope
    listed = _json(form.values.get("message-headers", b"null"))
    if not isinstance(listed, list):
        raise InvalidWebhook("The form has neither body-mime nor message-headers.", status=400)
    headers = [(str(pair[0]), str(pair[1])) for pair in listed if isinstance(pair, list) and len(pair) == 2]
    return rebuilt(headers, form.text("body-plain"), form.text("body-html"), form.files), envelope


def _sendgrid(request: RawRequest) -> tuple[bytes, Envelope]:
    """Inbound Parse with "POST the raw, full MIME message": the field `email`, beside which are the envelope and what
    SendGrid itself found of SPF and DKIM, such as `{@example.com : pass}`."""
    form = _form(request)
    if "email" not in form.values:
        raise InvalidWebhook(
            'The form has no field "email": check "POST the raw, full MIME message" in this Inbound Parse setting.',
            status=400,
        )
    told = _json(form.values.get("envelope", b"{}"))
    told = told if isinstance(told, dict) else {}
    to = told.get("to")
    sender = told.get("from")
    return form.values["email"], Envelope(
        sender=sender if isinstance(sender, str) else None,
        recipients=tuple(str(one) for one in to) if isinstance(to, list) else (),
        spf=(form.text("SPF") or "").strip().lower()[:20] or None,
        dkim=tuple(
            (found.lower(), result.lower())
            for found, result in _DKIM.findall((form.text("dkim") or "")[:2000])
        ),
        by="SendGrid",
    )


def _postmark(request: RawRequest) -> tuple[bytes, Envelope]:
    """RawEmail if "Include raw email content in JSON payload" is set, else the mail in parts. What it finds of SPF stands
    among the sender's own headers: nothing is made of it."""
    told = _json(request.body)
    if not isinstance(told, dict):
        raise InvalidWebhook("The body is no JSON object.", status=400)
    original = told.get("OriginalRecipient")
    envelope = Envelope(recipients=(original,) if isinstance(original, str) and original else ())
    raw = told.get("RawEmail")
    if isinstance(raw, str) and raw:
        return raw.encode("utf-8", "surrogateescape" if _escaped(raw) else "replace"), envelope
    headers = [(str(one.get("Name")), str(one.get("Value"))) for one in _dicts(told.get("Headers"))]
    named = {name.lower() for name, _ in headers}
    headers += [
        (name, str(told[name]))
        for name in ("From", "To", "Cc", "Subject", "Date")
        if isinstance(told.get(name), str) and told[name] and name.lower() not in named
    ]
    files = [
        File(
            name=str(one.get("Name") or "file"),
            content_type=str(one.get("ContentType") or ""),
            data=_unbase64(one.get("Content")),
        )
        for one in _dicts(told.get("Attachments"))
    ]
    text, html = (
        told.get(name) if isinstance(told.get(name), str) else None for name in ("TextBody", "HtmlBody")
    )
    return rebuilt(headers, text, html, files), envelope


def _raw(request: RawRequest) -> tuple[bytes, Envelope]:
    """The body is the mail."""
    kind = _content_type(request)
    if kind not in ("message/rfc822", "application/octet-stream", ""):
        raise InvalidWebhook("The body must be message/rfc822.", status=415)
    return request.body, Envelope()


def rebuilt(
    headers: Iterable[tuple[str, str]], text: str | None, html: str | None, files: Iterable[File]
) -> bytes:
    """A mail from its parts. Headers that say how it was encoded are left out: they no longer hold; of a report or a
    calendar's answer the type is kept by name, so that it is known as one."""
    message = EmailMessage()
    lines = []
    for name, value in list(headers)[:MAX_PARTS]:
        if name.lower() not in _ENCODING and _NAME.fullmatch(name):
            octets = " ".join(value.split()).encode("utf-8", "replace")
            lines.append(name.encode() + b": " + octets + b"\r\n")
        elif name.lower() == "content-type" and value.strip().lower().startswith("multipart/report"):
            lines.append(b"Auto-Submitted: auto-generated\r\n")
    message.set_content(_encodable(text or ""))
    if html:
        message.add_alternative(_encodable(html), subtype="html")
    for file in files:
        main, _, sub = file.content_type.partition(";")[0].strip().lower().partition("/")
        known = re.fullmatch(r"[a-z]+", main) and re.fullmatch(r"[a-z0-9.+\-]+", sub)
        if not known or main in ("multipart", "message"):
            main, sub = "application", "octet-stream"
        message.add_attachment(
            file.data,
            maintype=main,
            subtype=sub,
            filename=re.sub(r"[\0-\x1f\ud800-\udfff]", "_", file.name)[:200],
        )
    return b"".join(lines) + message.as_bytes()


# ---------------------------------------------------------------------- forms


def _form(request: RawRequest) -> Form:
    kind = _content_type(request)
    if kind == _URLENCODED:
        try:
            pairs = parse_qsl(
                request.body.decode("ascii"),
                keep_blank_values=True,
                max_num_fields=MAX_PARTS,
                errors="surrogateescape",
            )
        except ValueError as error:
            raise InvalidWebhook("The body is no form.", status=400) from error
        values: dict[str, bytes] = {}
        for name, value in pairs:
            values.setdefault(name, value.encode("utf-8", "surrogateescape"))
        return Form(values=values)
    if kind != _MULTIPART:
        raise InvalidWebhook(f"The body must be {_MULTIPART}.", status=415)
    return _multipart(request)


def _multipart(request: RawRequest) -> Form:
    boundary = parse_options_header(request.headers.get("content-type", ""))[1].get(b"boundary", b"")
    if not boundary or len(boundary) > 200:
        raise InvalidWebhook("The form has no boundary.", status=400)
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]
        parser.write(request.body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidWebhook("The body is no form.", status=400) from error
    if not collector.ended:
        raise InvalidWebhook("The form breaks off.", status=400)
    return Form(values=collector.values, files=collector.files)


class _Collector:
    """Takes what the parser of forms reports, piece by piece."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.files: list[File] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._value = b""
        self._data = bytearray()
        self._parts = 0

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_name,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_part_data": self._take_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidWebhook(f"The form has more than {MAX_PARTS} parts.", status=413)
        self._headers, self._data = {}, bytearray()

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end_part(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        if filename is None or name in ("email", "body-mime"):
            self.values.setdefault(name, bytes(self._data))
        else:
            kind = self._headers.get(b"content-type", b"").decode("ascii", "replace")
            self.files.append(
                File(name=filename.decode("utf-8", "replace"), content_type=kind, data=bytes(self._data))
            )

    def _end(self) -> None:
        self.ended = True


def _check_request(request: RawRequest) -> None:
    if request.method.upper() != "POST":
        raise InvalidWebhook('This webhook must be called with "POST".', status=405)
    if len(request.body) > MAX_BYTES:
        raise InvalidWebhook(f"The body has more than {MAX_BYTES} bytes.", status=413)


def _content_type(request: RawRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidWebhook("What should be JSON is none.", status=400) from error


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value[:MAX_PARTS] if isinstance(one, dict)] if isinstance(value, list) else []


def _unbase64(value: Any) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "")
    except (binascii.Error, ValueError):
        return b""


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _escaped(text: str) -> bool:
    """Whether octets that are no UTF-8 came through as lone surrogates."""
    return all("\udc80" <= character <= "\udcff" for character in re.findall("[\ud800-\udfff]", text))
