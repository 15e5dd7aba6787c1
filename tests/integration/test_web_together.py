"""Webhooks that come at the same time are taken together, and each is answered as if it had come alone."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.integration.api_kit import Answer, Site, sites
from tests.servers import poll

from wakeloop.channel import Capabilities, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.store.schema import received
from wakeloop.testing.channels import FakeChannel
from wakeloop.web.webhooks import TOGETHER_BYTES


class Hook(FakeChannel):
    """A provider whose request "slow" is looked at until it is told to go on, "forged" is refused, and "broken" is an error
    of the channel; it notes in which thread each was looked at."""

    capabilities = Capabilities(inbound=True)

    def __init__(self, site: Site) -> None:
        super().__init__("hook", site.runtime.database.now)
        self.go_on = threading.Event()
        self.threads: dict[bytes, int] = {}

    def verify(self, request: RawRequest) -> None:
        word = request.body.split(b'"text": "')[-1].split(b'"')[0].strip()
        self.threads[word] = threading.get_ident()
        if word == b"slow":
            assert self.go_on.wait(20)
        if word == b"forged":
            raise InvalidWebhook("nobody has signed this")
        if word == b"broken":
            raise LookupError("a mistake")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with sites(tmp_path) as make:
        yield make()


@pytest.fixture
def hook(site: Site) -> Hook:
    channel = Hook(site)
    site.runtime.channels["hook"] = channel
    return channel


def call(site: Site, hook: Hook, text: str) -> Answer:
    body = hook.request("somebody", text).body
    return site.call("POST", "/webhooks/hook", body, at="")


def outcomes(site: Site) -> Counter[str]:
    with site.runtime.database.read() as connection:
        return Counter(connection.execute(sa.select(received.c.outcome)).scalars())


def test_one_that_takes_long_does_not_keep_the_others_waiting(site: Site, hook: Hook) -> None:
    """They are taken beside it."""
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(call, site, hook, "slow")
        for _ in poll(20):
            if b"slow" in hook.threads:
                break
        others = [pool.submit(call, site, hook, text) for text in ("one", "two")]
        statuses = [other.result(20).status for other in others]
        was_done = slow.done()
        hook.go_on.set()
        last = slow.result(20).status

    assert (statuses, was_done, last) == ([200, 200], False, 200)


def test_what_is_wrong_with_one_is_nobody_elses(site: Site, hook: Hook) -> None:
    """Those that came while another was looked at are taken in one thread; a forged one is refused, one at which the channel
    fails is an error, and the rest is recorded."""
    texts = ["good", "forged", "broken", "good as well"]
    with ThreadPoolExecutor(5) as pool:
        slow = pool.submit(call, site, hook, "slow")
        for _ in poll(20):
            if b"slow" in hook.threads:
                break
        found: list[Future[Answer]] = [pool.submit(call, site, hook, text) for text in texts]
        statuses = [one.result(20).status for one in found]
        hook.go_on.set()
        slow.result(20)

    assert statuses == [200, 403, 500, 200]
    assert hook.threads[b"slow"] not in {hook.threads[text.encode()] for text in texts}
    assert sum(outcomes(site).values()) == 3


def test_a_large_one_is_taken_alone(site: Site, hook: Hook) -> None:
    """A mail with its files takes long to read."""
    text = "x" * TOGETHER_BYTES

    assert call(site, hook, text).status == 200
    assert sum(outcomes(site).values()) == 1


def test_every_answer_has_the_headers_of_the_pages(site: Site, hook: Hook) -> None:
    """Whatever it says."""
    answers = [
        call(site, hook, "good"),
        call(site, hook, "forged"),
        site.call("POST", "/webhooks/none", b"", at=""),
        site.call("DELETE", "/webhooks/hook", at=""),
    ]

    assert [answer.status for answer in answers] == [200, 403, 404, 405]
    assert answers[3].headers["allow"] == "GET, POST"
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
