"""The Slack channel against a stand-in over real HTTP: settings, sending, threads, reconciliation, amending."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conformance.channel_kit import find_sent, send, using
from tests.conformance.slack_kit import (
    ALICE,
    APPROVAL,
    BOB,
    FIELDS,
    OTHER,
    REQUEST,
    TEAM,
    URL,
    approval,
    channel,
    outgoing,
)

from wakeloop.channel import (
    Amending,
    Button,
    Channel,
    Checking,
    DeliveryStatus,
    Fetching,
    Field,
    Guiding,
    Listening,
    Outgoing,
    Reacting,
    Receipt,
    Sent,
)
from wakeloop.errors import ChannelError, ConfigurationError, PermanentChannelError, TemporaryChannelError
from wakeloop.events import Attachment
from wakeloop.testing.slack import APP_TOKEN, SlackStandIn
from wakeloop.testing.slack_blocks import check_blocks, unescaped
from wakeloop_channels.slack import EVENTS, SCOPES, SlackChannel
from wakeloop_channels.slack_blocks import message_blocks
from wakeloop_channels.slack_text import escape, read, rich_text, unescape
from wakeloop_channels.text import well_formed


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn(channels={TEAM: [ALICE, BOB], OTHER: [ALICE]}, users=[ALICE, BOB]) as stand_in:
        yield stand_in


class TestSettings:
    def test_the_port_is_fulfilled(self) -> None:
        """The adapter is a Channel with everything that a channel may have besides."""
        it = channel()

        for port in (Channel, Listening, Amending, Reacting, Checking, Fetching, Guiding):
            assert isinstance(it, port)
        can = it.capabilities
        assert (can.inbound, can.buttons, can.forms, can.threads, can.amends, can.reconcile) == (True,) * 6
        assert (can.idempotent, can.receipts, can.media, can.tokens) == (False,) * 4

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"bot_token": None}, "WAKELOOP_SLACK_BOT_TOKEN"),
            ({"bot_token": "xapp-1"}, "channels.slack.bot_token"),
            ({"signing_secret": None}, "WAKELOOP_SLACK_SIGNING_SECRET"),
            ({"signing_secret": " , "}, "WAKELOOP_SLACK_SIGNING_SECRET"),
            ({"socket_mode": True}, "WAKELOOP_SLACK_APP_TOKEN"),
            ({"app_token": "xoxb-1"}, "WAKELOOP_SLACK_APP_TOKEN"),
            ({"responders": {"general": [ALICE]}}, "channels.slack.responders"),
            ({"responders": {TEAM: ["alice"]}}, "channels.slack.responders"),
            ({"api_url": "slack.example.com"}, "channels.slack.api_url"),
            ({"timeout": 0}, "channels.slack.timeout"),
            ({"bot_tokn": "x"}, "channels.slack.bot_tokn is no setting"),
        ],
    )
    def test_a_wrong_setting_is_named(self, changes: dict[str, Any], named: str) -> None:
        """The error says which key or environment variable to mend."""
        with pytest.raises(ConfigurationError) as raised:
            channel(**changes)

        assert named in str(raised.value)

    def test_a_secret_is_never_shown(self) -> None:
        """Neither errors nor the settings' own form hold a secret's value."""
        with pytest.raises(ConfigurationError) as raised:
            channel(bot_token="s3cret", signing_secret="s3cret", app_token="s3cret")

        assert "s3cret" not in str(raised.value)
        assert "s3cret" not in repr(channel(signing_secret="s3cret").settings)

    def test_socket_mode_needs_no_signing_secret(self) -> None:
        """Nothing is posted then, and whatever is posted is refused."""
        it = channel(signing_secret=None, socket_mode="true", app_token=APP_TOKEN)

        assert it.listens
        assert not channel(app_token=APP_TOKEN).listens


class TestNormalize:
    @pytest.mark.parametrize(
        ("given", "address"),
        [
            (ALICE, ALICE),
            (f" {TEAM} ", TEAM),
            ("W012ABCDE", "W012ABCDE"),
            (f"<@{ALICE}>", ALICE),
            (f"<#{TEAM}|team>", TEAM),
        ],
    )
    def test_ids_of_people_and_channels_are_addresses(self, given: str, address: str) -> None:
        """As Slack shows them, or as they are copied out of a message."""
        assert address == channel().normalize(given)

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("D0ALICE001", "direct conversation"),
            ("#general", "member id"),
            ("@alice", "member id"),
            ("alice", "member id"),
            ("alice@example.com", "member id"),
            ("", "member id"),
            ("U", "member id"),
        ],
    )
    def test_what_is_no_id_is_refused_with_the_reason(self, given: str, reason: str) -> None:
        """A wrong contact is found at start, not when it is written to."""
        with pytest.raises(ValueError, match=reason):
            channel().normalize(given)


class TestText:
    @settings(deadline=None)
    @given(st.text())
    def test_any_text_is_shown_as_it_is(self, text: str) -> None:
        """In the block and in the notification: no markup, no mention, no link in disguise, any alphabet."""
        said = well_formed(text)
        block = rich_text(said)

        parts = block["elements"][0]["elements"]
        check_blocks([block])
        assert (said or " ") == "".join(part.get("text") or part["url"] for part in parts)
        assert said == unescaped(escape(said)) == unescape(escape(said))

    @settings(deadline=None)
    @given(st.text(alphabet="<>&@!#|U0BlC*~_`http:/.comampltg; ", max_size=40))
    def test_what_looks_like_markup_calls_nobody(self, text: str) -> None:
        """Escaped text comes back from Slack as the text it was."""
        assert text.strip() == read(escape(text))

    @pytest.mark.parametrize(
        ("text", "links"),
        [
            ("see https://example.com/a?b=1&c=2.", ["https://example.com/a?b=1&c=2"]),
            ("(http://example.com/x_(y))", ["http://example.com/x_(y)"]),
            ("<https://evil.example|https://good.example>", ["https://evil.example", "https://good.example"]),
            ("javascript:alert(1) mailto:a@example.com", []),
            ("https://", []),
        ],
    )
    def test_only_plain_addresses_are_links(self, text: str, links: list[str]) -> None:
        """Each shows the very address that it leads to."""
        parts = rich_text(text)["elements"][0]["elements"]

        assert links == [part["url"] for part in parts if part["type"] == "link"]

    @pytest.mark.parametrize(
        ("text", "seen"),
        [
            ("<@U0BOT00001> hi", "hi"),
            ("hey <@U0BOT00001|wakeloop>, hi", "hey hi"),
            ("ask <@U0CAROL001|carol> in <#C0OTHER001>", "ask @carol in #C0OTHER001"),
            ("<!channel> <!subteam^S1|@team> <!date^1^{date}|today>", "@channel @team today"),
            (
                "<https://example.com|example.com> <mailto:a@b.example|a@b.example>",
                "https://example.com a@b.example",
            ),
            ("<https://example.com/x|here>", "here (https://example.com/x)"),
            ("1 &lt; 2 &amp;amp; 3", "1 < 2 &amp; 3"),
            ("a <b", "a <b"),
        ],
    )
    def test_what_people_write_is_read_as_they_see_it(self, text: str, seen: str) -> None:
        """Mentions, links, dates and entities of Slack's markup."""
        assert seen == read(text, "U0BOT00001")


