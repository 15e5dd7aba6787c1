"""The messages of Twilio's stand-in: what is refused of them, and how they look to the API and to a webhook."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from wakeloop.testing.twilio_http import MAGIC_RECIPIENTS, Refusal, is_callback, segments

API_VERSION = "2010-04-01"
MAX_BODY_CHARACTERS = 1600
MAX_MEDIA = 10
WHATSAPP = "whatsapp:"

_E164 = re.compile(r"\+[1-9]\d{1,14}")
_SENDER = re.compile(r"\+[1-9]\d{1,14}|\d{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 ]{1,11}")
_REFUSED_IN_VARIABLES = re.compile(r"[\n\r\t]| {5,}")


@dataclass(kw_only=True)
class StandInMessage:
    """A message that the stand-in took (`outbound-api`) or delivered (`inbound`); its status goes on changing."""

    sid: str
    to: str
    from_: str | None
    body: str
    status: str
    direction: Literal["outbound-api", "inbound"] = "outbound-api"
    date_created: datetime
    date_sent: datetime | None = None
    status_callback: str | None = None
    messaging_service_sid: str | None = None
    error_code: int | None = None
    media: Sequence[str] = ()
    content_sid: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the account may do. numbers: those it may send from, None for any. templates: bodies of content templates by
    their sid, with {{1}} and so on for variables."""

    numbers: Collection[str] | None = None
    templates: Mapping[str, str] = field(default_factory=dict)


def taken(
    parameters: Sequence[tuple[str, str]],
    rules: Rules,
    *,
    opted_out: Collection[str],
    sid: str,
    now: datetime,
) -> StandInMessage:
    """The message that a request to create one makes. Raises Refusal as Twilio refuses it."""
    form = dict(parameters)
    media = [value for name, value in parameters if name == "MediaUrl"]
    to, from_, service = form.get("To", ""), form.get("From"), form.get("MessagingServiceSid")
    body, callback, content = form.get("Body", ""), form.get("StatusCallback"), form.get("ContentSid")
    facts = {"to": to, "from_": from_ or "", "callback": callback or ""}
    by_whatsapp = to.startswith(WHATSAPP)
    sender = (from_ or "").removeprefix(WHATSAPP)
    problems = [
        (not to, 21604),
        (not _E164.fullmatch(to.removeprefix(WHATSAPP)), 21211),
        (not from_ and not service, 21603),
        (bool(from_) and by_whatsapp != (from_ or "").startswith(WHATSAPP), 21910),
        (bool(from_) and not _SENDER.fullmatch(sender), 21212),
        (
            rules.numbers is not None and bool(from_) and from_ not in rules.numbers,
            63007 if by_whatsapp else 21606,
        ),
        (content is not None and content not in rules.templates, 21655),
        (content is None and not body.strip() and not media, 21602),
        (len(body) > MAX_BODY_CHARACTERS, 21617),
        (
            any(urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname for url in media),
            21620,
        ),
        (len(media) > MAX_MEDIA, 21623),
        (callback is not None and not is_callback(callback), 21609),
        (to in opted_out, 21610),
    ]
    codes = [code for wrong, code in problems if wrong]
    if codes or to in MAGIC_RECIPIENTS:
        raise Refusal(codes[0] if codes else MAGIC_RECIPIENTS[to], **facts)
    return StandInMessage(
        sid=sid,
        to=to,
        from_=from_,
        body=body if content is None else _rendered(rules.templates[content], form.get("ContentVariables")),
        status="accepted" if service and not from_ else "queued",
        date_created=now,
        status_callback=callback,
        messaging_service_sid=service,
        media=media,
        content_sid=content,
        fields=form,
    )


def _rendered(template: str, variables: str | None) -> str:
    """The template's body with its variables. Raises Refusal for what WhatsApp does not take as one."""
    try:
        values = json.loads(variables or "{}")
    except ValueError:
        raise Refusal(21656) from None
    names = set(re.findall(r"\{\{(\w+)\}\}", template))
    if not isinstance(values, dict) or not names <= set(values):
        raise Refusal(21656)
    for name, value in values.items():
        if not isinstance(value, str) or not value.strip() or _REFUSED_IN_VARIABLES.search(value):
            raise Refusal(21656)
        if len(value) > MAX_BODY_CHARACTERS:
            raise Refusal(21658)
        template = template.replace("{{" + name + "}}", value)
    return template


