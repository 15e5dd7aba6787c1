"""Slack's webhooks: who signed them, what they say, and the way from a person's screen to the channel and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.conformance.channel_kit import using
from tests.conformance.slack_kit import (
    ALICE,
    BOB,
    CAROL,
    FIELDS,
    FORM,
    JSON,
    OTHER,
    PAYLOADS,
    REQUEST,
    TEAM,
    URL,
    Office,
    approval,
    channel,
    outgoing,
    payload,
    request,
    said,
    signed,
)

from wakeloop.channel import Button, Field, RawRequest
from wakeloop.errors import InvalidWebhook
from wakeloop.events import Attachment
from wakeloop.testing.slack import SIGNING_SECRET
from wakeloop_channels.slack_webhooks import MAX_BYTES

NAMES = sorted(path.stem for path in PAYLOADS.glob("*.json"))
OWN = "<@U0BOT00001>"


@pytest.fixture
def office() -> Iterator[Office]:
    with Office(responders={TEAM: [ALICE]}) as it:
        yield it


def status_of(read: Callable[[], object]) -> int | None:
    """With which status a reading is refused, if it is."""
    try:
        read()
    except InvalidWebhook as error:
        return error.status
    return None


def refused(made: RawRequest) -> int:
    """With which status a request is refused. It is a failure of the test if it is taken."""
    it = channel()
    status = status_of(partial(it.verify, made)) or status_of(partial(it.parse, made))
    assert status is not None
    return status


class TestVerify:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_payload_is_verified(self, name: str) -> None:
        """As JSON and in a form."""
        channel().verify(request(payload(name)))

    @pytest.mark.parametrize(
        "changes",
        [
            {"body": b'{"type": "x"}'},
            {"x_slack_signature": "v0=" + "0" * 64},
            {"x_slack_signature": ""},
            {"x_slack_signature": "é" * 67},
            {"x_slack_signature": "v1=" + "a" * 100_000},
            {"x_slack_request_timestamp": ""},
            {"x_slack_request_timestamp": "now"},
            {"x_slack_request_timestamp": "-5"},
            {"x_slack_request_timestamp": "٣"},
            {"x_slack_request_timestamp": "9" * 5000},
        ],
    )
    def test_a_changed_request_is_forged(self, changes: dict[str, Any]) -> None:
        """Body, signature and time belong together."""
        body = changes.pop("body", None)
        made = signed(b"{}", **changes)
        if body is not None:
            made = RawRequest(method="POST", url=URL, headers=made.headers, body=body)

        assert refused(made) == 403

    @pytest.mark.parametrize("age", [301, 86_400, -302])
    def test_a_request_of_another_time_is_refused(self, age: float) -> None:
        """Five minutes back for a replay, and forward for a clock that is wrong."""
        assert refused(signed(b'{"type": "x"}', age=age)) == 403

    @pytest.mark.parametrize("age", [0, 290, -290])
    def test_a_request_within_five_minutes_is_taken(self, age: float) -> None:
        """Slack's own tries again come within them, signed anew."""
        channel().verify(signed(b'{"type": "x"}', age=age))

    def test_every_secret_verifies(self) -> None:
        """So that one can be replaced without losing anything."""
        it = channel(signing_secret="new, old", signing_secrets=["older"])

        for secret in ("new", "old", "older"):
            it.verify(signed(b"{}", secret=secret))
        with pytest.raises(InvalidWebhook):
            it.verify(signed(b"{}", secret="oldest"))

    def test_without_a_secret_nothing_is_taken(self) -> None:
        """With Socket Mode alone nobody may post."""
        it = channel(signing_secret=None, socket_mode=True, app_token="xapp-1")

        for secret in ("", SIGNING_SECRET):
            with pytest.raises(InvalidWebhook):
                it.verify(signed(b"{}", secret=secret))