class TestBlocks:
    @settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.builds(
            Outgoing,
            key=st.just("d1"),
            address=st.just(ALICE),
            claimed_at=st.just(datetime.now(UTC)),
            text=st.text(max_size=300),
            subject=st.none() | st.text(max_size=300),
            kind=st.sampled_from(["", "question", "approval"]),
            link=st.none() | st.just("https://agents.example.com/p/1"),
            submit=st.just("x:form"),
            buttons=st.lists(
                st.builds(
                    Button,
                    label=st.text(max_size=200),
                    value=st.text(min_size=1, max_size=64),
                    style=st.sampled_from(["yes", "no", ""]),
                ),
                max_size=130,
            ).map(tuple),
            fields=st.lists(
                st.builds(
                    Field,
                    name=st.text(max_size=250),
                    label=st.text(max_size=400),
                    kind=st.sampled_from([field.kind for field in FIELDS]),
                    description=st.text(max_size=50),
                    choices=st.lists(st.tuples(st.text(max_size=160), st.text(max_size=80)), max_size=3).map(
                        tuple
                    ),
                    required=st.booleans(),
                    default=st.none() | st.text(max_size=50),
                ),
                max_size=60,
                unique_by=lambda field: field.name,
            ).map(tuple),
        )
    )
    def test_no_message_breaks_the_limits_of_block_kit(self, message: Outgoing) -> None:
        """Labels, options, fields and blocks of any number and length."""
        blocks = message_blocks(message)

        assert blocks is not None
        check_blocks(blocks)

    def test_an_approval_has_its_buttons(self, slack: SlackStandIn) -> None:
        """Yes in green, No in red, No with a comment, and the person's own page."""
        send(channel(slack), approval(link="https://agents.example.com/p/1", subject="Publishing"))

        (sent,) = slack.messages
        assert sent.labels == ["Yes", "No", "No with a comment…", "Open the page"]
        styles = [element.get("style") for element in sent.blocks[-1]["elements"]]
        assert styles == ["primary", "danger", None, None]
        assert sent.shown == "Publishing\nPublish?"

    def test_a_few_reasons_are_buttons_and_many_a_select(self, slack: SlackStandIn) -> None:
        """A message is not buried under its buttons."""
        reasons = [Button(label=f"No: reason {n}", value=f"{REQUEST}:no {n}", style="no") for n in range(7)]

        for some in (reasons[:3], reasons):
            send(channel(slack), outgoing(kind="approval", buttons=(*APPROVAL, *some)))

        few, many = slack.messages
        assert few.labels[3:] == ["No: reason 0", "No: reason 1", "No: reason 2"]
        assert len(many.labels) == 3
        assert len(many.blocks[-1]["elements"][-1]["options"]) == 7

    def test_a_form_that_slack_cannot_show_is_left_to_words(self, slack: SlackStandIn) -> None:
        """Too many fields, or a choice whose value is too long."""
        many = tuple(Field(name=f"f{n}", label="F", kind="text") for n in range(60))
        long = (Field(name="f", label="F", kind="select", choices=(("x" * 151, "X"),)),)

        for fields in (many, long):
            send(channel(slack), outgoing(kind="question", fields=fields, submit="x:form"))

        assert [message.labels for message in slack.messages] == [[], []]


