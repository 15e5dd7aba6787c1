"""The SMS channel: Twilio's Programmable Messaging, API version 2010-04-01.

Twilio takes no idempotency key when a message is created, so a message whose fate is unknown is looked for in
Twilio's own list (`find_sent`) before it is sent again. Set-up and settings: docs/channels/sms.md.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import phonenumbers
from aiohttp import ClientSession, ClientTimeout
from phonenumbers import PhoneNumberFormat, ValidationResult
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator
from twilio.http.async_http_client import AsyncTwilioHttpClient  # type: ignore[import-untyped]
from twilio.http.response import Response  # type: ignore[import-untyped]
from twilio.rest import Client  # type: ignore[import-untyped]

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryStatus,
    DeliveryUpdate,
    Incoming,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
)
from wakeloop.errors import ChannelError, InvalidWebhook
from wakeloop.events import Attachment
from wakeloop_channels.explaining import Secrets, read_settings, split_secrets
from wakeloop_channels.http import exchange, json_object, refusal
from wakeloop_channels.text import well_formed
from wakeloop_channels.twilio_webhooks import check_signature, one, read_form

CLOCK_SKEW_SECONDS = 5.0
PAGE_SIZE = 200
MAX_LISTED = 5_000
MAX_LENGTH = 1600
"""Characters of one message, of whatever encoding: https://www.twilio.com/docs/api/errors/21617."""

# "Message status values" of Twilio's Messages resource. All that Twilio has taken over and not finished is SENT.
STATUSES: Mapping[str, DeliveryStatus] = {
    "accepted": DeliveryStatus.SENT,
    "scheduled": DeliveryStatus.SENT,
    "queued": DeliveryStatus.SENT,
    "sending": DeliveryStatus.SENT,
    "sent": DeliveryStatus.SENT,
    "delivered": DeliveryStatus.DELIVERED,
    "partially_delivered": DeliveryStatus.DELIVERED,
    "read": DeliveryStatus.DELIVERED,
    "undelivered": DeliveryStatus.FAILED,
    "failed": DeliveryStatus.FAILED,
    "canceled": DeliveryStatus.FAILED,
}
INBOUND_STATUSES = frozenset({"receiving", "received"})

# Twilio's default keywords and those of 47 CFR 64.1200(a)(10), compared without case, white space or a closing stop.
OPT_OUT = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT"})
OPT_IN = frozenset({"START", "UNSTOP"})
HELP = frozenset({"HELP", "INFO"})

# https://www.twilio.com/docs/api/errors: what a refusal means for whoever has to mend it.
ADVICE: Mapping[str, str] = {
    "20003": "Check account_sid and WAKELOOP_SMS_AUTH_TOKEN (or api_key and WAKELOOP_SMS_API_SECRET).",
    "21211": "Correct the contact's number.",
    "21212": "Check from_number.",
    "21408": "Allow the country under Messaging > Settings > Geo permissions in Twilio's Console.",
    "21606": "from_number must be a number of this account that can send SMS.",
    "21608": "A trial account writes only to numbers verified in Twilio's Console.",
    "21610": "The person answered STOP; only they can undo it, by sending START.",
    "21614": "The number cannot receive SMS.",
    "21617": "Shorten the message to 1600 characters.",
}
# The same for error codes of delivery, which come without words in a status callback.
FAILURES: Mapping[str, str] = {
    "30001": "queue overflow",
    "30002": "account suspended",
    "30003": "unreachable handset",
    "30004": "blocked by the recipient or the carrier",
    "30005": "unknown or inactive number",
    "30006": "landline or unreachable carrier",
    "30007": "filtered as spam by the carrier",
    "30008": "unknown error at the carrier",
    "30034": "sent from a number that is not registered for A2P 10DLC",
}
# Refusals that pass with time, whatever their status: too many requests, a full queue of the sending number.
RETRIABLE_CODES = frozenset({"20429", "21611"})

# Not longer than Twilio's own: see `read_form` on boundaries that were moved.
_SID = re.compile(r"(?:SM|MM)[0-9A-Za-z]{1,32}")
_NUMBER = re.compile(r"\+?[\d\s().\-/\N{NO-BREAK SPACE}\u2010-\u2015]+")
_SENDER = re.compile(r"[0-9]{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 +\-_&]{1,11}")
_TRIAL_PREFIX = "Sent from your Twilio trial account - "
_EMPTY_TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'


