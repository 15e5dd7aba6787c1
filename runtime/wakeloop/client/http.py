"""HTTP, as far as both clients do it alike: options of a connection and of a call, and what came of one."""

from __future__ import annotations

import ssl
from typing import Any

import httpx2

from wakeloop.client.wire import Lost, Reply, Send, headers_for
from wakeloop.errors import ConfigurationError
from wakeloop.telemetry import carrying

CONNECT_SECONDS = 10.0


def connection_options(token: str | None, transport: Any) -> dict[str, Any]:
    """What an HTTP client is made with. Any number of calls may be waiting at once, each on its own connection."""
    return {
        "headers": headers_for(token),
        "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        "transport": transport,
        "follow_redirects": False,
    }


def call_options(send: Send, url: str) -> dict[str, Any]:
    """What a call is made with; `url` is the API's."""
    return {
        "method": send.method,
        "url": url + send.path,
        "content": send.body,
        "headers": carrying({} if send.body is None else {"content-type": send.content_type}),
        "timeout": httpx2.Timeout(send.seconds, connect=min(CONNECT_SECONDS, send.seconds), pool=None),
    }


def reply_of(response: httpx2.Response) -> Reply:
    """A response that was read to its end."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(status=response.status_code, headers=headers, body=response.content)


def lost(error: httpx2.RequestError) -> Lost:
    """What a call without a response means. Raises ConfigurationError for one that could never be sent."""
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        raise ConfigurationError(f"the call to the wakeloop server cannot be sent: {error}") from error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Lost(reason=f"its certificate is not to be trusted: {cause.verify_message}", is_final=True)
        cause = cause.__cause__ or cause.__context__
    said = str(error).strip()
    return Lost(reason=f"{type(error).__name__}: {said}" if said else type(error).__name__)