class TestBodies:
    @pytest.mark.parametrize(
        ("body", "content_type", "status"),
        [
            (b"", JSON, 400),
            (b"[]", JSON, 400),
            (b"{}", JSON, 400),
            (b'{"type": 1}', JSON, 400),
            (b'{"type": "x"', JSON, 400),
            (b'\xff{"type": "x"}', JSON, 400),
            (b"[" * 100_000, JSON, 400),
            (b'{"a":' * 50_000, JSON, 400),
            (b'{"type":"x","n":' + b"9" * 5000 + b"}", JSON, 400),
            (b"payload=", FORM, 400),
            (b"payload=%7B%7D", FORM, 400),
            (b"payload={}&payload={}", FORM, 400),
            (b"other=1", FORM, 400),
            (b"payload=%ff", FORM, 400),
            (b"&".join(b"a=1" for _ in range(100)), FORM, 400),
            (b'{"type": "x"}', "text/plain", 415),
            (b'{"type": "x"}', "", 415),
            (b" " * (MAX_BYTES + 1), JSON, 413),
        ],
    )
    def test_a_malformed_body_is_told(self, body: bytes, content_type: str, status: int) -> None:
        """With a 4xx that says which kind of wrong it is."""
        assert refused(signed(body, content_type=content_type)) == status

    def test_another_method_is_refused(self) -> None:
        """Slack posts."""
        made = signed(b"{}")

        assert refused(RawRequest(method="GET", url=URL, headers=made.headers, body=made.body)) == 405

    @settings(deadline=None)
    @given(st.binary(max_size=300), st.sampled_from([JSON, FORM, "text/plain"]))
    def test_any_bytes_are_refused_in_order(self, body: bytes, content_type: str) -> None:
        """With nothing but InvalidWebhook."""
        it, made = channel(), signed(body, content_type=content_type)

        statuses = [status_of(partial(read, made)) for read in (it.verify, it.parse, it.respond)]

        assert all(status in (None, *range(400, 500)) for status in statuses)

    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(NAMES), st.data())
    @example("message_im", None)
    def test_a_payload_with_anything_in_any_place_is_read_or_refused(self, name: str, data: Any) -> None:
        """Every part of a payload may be missing, or of another type."""
        found = payload(name)
        if data is not None:
            anything = st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                max_leaves=5,
            )  # fmt: skip
            for _ in range(data.draw(st.integers(1, 3))):
                place: Any = found
                while True:
                    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                    if not keys:
                        break
                    key = data.draw(st.sampled_from(keys))
                    if isinstance(place[key], dict | list) and data.draw(st.booleans()):
                        place = place[key]
                        continue
                    if data.draw(st.booleans()):
                        place[key] = data.draw(anything)
                    else:
                        del place[key]
                    break
        text = json.dumps(found)
        it, made = channel(), signed(text.encode())

        statuses = [status_of(lambda: it.parse(made)), status_of(lambda: it.respond(made))]

        assert all(status in (None, *range(400, 500)) for status in statuses)

    def test_what_no_database_keeps_is_replaced(self) -> None:
        """U+0000, lone surrogates, NaN; and what opens doors is left out."""
        found = payload("message_im")
        found["event"]["text"] = "a\x00b\ud800c"
        found["event"]["odd"] = [float("nan"), "\udfff"]

        (incoming,) = said(channel(), found)

        assert incoming.text == "a\ufffdb\ufffdc"
        assert incoming.raw["event"]["odd"] == [None, "\ufffd"]
        assert "token" not in incoming.raw
        assert "response_url" not in said(channel(), payload("block_actions"))[0].raw