class TwilioSettings(BaseModel):
    """The table `[channels.sms]`, with the secrets of the environment merged in.

    auth_tokens: the first signs requests, every one verifies webhooks, so that a token (or a webhook SharedKey's
    secret) can be rotated. api_key, api_secret: sign requests instead. timeout: seconds allowed for connecting, and as
    many again for the answer. default_region: the country (ISO 3166-1) of numbers written without one; None takes
    international numbers only. api_url: another address of the API, such as a regional one."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    account_sid: str = Field(pattern=r"^AC\w+$")
    auth_tokens: Secrets = Field(min_length=1)
    api_key: str | None = Field(default=None, pattern=r"^SK\w+$")
    api_secret: SecretStr | None = None
    from_number: str | None = None
    messaging_service_sid: str | None = Field(default=None, pattern=r"^MG\w+$")
    api_url: HttpUrl | None = None
    timeout: float = Field(default=10.0, gt=0, le=300)
    default_region: str | None = None
    status_callbacks: bool = True

    @model_validator(mode="before")
    @classmethod
    def _gather_tokens(cls, section: Any) -> Any:
        """Join `auth_token` (one, or several with commas between) and `auth_tokens`, in that order."""
        if not isinstance(section, Mapping):
            return section
        values = dict(section)
        given = [values.pop("auth_token", None), values.pop("auth_tokens", None)]
        if any(value is not None for value in given):
            values["auth_tokens"] = split_secrets(given)
        return values

    @field_validator("from_number")
    @classmethod
    def _check_sender(cls, value: str | None) -> str | None:
        if value is None or _SENDER.fullmatch(value):
            return value
        return normalize_number(value)

    @field_validator("default_region")
    @classmethod
    def _check_region(cls, value: str | None) -> str | None:
        if value is not None and value not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError('it must be a country code of two capital letters, such as "US"')
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.from_number is None) == (self.messaging_service_sid is None):
            raise ValueError(
                "set exactly one of channels.sms.from_number and channels.sms.messaging_service_sid"
            )
        if (self.api_key is None) != (self.api_secret is None):
            raise ValueError("set channels.sms.api_key and WAKELOOP_SMS_API_SECRET together, or neither")
        return self


class TwilioChannel:
    """SMS through Twilio. All network traffic of one instance happens on one event loop at a time; call `close` on
    that loop before leaving it."""

    name: ClassVar[str] = "sms"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, reconcile=True, receipts=True, max_length=MAX_LENGTH
    )

    def __init__(self, settings: TwilioSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._webhook_url = services.webhook_url if settings.status_callbacks else None
        self._tokens = tuple(token.get_secret_value().encode() for token in settings.auth_tokens)
        self._http: _HttpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.sms]`; nothing is sent.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it; a secret's value
        is never in it."""
        settings = read_settings(
            TwilioSettings,
            section,
            channel=cls.name,
            title="SMS",
            hints=_HINTS,
            aliases={"auth_tokens": "auth_token"},
        )
        return cls(settings, services)

    def normalize(self, address: str) -> str:
        """The number in E.164. Raises ValueError with the reason."""
        return normalize_number(address, self.settings.default_region)

    async def send(self, message: Outgoing) -> Receipt:
        """Create the message at Twilio, once; SMS has no subject, so only `text` is sent, and exactly as it is.

        Raises TemporaryChannelError if no connection was made or Twilio said 429 or 503, which it documents as not
        processed; PermanentChannelError if it refused with another 4xx. A timeout, a lost connection or another 5xx
        (error 20500: the message may have been sent) raises something else: only `find_sent` can tell."""
        sender: dict[str, str] = (
            {"from_": self.settings.from_number}
            if self.settings.from_number is not None
            else {"messaging_service_sid": self.settings.messaging_service_sid or ""}
        )
        if self._webhook_url is not None:
            sender["status_callback"] = self._webhook_url
        # Without smart_encoded a messaging service may change the text, and `find_sent` would not know it again.
        created = await self._messages().create_async(
            to=message.address, body=well_formed(message.text), smart_encoded=False, **sender
        )
        if not created.sid:
            raise ChannelError(
                f"Twilio answered delivery {message.key} without a message sid; its outcome is unknown."
            )
        return _receipt(created)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """The oldest message to this address, from this sender, with this text, created since `claimed_at`, whose sid
        is not in `known`; None if there is none.

        Twilio's times are in whole seconds and by its own clock: CLOCK_SKEW_SECONDS are allowed for. Its DateSent
        filter is not used: a message that waits in Twilio's queue has no such date yet. Raises
        TemporaryChannelError if the list could not be read."""
        since = message.claimed_at.replace(microsecond=0) - timedelta(seconds=CLOCK_SKEW_SECONDS)
        service = self.settings.messaging_service_sid
        query = {"to": message.address, "page_size": PAGE_SIZE, "limit": MAX_LISTED}
        if self.settings.from_number is not None:
            query["from_"] = self.settings.from_number
        found = []
        async with aclosing(await self._messages().stream_async(**query)) as listed:
            async for record in listed:
                created = record.date_created or message.claimed_at
                if created < since - timedelta(days=1):
                    break  # newest first, by a date that may differ from this one
                if (
                    created >= since
                    and record.sid not in known
                    and str(record.direction).startswith("outbound")
                    and (service is None or record.messaging_service_sid == service)
                    and _same_text(record.body or "", well_formed(message.text))
                ):
                    found.append(record)
        # Newest first within one second, too; `min` takes the first of equals.
        oldest = min(
            reversed(found), key=lambda record: record.date_created or message.claimed_at, default=None
        )
        return _receipt(oldest) if oldest is not None else None

    def verify(self, request: RawRequest) -> None:
        """Check X-Twilio-Signature against every token, in constant time.

        Raises InvalidWebhook: 403 if it is missing or wrong, 413 or 400 if the body cannot be read."""
        check_signature(request, self._tokens)

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """A message somebody sent, or how far one of ours has come; nothing for a status that is not known.

        STOP and its kin, HELP and START are recognised only as the whole text. OptOutType, which a messaging service
        with Advanced Opt-Out adds, decides before the text does, but never makes an opt-in of a YES: that word
        answers questions. Raises InvalidWebhook (400, 405, 413 or 415)."""
        form = read_form(request)
        raw = {name: values[0] if len(values) == 1 else values for name, values in form.items()}
        provider_id = one(form, "MessageSid")
        if provider_id is None or not _SID.fullmatch(provider_id):
            raise InvalidWebhook("MessageSid is missing or malformed.", status=400)
        status = _status(form)
        if status is not None:
            if status not in STATUSES:
                return []
            error = _failure(one(form, "ErrorCode"), one(form, "ErrorMessage"))
            return [DeliveryUpdate(provider_id=provider_id, status=STATUSES[status], error=error, raw=raw)]
        sender = one(form, "From")
        if not sender:
            raise InvalidWebhook(f"Message {provider_id} has no From.", status=400)
        text = one(form, "Body") or ""
        attachments = tuple(_attachments(form))
        if "Body" not in form and not attachments:
            raise InvalidWebhook(f"Message {provider_id} has neither Body nor MediaUrl0.", status=400)
        opt_out, wants_help = _keyword(text, one(form, "OptOutType"))
        to_address = one(form, "To")
        return [
            Incoming(
                provider_id=provider_id,
                address=self._lenient(sender),
                text=text,
                to_address=self._lenient(to_address) if to_address else None,
                attachments=attachments,
                opt_out=opt_out,
                help=wants_help,
                raw=raw,
            )
        ]

    def respond(self, request: RawRequest) -> RawResponse:
        """Empty TwiML for a message, so that Twilio itself replies nothing; 204 for a status callback."""
        if _status(read_form(request)) is not None:
            return RawResponse(status=204)
        return RawResponse(body=_EMPTY_TWIML, content_type="text/xml; charset=utf-8")

    async def close(self) -> None:
        """Close the connections to Twilio. The channel may be used again afterwards."""
        http, self._http, self._loop = self._http, None, None
        if http is not None:
            await http.close()

    def _messages(self) -> Any:
        """Twilio's client, over connections that belong to the running loop."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._loop = loop
            self._http = _HttpClient(self.settings.api_url, self.settings.timeout)
        settings = self.settings
        username, password = settings.account_sid, settings.auth_tokens[0]
        if settings.api_key is not None and settings.api_secret is not None:
            username, password = settings.api_key, settings.api_secret
        return Client(
            username,
            password.get_secret_value(),
            settings.account_sid,
            http_client=self._http,
            environment={"TWILIO_EDGE": "", "TWILIO_REGION": ""},  # not empty: else it would read os.environ
        ).messages

    def _lenient(self, address: str) -> str:
        """Short codes, sender names and `whatsapp:` addresses can write, too; they stay as they are."""
        try:
            return self.normalize(address)
        except ValueError:
            return address


class _HttpClient(AsyncTwilioHttpClient):  # type: ignore[misc]
    """Twilio's port for HTTP with three things added: another base URL, timeouts, and errors in our own terms."""

    def __init__(self, api_url: HttpUrl | None, timeout: float) -> None:
        super().__init__(pool_connections=False)
        self._api_url = str(api_url).rstrip("/") if api_url is not None else None
        # The connection's timeout always runs out before the total one: what it stops was certainly not sent.
        self.session = ClientSession(
            timeout=ClientTimeout(total=2 * timeout, connect=timeout, sock_read=timeout)
        )

    async def request(
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        """One request, never repeated, never logged (its fields are people's numbers and words).

        Raises ChannelError for every answer but a 2xx, TemporaryChannelError if no connection was made, and what
        aiohttp raises if a POST broke off later: it may have had its effect."""
        headers = dict(headers or {})
        if auth is not None:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        if self._api_url is not None:
            parts = urlsplit(url)
            url = self._api_url + parts.path + (f"?{parts.query}" if parts.query else "")
        with exchange("Twilio", method=method):
            async with self.session.request(
                method, url, params=params, data=data, headers=headers, allow_redirects=allow_redirects
            ) as response:
                status, text, answered = response.status, await response.text(), response.headers
        if not 200 <= status < 300:
            raise _refusal(method, status, text, answered)
        return Response(status, text, answered)


def normalize_number(address: str, region: str | None = None) -> str:
    """The telephone number in E.164; `region` is the country of numbers that are written without one.

    The length must be possible in its country. Whether the range is in use is not asked: numbering plans change
    faster than libraries, and 555 numbers, made for examples, are in none. Raises ValueError with the reason."""
    text = address.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError("a telephone number has only digits, spaces and +().-/")
    if not text.startswith("+") and region is None:
        raise ValueError(
            "it must begin with + and the country code, as in +15555550100 (or set channels.sms.default_region)"
        )
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as error:
        raise ValueError(_UNREADABLE.get(error.error_type, "it is no telephone number")) from error
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason != ValidationResult.IS_POSSIBLE:
        raise ValueError(
            f"+{number.country_code} numbers do not look like this: {_REASONS.get(reason, 'invalid')}"
        )
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


_UNREADABLE = {
    phonenumbers.NumberParseException.INVALID_COUNTRY_CODE: "there is no such country code",
    phonenumbers.NumberParseException.TOO_SHORT_AFTER_IDD: "too few digits",
    phonenumbers.NumberParseException.TOO_SHORT_NSN: "too few digits",
    phonenumbers.NumberParseException.TOO_LONG: "too many digits",
}
_REASONS = {
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "the area code is missing",
    ValidationResult.INVALID_COUNTRY_CODE: "there is no such country code",
    ValidationResult.TOO_SHORT: "too few digits",
    ValidationResult.INVALID_LENGTH: "the wrong number of digits",
    ValidationResult.TOO_LONG: "too many digits",
}

_HINTS = {
    "account_sid": 'it begins with AC and is under "Account info" in Twilio\'s Console',
    "auth_tokens": 'it is under "Account info" in Twilio\'s Console; during a rotation, several with commas between',
    "api_key": "it begins with SK",
    "from_number": "a number of the account, as in +15555550199",
    "messaging_service_sid": "it begins with MG",
}


def _refusal(method: str, status: int, text: str, headers: Mapping[str, str]) -> ChannelError:
    """What an answer that is no 2xx means."""
    payload = json_object(text)
    code = str(payload["code"]) if payload.get("code") else None
    return refusal(
        "Twilio",
        status,
        headers,
        str(payload.get("message", "")),
        code=code,
        method=method,
        untaken_codes=RETRIABLE_CODES,
        advice=ADVICE.get(code or "", ""),
    )


def _receipt(record: Any) -> Receipt:
    raw = {
        "sid": record.sid,
        "status": record.status,
        "from": record.from_,
        "messaging_service_sid": record.messaging_service_sid,
        "num_segments": record.num_segments,
        "date_created": record.date_created.isoformat() if record.date_created else None,
        "error_code": record.error_code,
        "error_message": record.error_message,
    }
    return Receipt(provider_id=record.sid, status=STATUSES.get(record.status, DeliveryStatus.SENT), raw=raw)


def _same_text(listed: str, sent: str) -> bool:
    """Trial accounts put a sentence in front; outer white space and the kind of line ends are not kept everywhere."""
    listed, sent = (
        "\n".join(text.splitlines()).strip() for text in (listed.removeprefix(_TRIAL_PREFIX), sent)
    )
    return listed == sent


def _status(form: Mapping[str, list[str]]) -> str | None:
    """The status that a status callback reports; None for a message that somebody sent."""
    status = one(form, "MessageStatus") or (None if "Body" in form else one(form, "SmsStatus"))
    return None if status is None or status.lower() in INBOUND_STATUSES else status.lower()


def _failure(code: str | None, words: str | None) -> str | None:
    if not code or code == "0":
        return words or None
    words = words or FAILURES.get(code)
    return f"{code}: {words}" if words else code


def _attachments(form: Mapping[str, list[str]]) -> Iterable[Attachment]:
    index = 0
    while url := one(form, f"MediaUrl{index}"):
        content_type = one(form, f"MediaContentType{index}")
        yield Attachment(url=url, content_type=content_type) if content_type else Attachment(url=url)
        index += 1


def _keyword(text: str, opt_out_type: str | None) -> tuple[bool | None, bool]:
    """(opt_out, help) as `Incoming` has them."""
    word = "".join(text.split()).rstrip(".!").upper()
    kind = (opt_out_type or "").upper()
    if kind == "STOP" or (not kind and word in OPT_OUT):
        return True, False
    if (kind == "START" and word != "YES") or (not kind and word in OPT_IN):
        return False, False
    return None, kind == "HELP" or (not kind and word in HELP)