class TestSend:
    def test_a_message_goes_to_the_direct_conversation(self, slack: SlackStandIn) -> None:
        """It is opened once, and remembered."""
        text = "Ship it? 👍🏽\nCafé & 50% + = “quoted” \\ שלום <@U0BOB00001> *not bold* @here"
        it = channel(slack)

        receipt = send(it, outgoing(text))
        send(it, outgoing("again"))

        first, _ = slack.wait_for(2, to=ALICE)
        assert text == first.shown == unescaped(first.text)
        assert (f"{first.channel}:{first.ts}", DeliveryStatus.DELIVERED) == (
            receipt.provider_id,
            receipt.status,
        )
        assert slack.requests == 3

    def test_a_channel_is_written_to_as_it_is(self, slack: SlackStandIn) -> None:
        """Without opening anything."""
        send(channel(slack), outgoing(to=TEAM))

        assert [message.channel for message in slack.messages] == [TEAM]

    def test_a_long_text_is_sent_whole(self, slack: SlackStandIn) -> None:
        """Beyond what blocks take it goes as text alone; what Slack would cut off is refused."""
        send(channel(slack), outgoing("x" * 20_000))
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(slack), outgoing("&" * 10_000))

        (sent,) = slack.messages
        assert sent.shown == "x" * 20_000
        assert raised.value.code == "msg_too_long"

    @pytest.mark.parametrize(
        ("to", "code", "advice"),
        [
            ("U0NOBODY01", "user_not_found", "member ID"),
            ("C0NOWHERE1", "channel_not_found", "/invite"),
            ("C0CLOSED01", "not_in_channel", "/invite"),
            ("C0OLD00001", "is_archived", "Unarchive"),
        ],
    )
    def test_a_refusal_for_good_says_what_to_mend(self, to: str, code: str, advice: str) -> None:
        """Slack's code is kept; neither address nor text is in the words, which are logged."""
        with SlackStandIn(
            channels={"C0CLOSED01": [BOB], "C0OLD00001": [ALICE]}, without_app=["C0CLOSED01"]
        ) as slack:
            slack.workspace.archived.add("C0OLD00001")

            with pytest.raises(PermanentChannelError) as raised:
                send(channel(slack), outgoing("a secret", to))

            assert code == raised.value.code
            assert advice in str(raised.value)
            assert to not in str(raised.value)
            assert "a secret" not in str(raised.value)
            assert slack.messages == []

    @pytest.mark.parametrize(
        "code",
        ["invalid_auth", "account_inactive", "token_revoked", "token_expired", "not_authed", "restricted_action",
         "ekm_access_denied", "msg_too_long", "a_code_to_come"],
    )  # fmt: skip
    def test_other_refusals_are_for_good(self, slack: SlackStandIn, code: str) -> None:
        """Also those that Slack may add."""
        slack.fail_next(code)

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(slack), outgoing(to=TEAM))

        assert code == raised.value.code

    def test_a_wrong_token_names_its_variable(self, slack: SlackStandIn) -> None:
        """The token itself is not in the words."""
        with pytest.raises(PermanentChannelError) as raised:
            send(channel(slack, bot_token="xoxb-wrong"), outgoing(to=TEAM))

        assert raised.value.code == "invalid_auth"
        assert "WAKELOOP_SLACK_BOT_TOKEN" in str(raised.value)
        assert "xoxb-wrong" not in str(raised.value)

    def test_a_missing_scope_is_named(self) -> None:
        """So that it can be added."""
        with (
            SlackStandIn(channels={TEAM: [ALICE]}, scopes=["im:write"]) as slack,
            pytest.raises(PermanentChannelError) as raised,
        ):
            send(channel(slack), outgoing(to=TEAM))

        assert raised.value.code == "missing_scope"
        assert "chat:write" in str(raised.value)

    def test_invalid_blocks_say_where(self, slack: SlackStandIn) -> None:
        """And not what they say."""
        slack.workspace.channels[TEAM].add(ALICE)
        long = outgoing("x", TEAM, kind="question", buttons=(Button(label="a", value="v" * 2001),))

        with pytest.raises(PermanentChannelError) as raised:
            send(channel(slack), long)

        assert "/blocks/1/elements/0/value" in str(raised.value)

    @pytest.mark.parametrize(
        ("code", "status"),
        [("ratelimited", 429), ("rate_limited", 200), ("service_unavailable", 200), (None, 429), (None, 503)],
    )
    def test_what_was_not_done_may_be_tried_again(
        self, slack: SlackStandIn, code: str | None, status: int
    ) -> None:
        """And Retry-After is honoured."""
        slack.fail_next(code, status=status, retry_after=17)

        with pytest.raises(TemporaryChannelError) as raised:
            send(channel(slack), outgoing(to=TEAM))

        assert (raised.value.retry_after, raised.value.code) == (17.0, code)
        assert slack.messages == []

    @pytest.mark.parametrize(
        ("code", "status"),
        [("internal_error", 200), ("fatal_error", 500), (None, 500), (None, 502), (None, 200)],
    )
    def test_an_error_of_slacks_own_leaves_the_outcome_open(
        self, slack: SlackStandIn, code: str | None, status: int
    ) -> None:
        """Slack says of these that some of it may have been done."""
        slack.fail_next(code, status=status)

        with pytest.raises(ChannelError) as raised:
            send(channel(slack), outgoing(to=TEAM))

        assert not isinstance(raised.value, TemporaryChannelError | PermanentChannelError)

    def test_opening_a_conversation_may_always_be_tried_again(self, slack: SlackStandIn) -> None:
        """Nothing has been said by it."""
        slack.fail_next("internal_error", method="conversations.open")

        with pytest.raises(TemporaryChannelError):
            send(channel(slack), outgoing())

    def test_a_provider_that_is_down_was_not_reached(self, slack: SlackStandIn) -> None:
        """Nothing listens: certainly not sent."""
        it = channel(slack)
        slack.stop()

        with pytest.raises(TemporaryChannelError):
            send(it, outgoing(to=TEAM))

    def test_a_lost_connection_is_reconciled(self, slack: SlackStandIn) -> None:
        """The message went out, and is not sent twice: the outcome is unknown, and `find_sent` finds it exactly once."""
        it, message = channel(slack), outgoing()
        slack.drop_next_after_taking("chat.postMessage")

        with pytest.raises(ClientError) as raised:
            send(it, message)
        found = find_sent(it, message)

        assert not isinstance(raised.value, ChannelError)
        assert found is not None
        assert [found.provider_id] == [f"{one.channel}:{one.ts}" for one in slack.messages]
        assert find_sent(it, message, found.provider_id) is None

    def test_a_slow_answer_is_reconciled(self, slack: SlackStandIn) -> None:
        """A timeout after the request went out says nothing about the message."""
        it, message = channel(slack, timeout=0.3), outgoing(to=TEAM)
        slack.slow_next(2, "chat.postMessage")

        with pytest.raises(TimeoutError):
            send(it, message)

        assert find_sent(it, message) is not None

    def test_many_at_once_share_the_connections(self, slack: SlackStandIn) -> None:
        """Each gets its own receipt."""
        texts = [f"message {number}" for number in range(40)]

        async def send_all(it: SlackChannel) -> list[Receipt]:
            return await asyncio.gather(*(it.send(outgoing(text, TEAM)) for text in texts))

        receipts = using(channel(slack), send_all)

        shown = {f"{one.channel}:{one.ts}": one.shown for one in slack.messages}
        assert texts == [shown[receipt.provider_id] for receipt in receipts]

    def test_nothing_personal_is_logged(self, slack: SlackStandIn, caplog: pytest.LogCaptureFixture) -> None:
        """Slack's client would log bodies at DEBUG, and is not asked to."""
        with caplog.at_level(logging.DEBUG):
            it, message = channel(slack), outgoing("a secret")
            send(it, message)
            find_sent(it, message)

        assert ALICE not in caplog.text
        assert "a secret" not in caplog.text


