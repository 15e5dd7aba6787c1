"""The stand-in that we ship behaves as Twilio documents it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.conformance.channel_kit import send
from tests.conformance.twilio_kit import ALICE, SID, call, channel, outgoing
from tests.conformance.webhook_receiver import Receiver

from wakeloop.channel import Incoming
from wakeloop.errors import PermanentChannelError
from wakeloop.testing.twilio import ACCOUNT_SID, AUTH_TOKEN, NUMBER, TwilioStandIn


@pytest.fixture
def twilio() -> Iterator[TwilioStandIn]:
    with TwilioStandIn() as stand_in:
        yield stand_in


class TestStandIn:
    def test_it_wants_credentials(self, twilio: TwilioStandIn) -> None:
        """Twilio's 401 and 404, in Twilio's form."""
        wrong = call(twilio, "Messages.json", token="wrong")
        lost = call(twilio, f"Messages/{SID}.json")
        elsewhere = call(twilio, "Calls.json")

        assert (wrong["status"], wrong["code"]) == (401, 20003)
        assert (lost["status"], lost["code"]) == (404, 20404)
        assert (elsewhere["status"], elsewhere["code"]) == (404, 20404)

    def test_one_message_can_be_fetched(self, twilio: TwilioStandIn) -> None:
        """The resource of the list, alone."""
        receipt = send(channel(api_url=twilio.url), outgoing("é" * 71))

        fetched = call(twilio, f"Messages/{receipt.provider_id}.json")

        assert (receipt.provider_id, "2", "outbound-api") == (
            fetched["sid"],
            fetched["num_segments"],
            fetched["direction"],
        )
        assert [fetched] == call(twilio, "Messages.json")["messages"]

    def test_a_date_filter_leaves_out_what_waits(self, twilio: TwilioStandIn) -> None:
        """Which is why the channel does not use it."""
        send(channel(api_url=twilio.url), outgoing())
        today = datetime.now(UTC)
        day, before = today.date().isoformat(), (today - timedelta(days=1)).date().isoformat()

        def listed(**query: str) -> int:
            return len(call(twilio, "Messages.json", **query)["messages"])

        waiting = listed(**{"DateSent>": before})
        twilio.messages[0].date_sent = today

        assert (
            waiting,
            listed(**{"DateSent>": before}),
            listed(**{"DateSent<": before}),
            listed(DateSent=day, To=ALICE, From=NUMBER),
        ) == (0, 1, 0, 1)

    def test_it_knows_its_own_numbers(self) -> None:
        """Another's number cannot be sent from (21606); a wrong one is no number (21212)."""
        with TwilioStandIn(numbers=[NUMBER]) as twilio:
            with pytest.raises(PermanentChannelError) as others:
                send(channel(api_url=twilio.url, from_number="+15555550198"), outgoing())
            with pytest.raises(PermanentChannelError) as callback:
                send(channel(api_url=twilio.url, webhook_url="http://my_host/hooks"), outgoing())

        assert (others.value.code, callback.value.code) == ("21606", "21609")

    def test_a_callback_to_nobody_is_noted(self) -> None:
        """And nothing stops because of it."""
        with TwilioStandIn(auto_status=True) as twilio:
            send(channel(api_url=twilio.url, webhook_url="http://127.0.0.1:9/hooks"), outgoing())
            twilio.wait_for_callbacks(2)

        assert [callback.answer for callback in twilio.callbacks] == [None, None]

    def test_waiting_has_an_end(self, twilio: TwilioStandIn) -> None:
        """The error says how many came."""
        send(channel(api_url=twilio.url), outgoing())

        assert len(twilio.wait_for(1, to=ALICE)) == 1
        with pytest.raises(TimeoutError, match="1 came"):
            twilio.wait_for(2, timeout=0.05)

    def test_it_needs_a_webhook_and_a_start(self) -> None:
        """Both errors say what to do."""
        with pytest.raises(RuntimeError, match="webhook="):
            TwilioStandIn().reply("yes", from_=ALICE)
        with pytest.raises(RuntimeError, match=r"start\(\)"):
            _ = TwilioStandIn().url

    def test_it_is_a_process_of_its_own(self) -> None:
        """One JSON line for each message; lines on its standard input become SMS; SIGTERM ends it."""
        with Receiver(channel()) as receiver:
            command = [
                sys.executable,
                "-m",
                "wakeloop.testing.twilio",
                "--port",
                "0",
                "--webhook",
                receiver.url,
            ]
            process = subprocess.Popen(
                [*command, "--auth-token", AUTH_TOKEN, "--account-sid", ACCOUNT_SID],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            with process:
                assert process.stdin is not None
                assert process.stdout is not None
                assert process.stderr is not None
                url = process.stderr.readline().split()[-1]
                send(channel(api_url=url), outgoing("Ship it?"))
                line = json.loads(process.stdout.readline())
                process.stdin.write(f"{ALICE} yes please\n")
                process.stdin.flush()
                answered = process.stderr.readline()
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0

        assert (line["to"], line["from"], line["body"]) == (ALICE, NUMBER, "Ship it?")
        assert "200" in answered
        assert [event.text for event in receiver.events if isinstance(event, Incoming)] == ["yes please"]
