"""The stand-in for Twilio where it stands in for WhatsApp and for files: what it refuses, and what it tells afterwards."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
from tests.conformance.twilio_kit import ALICE, call

from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, TwilioStandIn

TEMPLATE = "HX" + "0" * 32
FROM, TO = f"whatsapp:{NUMBER}", f"whatsapp:{ALICE}"
VARIABLES = json.dumps({"1": "Ship it?"})


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    with TwilioStandIn(numbers=[NUMBER, FROM], templates={TEMPLATE: "Your agent: {{1}}"}) as stand_in:
        yield stand_in


def create(twilio: TwilioStandIn, *pairs: tuple[str, str], **fields: str) -> dict[str, Any]:
    """POST a message, as any HTTP client would."""
    body = urlencode([*{"From": FROM, "To": TO, **fields}.items(), *pairs]).encode()
    request = Request(f"{twilio.url}/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json", data=body)
    request.add_header("Authorization", _basic())
    try:
        with urlopen(request) as response:
            answer: dict[str, Any] = json.load(response)
    except HTTPError as error:
        with error:
            answer = json.load(error)
    return answer


def _basic() -> str:
    return "Basic " + base64.b64encode(f"{ACCOUNT_SID}:{AUTH_TOKEN}".encode()).decode()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"To": ALICE, "Body": "x"}, 21910),
        ({"From": NUMBER, "Body": "x"}, 21910),
        ({"From": "whatsapp:+15555550198", "Body": "x"}, 63007),
        ({"To": "whatsapp:alice", "Body": "x"}, 21211),
        ({"ContentSid": "HX1", "ContentVariables": VARIABLES}, 21655),
        ({"ContentSid": TEMPLATE}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": "no JSON"}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '["x"]'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '{"2": "x"}'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '{"1": ""}'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '{"1": null}'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '{"1": "a\\nb"}'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '{"1": "a\\tb"}'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": '{"1": "a     b"}'}, 21656),
        ({"ContentSid": TEMPLATE, "ContentVariables": json.dumps({"1": "x" * 1601})}, 21658),
        ({"Body": "x", "MediaUrl": "data:text/plain,x"}, 21620),
        ({"Body": "x", "MediaUrl": "ftp://example.com/x"}, 21620),
        ({}, 21602),
    ],
)
def test_what_twilio_refuses_is_refused(twilio: TwilioStandIn, fields: dict[str, str], code: int) -> None:
    """With its error code, and without taking anything."""
    answer = create(twilio, **fields)

    assert answer["code"] == code
    assert twilio.messages == []


def test_ten_files_are_taken_and_not_eleven(twilio: TwilioStandIn) -> None:
    """The limit of the Messages resource; a file needs no text."""
    files = [("MediaUrl", f"https://example.com/{number}") for number in range(11)]

    assert create(twilio, *files[:10], From=NUMBER, To=ALICE)["num_media"] == "10"
    assert create(twilio, *files, From=NUMBER, To=ALICE)["code"] == 21623


@pytest.mark.parametrize(("hours", "status", "error"), [(23, "queued", None), (25, "failed", 63016)])
def test_the_window_is_24_hours(twilio: TwilioStandIn, hours: int, status: str, error: int | None) -> None:
    """Free text is taken all the same, as Twilio does, and fails afterwards."""
    twilio.hear(TO, datetime.now(UTC) - timedelta(hours=hours))

    created = create(twilio, Body="Ship it?")
    listed = call(twilio, f"Messages/{created['sid']}.json")

    assert (listed["status"], listed["error_code"]) == (status, error)


def test_a_message_opens_the_window(twilio: TwilioStandIn) -> None:
    """Only that of the same person, on WhatsApp."""
    twilio.message_parameters("hello", from_=ALICE)
    twilio.message_parameters("hello", from_="whatsapp:+15555550101")
    closed = create(twilio, Body="x")
    twilio.message_parameters("hello", from_=TO)
    opened = create(twilio, Body="x")

    assert [closed["status"], opened["status"]] == ["failed", "queued"]


def test_a_template_is_listed_as_it_reads(twilio: TwilioStandIn) -> None:
    """With its variables filled in, and outside the window, too."""
    created = create(twilio, ContentSid=TEMPLATE, ContentVariables=VARIABLES)

    assert (created["body"], created["status"]) == ("Your agent: Ship it?", "queued")


def test_the_account_is_read_with_the_auth_token_only() -> None:
    """Standard API keys may not."""
    with TwilioStandIn(api_keys={"SK1": "secret"}) as twilio:
        request = Request(f"{twilio.url}/2010-04-01/Accounts/{ACCOUNT_SID}.json")
        request.add_header("Authorization", "Basic U0sxOnNlY3JldA==")
        with pytest.raises(HTTPError) as raised:
            urlopen(request)
        raised.value.close()
        request.add_header("Authorization", _basic())
        with urlopen(request) as response:
            account = json.load(response)

    assert raised.value.code == 401
    assert (account["sid"], account["status"]) == (ACCOUNT_SID, "active")


def test_a_file_lies_elsewhere_and_takes_no_credentials_there(twilio: TwilioStandIn) -> None:
    """The API wants them and redirects; where the file lies they are an error, as at an object store."""
    path = urlsplit(twilio.store(b"picture", "image/png")).path
    request = Request(twilio.url + path)
    with pytest.raises(HTTPError) as unsigned:
        urlopen(request)
    unsigned.value.close()
    request.add_header("Authorization", _basic())
    with pytest.raises(HTTPError) as still_signed:
        urlopen(request)  # urllib takes the header along
    still_signed.value.close()
    with urlopen(still_signed.value.url) as response:
        stored = (response.read(), response.headers["Content-Type"])

    assert (unsigned.value.code, still_signed.value.code) == (401, 400)
    assert stored == (b"picture", "image/png")