class TestThreads:
    def test_a_request_begins_a_thread_of_its_own(self, slack: SlackStandIn) -> None:
        """Whatever was said before: a reply under it then names it, and nothing else."""
        it = channel(slack)
        first = send(it, approval(TEAM)).provider_id
        theirs = f"{first}/{first.partition(':')[2]}"

        send(it, approval(TEAM, thread=(first, theirs), key="d2"))

        assert [message.thread_ts for message in slack.messages] == [None, None]

    def test_what_follows_goes_where_they_spoke(self, slack: SlackStandIn) -> None:
        """In a channel under what they said or pressed, and also after we said something more."""
        it = channel(slack)
        root = send(it, approval(TEAM)).provider_id
        ts = root.partition(":")[2]

        for theirs in (f"{root}/{ts}", f"{root}/{ts}@{ALICE}"):
            more = send(it, outgoing("thanks", TEAM, thread=(root, theirs))).provider_id
            send(it, outgoing("and", TEAM, thread=(root, theirs, more)))

        assert [message.thread_ts for message in slack.messages] == [None, ts, ts, ts, ts]

    def test_a_direct_conversation_has_threads_only_where_they_wrote_in_one(
        self, slack: SlackStandIn
    ) -> None:
        """A thread is easily overlooked there."""
        it = channel(slack)
        root = send(it, approval()).provider_id
        conversation, _, ts = root.partition(":")
        later = f"{float(ts) + 1:.6f}"

        for theirs in (f"{conversation}:{later}/{later}", f"{root}/{later}@{ALICE}", f"{root}/{later}"):
            send(it, outgoing("thanks", thread=(root, theirs)))

        assert [message.thread_ts for message in slack.messages] == [None, None, None, ts]

    def test_a_thread_of_long_ago_is_not_dug_up(self, slack: SlackStandIn) -> None:
        """Nobody would see it there."""
        it = channel(slack)
        root = send(it, outgoing(to=TEAM)).provider_id
        old = f"{(datetime.now(UTC) - timedelta(days=2)).timestamp():.6f}"

        send(it, outgoing("this week's", TEAM, thread=(root, f"{root}/{old}")))
        send(it, outgoing("news", TEAM, thread=(root,)))

        assert [message.thread_ts for message in slack.messages] == [None, None, None]

    def test_a_thread_that_is_gone_keeps_nothing_from_being_said(self, slack: SlackStandIn) -> None:
        """Its first message was deleted: what was to follow begins anew, and is found there."""
        it, gone = channel(slack), f"{datetime.now(UTC).timestamp():.6f}"
        message = outgoing("thanks", TEAM, thread=(f"{TEAM}:{gone}/{gone}",))

        receipt = send(it, message)

        (sent,) = slack.messages
        assert (sent.thread_ts, f"{TEAM}:{sent.ts}") == (None, receipt.provider_id)
        found = find_sent(it, message)
        assert found is not None
        assert found.provider_id == receipt.provider_id


