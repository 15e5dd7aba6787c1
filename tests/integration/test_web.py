"""Webhooks over real HTTP into a real store: recorded first, acknowledged after, and refused when forged."""

from __future__ import annotations

import asyncio
import http.client
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import sqlalchemy as sa
from tests.servers import poll

from wakeloop.channel import Capabilities, RawRequest, RawResponse
from wakeloop.errors import ConfigurationError, TemporaryChannelError
from wakeloop.settings import load_settings
from wakeloop.store.schema import inbox, received
from wakeloop.testing.channels import FakeChannel
from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, TwilioStandIn, sign
from wakeloop.web.app import make_app
from wakeloop.web.server import WebServer, listen, url_of
from wakeloop.wiring import Runtime

ALICE = "+15555550100"
PUBLIC = "https://agents.example.com"

AGENT = """
from wakeloop import Context, agent, on_message


@agent(on_message())
async def echo(ctx: Context[None]) -> None:
    pass
"""


class Site:
    """A runtime, the web app on it, and a stand-in for Twilio that calls it."""

    def __init__(self, runtime: Runtime, server: WebServer, url: str, twilio: TwilioStandIn) -> None:
        self.runtime = runtime
        self.server = server
        self.url = url
        self.twilio = twilio
        self.webhook = f"{url}/webhooks/sms"

    def rows(self, table: sa.Table) -> list[Any]:
        """Everything that a table of the store holds."""
        with self.runtime.database.read() as connection:
            return list(connection.execute(sa.select(table)))

    def call(
        self, method: str, path: str, *, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Any request; a body that is an iterator is sent in chunks, without its length."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.request(
                method, path, body, dict(headers or {}), encode_chunked=not isinstance(body, bytes)
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def text(
        self, text: str, *, signed: str, path: str = "/webhooks/sms", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """An SMS of Alice's, signed by Twilio for this URL, whatever we are really called by."""
        parameters = [
            ("AccountSid", ACCOUNT_SID),
            ("Body", text),
            ("From", ALICE),
            ("To", NUMBER),
            ("MessageSid", "SM1"),
        ]
        return self.call(
            "POST",
            path,
            body=urlencode(parameters).encode(),
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "X-Twilio-Signature": sign(signed, parameters, AUTH_TOKEN),
                **(headers or {}),
            },
        )


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings, on a SQLite file in a temporary folder."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "echo.py").write_text(AGENT)
    with ExitStack() as parts:

        def make(**settings: Any) -> Site:
            twilio = parts.enter_context(TwilioStandIn())
            sms = {
                "account_sid": ACCOUNT_SID, "auth_token": AUTH_TOKEN, "from_number": NUMBER, "api_url": twilio.url,
            }  # fmt: skip
            chosen = load_settings(
                directory=tmp_path,
                channels={"sms": sms},
                contacts={"alice": {"sms": ALICE, "console": "alice"}},
                **settings,
            )
            runtime = Runtime(chosen)
            parts.callback(runtime.stop, grace=0)
            runtime.database.upgrade()
            listening = parts.enter_context(listen("127.0.0.1", 0))
            server = WebServer(make_app(runtime), listening)
            server.start()
            parts.callback(server.stop, 10)
            site = Site(runtime, server, url_of(listening), twilio)
            twilio.webhook = site.webhook
            return site

        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site that is called directly, without a public URL or a proxy."""
    return make_site()


def test_a_signed_message_is_recorded_before_it_is_acknowledged(site: Site) -> None:
    """When the answer is here, so is the message, with its raw payload, for the agent that takes it."""
    answer = site.twilio.reply("hello", from_=ALICE)

    assert answer.status == 200
    [row] = site.rows(received)
    assert (row.channel, row.contact, row.outcome) == ("sms", "alice", "message for echo/alice")
    assert '"Body":"hello"' in row.raw.replace(" ", "")
    assert len(site.rows(inbox)) == 1


def test_a_forged_message_is_refused_and_not_recorded(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """One line for whoever calls, one on the log, and no secret in either."""
    caplog.set_level(logging.INFO, "wakeloop")

    answers = [site.twilio.forge("hello", from_=ALICE), site.twilio.forge("hello", from_=ALICE, signature="")]

    assert [answer.status for answer in answers] == [403, 403]
    assert all(answer.body.count("\n") == 1 for answer in answers)
    assert site.rows(received) == []
    assert [record.name for record in caplog.records] == ["wakeloop.web"] * 2
    for secret in (AUTH_TOKEN, ALICE, "hello"):
        assert secret not in caplog.text + answers[0].body + answers[1].body


def test_the_same_message_ten_times_at_once_counts_once(site: Site) -> None:
    """Twilio's retries may overlap with what they retry; each is acknowledged."""
    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(lambda _: site.twilio.reply("hello", from_=ALICE, sid="SM" + "1" * 32), range(10))
        )

    assert [answer.status for answer in answers] == [200] * 10
    assert len(site.rows(received)) == 1
    assert len(site.rows(inbox)) == 1


