"""Tells programs how their requests ended: signed HTTP calls in the Standard Webhooks form, to addresses that are checked.

The source of names and rules: the Standard Webhooks specification (standardwebhooks/spec/standard-webhooks.md).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

import httpx2
from standardwebhooks import Webhook

from wakeloop.channel import CALLBACK_CHANNEL, Capabilities, Outgoing, Receipt
from wakeloop.errors import PermanentChannelError, TemporaryChannelError
from wakeloop.telemetry import carrying

TIMEOUT_SECONDS = 10.0
CONNECTIONS = 100
RESOLVER_THREADS = 8
ADDRESSES_TRIED = 4
RETRY_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""The waits between attempts, which the specification advises: ten attempts in a little over three days."""
LONGEST_RETRY_AFTER_SECONDS = 86400.0
_TEMPORARY = frozenset({408, 425, 429})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOWHERE = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
"""IPv4-compatible addresses, which are not used any more, and those of a network's own translator (RFC 8215)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class CallbackSender:
    """What the outbox sends callbacks with. The receiver can tell that a call is ours (`webhook-signature`), fresh
    (`webhook-timestamp`) and a repetition (`webhook-id` is the same for every attempt).

    2xx is taken. 410 and other 4xx, and redirects, which are not followed, are final; 408, 425, 429, 5xx and a
    connection that fails are tried again, not before the answer's Retry-After. What the receiver says is not read.

    An address is looked up once, and that one is connected to: unless `is_local` or the host is among `allowed`, it
    must be a public one, so that nobody can have us call what only we can reach (SSRF). There is no use of proxies.
    """

    name: ClassVar[str] = CALLBACK_CHANNEL
    capabilities: ClassVar[Capabilities] = Capabilities(
        idempotent=True, ordered=False, retry_seconds=RETRY_SECONDS
    )

    def __init__(
        self,
        *,
        secrets: Callable[[], Sequence[str]],
        allowed: Sequence[str] = (),
        is_local: bool = False,
        timeout: float = TIMEOUT_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Args: secrets: what is signed with (`whsec_…`), with each of them during a change. allowed: hosts and networks
        that may be called although they are not public. timeout: seconds for an attempt as a whole."""
        self._secrets = secrets
        self._allowed = tuple(allowed)
        self._is_local = is_local
        self._timeout = timeout
        self._now = now
        self._transport: httpx2.AsyncHTTPTransport | None = None
        # Of its own: a name server that is silent must not take the threads of others.
        self._resolvers = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="wakeloop-callbacks")

    async def send(self, message: Outgoing) -> Receipt:
        """Call the address once. Raises PermanentChannelError or TemporaryChannelError, naming the host only."""
        parts = urlsplit(message.address)
        host = parts.hostname or ""
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._look_up(parts)
                signed = await asyncio.to_thread(self._signed, message)
                status, retry_after = await self._call(parts, addresses, message.text.encode(), signed)
        except TimeoutError as error:
            raise TemporaryChannelError(f"{host} did not answer within {self._timeout:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise TemporaryChannelError(f"{host} could not be called: {type(error).__name__}") from error
        if 200 <= status < 300:
            return Receipt(provider_id=message.key)
        code = str(status)
        if status in _TEMPORARY or status >= 500:
            after = _retry_after(retry_after, self._now())
            raise TemporaryChannelError(f"{host} answered {status}", code=code, retry_after=after)
        if 300 <= status < 400:
            raise PermanentChannelError(f"{host} answered {status}: redirects are not followed", code=code)
        raise PermanentChannelError(f"{host} answered {status}", code=code)

    async def find_sent(self, message: Outgoing, known: frozenset[str]) -> Receipt | None:
        """There is no list of what was sent: it is sent again with the same id."""
        return None

    async def close(self) -> None:
        """Let go of connections and threads."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    # ------------------------------------------------------------------ inside

    async def _call(
        self, parts: SplitResult, addresses: Sequence[Address], body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, str | None]:
        """The status and Retry-After of the first of these addresses that can be connected to."""
        for address in addresses[:-1]:
            try:
                return await self._call_at(parts, address, body, headers)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._call_at(parts, addresses[-1], body, headers)

    async def _call_at(
        self, parts: SplitResult, address: Address, body: bytes, signed: Mapping[str, str]
    ) -> tuple[int, str | None]:
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
        literal = f"[{address}]" if address.version == 6 else str(address)
        target = parts._replace(netloc=f"{literal}{port}", fragment="").geturl()
        headers = carrying({"host": parts.netloc.rpartition("@")[2], **signed})
        extensions: dict[str, Any] = {"timeout": httpx2.Timeout(self._timeout).as_dict()}
        if parts.scheme == "https":
            extensions["sni_hostname"] = host
        request = httpx2.Request("POST", target, content=body, headers=headers, extensions=extensions)
        # Not through a client: that would log the whole address.
        response = await self._http().handle_async_request(request)
        await response.aclose()
        return response.status_code, response.headers.get("retry-after")

    def _signed(self, message: Outgoing) -> dict[str, str]:
        at = self._now().astimezone(UTC)
        signatures = [
            Webhook(secret).sign(msg_id=message.key, timestamp=at, data=message.text)
            for secret in self._secrets()
        ]
        return {
            "content-type": "application/json",
            "user-agent": "wakeloop",
            "webhook-id": message.key,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }  # fmt: skip

    def _http(self) -> httpx2.AsyncHTTPTransport:
        if self._transport is None:
            # No connection is kept: it would be one to an address, whose certificate was checked for another host.
            limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0)
            self._transport = httpx2.AsyncHTTPTransport(limits=limits, trust_env=False)
        return self._transport

    async def _look_up(self, parts: SplitResult) -> list[Address]:
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or not host:
            raise PermanentChannelError("a callback's address starts with https:// or http://")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()

        def resolve() -> list[Address]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]

        try:
            addresses = list(dict.fromkeys(await loop.run_in_executor(self._resolvers, resolve)))
        except (socket.gaierror, UnicodeError) as error:
            raise TemporaryChannelError(f"{host} is no name that can be looked up") from error
        refused = [one for one in addresses if not self.may_call(host, one)]
        if refused:
            raise PermanentChannelError(
                f"{host} is not called: it is no public address; the setting callback_hosts can allow it"
            )
        return addresses[:ADDRESSES_TRIED]

    def may_call(self, host: str, address: Address) -> bool:
        """Whether a host may be called at an address that its name stands for."""
        return self._is_local or is_public(address) or is_allowed(self._allowed, host, address)


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet, and not of this machine, a network within, or a special purpose (RFC
    6890), also when it is carried within an IPv6 address."""
    inner: list[Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NOWHERE):
            return False
        teredo = address.teredo
        inner = [address.ipv4_mapped, address.sixtofour, *(teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if any(one is not None and not is_public(one) for one in inner):
        return False
    is_mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return (address.is_global or is_mapped) and not address.is_multicast


def is_allowed(allowed: Sequence[str], host: str, address: Address) -> bool:
    """Whether a host is among those that the settings allow: by its name, the end of it (`.internal`), or a network."""
    name = host.lower().rstrip(".")
    for entry in allowed:
        text = entry.lower()
        try:
            if address in ipaddress.ip_network(text):
                return True
        except ValueError:
            if name == text or (text.startswith(".") and name.endswith(text)):
                return True
    return False


def webhook_secret(key: str) -> str:
    """The secret of callbacks, from a key of this deployment: `whsec_` and 32 bytes in Base64, as receivers' libraries
    take it. Another use of the key does not give it away."""
    digest = hmac.digest(key.encode(), b"wakeloop callbacks", hashlib.sha256)
    return f"whsec_{base64.b64encode(digest).decode()}"


def host_of(url: str) -> str:
    """The host of a callback's address: the rest may be secret."""
    try:
        return urlsplit(url).hostname or "?"
    except ValueError:
        return "?"


def _retry_after(text: str | None, now: datetime) -> float | None:
    """The seconds of a Retry-After header, which has those or a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return min(float(text.strip()[:9]), LONGEST_RETRY_AFTER_SECONDS)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_SECONDS)
