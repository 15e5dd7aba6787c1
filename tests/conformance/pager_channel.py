"""The example of channels/ADDING_A_CHANNEL.md: a channel to a paging service that does not exist."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from aiohttp import ClientSession, ClientTimeout
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr

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
from wakeloop_channels.explaining import Secrets, read_settings
from wakeloop_channels.http import exchange, json_object, refusal
from wakeloop_channels.text import well_formed

SIGNATURE_SECONDS = 300
STATUSES = {
    "sent": DeliveryStatus.SENT,
    "delivered": DeliveryStatus.DELIVERED,
    "failed": DeliveryStatus.FAILED,
}


class PagerSettings(BaseModel):
    """The table `[channels.pager]`, with the secrets of the environment merged in. signing_secret: every one of several
    verifies webhooks. timeout: seconds for connecting, and as many again for the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_url: HttpUrl
    token: SecretStr
    signing_secret: Secrets = Field(min_length=1)
    timeout: float = Field(default=10.0, gt=0)


class PagerChannel:
    """Pages through the Pager service. An address is the number of a pager, seven digits."""

    name: ClassVar[str] = "pager"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, idempotent=True, receipts=True, max_length=500
    )

    def __init__(self, settings: PagerSettings) -> None:
        self.settings = settings
        self._session: ClientSession | None = None

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.pager]`; nothing is sent. Raises ConfigurationError."""
        return cls(read_settings(PagerSettings, section, channel=cls.name, title="pager"))

    def normalize(self, address: str) -> str:
        """Seven digits. Raises ValueError."""
        digits = re.sub(r"[ -]", "", address)
        if not re.fullmatch(r"[0-9]{7}", digits):
            raise ValueError("the number of a pager has seven digits")
        return digits

    async def send(self, message: Outgoing) -> Receipt:
        """Page the text. The delivery's key is the idempotency key, so that a second attempt pages nobody twice."""
        headers = {
            "Authorization": f"Bearer {self.settings.token.get_secret_value()}",
            "Idempotency-Key": message.key,
        }
        page = {"to": message.address, "text": well_formed(message.text)}
        url = f"{str(self.settings.api_url).rstrip('/')}/pages"
        with exchange("Pager", repeatable=True):
            async with self._connected().post(
                url, json=page, headers=headers, allow_redirects=False
            ) as answer:
                status, text = answer.status, await answer.text()
        payload = json_object(text)
        if status != 201:
            said, code = str(payload.get("why", "")), payload.get("error")
            raise refusal("Pager", status, answer.headers, said, code=code, repeatable=True)
        if not isinstance(payload.get("id"), str):
            raise ChannelError("Pager answered without an id; whether the page was taken is unknown.")
        return Receipt(provider_id=payload["id"], raw=payload)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """Sending again is harmless, so nobody looks."""
        return None

    def verify(self, request: RawRequest) -> None:
        """Check `X-Pager-Signature: t=<Unix time>,v1=<HMAC-SHA256 of time, a dot and the body>`. Raises InvalidWebhook."""
        header = request.headers.get("x-pager-signature", "")
        found = re.fullmatch(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})", header)
        if found is None:
            raise InvalidWebhook("X-Pager-Signature is missing or malformed.")
        if abs(time.time() - int(found[1])) > SIGNATURE_SECONDS:
            raise InvalidWebhook("X-Pager-Signature is too old.")
        signed = found[1].encode() + b"." + request.body
        secrets = [secret.get_secret_value().encode() for secret in self.settings.signing_secret]
        fits = [
            hmac.compare_digest(hmac.digest(secret, signed, hashlib.sha256).hex(), found[2])
            for secret in secrets
        ]
        if not any(fits):
            raise InvalidWebhook("X-Pager-Signature fits no signing secret.")

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """A page that somebody sent, or how far one of ours has come. Raises InvalidWebhook."""
        try:
            payload = json_object(well_formed(request.body.decode()))
        except UnicodeDecodeError as error:
            raise InvalidWebhook("The body is not UTF-8.", status=400) from error
        facts = {name: value for name, value in payload.items() if isinstance(value, str)}
        if not facts.get("id") or payload.keys() != facts.keys():
            raise InvalidWebhook("The body is no object of texts with an id.", status=400)
        facts = {name: well_formed(value) for name, value in facts.items()}
        if facts.get("kind") == "status" and facts.get("status") in STATUSES:
            status = STATUSES[facts["status"]]
            return [DeliveryUpdate(provider_id=facts["id"], status=status, error=facts.get("why"), raw=facts)]
        if facts.get("kind") == "page" and "from" in facts:
            text = facts.get("text", "")
            return [Incoming(provider_id=facts["id"], address=facts["from"], text=text, raw=facts)]
        raise InvalidWebhook("The body is neither a page nor a status.", status=400)

    def respond(self, request: RawRequest) -> RawResponse:
        """Pager wants any 2xx."""
        return RawResponse(status=204)

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connected(self) -> ClientSession:
        if self._session is None:
            timeout = self.settings.timeout
            # Connecting must run out before the whole does: what stops there was certainly not sent.
            self._session = ClientSession(timeout=ClientTimeout(total=2 * timeout, connect=timeout))
        return self._session