def test_many_messages_at_once_are_all_recorded(site: Site) -> None:
    """More requests than threads for them and connections to the store."""
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: site.twilio.reply(f"hello {n}", from_=ALICE), range(100)))

    assert {answer.status for answer in answers} == {200}
    assert len(site.rows(received)) == 100


# Which address was signed


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "agents.example.com"}


def test_a_trusted_proxy_says_which_address_was_called(make_site: Callable[..., Site]) -> None:
    """TLS ends there, and the host is another: the signature is for what Twilio called."""
    site = make_site(trusted_proxies=["127.0.0.0/8"])

    assert site.text("hello", signed=f"{PUBLIC}/webhooks/sms", headers=FORWARDED)[0] == 200


def test_a_proxy_that_is_not_trusted_is_not_believed(make_site: Callable[..., Site]) -> None:
    """Else anybody could choose the address that a captured signature is checked against."""
    site = make_site(trusted_proxies=["10.0.0.0/8"])

    assert site.text("hello", signed=f"{PUBLIC}/webhooks/sms", headers=FORWARDED)[0] == 403
    assert site.text("hello", signed=site.webhook, headers=FORWARDED)[0] == 200


def test_the_configured_public_url_decides(make_site: Callable[..., Site]) -> None:
    """Whatever headers come, and with a path that a proxy has cut off."""
    site = make_site(public_url=f"{PUBLIC}/inbound/")
    misleading = {"X-Forwarded-Proto": "http", "X-Forwarded-Host": "elsewhere.example.com"}

    assert site.text("hello", signed=f"{PUBLIC}/inbound/webhooks/sms", headers=misleading)[0] == 200
    assert site.text("hello", signed=site.webhook)[0] == 403


@pytest.mark.parametrize(
    "path", ["/webhooks/sms?b=2&a=1&a=%7E", "/webhooks/%73ms?x=+%20", "/webhooks/sms?a=b%26c"]
)
def test_path_and_query_are_checked_exactly_as_they_came(make_site: Callable[..., Site], path: str) -> None:
    """Decoding and encoding them again would be another address than the one that was signed."""
    site = make_site(public_url=PUBLIC)

    assert site.text("hello", signed=f"{PUBLIC}{path}", path=path)[0] == 200


# What is no webhook


def test_a_body_over_the_limit_is_refused_however_it_is_sent(site: Site) -> None:
    """By its declared length at once, in chunks as soon as it is too much."""
    large = Capabilities().body_limit + 1
    declared = site.call("POST", "/webhooks/sms", headers={"Content-Length": str(large)})
    chunked = site.call(
        "POST", "/webhooks/sms", body=iter([b"x" * large]), headers={"Transfer-Encoding": "chunked"}
    )

    assert declared[0] == chunked[0] == 413
    assert "1,048,576 bytes" in declared[1]


class Hook(FakeChannel):
    """A provider that wants more than the answer to its requests; it notes in which thread that happened."""

    capabilities = Capabilities(inbound=True, body_limit=100)

    def __init__(self, site: Site) -> None:
        super().__init__("hook", site.runtime.database.now)
        self.site = site
        self.reacted: list[tuple[int, str, bytes]] = []
        self.fails: Exception | None = None

    def respond(self, request: RawRequest) -> RawResponse:
        return RawResponse(body=b"taken")

    async def react(self, request: RawRequest) -> None:
        recorded = len(self.site.rows(received))
        self.reacted.append((recorded, threading.current_thread().name, request.body))
        if self.fails is not None:
            raise self.fails
        await asyncio.sleep(0)

    def call(self, text: str, **options: Any) -> tuple[int, str]:
        return self.site.call("POST", "/webhooks/hook", body=self.request(ALICE, text, **options).body)


@pytest.fixture
def hook(site: Site) -> Hook:
    channel = Hook(site)
    site.runtime.channels["hook"] = channel
    return channel


def test_a_channel_says_how_large_its_webhooks_may_be(site: Site) -> None:
    """Mails with their files are larger than texts."""
    site.runtime.channels["hook"] = Hook(site)

    status, body = site.call("POST", "/webhooks/hook", body=b"x" * 101)

    assert (status, body) == (413, "a webhook is at most 100 bytes\n")
    assert site.call("POST", "/webhooks/hook", body=b"x" * 100)[0] == 400


def test_a_channel_reacts_once_its_request_is_recorded_and_answered(site: Site, hook: Hook) -> None:
    """In the loop in which all of its traffic is, in a process without a worker too; a repetition has it react again."""
    hook.capabilities = Capabilities(inbound=True)  # type: ignore[misc]

    for number, text in enumerate(["hello", "hello again"], start=1):
        assert hook.call(text, provider_id=str(number)) == (200, "taken")
        for _ in poll(10):
            if len(hook.reacted) == number:
                break

    assert [(count, thread) for count, thread, _ in hook.reacted] == [
        (1, "wakeloop-steps"),
        (2, "wakeloop-steps"),
    ]
    assert b"hello again" in hook.reacted[1][2]


