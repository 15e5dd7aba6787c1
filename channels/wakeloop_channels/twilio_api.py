"""Twilio's API: the resources of the account, and the files of messages.

Every process that has the channel imports this as it starts, but only with the first request what requests are made with
(`twilio_http`, aiohttp, Twilio's library): that would be a tenth of a worker's start.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from wakeloop.errors import PermanentChannelError
from wakeloop_channels.twilio_settings import TwilioSettings

if TYPE_CHECKING:
    from wakeloop_channels.twilio_http import HttpClient

FETCH_AGAIN_SECONDS = (0.5, 1.5)
"""A webhook may name a file moments before it can be fetched, so a 404 is asked again after these times."""


class TwilioApi:
    """The account's resources, over connections that belong to the loop that first used them."""

    def __init__(self, settings: TwilioSettings) -> None:
        self._settings = settings
        self._http: HttpClient | None = None
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
        from wakeloop_channels.twilio_http import refused

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

    def _connected(self) -> HttpClient:
        from wakeloop_channels.twilio_http import HttpClient

        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._loop = loop
            self._http = HttpClient(self._settings)
        return self._http

    def _client(self) -> Any:
        from twilio.rest import Client  # type: ignore[import-untyped]

        username, password = self._settings.credentials
        return Client(
            username,
            password,
            self._settings.account_sid,
            http_client=self._connected(),
            environment={"TWILIO_EDGE": "", "TWILIO_REGION": ""},  # not empty: else it would read os.environ
        )
