"""The Slack channel: direct messages and channels, by the Web API, the Events API, interactivity and Socket Mode.

An address is a person's (`U…`: what is said goes to their direct conversation with the app) or a channel's (`C…`, `G…`).

Threads. Slack tells of a reply only under which message its thread began. So every question and approval begins a thread
of its own, wherever the conversation is: then a reply in that thread names this request and no other. Whatever else is
said goes where the person last spoke, for a day: into the thread they wrote or pressed in, in a channel also under what
they said; in a direct conversation, where threads are easily overlooked, only if they themselves wrote in one. A thread
that a person began names no message of ours, so a reply in it is never taken for an answer to one.

Slack takes no idempotency key. Each message carries the delivery's key in its metadata, by which `find_sent` knows it
again. Set-up and settings: docs/channels/slack.md.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from wakeloop.channel import (
    Capabilities,
    ChannelServices,
    DeliveryStatus,
    DeliveryUpdate,
    Incoming,
    Inlet,
    Outgoing,
    RawRequest,
    RawResponse,
    Receipt,
    Sent,
)
from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop.events import Attachment
from wakeloop_channels import slack_blocks as kit
from wakeloop_channels import slack_socket
from wakeloop_channels.slack_api import SlackApi
from wakeloop_channels.slack_reading import (
    Place,
    Press,
    Speakers,
    message_of_ours,
    read_comment,
    read_message,
    read_press,
    said_by,
    said_in,
)
from wakeloop_channels.slack_settings import USER, SlackSettings, normalize_id, read_slack_settings
from wakeloop_channels.slack_text import escape
from wakeloop_channels.slack_webhooks import check_signature, clean_payload, read_payload, text_at
from wakeloop_channels.text import well_formed

CLOCK_SKEW_SECONDS = 5.0
TEXT_CHARACTERS = 40_000
"""Slack cuts a longer text off: https://docs.slack.dev/reference/methods/chat.postMessage#truncating."""

CONVERSATION_SECONDS = 24 * 60 * 60
THREADS_SEARCHED = 5
THREAD_GONE = frozenset({"cannot_reply_to_message", "message_not_found", "thread_not_found"})
EVENT_TYPE = "wakeloop_delivery"

SCOPES = (
    "app_mentions:read", "channels:history", "chat:write", "files:read", "groups:history", "im:history", "im:write",
    "mpim:history",
)  # fmt: skip
EVENTS = ("app_mention", "message.channels", "message.groups", "message.im", "message.mpim")

_LOG = logging.getLogger("wakeloop.channels.slack")


