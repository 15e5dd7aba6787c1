"""Twilio's statuses, error codes and keywords, and what they mean here."""

from __future__ import annotations

from collections.abc import Mapping

from wakeloop.channel import DeliveryStatus

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

OUTSIDE_WINDOW = (
    "they have not written within 24 hours, and WhatsApp then takes approved templates only: set "
    "channels.whatsapp.content_sid"
)

# https://www.twilio.com/docs/api/errors: what a refusal means for whoever has to mend it.
ADVICE: Mapping[str, str] = {
    "20003": "Check account_sid and WAKELOOP_{CHANNEL}_AUTH_TOKEN (or api_key and WAKELOOP_{CHANNEL}_API_SECRET).",
    "21211": "Correct the contact's number.",
    "21212": "Check from_number.",
    "21408": "Allow the country under Messaging > Settings > Geo permissions in Twilio's Console.",
    "21606": "from_number must be a number of this account that can send SMS.",
    "21608": "A trial account writes only to numbers verified in Twilio's Console.",
    "21610": "The person answered STOP; only they can undo it, by sending START.",
    "21614": "The number cannot receive SMS.",
    "21617": "Shorten the message to 1600 characters.",
    "21620": "Twilio must be able to fetch each file at a public http or https address.",
    "21623": "Send at most 10 files with a message.",
    "21655": "channels.whatsapp.content_sid must be a content template of this account.",
    "21656": "The template named by channels.whatsapp.content_sid must have exactly one variable, {{1}}, in its body.",
    "21658": "Shorten the message to 1600 characters.",
    "63007": "from_number must be a WhatsApp sender of this account.",
    "63016": f"That means: {OUTSIDE_WINDOW}.",
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
    "63003": "the number could not be found on the channel: it is not on WhatsApp, or mistyped",
    "63005": "WhatsApp did not accept the content",
    "63007": "the sender is no WhatsApp sender of this account: check channels.whatsapp.from_number",
    "63013": "it violates WhatsApp's policy",
    "63015": "the person has not joined the sandbox: they must send its join phrase first",
    "63016": OUTSIDE_WINDOW,
    "63018": "too many messages at once for the sender",
    "63019": "a file could not be fetched: its address must be public",
    "63024": "not a valid WhatsApp recipient: no account, terms not accepted, or an outdated app",
}
# Refusals that pass with time, whatever their status: too many requests, a full queue of the sending number.
UNTAKEN_CODES = frozenset({"20429", "21611", "63018"})


def advice(code: str | None, channel: str) -> str:
    """What to mend after a refusal, as a sentence; empty if nothing is known of this code."""
    return ADVICE.get(code or "", "").replace("{CHANNEL}", channel.upper())


def failure(code: str | None, words: str | None) -> str | None:
    """A failed delivery's code and words, as far as there are any."""
    if not code or code == "0":
        return words or None
    words = words or FAILURES.get(code)
    return f"{code}: {words}" if words else code


def keyword(text: str, opt_out_type: str | None) -> tuple[bool | None, bool]:
    """(opt_out, help) as `Incoming` has them."""
    word = "".join(text.split()).rstrip(".!").upper()
    kind = (opt_out_type or "").upper()
    if kind == "STOP" or (not kind and word in OPT_OUT):
        return True, False
    if (kind == "START" and word != "YES") or (not kind and word in OPT_IN):
        return False, False
    return None, kind == "HELP" or (not kind and word in HELP)
