"""Slack's Web API as the channel uses it: calls by slack_sdk's client, and what their errors mean."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientSession, ClientTimeout
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop_channels.http import exchange, read_bounded, refusal, retry_after

PAGE_SIZE = 200
MAX_FILE_BYTES = 50 * 1024 * 1024

# https://docs.slack.dev/reference/methods/chat.postMessage and its kin: what a refusal means for whoever has to mend it.
ADVICE: Mapping[str, str] = {
    "account_inactive": "The app was removed from the workspace, or the workspace is gone: install it again.",
    "cannot_dm_bot": "The address is a bot's.",
    "channel_not_found": "Correct the address; to a private channel, invite the app (/invite @name).",
    "ekm_access_denied": "An administrator has suspended this conversation.",
    "fatal_error": "Slack failed.",
    "internal_error": "Slack failed.",
    "invalid_auth": "Check WAKELOOP_SLACK_BOT_TOKEN (xoxb-…, under OAuth & Permissions).",
    "invalid_blocks": "Slack does not take this message as it is; please report it.",
    "is_archived": "Unarchive the channel, or use another.",
    "messages_tab_disabled": "Switch the Messages Tab on, under App Home, and let people write in it.",
    "missing_scope": "Add the scope under OAuth & Permissions, and install the app again.",
    "msg_blocks_too_long": "Shorten the message.",
    "msg_too_long": "Shorten the message.",
    "no_permission": "The workspace does not let the app do this: ask an administrator.",
    "not_allowed_token_type": "WAKELOOP_SLACK_BOT_TOKEN must be a bot's (xoxb-…), WAKELOOP_SLACK_APP_TOKEN an app's (xapp-…).",
    "not_authed": "Set WAKELOOP_SLACK_BOT_TOKEN.",
    "not_in_channel": "Invite the app to the channel (/invite @name).",
    "org_login_required": "The workspace is being moved to an organisation.",
    "restricted_action": "The workspace does not let the app write there: ask an administrator.",
    "token_expired": "Renew WAKELOOP_SLACK_BOT_TOKEN, or switch token rotation off.",
    "token_revoked": "Install the app again, and set the new WAKELOOP_SLACK_BOT_TOKEN.",
    "user_disabled": "The person's account is switched off.",
    "user_not_found": "Correct the address: it is a member ID of this workspace.",
    "user_not_visible": "The app may not write to this person.",
}
# Not done, and may be later. Of `internal_error` and `fatal_error` Slack says that some of it may have been done.
UNTAKEN = frozenset(
    {"message_limit_exceeded", "rate_limited", "ratelimited", "request_timeout", "service_unavailable",
     "team_added_to_org"}
)  # fmt: skip
FAILURES = frozenset({"fatal_error", "internal_error"})

_LOG = logging.getLogger("wakeloop.channels.slack.web")
_LOG.setLevel(logging.INFO)  # at DEBUG the client logs all that people are told


class SlackApi:
    """Calls for one token. All network traffic happens on one event loop at a time; `close` on that loop."""

    def __init__(self, token: str, api_url: str, timeout: float) -> None:
        self._token = token
        self._api_url = api_url if api_url.endswith("/") else f"{api_url}/"
        self._timeout = timeout
        self._session: ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def session(self) -> ClientSession:
        """Connections that belong to the running loop."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._loop = loop
            # The connection's timeout always runs out before the total one: what it stops was certainly not sent.
            timeout = ClientTimeout(total=2 * self._timeout, connect=self._timeout, sock_read=self._timeout)
            self._session = ClientSession(timeout=timeout)
        return self._session

    async def call(
        self, method: str, arguments: Mapping[str, Any] | None = None, *, repeatable: bool = False
    ) -> dict[str, Any]:
        """Call a method once. repeatable: whether twice has no more effect than once.

        Raises TemporaryChannelError if it was certainly not done, PermanentChannelError if it never will be; anything
        else leaves open whether it was."""
        return (await self._call(method, arguments, repeatable=repeatable))[0]

    async def call_with_headers(self, method: str) -> tuple[dict[str, Any], Mapping[str, str]]:
        """Call a repeatable method without arguments; its answer, and the headers in lower case."""
        return await self._call(method, None, repeatable=True)

    async def pages(self, method: str, arguments: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The pages of a listing, until there are no more."""
        cursor = ""
        while True:
            asked = {**arguments, "limit": PAGE_SIZE} | ({"cursor": cursor} if cursor else {})
            page = await self.call(method, asked, repeatable=True)
            yield page
            metadata = page.get("response_metadata")
            cursor = str(metadata.get("next_cursor") or "") if isinstance(metadata, Mapping) else ""
            if not cursor:
                return

    async def fetch(self, url: str, content_type: str) -> bytes:
        """A file of the workspace, of this type. The token is shown to nobody but Slack.

        Raises ChannelError."""
        if not _is_slacks(url, self._api_url):
            raise PermanentChannelError(
                "The attachment is not at Slack: it was not fetched, for that would show the token to a stranger.",
                code=None,
            )
        with exchange("Slack", method="GET"):
            headers = {"Authorization": f"Bearer {self._token}"}
            async with self.session.get(url, headers=headers, allow_redirects=False) as response:
                # Who may not see a file is sent, or shown, a page to sign in.
                page = response.content_type == "text/html" and not content_type.startswith("text/html")
                if response.status == 302 or page:
                    raise PermanentChannelError(
                        "Slack did not give the file: it is gone, or the app lacks the scope files:read.",
                        code=None,
                    )
                if response.status != 200:
                    raise refusal("Slack", response.status, response.headers, method="GET")
                return await read_bounded(response, MAX_FILE_BYTES, what="An attachment")

    async def close(self) -> None:
        """Close the connections. The object may be used again afterwards."""
        session, self._session, self._loop = self._session, None, None
        if session is not None:
            await session.close()

    async def _call(
        self, method: str, arguments: Mapping[str, Any] | None, *, repeatable: bool
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        client = AsyncWebClient(
            token=self._token, base_url=self._api_url, session=self.session, logger=_LOG, retry_handlers=[]
        )  # without the handlers, or it would repeat what may have had its effect
        client.proxy = None  # like all other channels, not by the environment's
        verb = "GET" if method in _LISTINGS else "POST"
        given = dict(arguments or {})
        try:
            with exchange("Slack", repeatable=repeatable):
                answer = await client.api_call(
                    method, http_verb=verb,
                    params=given if verb == "GET" else None, json=given if verb == "POST" else None,
                )  # fmt: skip
        except SlackApiError as error:
            raise _refused(method, error.response, repeatable=repeatable) from None
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return (answer.data if isinstance(answer.data, dict) else {}), headers


_LISTINGS = frozenset({"conversations.history", "conversations.replies"})  # these take no JSON


def _refused(method: str, response: Any, *, repeatable: bool) -> ChannelError:
    """What an answer that is not `ok` means: of the API in JSON, or of a gateway before it."""
    status = int(getattr(response, "status_code", 0) or getattr(response, "status", 0))
    data, headers = getattr(response, "data", None), response.headers
    code = data.get("error") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(code, str):
        if status != 200:
            return refusal("Slack", status, headers, repeatable=repeatable)
        return ChannelError(
            f"Slack answered {method} with no JSON. Whether it was done is unknown.", code=None
        )
    message = f"Slack answered {method} with {code}{_details(data)}. {ADVICE.get(code, '')}".rstrip()
    if code in UNTAKEN or status == 429 or (code in FAILURES and repeatable):
        return TemporaryChannelError(message, code=code, retry_after=retry_after(headers))
    if code in FAILURES or status >= 500:
        return ChannelError(f"{message} Whether it was done is unknown.", code=code)
    return PermanentChannelError(message, code=code)


def _details(data: Mapping[str, Any]) -> str:
    """What is missing, or which part is wrong; never what it says."""
    if isinstance(needed := data.get("needed"), str):
        return f" ({needed} is needed)"
    metadata = data.get("response_metadata")
    words = metadata.get("messages") if isinstance(metadata, Mapping) else None
    found = re.findall(r"json-pointer:([\w/.-]{1,80})", " ".join(map(str, words or ()))[:2000])
    return f" (at {', '.join(found[:3])})" if found else ""


def _is_slacks(url: str, api_url: str) -> bool:
    """Whether an address is one of Slack's, or of whatever stands in for it."""
    try:
        asked, ours = urlsplit(url), urlsplit(api_url)
        if (asked.scheme, asked.hostname, asked.port) == (ours.scheme, ours.hostname, ours.port):
            return True
    except ValueError:
        return False
    host = asked.hostname or ""
    return (
        asked.scheme == "https"
        and asked.port in (None, 443)
        and (host in ("slack.com", "slack-gov.com") or host.endswith((".slack.com", ".slack-gov.com")))
    )
