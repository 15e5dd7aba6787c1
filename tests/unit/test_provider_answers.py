"""What a provider's answer means, whoever the provider is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp import ClientConnectorError, ConnectionTimeoutError, ServerDisconnectedError
from aiohttp.client_reqrep import ConnectionKey

from wakeloop.errors import ChannelError, PermanentChannelError, TemporaryChannelError
from wakeloop_channels.http import exchange, json_object, masked, refusal, retry_after
from wakeloop_channels.text import well_formed

DATE = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
KEY = ConnectionKey("pager.example", 443, True, True, None, None, None)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"retry-after": " 2.5 "}, 2.5),
        ({"RETRY-AFTER": "0"}, 0.0),
        ({"Retry-After": format_datetime(DATE + timedelta(minutes=2)), "Date": format_datetime(DATE)}, 120.0),
        ({"retry-after": format_datetime(DATE - timedelta(hours=1)), "date": format_datetime(DATE)}, 0.0),
        ({"Retry-After": format_datetime(DATE)}, None),
        ({"Retry-After": "soon", "Date": format_datetime(DATE)}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "²"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    """RFC 9110 section 10.2.3; a date counts from the answer's own, and what is neither says nothing."""
    assert seconds == retry_after(headers)


@pytest.mark.parametrize(
    ("status", "method", "kind"),
    [
        (429, "POST", TemporaryChannelError),
        (408, "POST", TemporaryChannelError),
        (503, "POST", TemporaryChannelError),
        (500, "POST", ChannelError),
        (502, "POST", ChannelError),
        (504, "PATCH", ChannelError),
        (500, "GET", TemporaryChannelError),
        (504, "PUT", TemporaryChannelError),
        (400, "POST", PermanentChannelError),
        (401, "GET", PermanentChannelError),
        (307, "POST", PermanentChannelError),
    ],
)
def test_a_refusal_is_temporary_permanent_or_unknown(
    status: int, method: str, kind: type[ChannelError]
) -> None:
    """By status, and by whether the same request may be made again."""
    error = refusal("Pager", status, {}, "no such pager", code="p7", method=method)

    assert kind is type(error)
    assert error.code == "p7"
    assert str(error).startswith(f"Pager answered {status} (p7): no such pager.")


def test_a_provider_says_with_its_own_words_that_it_did_nothing() -> None:
    """Its statuses and codes decide before the general rule, and so does an idempotency key."""
    queue_full = refusal("Pager", 400, {"Retry-After": "5"}, code="full", untaken_codes={"full"})
    not_even_503 = refusal("Pager", 503, {}, untaken={429})
    with_a_key = refusal("Pager", 500, {}, repeatable=True)

    assert isinstance(queue_full, TemporaryChannelError)
    assert queue_full.retry_after == 5.0
    assert type(not_even_503) is ChannelError
    assert isinstance(with_a_key, TemporaryChannelError)


def test_a_refusal_without_words_has_advice() -> None:
    """What to do stands at the end."""
    error = refusal("Pager", 401, {}, advice="Check channels.pager.token.")

    assert str(error) == "Pager answered 401: no reason given. Check channels.pager.token."


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("to +15555550100 is closed", "to …00 is closed"),
        ("alice.b+c@example.co.uk bounced", "…uk bounced"),
        ("AC0123456789abcdef0123456789abcdef not found", "AC0123456789abcdef0123456789abcdef not found"),
        ("error 21211 at 2026", "error 21211 at 2026"),
    ],
)
def test_addresses_are_masked(words: str, shown: str) -> None:
    """Errors are logged; identifiers of an account stay readable."""
    assert shown == masked(words)


@pytest.mark.parametrize(
    ("error", "repeatable", "temporary"),
    [
        (ClientConnectorError(KEY, OSError(111, "refused")), False, True),
        (ConnectionTimeoutError("Connection timeout to host https://pager.example/secret/send"), False, True),
        (ServerDisconnectedError(), False, False),
        (TimeoutError(), False, False),
        (ServerDisconnectedError(), True, True),
        (TimeoutError(), True, True),
    ],
)
def test_a_broken_exchange_is_temporary_only_if_nothing_left(
    error: Exception, repeatable: bool, temporary: bool
) -> None:
    """Or if asking again is harmless; everything else passes through as it is. A URL, which may hold a secret, is never
    in the words."""
    expected = TemporaryChannelError if temporary else type(error)

    with pytest.raises(expected) as raised, exchange("Pager", repeatable=repeatable):
        raise error

    assert "secret" not in str(raised.value) or not temporary
    assert temporary == isinstance(raised.value, TemporaryChannelError)


def test_another_error_is_not_the_exchanges() -> None:
    """A mistake of ours stays one."""
    with pytest.raises(KeyError), exchange("Pager"):
        raise KeyError("id")


@pytest.mark.parametrize("text", ["", "<html>", "[1]", "null", "[" * 100_000, '{"a": 1}'])
def test_an_answer_that_is_no_object_is_an_empty_one(text: str) -> None:
    """Gateways answer with pages."""
    assert json_object(text) == ({"a": 1} if "a" in text else {})


def test_half_a_surrogate_pair_and_nul_are_replaced() -> None:
    """Everything else stays, emoji among it."""
    assert well_formed("a\0b\ud83dc \U0001f44d") == "a\ufffdb\ufffdc \U0001f44d"