class TestMessages:
    def test_a_direct_message(self) -> None:
        """From a person, to the app, as they see it."""
        (incoming,) = said(channel(), payload("message_im"))

        assert incoming.text == "Ship it & tell <everyone> 👍🏽 at the page (https://example.com/a?b=1&c=2)"
        assert (incoming.address, incoming.to_address) == (ALICE, "D0ALICE001")
        assert incoming.provider_id == "D0ALICE001:1764322201.000200/1764322201.000200"
        assert (incoming.reply_to, incoming.pressed, incoming.vouched) == (None, None, True)
        assert incoming.auth == f"Slack signature, user {ALICE}"
        assert incoming.raw["event_id"] == "Ev0PV52K21"

    def test_a_mention_in_a_channel(self) -> None:
        """Without the mention of the app, and for the person themselves."""
        (incoming,) = said(channel(), payload("app_mention"))

        assert incoming.text == "what about #other and @U0CAROL001? @here knows"
        assert (incoming.address, incoming.to_address) == (ALICE, TEAM)

    def test_a_mention_counts_once(self) -> None:
        """It comes as two events, of which each may come again: all have one id, and say the same."""
        mention = payload("app_mention")
        message = payload("app_mention")
        message["event_id"] = "Ev2"
        message["event"] |= {"type": "message", "channel_type": "channel"}
        it = channel()

        (first,), (second,) = said(it, mention), said(it, message)
        (third,) = it.parse(signed(json.dumps(mention).encode(), x_slack_retry_num="1"))

        assert first == third
        assert (first.provider_id, first.text, first.address) == (
            second.provider_id,
            second.text,
            second.address,
        )

    def test_a_reply_in_a_thread_names_the_message_it_began_with(self) -> None:
        """Which is ours: else nobody spoke to us."""
        found = payload("message_thread")
        (incoming,) = said(channel(responders={TEAM: [ALICE]}), found)
        found["event"]["parent_user_id"] = CAROL

        assert incoming.reply_to == f"{TEAM}:1764322203.000400"
        assert (incoming.address, incoming.text) == (TEAM, "yes")
        assert said(channel(), found) == []

    def test_files_come_as_attachments(self) -> None:
        """By their address, without those that are gone; a message may have nothing but files."""
        (incoming,) = said(channel(), payload("file_share"))

        assert incoming.attachments == (
            Attachment(
                url="https://files.slack.com/files-pri/T0TEAM0001-F0FILE0001/download/report.pdf",
                content_type="application/pdf",
                name="report.pdf",
                channel="slack",
            ),
        )

    @pytest.mark.parametrize(
        "name", ["own_message", "message_changed", "channel_join", "app_rate_limited", "url_verification"]
    )
    def test_what_nobody_says_is_nothing(self, name: str) -> None:
        """Our own messages, edits, arrivals, notices: acknowledged, and that is all."""
        it = channel()

        assert said(it, payload(name)) == []
        assert it.respond(request(payload(name))).status == 200

    @pytest.mark.parametrize(
        "changes",
        [
            {"bot_id": "B1"},
            {"subtype": "message_deleted"},
            {"subtype": "bot_message"},
            {"subtype": "a_kind_to_come"},
            {"subtype": ["x"]},
            {"hidden": True},
            {"type": "reaction_added"},
            {"text": OWN},
            {"channel": TEAM, "channel_type": "channel"},
            {"channel": TEAM, "thread_ts": "1764322201.000200", "parent_user_id": "U0BOT00001"},
        ],
    )
    def test_what_is_not_said_to_us_is_nothing(self, changes: dict[str, Any]) -> None:
        """Of other apps, of kinds we do not know, beside us in a channel."""
        found = payload("message_im")
        found["event"] |= changes

        assert said(channel(), found) == []

    def test_the_challenge_is_answered_only_if_it_is_signed(self) -> None:
        """The runtime verifies before it asks for the answer."""
        it, made = channel(), request(payload("url_verification"))

        it.verify(made)

        assert it.respond(made).body.decode() == payload("url_verification")["challenge"]


class TestPresses:
    def test_a_press_brings_the_value(self) -> None:
        """And where it was pressed; nothing is said besides."""
        (incoming,) = said(channel(), payload("block_actions"))

        assert incoming.pressed == f"{1:032x}:yes"
        assert (incoming.text, incoming.address, incoming.values) == ("", ALICE, None)
        assert incoming.reply_to == "D0ALICE001:1764322203.000400"
        assert incoming.provider_id == f"D0ALICE001:1764322203.000400/1764322206.000700@{ALICE}"

    def test_a_press_says_nothing_to_slack(self, office: Office) -> None:
        """200 with an empty body: anything else would be shown, or replace the message."""
        message = office.send(approval())

        answer = office.slack.press(message, "Yes")

        assert (answer.status, answer.body) == (200, "")
        assert [one.pressed for one in office.receiver.said] == [f"{REQUEST}:yes"]

    def test_a_choice_of_many_brings_its_value(self, office: Office) -> None:
        """From the select that stands in for the buttons."""
        options = tuple(Button(label=f"option {n}", value=f"{REQUEST}:#{n}") for n in range(150))
        message = office.send(outgoing(kind="question", buttons=options))

        office.slack.choose(message, "option 142")

        assert office.receiver.said[-1].pressed == f"{REQUEST}:#142"

    def test_a_link_says_nothing(self, office: Office) -> None:
        """Slack tells of that press, too."""
        message = office.send(approval(link="https://agents.example.com/p/1"))

        answer = office.slack.press(message, "Open the page")

        assert (answer.status, office.receiver.said, office.slack.ephemerals) == (200, [], [])

    def test_two_who_press_in_the_same_instant_are_two(self) -> None:
        """Slack's time of the press alone does not tell them apart."""
        found = payload("block_actions")
        (first,) = said(channel(), found)
        found["user"]["id"] = BOB
        (second,) = said(channel(), found)

        assert first.provider_id != second.provider_id