def test_a_reaction_that_fails_is_no_failure_of_the_request(
    site: Site, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    """It is on the log; what somebody wrote is not."""
    hook.capabilities = Capabilities(inbound=True)  # type: ignore[misc]
    told: list[Any] = []
    for error in (TemporaryChannelError("the dialog is gone"), ValueError("a secret")):
        hook.fails, before = error, len(told)
        assert hook.call("hello")[0] == 200
        for _ in poll(10):
            told = [record for record in caplog.records if "reaction" in record.getMessage()]
            if len(told) > before:
                break

    facts = str([record.__dict__ for record in told])
    assert "the dialog is gone" in facts and "ValueError" in facts and "a secret" not in facts


def test_a_request_that_is_refused_is_not_reacted_to(site: Site, hook: Hook) -> None:
    """Nothing of it was recorded."""
    assert site.call("POST", "/webhooks/hook", body=b"{}")[0] == 400
    assert site.call("POST", "/webhooks/hook", body=b"{" * 101)[0] == 413

    assert hook.reacted == []


@pytest.mark.parametrize("sid", [None, ""])
def test_a_signed_message_that_is_malformed_is_refused(site: Site, sid: str | None) -> None:
    """Without its id it could not be recorded once."""
    parameters = [("AccountSid", ACCOUNT_SID), ("Body", "hello"), ("From", ALICE), ("To", NUMBER)]
    if sid is not None:
        parameters.append(("MessageSid", sid))

    answer = site.twilio.post(parameters)

    assert answer.status == 400
    assert site.rows(received) == []


def test_a_channel_that_is_not_there_is_not_found(site: Site) -> None:
    """Nor is the console's, which nobody calls; the answer does not say which there are."""
    for channel in ("email", "console", "sms%2F..", "%00"):
        status, body = site.call("POST", f"/webhooks/{channel}", body=b"")
        assert status == 404
        assert "sms" not in body


def test_the_channel_decides_about_get_and_others_are_not_allowed(site: Site) -> None:
    """Some providers verify an address by GET; Twilio's webhook does not."""
    assert site.call("GET", "/webhooks/sms")[0] in (403, 405)
    assert site.call("DELETE", "/webhooks/sms") == (405, '{"detail":"Method Not Allowed"}')


def test_nothing_else_is_served(site: Site) -> None:
    """Neither pages of documentation nor a schema."""
    assert {site.call("GET", path)[0] for path in ("/docs", "/redoc", "/openapi.json")} == {404}


# When the database is away


def _take_away(site: Site) -> Callable[[], None]:
    """Make the store's file unusable; gives what puts it back."""
    file = Path(str(site.runtime.database.url.database))
    site.runtime.database.close()
    aside = file.parent.with_name("aside")
    shutil.move(file.parent, aside)
    file.parent.mkdir()
    file.mkdir()

    def put_back() -> None:
        site.runtime.database.close()
        shutil.rmtree(file.parent)
        shutil.move(aside, file.parent)

    return put_back


def test_while_the_database_is_away_the_provider_is_asked_to_send_again(site: Site) -> None:
    """Nothing is acknowledged that is not recorded; when it is back, the repetition is."""
    put_back = _take_away(site)

    refused = site.twilio.reply("hello", from_=ALICE, sid="SM" + "2" * 32)
    assert refused.status == 503
    assert site.call("GET", "/healthz") == (200, "ok\n")
    assert site.call("GET", "/readyz")[0] == 503

    put_back()
    assert site.call("GET", "/readyz") == (200, "ok\n")
    assert site.twilio.reply("hello", from_=ALICE, sid="SM" + "2" * 32).status == 200
    assert len(site.rows(received)) == 1


def test_a_store_with_another_schema_is_not_ready(site: Site) -> None:
    """Before `wakeloop db upgrade` a load balancer sends nothing here."""
    with site.runtime.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))

    assert site.call("GET", "/readyz")[0] == 503


# Listening


def test_a_port_in_use_is_refused_in_words() -> None:
    """With what to do about it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port} is in use"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused_in_words() -> None:
    """A name that does not resolve, and an address of another machine."""
    with pytest.raises(ConfigurationError, match="is no address of this machine"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        listen("192.0.2.1", 0)


def test_the_web_server_stops_while_a_connection_is_open(site: Site) -> None:
    """A provider's idle connection does not keep the process."""
    parts = urlsplit(site.url)

    with socket.create_connection((parts.hostname or "", parts.port or 0)) as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1024).startswith(b"HTTP/1.1 200")
        since = time.monotonic()
        site.server.stop(10)
        assert time.monotonic() - since < 2

    with pytest.raises(OSError):
        site.call("GET", "/healthz")
