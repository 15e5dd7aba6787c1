"""What comes over a connection before anybody has looked at it: bounds, hosts, trailers, and several requests at once."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from tests.integration.api_kit import Site, sites

from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, sign
from wakeloop.web.protocol import HEAD_LIMIT_BYTES

PUBLIC = "https://agents.example.com"
SMS = {"account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN, "from_number": NUMBER}
PIECE = b"x" * 8192


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sites(tmp_path) as make:
        yield make(public_url=PUBLIC, channels={"sms": SMS})


def connect(site: Site) -> socket.socket:
    parts = urlsplit(site.url)
    return socket.create_connection((parts.hostname or "", parts.port), timeout=20)


def said(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionResetError:
        pass
    return found


def pour(connection: socket.socket, piece: bytes, times: int) -> None:
    """Send the same again and again; the server may have closed the connection meanwhile."""
    try:
        for _ in range(times):
            connection.sendall(piece)
    except OSError:
        pass


def ask(site: Site, *pieces: bytes) -> bytes:
    """What the server says to this, sent over a connection that it closes in the end."""
    with connect(site) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return said(connection)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: ", PIECE),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"X-Many: " + PIECE[:1000] + b"\r\n"),
        (b"GET /", PIECE),
    ],
    ids=["a value", "fields", "an address"],
)
def test_a_head_without_end_is_refused(site: Site, begin: bytes, piece: bytes) -> None:
    """Long before it has filled the memory; the connection is closed."""
    with connect(site) as connection:
        connection.sendall(begin)
        pour(connection, piece, 100 * HEAD_LIMIT_BYTES // len(piece))
        answer = said(connection)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert site.call("GET", "/healthz", at="").status == 200


def test_trailers_without_end_are_refused(site: Site) -> None:
    """Likewise, behind a body."""
    with connect(site) as connection:
        connection.sendall(
            b"POST /webhooks/sms HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Long: "
        )
        pour(connection, PIECE, 100 * HEAD_LIMIT_BYTES // len(PIECE))
        answer = said(connection)

    assert b" 200 " not in answer
    assert site.call("GET", "/healthz", at="").status == 200


def test_a_head_that_comes_byte_by_byte_is_taken(site: Site) -> None:
    """And so is one of some kilobytes."""
    with connect(site) as connection:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
        slow = said(connection)
    long = ask(
        site, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: " + PIECE + b"\r\n\r\n"
    )

    assert slow.startswith(b"HTTP/1.1 200 ") and long.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [(b"1.1", b"", b"400"), (b"1.1", b"Host: a\r\nHost: a\r\n", b"400"), (b"1.1", b"Host: a \t\r\n", b"200"), (b"1.0", b"", b"200"), (b"1.0", b"Host: a\r\nHost: b\r\n", b"400"), (b"2.0", b"Host: a\r\n", b"400")],
)  # fmt: skip
def test_a_request_says_once_for_which_host_it_is(
    site: Site, version: bytes, hosts: bytes, status: bytes
) -> None:
    """Whoever decides by the host, here or on the way, must all see the same one."""
    answer = ask(site, b"GET /healthz HTTP/" + version + b"\r\nConnection: close\r\n" + hosts + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 " + status + b" ")


def test_what_stands_in_a_trailer_is_no_header(site: Site) -> None:
    """A signature there is none: a proxy that takes headers away that it does not believe may let trailers pass."""
    fields = [("AccountSid", ACCOUNT_SID), ("Body", "hi"), ("From", "+15555550100"), ("To", NUMBER), ("MessageSid", "SM1")]  # fmt: skip
    body = urlencode(fields).encode()
    signature = f"X-Twilio-Signature: {sign(f'{PUBLIC}/webhooks/sms', fields, AUTH_TOKEN)}\r\n".encode()
    head = (
        b"POST /webhooks/sms HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n"
    )
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)

    behind = ask(site, head + b"\r\n" + chunks, signature + b"\r\n")
    before = ask(site, head + signature + b"\r\n" + chunks + b"\r\n")

    assert behind.startswith(b"HTTP/1.1 403 ")
    assert before.startswith(b"HTTP/1.1 200 ")


def test_requests_that_come_in_one_piece_are_answered_in_their_order(site: Site) -> None:
    """Each on its own, over one connection."""
    get = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    answer = ask(site, get % b"healthz" + get % b"nothing" + last)

    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"404", b"200"]