class TestComments:
    def test_a_dialog_brings_the_comment_with_the_press(self, office: Office) -> None:
        """Opened within three seconds; what was written is the text of a pressed No."""
        message = office.send(approval(TEAM))

        office.slack.press(message, "No with a comment…")
        view = office.slack.wait_for_view()
        answer = office.slack.submit(view, {"comment": " Not before Friday.\nReally <b> & more "})

        (incoming,) = office.receiver.said
        assert (answer.status, json.loads(answer.body), view.closed) == (200, {}, True)
        assert (incoming.pressed, incoming.address) == (f"{REQUEST}:no", TEAM)
        assert incoming.text == "Not before Friday.\nReally <b> & more"

    def test_an_empty_comment_is_told_at_once(self, office: Office) -> None:
        """In the dialog, which stays open; nothing is recorded."""
        office.slack.press(office.send(approval()), "No with a comment…")
        view = office.slack.wait_for_view()

        answer = office.slack.submit(view, {"comment": "  \n "})

        assert json.loads(answer.body)["errors"] == {"comment": "Please write something."}
        assert (view.closed, office.receiver.said) == (False, [])
        assert office.slack.submit(view, {"comment": "no"}).body == "{}"
        assert view.closed

    def test_a_dialog_that_comes_back_changed_is_malformed(self) -> None:
        """What it was opened with is ours."""
        for kept in ("", "{}", "[]", "nonsense", '{"pressed": "x", "place": "D1"}'):
            found = payload("view_submission")
            found["view"]["private_metadata"] = kept

            assert refused(request(found)) == 400

    def test_another_dialog_is_not_ours(self) -> None:
        """It is closed, and says nothing."""
        found = payload("view_submission")
        found["view"]["callback_id"] = "another"
        it = channel()

        assert said(it, found) == []
        assert it.respond(request(found)).body == b"{}"

    def test_a_dialog_that_comes_too_late_is_an_error(self, office: Office) -> None:
        """On which nothing depends: the person presses again."""
        found = payload("block_actions")
        found["actions"][0]["action_id"] = "comment"

        with pytest.raises(Exception, match="invalid_trigger_id"):
            using(office.channel, lambda it: it.react(request(found)))


class TestForms:
    def test_what_was_filled_in_comes_back_by_name(self, office: Office) -> None:
        """Every kind of field, as an HTML form would send it; defaults as they stood."""
        message = office.send(outgoing(kind="question", fields=FIELDS, submit=f"{REQUEST}:form"))

        answer = office.slack.fill(
            message,
            {
                "Title": "Überschrift 👍🏽", "How many": "3", "Price": "1.50", "Urgent": True, "When": "2026-12-02",
                "When (time)": "10:30", "Hour": "23:59", "Size": "Large", "Data": '{"a": 1}',
            },
        )  # fmt: skip

        (incoming,) = office.receiver.said
        assert (answer.status, answer.body) == (200, "")
        assert (incoming.pressed, incoming.text) == (f"{REQUEST}:form", "")
        assert incoming.values == {
            "title": "Überschrift 👍🏽", "body": "Once upon a time", "count": "3", "price": "1.50", "urgent": "true",
            "day": "2026-12-01", "at": "2026-12-02T10:30", "hour": "23:59", "size": "l", "more.data": '{"a": 1}',
        }  # fmt: skip

    def test_what_may_be_left_out_is_empty(self, office: Office) -> None:
        """And a box that is not ticked is not sent at all."""
        message = office.send(outgoing(kind="question", fields=FIELDS[3:5], submit=f"{REQUEST}:form"))

        office.slack.fill(message, {})

        assert office.receiver.said[-1].values == {"price": ""}

    def test_what_is_missing_is_told_at_once(self, office: Office) -> None:
        """To the person alone, by the labels; nothing is recorded, and the form stays."""
        message = office.send(outgoing(kind="question", fields=FIELDS, submit=f"{REQUEST}:form"))

        office.slack.fill(message, {"Title": "T", "When": "2026-12-02"})
        note = office.slack.wait_for_note()

        assert note.text == "Please fill in: How many, When (time), Size."
        assert (note.user, office.receiver.said) == (ALICE, [])

    def test_half_a_time_is_none(self, office: Office) -> None:
        """Also of a field that may be left out."""
        fields = (Field(name="at", label="When", kind="datetime-local", required=False),)
        message = office.send(outgoing(kind="question", fields=fields, submit=f"{REQUEST}:form"))

        office.slack.fill(message, {"When": "2026-12-02"})
        office.slack.fill(message, {})

        assert office.slack.wait_for_note().text == "Please fill in: When (time)."
        assert [one.values for one in office.receiver.said] == [{"at": ""}]


