"""The stand-in for Slack refuses what Slack refuses, and shows what Slack shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest
from slack_sdk.signature import SignatureVerifier
from tests.conformance.slack_kit import ALICE, APP_TOKEN, BOB, BOT_TOKEN, TEAM

from wakeloop.testing.slack import SlackStandIn, sign
from wakeloop.testing.slack_workspace import BOT_USER

BUTTON = {"type": "button", "action_id": "a", "text": {"type": "plain_text", "text": "Yes"}, "value": "v"}
INPUT = {"type": "plain_text_input", "action_id": "a"}
LABEL = {"type": "plain_text", "text": "Label"}
OPTION = {"text": {"type": "plain_text", "text": "One"}, "value": "1"}


class SetClock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 28, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def new_id(self) -> UUID:
        return uuid4()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def slack(clock: SetClock) -> Iterator[SlackStandIn]:
    with SlackStandIn(channels={TEAM: [ALICE]}, users=[ALICE, BOB], clock=clock) as stand_in:
        yield stand_in


def call(slack: SlackStandIn, method: str, token: str = BOT_TOKEN, **arguments: Any) -> dict[str, Any]:
    """Call the API as any HTTP client would."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    body = json.dumps(arguments).encode()
    with urlopen(Request(slack.api_url + method, data=body, headers=headers)) as response:
        found: dict[str, Any] = json.load(response)
        return found


def listed(slack: SlackStandIn, method: str = "conversations.history", **arguments: str) -> dict[str, Any]:
    url = f"{slack.api_url}{method}?{urlencode({'channel': TEAM, **arguments})}"
    with urlopen(Request(url, headers={"Authorization": f"Bearer {BOT_TOKEN}"})) as response:
        found: dict[str, Any] = json.load(response)
        return found


def test_it_signs_as_slack_does() -> None:
    """Our two implementations are held against Slack's own."""
    body = "payload=%7B%22a%22%3A+%22Caf%C3%A9%22%7D"
    stamp = int(datetime.now(UTC).timestamp())

    assert SignatureVerifier("secret").is_valid(body, str(stamp), sign(body.encode(), "secret", stamp))
    assert not SignatureVerifier("other").is_valid(body, str(stamp), sign(body.encode(), "secret", stamp))


@pytest.mark.parametrize(
    ("method", "token", "arguments", "error"),
    [
        ("auth.test", "", {}, "not_authed"),
        ("auth.test", "xoxb-other", {}, "invalid_auth"),
        ("auth.test", APP_TOKEN, {}, "not_allowed_token_type"),
        ("apps.connections.open", BOT_TOKEN, {}, "not_allowed_token_type"),
        ("chat.delete", BOT_TOKEN, {}, "unknown_method"),
        ("chat.postMessage", BOT_TOKEN, {"text": "x"}, "channel_not_found"),
        ("chat.postMessage", BOT_TOKEN, {"channel": TEAM}, "no_text"),
        (
            "chat.postMessage",
            BOT_TOKEN,
            {"channel": TEAM, "text": "x", "thread_ts": "1.2"},
            "cannot_reply_to_message",
        ),
        (
            "chat.postMessage",
            BOT_TOKEN,
            {"channel": TEAM, "text": "x", "metadata": {}},
            "invalid_metadata_format",
        ),
        ("chat.update", BOT_TOKEN, {"channel": TEAM, "ts": "1.2", "text": "x"}, "message_not_found"),
        ("chat.postEphemeral", BOT_TOKEN, {"channel": TEAM, "user": BOB, "text": "x"}, "user_not_in_channel"),
        ("conversations.open", BOT_TOKEN, {"users": "U0NOBODY01"}, "user_not_found"),
        ("conversations.open", BOT_TOKEN, {"users": BOT_USER}, "cannot_dm_bot"),
        ("views.open", BOT_TOKEN, {"trigger_id": "1.2"}, "invalid_trigger_id"),
    ],
)
def test_what_slack_refuses_is_refused(
    slack: SlackStandIn, method: str, token: str, arguments: dict[str, Any], error: str
) -> None:
    """With Slack's own word, and a 200."""
    assert call(slack, method, token, **arguments) == {
        "ok": False, "error": error, **({"req_method": method} if error == "unknown_method" else {}),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"type": "carousel"}, "unsupported type"),
        ({"type": "actions", "elements": []}, "1 to 25 elements"),
        ({"type": "actions", "elements": [{**BUTTON, "action_id": f"a{n}"} for n in range(26)]}, "1 to 25 elements"),
        ({"type": "actions", "elements": [BUTTON, BUTTON]}, "action_id already exists"),
        ({"type": "actions", "elements": [{**BUTTON, "value": "v" * 2001}]}, "less than 2001"),
        ({"type": "actions", "elements": [{**BUTTON, "style": "green"}]}, "invalid style"),
        ({"type": "actions", "elements": [{**BUTTON, "text": {"type": "plain_text", "text": "x" * 76}}]}, "less than 76"),
        ({"type": "actions", "elements": [{**BUTTON, "text": {"type": "plain_text", "text": ""}}]}, "more than 0"),
        ({"type": "actions", "elements": [{**BUTTON, "text": {"type": "mrkdwn", "text": "x"}}]}, "must be plain_text"),
        ({"type": "actions", "elements": [INPUT]}, "unsupported element"),
        ({"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}, "less than 3001"),
        ({"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}, "less than 151"),
        ({"type": "input", "label": LABEL, "element": {"type": "number_input", "action_id": "a"}}, "unsupported element"),
        ({"type": "input", "label": LABEL, "element": {**INPUT, "initial_value": "x" * 3001}}, "less than 3001"),
        ({"type": "input", "label": LABEL, "element": {"type": "static_select", "action_id": "a", "options": [OPTION] * 101}}, "1 to 100 options"),
        ({"type": "input", "label": LABEL, "element": {"type": "checkboxes", "action_id": "a", "options": [OPTION] * 11}}, "1 to 10 options"),
        ({"type": "input", "label": LABEL, "element": {"type": "datepicker", "action_id": "a", "initial_date": "soon"}}, "no date"),
        ({"type": "input", "label": LABEL, "element": {"type": "timepicker", "action_id": "a", "initial_time": "24:00"}}, "no time"),
        ({"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": ""}]}]}, "more than 0"),
        ({"type": "rich_text", "elements": [], "block_id": "x"}, "must have elements"),
    ],
)  # fmt: skip
def test_block_kit_has_limits(slack: SlackStandIn, block: dict[str, Any], words: str) -> None:
    """And says what is wrong, and where."""
    answer = call(slack, "chat.postMessage", channel=TEAM, text="x", blocks=[block])

    assert answer["error"] == "invalid_blocks"
    (message,) = answer["response_metadata"]["messages"]
    assert words in message
    assert "json-pointer:/blocks/0" in message