class TestFindSent:
    def test_only_the_same_delivery_is_found(self, slack: SlackStandIn) -> None:
        """Another key, place or time is another message, whatever it says."""
        it = channel(slack)
        send(it, outgoing(to=TEAM, key="d2"))
        send(it, outgoing(to=OTHER))

        assert find_sent(it, outgoing(to=TEAM)) is None
        assert find_sent(it, outgoing(to=OTHER)) is not None
        slack.messages[-1].ts = f"{datetime.now(UTC).timestamp() - 3600:.6f}"
        assert find_sent(it, outgoing(to=OTHER)) is None
        assert find_sent(it, outgoing(to=OTHER, age=3601)) is not None

    def test_it_is_found_in_its_thread(self, slack: SlackStandIn) -> None:
        """What stands in a thread is in no list of the channel's messages."""
        it = channel(slack)
        root = send(it, approval(TEAM)).provider_id
        message = outgoing("thanks", TEAM, key="d2", thread=(root, f"{root}/{root.partition(':')[2]}"))
        sent = send(it, message)

        found = find_sent(it, message)

        assert found is not None
        assert sent.provider_id == found.provider_id

    def test_the_list_is_read_to_its_end(self, slack: SlackStandIn) -> None:
        """Later messages in the same channel fill whole pages before it."""
        it, message = channel(slack), outgoing("the lost one", TEAM)

        async def talk(it: SlackChannel) -> None:
            await it.send(message)
            for start in range(0, 410, 41):
                others = (outgoing(f"chatter {start + n}", TEAM, key=f"c{start + n}") for n in range(41))
                await asyncio.gather(*(it.send(other) for other in others))

        using(it, talk)
        found = find_sent(it, message)

        assert found is not None
        assert f"{TEAM}:{slack.messages[0].ts}" == found.provider_id

    def test_a_list_that_cannot_be_read_may_be_later(self, slack: SlackStandIn) -> None:
        """Reading does no harm."""
        for code, status in (("internal_error", 200), (None, 500)):
            slack.fail_next(code, status=status)

            with pytest.raises(TemporaryChannelError):
                find_sent(channel(slack), outgoing(to=TEAM))