class TestResponders:
    def test_those_who_are_named_speak_for_the_channel(self, office: Office) -> None:
        """By a press, a form, a comment and a reply; the record says who it was."""
        message = office.send(approval(TEAM))

        office.slack.press(message, "Yes", user=ALICE)
        office.slack.press(message, "No with a comment…", user=ALICE)
        office.slack.submit(office.slack.wait_for_view(), {"comment": "later"})
        office.slack.say("yes", user=ALICE, thread=message)
        office.slack.say(f"{OWN} hello", user=ALICE, channel=TEAM)

        assert {one.address for one in office.receiver.said} == {TEAM}
        assert {one.auth for one in office.receiver.said} == {f"Slack signature, user {ALICE}"}
        assert office.slack.ephemerals == []

    def test_everybody_else_speaks_for_themselves(self, office: Office) -> None:
        """So the runtime refuses what they were not asked, and records it; a press is told at once, to them alone."""
        message = office.send(approval(TEAM))

        office.slack.press(message, "Yes", user=BOB)
        note = office.slack.wait_for_note()
        office.slack.say("yes", user=CAROL, thread=message)

        assert [one.address for one in office.receiver.said] == [BOB, CAROL]
        assert [one.pressed for one in office.receiver.said] == [f"{REQUEST}:yes", None]
        assert (note.channel, note.user) == (TEAM, BOB)
        assert note.text.startswith("You are not among those who may answer for this channel")

    def test_a_comment_of_somebody_else_is_told_too(self, office: Office) -> None:
        """When it was sent."""
        office.slack.press(office.send(approval(TEAM)), "No with a comment…", user=BOB)
        office.slack.submit(office.slack.wait_for_view(), {"comment": "I object"})

        assert office.slack.wait_for_note().user == BOB
        assert office.receiver.said[-1].address == BOB

    def test_nobody_speaks_for_a_channel_that_is_not_named(self, office: Office) -> None:
        """Being a member is not enough."""
        office.slack.press(office.send(approval(OTHER)), "Yes", user=ALICE)

        assert office.receiver.said[-1].address == ALICE

    def test_a_direct_conversation_needs_no_responders(self, office: Office) -> None:
        """It has one person."""
        office.slack.press(office.send(approval(BOB)), "Yes", user=BOB)

        assert office.receiver.said[-1].address == BOB
        assert office.slack.ephemerals == []


class TestRoundTrips:
    def test_a_message_comes_and_is_answered_where_it_was_said(self, office: Office) -> None:
        """A mention begins a thread; the answer stands in it."""
        office.slack.say(f"{OWN} how far are you?", channel=TEAM)
        first, second = office.receiver.said

        office.send(outgoing("Nearly done.", TEAM, thread=(first.provider_id,)))

        (answer,) = office.slack.messages
        assert first.provider_id == second.provider_id
        assert f"{TEAM}:{answer.thread_ts}" == first.thread

    def test_a_reply_names_the_request_whose_thread_it_is_in(self, office: Office) -> None:
        """With two open in one channel, and a conversation going on around them."""
        one, two = office.send(approval(TEAM)), office.send(approval(TEAM, key="d2"))

        office.slack.say("yes", thread=two)
        office.slack.say("no", thread=one)

        assert [said.reply_to for said in office.receiver.said] == [f"{TEAM}:{two.ts}", f"{TEAM}:{one.ts}"]

    def test_files_are_fetched(self, office: Office) -> None:
        """What somebody sent can be read with the app's token."""
        office.slack.say("", files=[("a.txt", "text/plain", b"hello")])
        (incoming,) = office.receiver.said

        data = using(office.channel, lambda it: it.fetch(incoming.attachments[0]))

        assert data == b"hello"

    def test_a_forged_request_changes_nothing(self, office: Office) -> None:
        """Of somebody who has not the secret, or repeats what they saw."""
        body = urlencode({"payload": json.dumps(payload("block_actions"))}).encode()

        statuses = [
            office.slack.post(body, {"Content-Type": FORM}, secret="guessed").status,
            office.slack.post(body, {"Content-Type": FORM}, signature="").status,
            office.slack.post(body, {"Content-Type": FORM}, age=600).status,
            office.slack.post(body + b"&x=1", {"Content-Type": FORM}, signature="v0=" + "0" * 64).status,
        ]

        assert statuses == [403] * 4
        assert office.receiver.said == []