def resource(message: StandInMessage, account_sid: str) -> dict[str, Any]:
    """The Messages resource."""
    uri = f"/{API_VERSION}/Accounts/{account_sid}/Messages/{message.sid}"
    sent = message.date_sent
    return {
        "account_sid": account_sid,
        "api_version": API_VERSION,
        "body": message.body,
        "date_created": format_datetime(message.date_created),
        "date_sent": format_datetime(sent) if sent is not None else None,
        "date_updated": format_datetime(sent or message.date_created),
        "direction": message.direction,
        "error_code": message.error_code,
        "error_message": None,
        "from": message.from_,
        "messaging_service_sid": message.messaging_service_sid,
        "num_media": str(len(message.media)),
        "num_segments": "0" if message.status == "accepted" else str(segments(message.body)),
        "price": None,
        "price_unit": "USD",
        "sid": message.sid,
        "status": message.status,
        "subresource_uris": {"media": f"{uri}/Media.json"},
        "tags": None,
        "to": message.to,
        "uri": f"{uri}.json",
    }


def webhook_parameters(
    message: StandInMessage,
    account_sid: str,
    media: Sequence[tuple[str, str]] = (),
    *,
    answering: StandInMessage | None = None,
    button: tuple[str, str] | None = None,
) -> list[tuple[str, str]]:
    """The form of the webhook for a message that somebody sent. answering: the message of ours that it replies to.
    button: (text, payload) of the quick reply that was pressed. Both are WhatsApp's."""
    parameters = [
        ("AccountSid", account_sid),
        ("ApiVersion", API_VERSION),
        ("Body", message.body),
        ("From", message.from_ or ""),
        ("MessageSid", message.sid),
        ("NumMedia", str(len(media))),
        ("NumSegments", str(segments(message.body))),
        ("SmsMessageSid", message.sid),
        ("SmsSid", message.sid),
        ("SmsStatus", "received"),
        ("To", message.to),
    ]
    if (message.from_ or "").startswith(WHATSAPP):
        kind = "button" if button is not None else "text"
        number = (message.from_ or "").removeprefix(f"{WHATSAPP}+")
        parameters += [("MessageType", kind), ("ProfileName", "Somebody"), ("WaId", number)]
    else:
        parameters += [("FromCountry", "US"), ("ToCountry", "US")]
    if button is not None:
        parameters += [("ButtonText", button[0]), ("ButtonPayload", button[1])]
    if answering is not None:
        parameters += [
            ("OriginalRepliedMessageSender", answering.from_ or ""),
            ("OriginalRepliedMessageSid", answering.sid),
        ]
    for index, (url, content_type) in enumerate(media):
        parameters += [(f"MediaContentType{index}", content_type), (f"MediaUrl{index}", url)]
    return sorted(parameters)


def page_of(
    messages: Sequence[StandInMessage], path: str, query: Mapping[str, str], account_sid: str
) -> dict[str, Any]:
    """A page of messages, newest first. A date filter leaves out what has not been sent yet."""
    size = min(max(int(query.get("PageSize", 50)), 1), 1000)
    page = int(query.get("Page", 0))
    newest = sorted(messages, key=lambda message: message.date_created, reverse=True)
    chosen = [message for message in newest if _fits(message, query)]
    shown = chosen[page * size : (page + 1) * size]

    def uri(number: int) -> str:
        return f"{path}?{urlencode({**query, 'PageSize': size, 'Page': number})}"

    return {
        "first_page_uri": uri(0),
        "next_page_uri": uri(page + 1) if len(chosen) > (page + 1) * size else None,
        "previous_page_uri": uri(page - 1) if page else None,
        "uri": uri(page),
        "page": page,
        "page_size": size,
        "start": page * size,
        "end": page * size + max(len(shown) - 1, 0),
        "messages": [resource(message, account_sid) for message in shown],
    }


def _fits(message: StandInMessage, query: Mapping[str, str]) -> bool:
    if query.get("To", message.to) != message.to or query.get("From", message.from_) != message.from_:
        return False
    day = message.date_sent.date().isoformat() if message.date_sent is not None else None
    for name, compare in (("DateSent", str.__eq__), ("DateSent>", str.__ge__), ("DateSent<", str.__le__)):
        if name in query and (day is None or not compare(day, query[name][:10])):
            return False
    return True
