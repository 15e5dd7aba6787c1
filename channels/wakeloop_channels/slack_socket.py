"""Slack's Socket Mode: what a webhook would bring comes over a WebSocket that we open, so no public address is needed.

slack_sdk's own client for it is not used: it handles envelopes side by side and in no order, logs what a listener raises
instead of handing it on, and tries again for ever when the token is wrong. Here one envelope is taken after the other, it
is acknowledged when it is on record, and what cannot be mended is raised.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ClientError, ClientWebSocketResponse, WSMsgType
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse

from wakeloop.errors import PermanentChannelError, TemporaryChannelError
from wakeloop_channels.http import json_object
from wakeloop_channels.slack_api import SlackApi

HEARTBEAT_SECONDS = 10.0
"""So often the server is asked whether it is still there; the connection is given up if it does not answer by the next."""

HELLO_SECONDS = 30.0
PAUSE_SECONDS = 1.0
MAX_BYTES = 4 * 1024 * 1024

Handle = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]
Then = Callable[[dict[str, Any]], Awaitable[None]]


async def listen(api: SlackApi, handle: Handle, then: Then) -> None:
    """Take envelopes until cancelled. api: calls with the app's token.

    handle: called with each payload; when it returns, the envelope is acknowledged with what it returned. If it raises,
    the envelope is not, and Slack sends it again. then: called after that. A connection that Slack closes, which it does
    every few hours, or that is lost, is replaced; what was not acknowledged on it comes again on the next.

    Raises ChannelError if no connection can be opened, and whatever `handle` and `then` raise."""
    while True:
        opened = await api.call("apps.connections.open", repeatable=True)
        try:
            async with api.session.ws_connect(
                str(opened.get("url")), heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_BYTES
            ) as socket:
                await _take(socket, handle, then)
        except ClientError as error:
            # Not its words: they may hold the address, whose ticket is a secret.
            raise TemporaryChannelError(
                f"Slack's Socket Mode could not be reached: {type(error).__name__}",
                code=None,
                retry_after=None,
            ) from None
        await asyncio.sleep(PAUSE_SECONDS)


async def _take(socket: ClientWebSocketResponse, handle: Handle, then: Then) -> None:
    """Take the envelopes of one connection, until it is to be replaced."""
    greeted = False
    while True:
        try:
            message = await socket.receive(timeout=None if greeted else HELLO_SECONDS)
        except TimeoutError:
            return
        if message.type is not WSMsgType.TEXT:
            return  # closed or lost
        envelope = json_object(message.data)
        greeted = True
        if envelope.get("type") == "disconnect":
            if envelope.get("reason") == "link_disabled":
                raise PermanentChannelError(
                    "Slack has switched Socket Mode off for this app: switch it on under Socket Mode, or unset socket_mode.",
                    code="link_disabled",
                )
            return
        request = _request(envelope)
        if request is None:
            continue
        answer = await handle(request.payload)
        response = SocketModeResponse(
            request.envelope_id, answer if request.accepts_response_payload else None
        )
        try:
            await socket.send_str(json.dumps(response.to_dict()))
        except ConnectionError:
            return  # it is on record; Slack sends it again, which counts once
        await then(request.payload)


def _request(envelope: dict[str, Any]) -> SocketModeRequest | None:
    """The envelope, unless it carries nothing, as `hello` does."""
    if not isinstance(envelope.get("payload"), dict) or not isinstance(envelope.get("envelope_id"), str):
        return None
    return SocketModeRequest.from_dict(envelope)