class TestAmend:
    def test_a_message_is_replaced_without_its_buttons(self, slack: SlackStandIn) -> None:
        """Twice is harmless; one that is gone is no error."""
        it = channel(slack)
        receipt = send(it, approval(link="https://agents.example.com/p/1"))
        sent = Sent(provider_id=receipt.provider_id, address=ALICE, text="Publish?")

        for _ in range(2):
            using(it, lambda it: it.amend(sent, "Publish? Approved by <alice> & bob."))

        (message,) = slack.messages
        assert (message.shown, message.labels) == ("Publish? Approved by <alice> & bob.", [])
        slack.workspace.messages.clear()
        using(it, lambda it: it.amend(sent, "gone"))

    def test_a_failure_is_told(self, slack: SlackStandIn) -> None:
        """As by `send`; that Slack failed in between does no harm here."""
        it = channel(slack)
        sent = Sent(provider_id=send(it, approval()).provider_id, address=ALICE, text="Publish?")
        slack.fail_next("internal_error", method="chat.update")
        with pytest.raises(TemporaryChannelError):
            using(it, lambda it: it.amend(sent, "done"))
        slack.fail_next("edit_window_closed", method="chat.update")
        with pytest.raises(PermanentChannelError):
            using(it, lambda it: it.amend(sent, "done"))
        with pytest.raises(PermanentChannelError):
            using(it, lambda it: it.amend(Sent(provider_id="SM1", address=ALICE, text=""), "done"))


