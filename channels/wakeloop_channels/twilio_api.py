"""Twilio's API over aiohttp: its official client with our addresses, timeouts and errors, and the files of messages."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from aiohttp import ClientSession, ClientTimeout
from twilio.http.async_http_client import AsyncTwilioHttpClient  # type: ignore[import-untyped]
from twilio.http.response import Response  # type: ignore[import-untyped]
from twilio.rest import Client  # type: ignore[import-untyped]

from wakeloop.errors import ChannelError, PermanentChannelError
from wakeloop_channels.http import exchange, json_object, read_bounded, refusal
from wakeloop_channels.twilio_settings import TwilioSettings
from wakeloop_channels.twilio_words import UNTAKEN_CODES, advice

MAX_REDIRECTS = 3
FETCH_AGAIN_SECONDS = (0.5, 1.5)
"""A webhook may name a file moments before it can be fetched, so a 404 is asked again after these times."""


class TwilioApi:
    """The account's resources, over connections that belong to the loop that first used them."""

    def __init__(self, settings: TwilioSettings) -> None:
        self._settings = settings
        self._http: _HttpClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def messages(self) -> Any:
        """Twilio's client for the Messages resource."""
        return self._client().messages

    async def account(self) -> tuple[str, str]:
        """(name, status) of the account. Raises ChannelError."""
        record = await self._client().api.accounts(self._settings.account_sid).fetch_async()
        return str(record.friendly_name), str(record.status)

    async def fetch(self, url: str) -> bytes:
        """The bytes of a file that came with a message, of at most `media_bytes`.

        Credentials go to the API's own address alone; it redirects to where the file lies. Raises ChannelError,
        PermanentChannelError if it is no file of this account, is gone or is too large."""
        if not self._is_ours(url):
            raise PermanentChannelError("The attachment is no file of this Twilio account.", code=None)
        http = self._connected()
        status, headers, data = await http.download(url, self._settings)
        for seconds in FETCH_AGAIN_SECONDS:
            if status != 404:
                break
            await asyncio.sleep(seconds)
            status, headers, data = await http.download(url, self._settings)
        if status != 200:
            raise refused("GET", status, data.decode("utf-8", "replace"), headers, self._settings.channel)
        return data

    async def close(self) -> None:
        """Close the connections. They are opened again when needed."""
        http, self._http, self._loop = self._http, None, None
        if http is not None:
            await http.close()

    def _is_ours(self, url: str) -> bool:
        """Whether this is a file of the account at Twilio (or at `api_url`, to which the request goes anyway)."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        path = f"/2010-04-01/Accounts/{self._settings.account_sid}/Messages/"
        if not parts.path.startswith(path) or "/Media/" not in parts.path or ".." in parts.path:
            return False
        if self._settings.api_url is not None and host == self._settings.api_url.host:
            return True
        return parts.scheme == "https" and host.startswith("api.") and host.endswith(".twilio.com")

    def _connected(self) -> _HttpClient:
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._loop = loop
            self._http = _HttpClient(self._settings)
        return self._http

    def _client(self) -> Any:
        username, password = self._settings.credentials
        return Client(
            username,
            password,
            self._settings.account_sid,
            http_client=self._connected(),
            environment={"TWILIO_EDGE": "", "TWILIO_REGION": ""},  # not empty: else it would read os.environ
        )


class _HttpClient(AsyncTwilioHttpClient):  # type: ignore[misc]
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
