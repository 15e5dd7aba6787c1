"""What the tests of the webhook channel share: settings, a chat system on HTTP, and requests that it signs.

Both are written with Standard Webhooks' own library, against which ours is held.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError
from tests.http_kit import Peer, Reply, json_reply

from wakeloop.channel import ChannelServices, Outgoing, RawRequest
from wakeloop.testing.stand_in import Asked
from wakeloop_channels.webhook import WebhookChannel

PAYLOADS = Path(__file__).parents[1] / "payloads" / "webhook"
SECRET = "whsec_" + base64.b64encode(b"the first secret of the tests").decode()
OTHER = "whsec_" + base64.b64encode(b"another secret of the tests!!").decode()
PUBLIC_URL = "https://agents.example.com/webhooks/webhook"
ADDRESS = "https://chat.example.com/wakeloop/alice"


def settings(**changes: Any) -> dict[str, Any]:
    section = {"secret": SECRET, "hosts": ["chat.example.com", "127.0.0.1"], **changes}
    return {name: value for name, value in section.items() if value is not None}


def channel(**changes: Any) -> WebhookChannel:
    return WebhookChannel.from_settings(settings(**changes), ChannelServices(webhook_url=PUBLIC_URL))


def outgoing(text: str = "What comes first?", to: str = ADDRESS, **more: Any) -> Outgoing:
    return Outgoing(**{"key": "d1", "address": to, "text": text, "claimed_at": datetime.now(UTC), **more})


def signed(
    body: bytes | Mapping[str, Any],
    *,
    secret: str = SECRET,
    id: str = "w1",
    at: datetime | None = None,
    **headers: str,
) -> RawRequest:
    """A request as the chat system makes it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    at = at or datetime.now(UTC)
    signature = Webhook(secret).sign(msg_id=id, timestamp=at, data=data.decode("utf-8", "replace"))
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return RawRequest(
        method="POST",
        url=PUBLIC_URL,
        headers={
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
            **named,
        },
        body=data,
    )


def payload(name: str) -> RawRequest:
    return signed((PAYLOADS / f"{name}.json").read_bytes())


class ChatSystem(Peer):
    """Takes signed messages, each once, and refuses all others as its own library does."""

    def __init__(self, secret: str = SECRET) -> None:
        super().__init__(self._take)
        self.secret = secret
        self.messages: dict[str, dict[str, Any]] = {}
        self.shown: dict[str, str] = {}

    @property
    def address(self) -> str:
        return f"{self.url}/wakeloop/alice"

    def _take(self, request: Asked) -> Reply:
        try:
            body = Webhook(self.secret).verify(request.body, dict(request.headers))
        except WebhookVerificationError as error:
            return json_reply({"error": str(error)}, 401)
        if request.method != "POST" or request.target != "/wakeloop/alice":
            return json_reply({"error": "there is nobody of that name"}, 404)
        if body["type"] == "message.amended":
            if body["id"] not in self.shown:
                return json_reply({"error": "there is no such message"}, 404)
            self.shown[body["id"]] = body["text"]
            return Reply(status=204)
        if body["type"] != "message.created" or body["id"] != request.headers["webhook-id"]:
            return json_reply({"error": "no such type"}, 400)
        if body["id"] not in self.messages:
            self.messages[body["id"]] = body
            self.shown[f"chat-{len(self.messages)}"] = body["text"]
        place = list(self.messages).index(body["id"]) + 1
        return json_reply({"id": f"chat-{place}"})
