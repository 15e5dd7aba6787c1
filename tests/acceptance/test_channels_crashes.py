"""Workers that die by SIGKILL: between the provider's acceptance and the record, and while they wait for mail.

What becomes of a message depends on what its provider offers: a list of what was sent (Slack), a key that makes a second
attempt harmless (webhook), or neither (Telegram)."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen
from uuid import UUID

import pytest
from tests.acceptance.channels_kit import SETTINGS, Office, open_office
from tests.acceptance.plant import Plant, make_plant
from tests.conformance.webhook_kit import SECRET, ChatSystem, signed
from tests.servers import Postgres, Redis, until

from wakeloop.store import queries
from wakeloop.testing.slack import ALICE, BOT_TOKEN, SIGNING_SECRET, SlackStandIn
from wakeloop.testing.telegram import BOT_TOKEN as TELEGRAM_TOKEN
from wakeloop.testing.telegram import SECRET_TOKEN, TelegramStandIn
from wakeloop.views import RunView, run_view

pytestmark = pytest.mark.timeout(300)

AGENTS = Path(__file__).with_name("channel_agents.py")
CHAT = 4242


@pytest.fixture
def slack() -> Iterator[SlackStandIn]:
    with SlackStandIn() as slack:
        yield slack


@pytest.fixture
def chat() -> Iterator[ChatSystem]:
    with ChatSystem() as chat:
        yield chat


@pytest.fixture
def telegram() -> Iterator[TelegramStandIn]:
    with TelegramStandIn() as telegram:
        telegram.write("/start", chat=CHAT)
        telegram.updates.clear()
        yield telegram


@pytest.fixture
def plant(
    tmp_path: Path,
    postgres_server: Postgres,
    redis_server: Redis,
    slack: SlackStandIn,
    chat: ChatSystem,
    telegram: TelegramStandIn,
) -> Iterator[Plant]:
    """Three people, each with one channel, and an agent that asks them."""
    settings = (
        f'{SETTINGS}\n[contacts.slack]\nslack = "{ALICE}"\n[contacts.chat]\nwebhook = "{chat.address}"\n'
        f'[contacts.telegram]\ntelegram = "{CHAT}"\n[channels.slack]\napi_url = "{slack.api_url}"\n'
        f'[channels.webhook]\nhosts = ["127.0.0.1"]\n[channels.telegram]\napi_url = "{telegram.url}"\n'
    )
    environment = {
        "WAKELOOP_SLACK_BOT_TOKEN": BOT_TOKEN,
        "WAKELOOP_SLACK_SIGNING_SECRET": SIGNING_SECRET,
        "WAKELOOP_WEBHOOK_SECRET": SECRET,
        "WAKELOOP_TELEGRAM_BOT_TOKEN": TELEGRAM_TOKEN,
        "WAKELOOP_TELEGRAM_SECRET_TOKENS": SECRET_TOKEN,
    }
    agents = {AGENTS.name: AGENTS.read_text()}
    with make_plant(
        tmp_path, postgres_server, redis_server, agents=agents, settings=settings, **environment
    ) as plant:
        hooks = f"http://127.0.0.1:{plant.port}/webhooks"
        slack.webhook, telegram.webhook = f"{hooks}/slack", f"{hooks}/telegram"
        with plant.web() as web:
            web.wait_for("wakeloop web on")
            yield plant


def asked_through_a_crash(plant: Plant, contact: str) -> str:
    """Have an agent ask a person; the worker dies when the provider has taken the question. Its heir is left running."""
    with plant.worker("doomed", crash_at="outbox.sent") as doomed:
        doomed.wait_for("ready.")
        run = plant.start("herald", contact)
        assert doomed.wait(60) == -signal.SIGKILL
    return run


def run_of(plant: Plant, id: str) -> RunView:
    """A run when it is over or parked."""

    def look() -> RunView | None:
        with plant.runtime.database.read() as connection:
            view = run_view(queries.find_run(connection, UUID(id)), None)
        return view if view.status not in ("queued", "running", "waiting") else None

    return until(look, f"run {id} is not over")


def recorded(plant: Plant, contact: str) -> list[tuple[str, int]]:
    """What is on record of the deliveries to a contact: status, and how often it was tried."""
    with plant.runtime.database.read() as connection:
        rows = [row for row in queries.list_messages(connection, limit=100) if row.contact == contact]
        ours = [row for row in reversed(rows) if not row.inbound]
        return [(one.status, one.tries) for row in ours for one in queries.deliveries_of(connection, row.id)]


def wait_until_recorded(plant: Plant, contact: str) -> None:
    until(
        lambda: recorded(plant, contact)[0][0] in ("sent", "delivered"), f"the question to {contact} is open"
    )


def test_what_slack_took_before_a_crash_is_found_and_not_sent_again(
    plant: Plant, slack: SlackStandIn
) -> None:
    """The message is looked for in the conversation, and pressed as any other."""
    run = asked_through_a_crash(plant, "slack")
    [taken] = slack.messages
    with plant.worker("heir"):
        wait_until_recorded(plant, "slack")
        assert slack.press(taken, "open").status == 200
        assert run_of(plant, run).result == "slack: open"
        until(lambda: not taken.labels, "the buttons are still there")

    assert [message.ts for message in slack.messages] == [taken.ts]
    assert "Answered by slack: open" in taken.shown
    assert plant.effects_of("slack") == Counter({"slack: open": 1})


def test_what_a_chat_system_took_before_a_crash_comes_again_under_the_same_key(
    plant: Plant, chat: ChatSystem
) -> None:
    """It shows the message once, since it knows the key, and the answer counts once."""
    run = asked_through_a_crash(plant, "chat")
    with plant.worker("heir"):
        wait_until_recorded(plant, "chat")
        [body] = chat.messages.values()
        [press] = [one["value"] for one in body["buttons"] if one["label"] == "shut"]
        said = {"type": "message.received", "id": "m1", "from": chat.address, "reply_to": "chat-1", "pressed": press}  # fmt: skip
        post(plant, json.dumps(said).encode())
        assert run_of(plant, run).result == "chat: shut"

    calls = [one for one in chat.came if json.loads(one.body)["type"] == "message.created"]
    assert [one.headers["webhook-id"] for one in calls] == [body["id"]] * 2
    assert len(chat.messages) == 1
    assert plant.effects_of("chat") == Counter({"chat: shut": 1})


def post(plant: Plant, body: bytes) -> None:
    """The chat system calls the webhook."""
    request = signed(body)
    url = f"http://127.0.0.1:{plant.port}/webhooks/webhook"
    with urlopen(Request(url, data=body, headers=dict(request.headers)), timeout=10) as answer:
        assert answer.status in (200, 204)


@pytest.mark.parametrize("copy", [0, 1])
def test_what_telegram_took_before_a_crash_comes_twice_and_either_copy_may_be_answered(
    plant: Plant, telegram: TelegramStandIn, copy: int
) -> None:
    """Telegram has neither a key nor a list: the person sees two, and what they press on one counts, once."""
    run = asked_through_a_crash(plant, "telegram")
    assert len(telegram.messages) == 1
    with plant.worker("heir"):
        copies = telegram.wait_for(2, chat=CHAT, timeout=60)
        wait_until_recorded(plant, "telegram")
        for label in ("open", "shut"):
            answer = telegram.press(copies[copy], label)
            assert answer is not None and answer.status == 200
        assert run_of(plant, run).result == "telegram: open"
        until(lambda: not telegram.messages[1].buttons, "the second copy still has its buttons")

    first, second = telegram.messages[:2]
    assert "Shall I open the gate?" in first.text
    assert "Answered by telegram: open" in second.text
    assert plant.effects_of("telegram") == Counter({"telegram: open": 1})


# ---------------------------------------------------------------------- waiting for mail


@pytest.fixture
def office(tmp_path: Path, postgres_server: Postgres, redis_server: Redis) -> Iterator[Office]:
    settings = (
        '\n[contacts.postbox]\nemail = "postbox@example.org"\n[contacts.dora]\nemail = "dora@example.org"\n'
    )
    with open_office(
        tmp_path, postgres_server, redis_server, agents=[AGENTS], settings=settings, channels={}
    ) as office:
        yield office


def test_mail_that_comes_after_the_listening_worker_was_killed_is_taken_by_another(office: Office) -> None:
    """Two workers, one of which waits for mail. A run that asked before goes on when the answer comes after."""
    plant, dora = office.plant, office.program("dora@example.org")
    with plant.worker("first") as first:
        first.wait_for("listening")
        with plant.worker("second") as second:
            second.wait_for("ready.")
            run = plant.start("curious", "dora")
            question = dora.next_mail("Which colour?")
            assert "listening" not in second.output

            first.kill()
            dora.reply(question, "blue")
            office.program("postbox@example.org").write("Hello", "Is anybody there?")
            assert run_of(plant, run).result == "blue"
            [echo] = plant.wait_until_over("echo", 1, seconds=30)

            assert echo.result == "Is anybody there?"
            assert second.output.count("listening") == 1
            time.sleep(0.5)
            assert len(plant.runs("echo")) == 1
    assert office.mailbox.server.logins == 2
