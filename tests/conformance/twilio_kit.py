"""What the tests of the SMS channel share: settings and signed requests."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode
from urllib.request import Request, urlopen

from wakeloop.channel import ChannelServices, Outgoing, RawRequest
from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, TwilioStandIn, sign
from wakeloop_channels.twilio import TwilioChannel

PAYLOADS = Path(__file__).parents[1] / "payloads" / "twilio"
FORM = "application/x-www-form-urlencoded"
PUBLIC_URL = "https://agents.example.com/hooks/sms?tenant=b&account=a%20c"
ALICE = "+15555550100"
SERVICE = "MG" + "0123456789abcdef" * 2
SID = "SM" + "0" * 31


def settings(**changes: Any) -> dict[str, Any]:
    section = {"account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN, "from_number": NUMBER, **changes}
    return {name: value for name, value in section.items() if value is not None}


def channel(*, webhook_url: str | None = None, **changes: Any) -> TwilioChannel:
    return TwilioChannel.from_settings(settings(**changes), ChannelServices(webhook_url=webhook_url))


def outgoing(text: str = "What comes first?", to: str = ALICE, *, age: float = 0.0) -> Outgoing:
    claimed_at = datetime.now(UTC) - timedelta(seconds=age)
    return Outgoing(key="d1", address=to, text=text, claimed_at=claimed_at)


def signed(
    body: bytes, *, url: str = PUBLIC_URL, token: str = AUTH_TOKEN, content_type: str = FORM, **headers: str
) -> RawRequest:
    parameters = (
        parse_qsl(body.decode("latin-1"), keep_blank_values=True) if content_type.startswith(FORM) else []
    )
    signature = sign(url, parameters, token)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RawRequest(
        method="POST",
        url=url,
        headers={"content-type": content_type, "x-twilio-signature": signature, **named},
        body=body,
    )


def payload(name: str) -> RawRequest:
    return signed((PAYLOADS / f"{name}.form").read_bytes())


def form(**parameters: str) -> RawRequest:
    return signed(urlencode(parameters).encode())


def call(twilio: TwilioStandIn, path: str, *, token: str = AUTH_TOKEN, **query: str) -> dict[str, Any]:
    """GET a resource of the account, as any HTTP client would."""
    url = f"{twilio.url}/2010-04-01/Accounts/{ACCOUNT_SID}/{path}?{urlencode(query)}"
    credentials = base64.b64encode(f"{ACCOUNT_SID}:{token}".encode()).decode()
    try:
        with urlopen(Request(url, headers={"Authorization": f"Basic {credentials}"})) as response:
            answer: dict[str, Any] = json.load(response)
    except HTTPError as error:
        with error:
            answer = json.load(error)
    return answer
