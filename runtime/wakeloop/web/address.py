"""Under which address a request was sent to us, which is what a provider signed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_DEFAULT_PORTS = {"http": "80", "https": "443"}


def public_url(
    *,
    configured: str | None,
    trusted: Sequence[Network],
    peer: str | None,
    scheme: str,
    headers: Mapping[str, str],
    path: str,
    query: str,
) -> str:
    """The URL that the sender of a request called, its path and query exactly as they came.

    configured: the setting `public_url`, which decides if there is one. peer: the IP address that the connection came
    from; only if it is within one of the `trusted` networks are X-Forwarded-Proto, -Host and -Port believed, else
    anybody could choose the address. Of several values, one per proxy, the first is the one that the sender used.
    headers: with lower-case names.
    """
    base = configured or f"{_origin(scheme, headers, is_trusted(peer, trusted))}"
    return f"{base}{path}?{query}" if query else f"{base}{path}"


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The networks of the setting `trusted_proxies`."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def _origin(scheme: str, headers: Mapping[str, str], trusted: bool) -> str:
    host = headers.get("host", "")
    if not trusted:
        return f"{scheme}://{host}"
    scheme = _first(headers, "x-forwarded-proto").lower() or scheme
    host = _first(headers, "x-forwarded-host") or host
    port = _first(headers, "x-forwarded-port")
    if port.isdecimal() and not _has_port(host) and port != _DEFAULT_PORTS.get(scheme):
        host = f"{host}:{port}"
    return f"{scheme}://{host}"


def _first(headers: Mapping[str, str], name: str) -> str:
    return headers.get(name, "").partition(",")[0].strip()


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether an address is within one of these networks."""
    if peer is None:
        return False
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address  # a dual-stack socket shows IPv4 peers as ::ffff:10.0.0.1
    return any(address in network for network in trusted)
