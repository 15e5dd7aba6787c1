"""Twilio's official client over aiohttp, with our addresses, timeouts and errors."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from aiohttp import ClientSession, ClientTimeout
from twilio.http.async_http_client import AsyncTwilioHttpClient  # type: ignore[import-untyped]
from twilio.http.response import Response  # type: ignore[import-untyped]

from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop_channels.http import exchange, json_object, read_bounded, refusal
from wakeloop_channels.twilio_settings import TwilioSettings
from wakeloop_channels.twilio_words import UNTAKEN_CODES, advice

MAX_REDIRECTS = 3


class HttpClient(AsyncTwilioHttpClient):  # type: ignore[misc]
    """Twilio's port for HTTP with three things added: another base URL, timeouts, and errors in our own terms."""

    def __init__(self, settings: TwilioSettings) -> None:
        super().__init__(pool_connections=False)
        self._channel = settings.channel
        self._api_url = str(settings.api_url).rstrip("/") if settings.api_url is not None else None
        # The connection's timeout always runs out before the total one: what it stops was certainly not sent.
        self.session = ClientSession(
            timeout=ClientTimeout(
                total=2 * settings.timeout, connect=settings.timeout, sock_read=settings.timeout
            )
        )

    async def request(
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        """One request, never repeated, never logged (its fields are people's numbers and words).

        Raises ChannelError for every answer but a 2xx, TemporaryChannelError if no connection was made, and what
        aiohttp raises if a POST broke off later: it may have had its effect."""
        headers = dict(headers or {})
        if auth is not None:
            headers["Authorization"] = _basic(auth)
        with exchange("Twilio", method=method):
            async with self.session.request(
                method,
                self._addressed(url),
                params=params,
                data=data,
                headers=headers,
                allow_redirects=allow_redirects,
            ) as response:
                status, text, answered = response.status, await response.text(), response.headers
        if not 200 <= status < 300:
            raise refused(method, status, text, answered, self._channel)
        return Response(status, text, answered)

    async def download(self, url: str, settings: TwilioSettings) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) at the end of the redirects, which are followed without credentials."""
        headers = {"Authorization": _basic(settings.credentials)}
        url = self._addressed(url)
        for _ in range(MAX_REDIRECTS + 1):
            with exchange("Twilio", method="GET"):
                async with self.session.get(url, headers=headers, allow_redirects=False) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        data = await read_bounded(response, settings.media_bytes, what="The attachment")
                        return response.status, response.headers, data
                    url = urljoin(url, response.headers.get("Location", ""))
            if urlsplit(url).scheme != "https" and self._api_url is None:
                raise PermanentChannelError("The attachment lies at an address without TLS.", code=None)
            headers = {}
        raise PermanentChannelError("The attachment was redirected too often.", code=None)

    def _addressed(self, url: str) -> str:
        if self._api_url is None:
            return url
        parts = urlsplit(url)
        return self._api_url + parts.path + (f"?{parts.query}" if parts.query else "")


def refused(method: str, status: int, text: str, headers: Mapping[str, str], channel: str) -> ChannelError:
    """What an answer that is no 2xx means."""
    payload = json_object(text)
    code = str(payload["code"]) if payload.get("code") else None
    return refusal(
        "Twilio",
        status,
        headers,
        str(payload.get("message", "")),
        code=code,
        method=method,
        untaken_codes=UNTAKEN_CODES,
        advice=advice(code, channel),
    )


def _basic(credentials: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()