def test_blocks_have_limits_together(slack: SlackStandIn) -> None:
    """Their number, their ids, and their length."""
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3000}}

    errors = [
        call(slack, "chat.postMessage", channel=TEAM, text="x", blocks=blocks).get("error")
        for blocks in ([section] * 4, [section] * 5, [section] * 51, [{**section, "block_id": "b"}] * 2)
    ]

    assert errors == [None, "msg_blocks_too_long", "invalid_blocks", "invalid_blocks"]


def test_a_trigger_opens_one_dialog_within_three_seconds(slack: SlackStandIn, clock: SetClock) -> None:
    """And no more."""
    view = {
        "type": "modal", "title": LABEL, "submit": LABEL, "callback_id": "c",
        "blocks": [{"type": "input", "label": LABEL, "element": INPUT}],
    }  # fmt: skip
    good, late = slack.workspace.new_trigger(ALICE), slack.workspace.new_trigger(ALICE)
    without_submit = {name: value for name, value in view.items() if name != "submit"}

    errors = [
        call(slack, "views.open", trigger_id=good, view=without_submit).get("error"),
        call(slack, "views.open", trigger_id=good, view=view).get("error"),
        call(slack, "views.open", trigger_id=good, view=view).get("error"),
    ]
    clock.at += timedelta(seconds=4)
    errors.append(call(slack, "views.open", trigger_id=late, view=view).get("error"))

    assert errors == ["invalid_arguments", None, "exchanged_trigger_id", "expired_trigger_id"]
    assert [opened.user for opened in slack.views] == [ALICE]


def test_history_has_metadata_if_it_is_asked_for_and_no_replies(slack: SlackStandIn) -> None:
    """Newest first, in pages; replies are listed with their root."""
    metadata = {"event_type": "t", "event_payload": {"key": "d1"}}
    root = call(slack, "chat.postMessage", channel=TEAM, text="root", metadata=metadata)["ts"]
    call(slack, "chat.postMessage", channel=TEAM, text="reply", thread_ts=root)
    call(slack, "chat.postMessage", channel=TEAM, text="next")

    plain, full = listed(slack), listed(slack, include_all_metadata="true")
    first = listed(slack, limit="1")
    replies = listed(slack, "conversations.replies", ts=root)

    assert [one["text"] for one in plain["messages"]] == ["next", "root"]
    assert ["metadata" in one for one in plain["messages"]] == [False, False]
    assert full["messages"][1]["metadata"] == metadata
    assert [one["text"] for one in replies["messages"]] == ["root", "reply"]
    assert (first["has_more"], first["response_metadata"]["next_cursor"]) == (True, "1")
    assert listed(slack, oldest=root)["messages"] == plain["messages"][:1]


def test_a_socket_needs_a_ticket(slack: SlackStandIn) -> None:
    """Each is good for one."""
    url = call(slack, "apps.connections.open", APP_TOKEN)["url"].replace("ws://", "http://")
    wrong = url.replace("ticket=", "ticket=0")

    with pytest.raises(HTTPError) as raised:
        urlopen(wrong)

    with raised.value:
        assert raised.value.code == 403


def test_what_is_not_escaped_is_noticed(slack: SlackStandIn) -> None:
    """A text with markup in it is none that people should see."""
    call(slack, "chat.postMessage", channel=TEAM, text="hi <!channel>")

    with pytest.raises(ValueError, match="not escaped"):
        _ = slack.messages[0].shown


def test_waiting_has_an_end(slack: SlackStandIn) -> None:
    """A test says what it waited for."""
    for wait in (
        lambda: slack.wait_for(1, timeout=0.01), lambda: slack.wait_for_view(timeout=0.01),
        lambda: slack.wait_for_note(timeout=0.01), lambda: slack.wait_for_connections(timeout=0.01),
    ):  # fmt: skip
        with pytest.raises(TimeoutError):
            wait()
    call(slack, "chat.postMessage", channel=TEAM, text="hi")
    with pytest.raises(LookupError, match="no button"):
        slack.press(slack.messages[0], "Yes")