class SlackChannel:
    """Slack. All network traffic of one instance happens on one event loop at a time; call `close` on that loop before
    leaving it."""

    name: ClassVar[str] = "slack"
    capabilities: ClassVar[Capabilities] = Capabilities(
        inbound=True, buttons=True, forms=True, threads=True, amends=True, reconcile=True,
        max_length=kit.TEXT_CHARACTERS,
    )  # fmt: skip

    def __init__(self, settings: SlackSettings, services: ChannelServices) -> None:
        self.settings = settings
        self._secrets = tuple(secret.get_secret_value().encode() for secret in settings.signing_secrets)
        self._signed = Speakers(responders=settings.responders)
        self._connected = Speakers(responders=settings.responders, via="Slack connection")
        self._api = SlackApi(settings.bot_token.get_secret_value(), str(settings.api_url), settings.timeout)
        self._direct: dict[str, str] = {}

    @classmethod
    def from_settings(cls, section: Mapping[str, Any], services: ChannelServices) -> Self:
        """Make the channel from `[channels.slack]`; nothing is sent.

        Raises ConfigurationError with every setting that is missing or wrong and where to set it; a secret's value
        is never in it."""
        return cls(read_slack_settings(section), services)

    def normalize(self, address: str) -> str:
        """The id, also of a mention (`<@U…>`, `<#C…|name>`). Raises ValueError with the reason if it is none."""
        return normalize_id(address)

    # ------------------------------------------------------------------ out

    async def send(self, message: Outgoing) -> Receipt:
        """Post the message, once. What Slack has taken stands in the conversation, so it is delivered.

        Raises TemporaryChannelError if no connection was made, or Slack said that it did nothing (429, `ratelimited`,
        `service_unavailable`); PermanentChannelError if it refused. A timeout, a lost connection, `internal_error` and
        `fatal_error`, of which Slack says that part of it may have been done, raise something else: only `find_sent` can
        tell."""
        text = escape(well_formed(message.text)) or " "
        if len(text) > TEXT_CHARACTERS:
            raise PermanentChannelError(
                f"The message has more than {TEXT_CHARACTERS} characters, and Slack would cut it off.",
                code="msg_too_long",
            )
        channel = await self._conversation(message.address)
        asked = {
            "channel": channel,
            "text": text,
            "blocks": kit.message_blocks(message),
            "thread_ts": _thread(message, channel),
            "metadata": {"event_type": EVENT_TYPE, "event_payload": {"key": message.key}},
            "mrkdwn": False,
            "link_names": False,
            "unfurl_links": False,
            "unfurl_media": False,
        }
        answer = await self._post({name: value for name, value in asked.items() if value is not None})
        stands, ts = text_at(answer, "channel"), text_at(answer, "ts")
        if stands is None or ts is None:
            raise ChannelError(
                f"Slack answered delivery {message.key} without a ts; its outcome is unknown.", code=None
            )
        return _receipt(stands, ts)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """The oldest message whose metadata has this delivery's key, posted since `claimed_at`; None if there is none.

        The conversation is read, and the threads in which it may stand. Raises ChannelError if they could not be."""
        channel = await self._conversation(message.address)
        oldest = f"{(message.claimed_at - timedelta(seconds=CLOCK_SKEW_SECONDS)).timestamp():.6f}"
        since = {"channel": channel, "oldest": oldest, "inclusive": "true", "include_all_metadata": "true"}
        listings: list[tuple[str, dict[str, str]]] = [("conversations.history", since)]
        places = [place for id in message.thread if (place := Place.of(id)) and place.channel == channel]
        roots = list(dict.fromkeys(place.root for place in reversed(places)))
        listings += [("conversations.replies", {**since, "ts": root}) for root in roots[:THREADS_SEARCHED]]
        found: list[str] = []
        for method, asked in listings:
            try:
                async for page in self._api.pages(method, asked):
                    found += [ts for one in page.get("messages", ()) if (ts := _ts_of(one, message.key))]
            except PermanentChannelError as error:
                if error.code not in THREAD_GONE:
                    raise
        fresh = [ts for ts in found if f"{channel}:{ts}" not in known]
        return _receipt(channel, min(fresh, key=float)) if fresh else None

    async def amend(self, sent: Sent, text: str) -> None:
        """Show `text` in place of the message, without its buttons and inputs. One that is gone is no error."""
        ours = message_of_ours(sent.provider_id)
        if ours is None:
            raise PermanentChannelError(f"{sent.provider_id} is no id of a message in Slack.", code=None)
        asked = {
            "channel": ours[0], "ts": ours[1], "text": escape(well_formed(text))[:TEXT_CHARACTERS] or " ",
            "blocks": kit.text_blocks(text), "link_names": False,
        }  # fmt: skip
        try:
            await self._api.call("chat.update", asked, repeatable=True)
        except PermanentChannelError as error:
            if error.code != "message_not_found":
                raise

    # ------------------------------------------------------------------ in

    def verify(self, request: RawRequest) -> None:
        """Check X-Slack-Signature against every secret, in constant time, and that it is at most five minutes old.

        Raises InvalidWebhook: 403 if it is missing, wrong or stale, 413 if the body is too large."""
        check_signature(request, self._secrets, time.time())

    def parse(self, request: RawRequest) -> list[Incoming | DeliveryUpdate]:
        """What somebody said, pressed, filled in or commented; nothing for all else.

        In a channel, those whom `responders` names for it speak for the contact whose address it is; everybody else only
        for themselves. Raises InvalidWebhook (400, 405, 413 or 415)."""
        return self._said(read_payload(request), self._signed)

    def respond(self, request: RawRequest) -> RawResponse:
        """The challenge of a `url_verification`; what to do with a dialog; for all else nothing."""
        payload = read_payload(request)
        if payload["type"] == "url_verification":
            return RawResponse(body=(text_at(payload, "challenge") or "").encode())
        answer = _dialog_answer(payload)
        if answer is None:
            return RawResponse()
        return RawResponse(body=json.dumps(answer).encode(), content_type="application/json; charset=utf-8")

    async def react(self, request: RawRequest) -> None:
        """Open the dialog for a comment, which Slack allows within three seconds; tell whoever pressed in vain why.

        Raises ChannelError."""
        await self._react(read_payload(request))

    @property
    def listens(self) -> bool:
        """Whether Socket Mode is on."""
        return self.settings.socket_mode

    async def listen(self, inlet: Inlet) -> None:
        """Take what comes by Socket Mode. An envelope is acknowledged when it is on record; one that is not comes again,
        and counts once. Raises ChannelError if Slack cannot be reached or does not let us in."""
        token = self.settings.app_token
        if token is None:
            raise PermanentChannelError("Socket Mode needs WAKELOOP_SLACK_APP_TOKEN.", code=None)
        api = SlackApi(token.get_secret_value(), str(self.settings.api_url), self.settings.timeout)

        async def handle(payload: dict[str, Any]) -> dict[str, Any] | None:
            try:
                cleaned = clean_payload(payload)
                items = self._said(cleaned, self._connected)
            except ChannelError as error:
                # Acknowledged all the same: it would be as malformed the next time.
                _LOG.warning("Slack sent what cannot be read: %s", error)
                return None
            if items:
                await inlet.take(items)
            return _dialog_answer(cleaned)

        async def then(payload: dict[str, Any]) -> None:
            try:
                await self._react(clean_payload(payload))
            except Exception as error:
                _LOG.warning("a press in Slack could not be answered: %s", type(error).__name__)

        try:
            await slack_socket.listen(api, handle, then)
        finally:
            await api.close()

    async def fetch(self, attachment: Attachment) -> bytes:
        """The bytes of a file in the workspace. Raises ChannelError, PermanentChannelError if it is gone or not Slack's."""
        return await self._api.fetch(attachment.url, attachment.content_type)

    # ------------------------------------------------------------------ set-up

    async def check(self) -> str:
        """Ask Slack who we are, which scopes we have and, for Socket Mode, whether it lets us in.

        Raises ChannelError."""
        answer, headers = await self._api.call_with_headers("auth.test")
        granted = {scope.strip() for scope in headers.get("x-oauth-scopes", "").split(",")}
        missing = [scope for scope in SCOPES if scope not in granted]
        if "x-oauth-scopes" in headers and missing:
            raise PermanentChannelError(
                f"The app lacks the scopes {', '.join(missing)}: add them under OAuth & Permissions, and install it again.",
                code="missing_scope",
            )
        token = self.settings.app_token
        if self.settings.socket_mode and token is not None:
            api = SlackApi(token.get_secret_value(), str(self.settings.api_url), self.settings.timeout)
            try:
                await api.call("apps.connections.open", repeatable=True)
            finally:
                await api.close()
        return f"{answer.get('user')} in {answer.get('team')}"

    def guide(self, webhook_url: str) -> Sequence[tuple[str, str]]:
        """What to enter at api.slack.com/apps."""
        events = ("Event Subscriptions, Subscribe to bot events", ", ".join(EVENTS))
        scopes = ("OAuth & Permissions, Bot Token Scopes", ", ".join(SCOPES))
        if self.settings.socket_mode:
            return [
                ("Socket Mode, Enable Socket Mode", "on"), scopes, events,
                ("Interactivity & Shortcuts, Interactivity", "on"),
            ]  # fmt: skip
        return [
            scopes, ("Event Subscriptions, Request URL", webhook_url), events,
            ("Interactivity & Shortcuts, Request URL", webhook_url),
        ]  # fmt: skip

    async def close(self) -> None:
        """Close the connections to Slack. The channel may be used again afterwards."""
        await self._api.close()

    # ------------------------------------------------------------------ inside

    async def _conversation(self, address: str) -> str:
        """The id of the conversation that an address stands for; a direct one is opened, which twice does no harm."""
        if not USER.fullmatch(address):
            return address
        if address not in self._direct:
            answer = await self._api.call("conversations.open", {"users": address}, repeatable=True)
            channel = text_at(answer, "channel", "id")
            if channel is None:
                raise ChannelError("Slack opened a direct conversation without an id.", code=None)
            self._direct[address] = channel
        return self._direct[address]

    async def _post(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Post a message; if the thread it belongs to is gone, outside of it."""
        try:
            return await self._api.call("chat.postMessage", asked)
        except PermanentChannelError as error:
            if "thread_ts" not in asked or error.code not in THREAD_GONE:
                raise
        del asked["thread_ts"]
        return await self._api.call("chat.postMessage", asked)

    def _said(self, payload: Mapping[str, Any], speakers: Speakers) -> list[Incoming | DeliveryUpdate]:
        match payload["type"]:
            case "event_callback":
                said = read_message(payload, speakers)
                return [said] if said is not None else []
            case "block_actions":
                press = read_press(payload)
                return [said_by(press, speakers, payload)] if press is not None and press.says else []
            case "view_submission":
                comment = read_comment(payload)
                return [said_in(comment, speakers, payload)] if comment is not None and comment.text else []
            case _:
                return []

    async def _react(self, payload: Mapping[str, Any]) -> None:
        if payload["type"] == "view_submission":
            comment = read_comment(payload)
            if comment is not None and comment.text:
                await self._note_stranger(comment.place, comment.user)
            return
        press = read_press(payload) if payload["type"] == "block_actions" else None
        if press is None:
            return
        if press.action == kit.COMMENT and press.trigger is not None:
            view = kit.comment_view(f"{press.label.removesuffix('…')}:", press.value, _place_id(press))
            await self._api.call("views.open", {"trigger_id": press.trigger, "view": view})
        elif press.missing:
            await self._note(press.place, press.user, f"Please fill in: {', '.join(press.missing)}.")
        elif press.says:
            await self._note_stranger(press.place, press.user)

    async def _note_stranger(self, place: Place, user: str) -> None:
        """Tell somebody who answers in a channel that they do not speak for it."""
        if not place.direct and user not in self.settings.responders.get(place.channel, ()):
            words = "You are not among those who may answer for this channel, so this counts only if you were asked yourself."
            await self._note(place, user, words)

    async def _note(self, place: Place, user: str, text: str) -> None:
        """Show a text to one person only."""
        asked = {"channel": place.channel, "user": user, "text": escape(text), "link_names": False}
        await self._api.call("chat.postEphemeral", asked)


def _place_id(press: Press) -> str:
    return f"{press.place.channel}:{press.place.root}/{press.place.ts}"


def _thread(message: Outgoing, channel: str) -> str | None:
    """The root of the thread that a message goes to; None for one of its own. See the module."""
    if message.kind:
        return None
    last = next((place for id in reversed(message.thread) if (place := Place.of(id)) is not None), None)
    if last is None or last.channel != channel or _age(message.claimed_at, last.ts) > CONVERSATION_SECONDS:
        return None
    if last.direct and (last.press or last.root == last.ts):
        return None
    return last.root


def _age(now: datetime, ts: str) -> float:
    return now.timestamp() - float(ts)


def _ts_of(listed: object, key: str) -> str | None:
    """The ts of a listed message if it is the delivery with this key."""
    if not isinstance(listed, Mapping):
        return None
    ours = (
        text_at(listed, "metadata", "event_type") == EVENT_TYPE
        and text_at(listed, "metadata", "event_payload", "key") == key
    )
    return text_at(listed, "ts") if ours else None


def _receipt(channel: str, ts: str) -> Receipt:
    return Receipt(
        provider_id=f"{channel}:{ts}", status=DeliveryStatus.DELIVERED, raw={"channel": channel, "ts": ts}
    )


def _dialog_answer(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """What Slack does with a dialog that was sent: close it, or say what is wrong in it. None for all that is none."""
    if payload["type"] != "view_submission":
        return None
    comment = read_comment(payload)
    if comment is not None and not comment.text:
        return {"response_action": "errors", "errors": {kit.COMMENT: "Please write something."}}
    return {}
