"""The webhook channel: a chat system of one's own, told by signed HTTP calls, and telling by the same.

Both ways are in the Standard Webhooks form (https://www.standardwebhooks.com); the bodies are in `webhook_bodies`.
Set-up, settings and the bodies: docs/channels/webhook.md.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from standardwebhooks import Webhook

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryUpdate,
    Incoming,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import InvalidWebhook, PermanentChannelError
from wakeloop_channels.explaining import Secrets, read_settings
from wakeloop_channels.http import exchange, json_object, refusal
from wakeloop_channels.webhook_bodies import (
    MAX_ID,
    MAX_URL,
    MessageAmended,
    MessageReceived,
    created,
    event,
    read_body,
)

MAX_BYTES = 1024 * 1024
MAX_ANSWER_BYTES = 64 * 1024
TOLERANCE_SECONDS = 300
"""How old, or how far ahead, a signature's time may be: Standard Webhooks' own libraries take five minutes."""
MAX_SIGNATURES = 20
GONE_STATUSES = frozenset({404, 410})

ADVICE: Mapping[int, str] = {
    401: "Its secret and WAKELOOP_WEBHOOK_SECRET differ.",
    403: "Its secret and WAKELOOP_WEBHOOK_SECRET differ.",
    404: "Correct the contact's address.",
    410: "Nobody is reached at this address any more: correct or remove it.",
}
HINTS = {
    "secret": "whsec_ and 24 to 64 random bytes in base64; during a rotation, several with commas between",
    "hosts": 'the hosts that may be called, such as ["chat.example.com"]',
}

_ADDRESS = re.compile(r"[!-~]+")
_HOST = re.compile(r"\.?[a-z0-9](?:[a-z0-9.:_-]*[a-z0-9])?|\[?[0-9a-f:.]+\]?")


class WebhookSettings(BaseModel):
    """The table `[channels.webhook]`, with the secrets of the environment merged in.

    secret: everything that goes out is signed with each of them, what comes in with any. hosts: nothing else is called;
    one that begins with a dot stands for all below it. timeout: seconds allowed for connecting, and as many again for
    the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secret: Secrets = Field(min_length=1)
    hosts: tuple[str, ...] = Field(min_length=1)
    timeout: float = Field(default=10.0, gt=0, le=300)

    @field_validator("secret")
    @classmethod
    def _check_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for secret in value:
            _key(secret)
        return value

    @field_validator("hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        hosts = tuple(host.strip().lower() for host in value)
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError("a host is a name or an IP address, without https:// and without a path")
        return tuple(host.strip("[]") for host in hosts)


class WebhookChannel:
    """A chat system of one's own. All network traffic of one instance happens on one event loop at a time; call `close`
    on that loop before leaving it."""

    name: ClassVar[str] = "webhook"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True,
        buttons=True,
        forms=True,
        threads=True,
        tokens=True,
        media=True,
        amends=True,
        idempotent=True,
        receipts=True,
        body_limit=MAX_BYTES,
    )

    def __init__(self, settings: WebhookSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._signers = tuple(Webhook(_key(secret)) for secret in settings.secret)
        self._keys = tuple(_key(secret) for secret in settings.secret)
        self._http: ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.webhook]`; nothing is sent.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it; a secret's value
        is never in it."""
        settings = read_settings(WebhookSettings, section, channel="webhook", title="webhook", hints=HINTS)
        return cls(settings, services)

    def normalize(self, address: str) -> str:
        """The URL with its scheme and host in lower case, without a default port. Raises ValueError with the reason."""
        url = address.strip()
        if not _ADDRESS.fullmatch(url) or len(url) > MAX_URL:
            raise ValueError("an address is a URL, with %-escapes for what is not ASCII")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError("its host or port is malformed") from error
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("it must begin with https:// (or http://) and a host")
        if "@" in parts.netloc:
            raise ValueError("it must hold no user and password: each call is signed")
        if parts.fragment or url.endswith("#"):
            raise ValueError("it must have no #")
        if not self._may_call(host):
            raise ValueError("its host is not among channels.webhook.hosts, the only ones that are called")
        shown = f"[{host}]" if ":" in host else host
        if port is not None and port != (443 if parts.scheme == "https" else 80):
            shown = f"{shown}:{port}"
        return parts._replace(netloc=shown, path=parts.path or "/").geturl()

    async def send(self, message: Outgoing) -> Receipt:
        """Post `message.created` to the address, signed; the id that is answered, or the delivery's key, is the
        message's from then on.

        Sending twice does no harm, for both have the same `webhook-id`. So TemporaryChannelError is raised for 408,
        425, 429 and 5xx, and if no answer came; PermanentChannelError for a redirect or any other 4xx."""
        answer = await self._post(message.address, message.key, created(message))
        given = answer.get("id")
        if isinstance(given, str) and 0 < len(given) <= MAX_ID and given.isprintable():
            return Receipt(provider_id=given, raw=answer)
        return Receipt(provider_id=message.key)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """There is no list of what was sent: it is sent again with the same id."""
        return None

    async def amend(self, sent: Sent, text: str) -> None:
        """Post `message.amended`. Its `webhook-id` is made of the message's id and the text: the same when it is sent
        again. Raises as `send` does, but not for 404 and 410."""
        named = f"{sent.provider_id}\0{text}".encode("utf-8", "surrogatepass")
        body = MessageAmended(id=sent.provider_id, to=sent.address, text=text).model_dump(mode="json")
        id = f"amend-{hashlib.sha256(named).hexdigest()[:40]}"
        await self._post(sent.address, id, body, fine=GONE_STATUSES)

    def verify(self, request: RawRequest) -> None:
        """Check `webhook-signature` with every secret, in constant time, and that it was made in these five minutes.

        Raises InvalidWebhook: 403 if it is missing, stale or wrong, 413 if the body is too large."""
        if len(request.body) > MAX_BYTES:
            raise InvalidWebhook(f"The body has more than {MAX_BYTES} bytes.", status=413)
        id, at, signatures = (
            request.headers.get(f"webhook-{part}", "").strip() for part in ("id", "timestamp", "signature")
        )
        if not (id and at and signatures):
            raise InvalidWebhook(
                "webhook-id, webhook-timestamp and webhook-signature are needed: the request is not signed."
            )
        if not re.fullmatch(r"[0-9]{1,12}", at):
            raise InvalidWebhook("webhook-timestamp is no number of seconds since 1970.")
        if abs(time.time() - int(at)) > TOLERANCE_SECONDS:
            raise InvalidWebhook(
                f"webhook-timestamp is more than {TOLERANCE_SECONDS} seconds from now: the request is a replay, or a "
                "clock is wrong."
            )
        content = f"{id}.{at}.".encode("utf-8", "surrogatepass") + request.body
        given = [
            part[3:].encode("utf-8", "surrogatepass") for part in signatures.split() if part[:3] == "v1,"
        ]
        expected = [base64.b64encode(hmac.digest(key, content, "sha256")) for key in self._keys]
        matches = [hmac.compare_digest(one, other) for one in expected for other in given[:MAX_SIGNATURES]]
        if not any(matches):
            raise InvalidWebhook(
                "webhook-signature fits this id, time and body with no secret: the request is forged, or the secrets "
                "differ."
            )

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """What a person said (`message.received`), or how far one of ours has come (`message.status`).

        Raises InvalidWebhook (400, 405 or 413) with what is wrong."""
        if request.method.upper() != "POST":
            raise InvalidWebhook("This webhook takes POST only.", status=405)
        if len(request.body) > MAX_BYTES:
            raise InvalidWebhook(f"The body has more than {MAX_BYTES} bytes.", status=413)
        said = read_body(request.body)
        return [event(said, self._lenient(said.from_) if isinstance(said, MessageReceived) else "")]

    def respond(self, request: RawRequest) -> RawResponse:
        """No content."""
        return RawResponse(status=204)

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """Where one's own system posts what people write, and with what it signs."""
        return (
            ("Where your chat system posts what people write", webhook_url),
            ("What it signs with, as whsec_…", "the value of WAKELOOP_WEBHOOK_SECRET"),
        )

    async def close(self) -> None:
        """Close the connections. The channel may be used again afterwards."""
        http, self._http, self._loop = self._http, None, None
        if http is not None:
            await http.close()

    # ------------------------------------------------------------------ inside

    async def _post(
        self, address: str, id: str, body: Mapping[str, Any], *, fine: frozenset[int] = frozenset()
    ) -> dict[str, Any]:
        """Post a body, signed now; the JSON object that is answered, empty for anything else. Raises for any status that
        is neither a 2xx nor `fine`."""
        host = urlsplit(address).hostname or ""
        if not self._may_call(host):
            raise PermanentChannelError(f"{host} is not called: it is not among channels.webhook.hosts.")
        data = json.dumps(body)
        at = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "wakeloop",
            "webhook-id": id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(
                signer.sign(msg_id=id, timestamp=at, data=data) for signer in self._signers
            ),
        }
        with exchange(host, repeatable=True):
            async with self._session().post(
                address, data=data.encode(), headers=headers, allow_redirects=False
            ) as response:
                answer = await _answer(response)
                status = response.status
                if 200 <= status < 300 or status in fine:
                    return answer
                words = answer.get("error")
                raise refusal(
                    host,
                    status,
                    response.headers,
                    words[:200] if isinstance(words, str) else response.reason or "",
                    repeatable=True,
                    advice=ADVICE.get(status, "Redirects are not followed." if status < 400 else ""),
                )

    def _session(self) -> ClientSession:
        """The connections, which belong to the running loop. No proxies, no cookies."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            timeout = self.settings.timeout
            self._loop = loop
            self._http = ClientSession(
                timeout=ClientTimeout(total=2 * timeout, connect=timeout, sock_read=timeout),
                cookie_jar=DummyCookieJar(),
            )
        return self._http

    def _may_call(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        return any(
            name == allowed or (allowed.startswith(".") and name.endswith(allowed))
            for allowed in self.settings.hosts
        )

    def _lenient(self, address: str) -> str:
        """Whoever is no contact stays as they are."""
        try:
            return self.normalize(address)
        except ValueError:
            return address


async def _answer(response: ClientResponse) -> dict[str, Any]:
    """The JSON object in an answer; empty if it is none, or longer than anybody needs. That is no failure: the status
    alone says whether the message was taken."""
    found = bytearray()
    async for chunk in response.content.iter_any():
        found += chunk
        if len(found) > MAX_ANSWER_BYTES:
            response.close()
            return {}
    return json_object(found.decode("utf-8", "replace"))


def _key(secret: SecretStr) -> bytes:
    """The bytes to sign with. Raises ValueError, in which the secret is not."""
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("each secret is whsec_ and 24 to 64 random bytes in base64")
    return key
