"""A new user sets channels up, with real commands: what is said at each door, and how commands end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.servers import Program

from wakeloop.testing.slack import ALICE, BOT_TOKEN, SIGNING_SECRET, SlackStandIn
from wakeloop.testing.telegram import BOT_TOKEN as TELEGRAM_TOKEN
from wakeloop.testing.telegram import SECRET_TOKEN, TelegramStandIn
from wakeloop.testing.twilio import TwilioStandIn

pytestmark = pytest.mark.timeout(300)

WAKELOOP = str(Path(sys.executable).with_name("wakeloop"))
TUNNEL = "https://tunnel.example.com"
CHAT = 4242
BLOCKED = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
"""


class Project:
    """A folder with wakeloop.toml, and what is typed there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WAKELOOP_")}
        self.environment: dict[str, str] = {**kept, "COLUMNS": "400", "NO_COLOR": "1"}
        (folder / "agents").mkdir()

    def settings(self, text: str) -> None:
        (self.folder / "wakeloop.toml").write_text(text)

    def type(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [WAKELOOP, *words], cwd=self.folder, env={**self.environment, **environment}, capture_output=True, text=True,
            timeout=90,
        )  # fmt: skip

    def without(self, library: str) -> dict[str, str]:
        """An environment in which a library cannot be imported."""
        folder = self.folder / f"without-{library}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BLOCKED.format(library=library))
        return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


class Providers:
    """Three providers, and a project that is set up for them."""

    def __init__(self, project: Project, twilio: TwilioStandIn, slack: SlackStandIn, telegram: TelegramStandIn) -> None:  # fmt: skip
        self.project, self.twilio, self.slack, self.telegram = project, twilio, slack, telegram
        project.settings(
            f'[contacts.alice]\nsms = "+14155550100"\nslack = "{ALICE}"\ntelegram = "{CHAT}"\n'
            '[contacts.bob]\ntelegram = "99"\n'
            f'[channels.sms]\naccount_sid = "{twilio.account_sid}"\nfrom_number = "{twilio.number}"\n'
            f'api_url = "{twilio.url}"\n[channels.slack]\napi_url = "{slack.api_url}"\n'
            f'[channels.telegram]\napi_url = "{telegram.url}"\n'
        )
        project.environment |= {
            "WAKELOOP_SMS_AUTH_TOKEN": twilio.auth_token,
            "WAKELOOP_SLACK_BOT_TOKEN": BOT_TOKEN,
            "WAKELOOP_SLACK_SIGNING_SECRET": SIGNING_SECRET,
            "WAKELOOP_TELEGRAM_BOT_TOKEN": TELEGRAM_TOKEN,
            "WAKELOOP_TELEGRAM_SECRET_TOKENS": SECRET_TOKEN,
        }


@pytest.fixture
def providers(project: Project) -> Iterator[Providers]:
    with TwilioStandIn() as twilio, SlackStandIn() as slack, TelegramStandIn() as telegram:
        telegram.write("/start", chat=CHAT)
        telegram.updates.clear()
        telegram.webhook = f"{TUNNEL}/webhooks/telegram"
        yield Providers(project, twilio, slack, telegram)


# ---------------------------------------------------------------------- three channels


def test_dev_behind_a_tunnel_says_what_to_enter_for_each_of_three_channels(providers: Providers) -> None:
    """Each with the address of its own webhook; then the process serves them."""
    argv = [WAKELOOP, "dev", "--port", "0", "--tunnel-url", f"{TUNNEL}/"]
    with Program(argv, env=providers.project.environment, cwd=providers.project.folder) as dev:
        dev.wait_for("Ctrl-C stops")
        banner = re.sub(r"\s+", " ", dev.output)
        assert dev.stop() == 0

    for line in (
        f"sms {TUNNEL}/webhooks/sms as Twilio's Console > Phone Numbers > Active numbers > {providers.twilio.number} >",
        f"slack {TUNNEL}/webhooks/slack as Event Subscriptions, Request URL",
        f"slack {TUNNEL}/webhooks/slack as Interactivity & Shortcuts, Request URL",
        f"telegram {TUNNEL}/webhooks/telegram as POST …/bot<token>/setWebhook, url",
    ):
        assert line in banner
    for secret in (BOT_TOKEN, SIGNING_SECRET, TELEGRAM_TOKEN, SECRET_TOKEN, providers.twilio.auth_token):
        assert secret not in banner


def test_channels_lists_what_works_and_tells_what_does_not(providers: Providers) -> None:
    """As the providers say it; the exit code is 1 as soon as one of them is wrong."""
    listed = providers.project.type("channels", "--json")
    assert listed.returncode == 0, listed.stderr
    health = {one["channel"]: (one["ok"], one["health"]) for one in json.loads(listed.stdout)}
    assert {name for name, (ok, _) in health.items() if ok} == {"sms", "slack", "telegram"}

    wrong = providers.project.type("channels", WAKELOOP_TELEGRAM_BOT_TOKEN="1:wrong", WAKELOOP_SMS_AUTH_TOKEN="wrong")  # fmt: skip
    rows = {line.split()[0]: line for line in wrong.stdout.splitlines() if line.strip()}
    assert wrong.returncode == 1
    assert "401" in rows["telegram"] and "BotFather" in rows["telegram"]
    assert "20003" in rows["sms"] and "AUTH_TOKEN" in rows["sms"]
    assert "works as" in rows["slack"]
    assert providers.project.type("channels", "--no-check", WAKELOOP_SMS_AUTH_TOKEN="wrong").returncode == 0


def test_a_test_message_goes_through_each_channel_or_says_why_not(providers: Providers) -> None:
    """Without a worker; exit code 0 if the provider took it."""
    for channel, count in (("sms", 1), ("slack", 2), ("telegram", 3)):
        done = providers.project.type("channels", "test", channel, "alice", "--wait", "3")
        assert done.returncode == 0, done.stdout + done.stderr
        taken = (
            len(providers.twilio.messages) + len(providers.slack.messages) + len(providers.telegram.messages)
        )
        assert taken == count

    for words, told in (
        (("telegram", "bob"), "chat not found"),
        (("slack", "bob"), "slack"),
        (("slak", "alice"), "slack"),
        (("slack", "alise"), "alice"),
    ):
        refused = providers.project.type("channels", "test", *words)
        assert refused.returncode == 1
        assert told in refused.stderr and "Traceback" not in refused.stderr


# ---------------------------------------------------------------------- a missing extra

SECTIONS: Mapping[str, str] = {
    "slack": "",
    "telegram": "polling = true\n",
    "email": 'from_address = "agents@example.com"\nsmtp_host = "127.0.0.1"\n',
    "discord": "",
    "apprise": "",
}


@pytest.mark.parametrize(
    ("channel", "library"),
    [("slack", "slack_sdk"), ("telegram", "telegram"), ("email", "aiosmtplib"), ("discord", "cryptography"), ("apprise", "apprise")],
)  # fmt: skip
def test_a_channel_whose_library_is_missing_names_its_extra(
    project: Project, channel: str, library: str
) -> None:
    """At every door, and in the same words; a project that does not use it runs."""
    environment = project.without(library)
    project.settings("[contacts.alice]\nsms = '+14155550100'\n")
    assert "needs" not in project.type("channels", "--no-check", **environment).stdout
    project.settings(f"[channels.{channel}]\n{SECTIONS[channel]}")
    words = (
        f'the channel {channel} needs {library}, which is not installed: pip install "wakeloop[{channel}]"'
    )

    listed = project.type("channels", "--no-check", **environment)
    assert listed.returncode == 1
    assert words in listed.stdout
    for command in (["dev", "--port", "0"], ["web", "--port", "0"]):
        refused = project.type(*command, **environment)
        assert refused.returncode != 0
        assert words in refused.stderr
        assert "Traceback" not in refused.stdout + refused.stderr
