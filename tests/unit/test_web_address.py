"""Which URL a request was sent to: the configured one, a trusted proxy's word, or what we were called by."""

from __future__ import annotations

import pytest

from wakeloop.web.address import networks, public_url

HOST = {"host": "app:8080"}


def _url(peer: str | None = "10.1.2.3", trusted: tuple[str, ...] = ("10.0.0.0/8",), **headers: str) -> str:
    return public_url(
        configured=None,
        trusted=networks(trusted),
        peer=peer,
        scheme="http",
        headers=HOST | {f"x-forwarded-{name}": value for name, value in headers.items()},
        path="/webhooks/sms",
        query="",
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "http://app:8080"),
        ({"proto": "https"}, "https://app:8080"),
        ({"proto": "HTTPS", "host": "example.com"}, "https://example.com"),
        ({"proto": "https", "host": "example.com", "port": "443"}, "https://example.com"),
        ({"proto": "https", "host": "example.com", "port": "8443"}, "https://example.com:8443"),
        ({"proto": "http", "host": "example.com", "port": "80"}, "http://example.com"),
        ({"proto": "https", "host": "example.com:8443", "port": "443"}, "https://example.com:8443"),
        ({"proto": "https, http", "host": "example.com, inner"}, "https://example.com"),
        ({"proto": "https", "host": "[2001:db8::1]", "port": "8443"}, "https://[2001:db8::1]:8443"),
        ({"proto": "https", "host": "example.com", "port": "no number"}, "https://example.com"),
    ],
)
def test_a_trusted_proxy_is_believed(headers: dict[str, str], expected: str) -> None:
    """Scheme, host and port, the first of several values, and no port that the scheme implies."""
    assert _url(**headers) == f"{expected}/webhooks/sms"


@pytest.mark.parametrize("peer", ["192.0.2.1", "::1", "2001:db8::1", "testclient", "", None])
def test_nobody_else_is_believed(peer: str | None) -> None:
    """Nor somebody whose address is unknown, as on a Unix socket."""
    assert _url(peer, proto="https", host="example.com") == "http://app:8080/webhooks/sms"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("::ffff:10.1.2.3", "10.0.0.0/8"), ("2001:db8::7", "2001:db8::/32"), ("10.1.2.3", "10.1.2.3")],
)
def test_networks_of_both_families_are_matched(peer: str, trusted: str) -> None:
    """An IPv4 peer of a socket for both is written as IPv6."""
    assert _url(peer, (trusted,), proto="https", host="example.com") == "https://example.com/webhooks/sms"


def test_the_query_is_kept_and_the_configured_url_comes_first() -> None:
    """The public URL's own path stays in front."""
    found = public_url(
        configured="https://example.com/in",
        trusted=networks(["0.0.0.0/0"]),
        peer="10.1.2.3",
        scheme="http",
        headers=HOST | {"x-forwarded-host": "other.example.com"},
        path="/webhooks/s%6Ds",
        query="b=%7E&a",
    )

    assert found == "https://example.com/in/webhooks/s%6Ds?b=%7E&a"
