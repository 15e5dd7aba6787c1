"""What Twilio's webhooks say: messages and reports of delivery."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from wakeloop.channel import DeliveryUpdate, Incoming, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.events import Attachment
from wakeloop_channels.twilio_webhooks import one, read_form
from wakeloop_channels.twilio_words import INBOUND_STATUSES, STATUSES, failure, keyword

# Not longer than Twilio's own: see `read_form` on boundaries that were moved.
_SID = re.compile(r"(?:SM|MM)[0-9A-Za-z]{1,32}")


def read_webhook(request: RawRequest, address: Callable[[str], str]) -> list[Incoming | DeliveryUpdate]:
    """A message somebody sent, or how far one of ours has come; nothing for a status that is not known.

    `address` makes the canonical form of From and To.
    STOP and its kin, HELP and START are recognised only as the whole text. OptOutType, which a messaging service
    with Advanced Opt-Out adds, decides before the text does, but never makes an opt-in of a YES: that word
    answers questions. Raises InvalidWebhook (400, 405, 413 or 415)."""
    form = read_form(request)
    raw = {name: values[0] if len(values) == 1 else list(values) for name, values in form.items()}
    provider_id = one(form, "MessageSid")
    if provider_id is None or not _SID.fullmatch(provider_id):
        raise InvalidWebhook("MessageSid is missing or malformed.", status=400)
    status = status_of(form)
    if status is not None:
        if status not in STATUSES:
            return []
        error = failure(one(form, "ErrorCode"), one(form, "ErrorMessage"))
        return [DeliveryUpdate(provider_id=provider_id, status=STATUSES[status], error=error, raw=raw)]
    sender = one(form, "From")
    if not sender:
        raise InvalidWebhook(f"Message {provider_id} has no From.", status=400)
    button = one(form, "ButtonPayload")
    text = one(form, "Body") or one(form, "ButtonText") or ""
    attachments = tuple(_attachments(form))
    if "Body" not in form and not attachments and button is None:
        raise InvalidWebhook(f"Message {provider_id} has neither Body nor MediaUrl0.", status=400)
    opt_out, wants_help = keyword(text, one(form, "OptOutType"))
    to_address = one(form, "To")
    reply_to = one(form, "OriginalRepliedMessageSid")
    return [
        Incoming(
            provider_id=provider_id,
            address=address(sender),
            text=text,
            to_address=address(to_address) if to_address else None,
            reply_to=reply_to if reply_to is not None and _SID.fullmatch(reply_to) else None,
            pressed=button or None,
            attachments=attachments,
            opt_out=opt_out,
            help=wants_help,
            raw=raw,
        )
    ]


def status_of(form: Mapping[str, Sequence[str]]) -> str | None:
    """The status that a status callback reports; None for a message that somebody sent."""
    status = one(form, "MessageStatus") or (None if "Body" in form else one(form, "SmsStatus"))
    return None if status is None or status.lower() in INBOUND_STATUSES else status.lower()


def _attachments(form: Mapping[str, Sequence[str]]) -> Iterable[Attachment]:
    index = 0
    while url := one(form, f"MediaUrl{index}"):
        content_type = one(form, f"MediaContentType{index}") or "application/octet-stream"
        yield Attachment(url=url, content_type=content_type)
        index += 1
