"""Too many requests, forged webhooks and wrong tokens over real HTTP: who has to wait, and who never does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.integration.api_kit import Answer, Site, is_problem, sites

from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, sign
from wakeloop.tokens import Scope

PUBLIC = "https://agents.example.com"
SMS = {"account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN, "from_number": NUMBER}
EVE, TWILIO = "203.0.113.66", "198.51.100.7"


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites behind a proxy on this machine that is trusted, so that a test may come from any address."""
    with sites(tmp_path) as make:

        def behind_proxy(**settings: Any) -> Site:
            chosen = {"trusted_proxies": ("127.0.0.1",), "public_url": PUBLIC, "channels": {"sms": SMS}}
            return make(**{**chosen, **settings})

        yield behind_proxy


def sms(site: Site, number: int, *, by: str, token: str = AUTH_TOKEN, **headers: str) -> Answer:
    """A message, signed with this token, from this address."""
    fields = [("AccountSid", ACCOUNT_SID), ("Body", "hi"), ("From", "+15555550100"), ("To", NUMBER)]
    fields.append(("MessageSid", f"SM{number}"))
    sent = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Twilio-Signature": sign(f"{PUBLIC}/webhooks/sms", fields, token),
        "X-Forwarded-For": by,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return site.call("POST", "/webhooks/sms", urlencode(fields).encode(), headers=sent, at="")


def test_a_providers_burst_is_never_in_the_way_of_the_limits(make_site: Callable[..., Site]) -> None:
    """Hundreds of good webhooks at once from one address, with the settings that there are by default."""
    site = make_site()

    assert Counter(sms(site, n, by=TWILIO).status for n in range(300)) == Counter({200: 300})


def test_who_forges_webhooks_waits_and_nobody_else_does(make_site: Callable[..., Site]) -> None:
    """After thirty in a minute the answer is 429 with Retry-After, by address and channel; a good one is not even looked
    at then. Another address is served meanwhile."""
    site = make_site()

    forged = Counter(sms(site, n, by=EVE, token="guess").status for n in range(40))
    again = sms(site, 50, by=EVE)

    assert forged == Counter({403: 30, 429: 10})
    assert again.status == 429
    assert 0 < int(again.headers["retry-after"]) <= 61
    assert sms(site, 51, by=TWILIO).status == 200


def test_a_provider_is_served_although_others_forge_from_its_address(make_site: Callable[..., Site]) -> None:
    """As when a proxy that is not trusted hides who they are: one that has sent good requests is still looked at, and
    what is forged still gets no more answers than anybody's."""
    site = make_site()
    assert sms(site, 1, by=TWILIO).status == 200

    forged = Counter(sms(site, n, by=TWILIO, token="guess").status for n in range(40))

    assert forged == Counter({403: 30, 429: 10})
    assert sms(site, 2, by=TWILIO).status == 200


def test_who_pretends_to_come_from_elsewhere_waits_too(make_site: Callable[..., Site]) -> None:
    """Only what a trusted proxy added counts: addresses that the sender wrote before it, or in other headers, do not."""
    site = make_site()
    for n in range(30):
        assert sms(site, n, by=f"10.9.8.{n}, {EVE}", token="guess").status == 403
    blocked = sms(site, 50, by=f"192.0.2.1, {EVE}", Forwarded="for=192.0.2.1", X_Real_IP="192.0.2.1")
    assert blocked.status == 429

    direct = make_site(trusted_proxies=())
    statuses = Counter(sms(direct, n, by=f"192.0.2.{n}", token="guess").status for n in range(40))
    assert statuses == Counter({403: 30, 429: 10})


def test_an_address_may_send_so_many_a_minute(make_site: Callable[..., Site]) -> None:
    """Good ones, too, if that is what the setting says; 0 is no limit."""
    few, any_number = make_site(webhooks_per_minute=20), make_site(refused_webhooks_per_minute=0)

    assert Counter(sms(few, n, by=TWILIO).status for n in range(25)) == Counter({200: 20, 429: 5})
    assert {sms(any_number, n, by=EVE, token="guess").status for n in range(50)} == {403}


def test_who_guesses_tokens_of_the_api_waits(make_site: Callable[..., Site]) -> None:
    """Ten wrong ones in five minutes; then not even a right one is looked at, from that address, here or at /metrics."""
    site = make_site()
    right = site.token("right", Scope.RUNS_READ)

    def get(token: str, by: str, *, at: str = "/api/v1", path: str = "/runs") -> Answer:
        headers: Mapping[str, str] = {"X-Forwarded-For": by}
        return site.call("GET", path, token=token, headers=headers, at=at)

    guesses = [get(f"wl_{n}", EVE) for n in range(12)]
    refused = get(right, EVE)

    assert [answer.status for answer in guesses] == [401] * 10 + [429] * 2
    assert is_problem(refused, 429, "wrong tokens")
    assert 0 < int(refused.headers["retry-after"]) <= 301
    assert get(right, EVE, at="", path="/metrics").status == 429
    assert get(right, TWILIO).status == 200
    assert get(right, TWILIO, at="", path="/metrics").status == 200


def test_a_program_with_a_right_token_is_served_beside_one_with_a_wrong_one(
    make_site: Callable[..., Site],
) -> None:
    """On one machine: what one program has used well goes on working, and the guesses of the other are slowed."""
    site = make_site()
    right = site.token("right", Scope.RUNS_READ)
    assert site.get("/runs", token=right).status == 200

    guesses = [site.get("/runs", token="wl_old").status for _ in range(12)]

    assert guesses == [401] * 10 + [429] * 2
    assert site.get("/runs", token=right).status == 200