class TestCheck:
    def test_it_says_as_whom(self, slack: SlackStandIn) -> None:
        """The bot's name and the workspace's; nothing is written."""
        assert using(channel(slack), lambda it: it.check()) == "wakeloop in Stand-in"
        assert slack.messages == []

    def test_missing_scopes_are_named(self) -> None:
        """All of them at once."""
        with (
            SlackStandIn(
                scopes=[scope for scope in SCOPES if scope not in ("im:write", "files:read")]
            ) as slack,
            pytest.raises(PermanentChannelError) as raised,
        ):
            using(channel(slack), lambda it: it.check())

        assert "files:read, im:write" in str(raised.value)

    def test_the_app_token_is_checked_too(self, slack: SlackStandIn) -> None:
        """If Socket Mode needs it."""
        good = channel(slack, socket_mode=True, app_token=APP_TOKEN)
        bad = channel(slack, socket_mode=True, app_token="xapp-wrong")

        using(good, lambda it: it.check())
        with pytest.raises(PermanentChannelError):
            using(bad, lambda it: it.check())

    def test_the_guide_names_both_addresses(self) -> None:
        """Events and interactivity are two settings of one address; Socket Mode needs none."""
        called = [where for where, what in channel().guide(URL) if what == URL]
        socket = channel(socket_mode=True, app_token=APP_TOKEN).guide(URL)

        assert called == ["Event Subscriptions, Request URL", "Interactivity & Shortcuts, Request URL"]
        assert URL not in [what for _, what in socket]


class TestManifest:
    def test_the_manifest_in_the_docs_asks_for_what_is_needed(self) -> None:
        """The scopes and events that the code names, no less and no more."""
        page = (Path(__file__).parents[2] / "docs" / "channels" / "slack.md").read_text()
        manifest = json.loads(page.partition("```json\n")[2].partition("```")[0])

        settings = manifest["settings"]
        assert manifest["oauth_config"]["scopes"]["bot"] == list(SCOPES)
        assert settings["event_subscriptions"]["bot_events"] == list(EVENTS)
        assert settings["interactivity"]["is_enabled"]


class TestFetch:
    def test_a_file_is_read_with_the_token(self, slack: SlackStandIn) -> None:
        """Its bytes as they are."""
        file = slack.upload("a.bin", "application/octet-stream", b"\x00\xff" * 1000)

        data = using(channel(slack), lambda it: it.fetch(Attachment(url=file["url_private"])))

        assert data == b"\x00\xff" * 1000

    def test_a_page_is_a_file_only_if_one_was_sent(self, slack: SlackStandIn) -> None:
        """Else it is the one to sign in by."""
        url = slack.upload("a.html", "text/html", b"<p>hi</p>")["url_private"]

        data = using(channel(slack), lambda it: it.fetch(Attachment(url=url, content_type="text/html")))
        with pytest.raises(PermanentChannelError):
            using(channel(slack), lambda it: it.fetch(Attachment(url=url, content_type="text/plain")))

        assert data == b"<p>hi</p>"

    def test_a_file_that_is_gone_is_told(self, slack: SlackStandIn) -> None:
        """Slack sends one who may not see it to a page to sign in."""
        with pytest.raises(PermanentChannelError):
            using(channel(slack), lambda it: it.fetch(Attachment(url=f"{slack.url}/files/F1")))

    @pytest.mark.parametrize(
        "url",
        ["https://evil.example/x", "https://slack.com.evil.example/x", "http://files.slack.com/x",
         "https://files.slack.com:8443/x", "https://notslack.com/x", "file:///etc/passwd", "https://[/x"],
    )  # fmt: skip
    def test_the_token_is_shown_to_nobody_else(self, url: str) -> None:
        """An address that is not Slack's is not asked."""
        with pytest.raises(PermanentChannelError):
            using(channel(), lambda it: it.fetch(Attachment(url=url)))
