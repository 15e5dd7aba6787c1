"""A production with a recognisable secret in every place that takes one: none of them, nor what people wrote, is in any
log, page, metric or finding; and a message that is not JSON harms nobody."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from kombu import Connection, Exchange, Queue
from tests.acceptance.plant import ALICE, BIN, Plant
from tests.servers import Postgres, Program, Redis, free_port, poll

from wakeloop_channels.email_settings import EmailSettings
from wakeloop_channels.explaining import _is_secret
from wakeloop_channels.slack_settings import SlackSettings
from wakeloop_channels.twilio_settings import TwilioSettings

pytestmark = pytest.mark.timeout(300)

ADAPTERS = {"email": EmailSettings, "slack": SlackSettings, "sms": TwilioSettings, "whatsapp": TwilioSettings}
MARK = "hunter2"
TEXT = "the merger with Globex is on"

AGENTS = f'''
from wakeloop import Call, Context, agent, step


@step
async def look_up(text: str) -> str:
    return text.upper()


@agent()
async def banker(ctx: Context[None]) -> None:
    """Says something confidential, then fails."""
    await look_up("{TEXT}")
    await ctx.send("alice", "{TEXT}")
    await ctx.ask("alice", "{TEXT}?")


@agent()
async def broken(ctx: Context[None]) -> None:
    raise ValueError("no luck")
'''

SETTINGS = """
lease_seconds = 3

[contacts.alice]
sms = "{alice}"

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"

[channels.whatsapp]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"

[channels.slack]
api_url = "http://127.0.0.1:1"

[channels.email]
from_address = "agents@example.com"
smtp_host = "127.0.0.1"
smtp_port = 1
smtp_security = "none"
smtp_username = "agents"
"""


@dataclass
class Vault:
    """Every secret there is, by the variable that sets it."""

    variables: dict[str, str] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def add(self, name: str, value: str) -> None:
        self.variables[name] = value
        self.known.add(value)

    def found_in(self, text: str) -> set[str]:
        """The secrets that a text shows, as they are or as a URL or HTTP's Basic scheme has them."""
        shapes = {
            value: {value, quote(value, safe=""), base64.b64encode(value.encode()).decode()}
            for value in self.known
        }
        return {value for value, forms in shapes.items() if any(form in text for form in forms)}


def secret_settings() -> set[tuple[str, str]]:
    """Every setting of an adapter whose type says that it is secret."""
    return {
        (channel, name)
        for channel, model in ADAPTERS.items()
        for name, one in model.model_fields.items()
        if _is_secret(one.annotation)
    }


def make_vault(plant: Plant) -> Vault:
    """A value for each, of the form that the adapter asks for."""
    vault = Vault()
    form = {
        ("slack", "bot_token"): f"xoxb-{MARK}-bot", ("slack", "app_token"): f"xapp-{MARK}-app",
        ("email", "sendgrid_public_keys"): "", ("sms", "api_secret"): "",
    }  # fmt: skip
    for channel, name in secret_settings():
        value = form.get((channel, name), f"{MARK}-{channel}-{name}-long-enough-for-a-key")
        if value:
            vault.add(f"WAKELOOP_{channel.upper()}_{name.upper().removesuffix('S')}", value)
    vault.add("WAKELOOP_SECRET_KEYS", f"{MARK}-key-to-sign-links-with-0123456789")
    vault.known.add(plant.twilio.auth_token)
    vault.add("WAKELOOP_WHATSAPP_API_KEY", f"SK{MARK}")
    for channel in ("sms", "whatsapp"):
        vault.variables[f"WAKELOOP_{channel.upper()}_AUTH_TOKEN"] = plant.twilio.auth_token
    return vault


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres
) -> Iterator[tuple[Plant, Vault]]:
    """PostgreSQL and Redis with passwords, and a secret in every setting of every adapter."""
    with Redis(password=f"{MARK}-redis") as redis:
        database = postgres_server.new_database().replace("postgres@", f"postgres:{MARK}-postgres@")
        made = Plant(
            tmp_path_factory.mktemp("vault"),
            database,
            redis.url,
            agents={"bank.py": AGENTS},
            settings=SETTINGS,
        )
        vault = make_vault(made)
        vault.known |= {f"{MARK}-redis", f"{MARK}-postgres"}
        made.environment |= vault.variables | {"WAKELOOP_LOG_FORMAT": "json"}
        with made.running():
            yield made, vault


def test_every_secret_setting_of_every_adapter_is_tried(plant: tuple[Plant, Vault]) -> None:
    """An adapter that gets a new one is noticed; all of them are in the settings that the processes run on."""
    site, vault = plant
    channels = site.runtime.settings.channels

    assert {name for name in channels if name != "web"} == set(ADAPTERS)
    assert len(secret_settings()) >= 14
    tried = {
        (name, key) for name, section in channels.items() for key in section if MARK in str(section[key])
    }
    assert (
        len(tried) >= len(secret_settings()) - 3
    )  # Twilio's two tokens are the stand-in's; a public key is none
    assert vault.found_in(f"Basic {base64.b64encode(plant[0].twilio.auth_token.encode()).decode()}")


def test_no_secret_and_no_message_is_in_a_log_a_page_or_a_finding(plant: tuple[Plant, Vault]) -> None:
    """A web service and a worker at work, their log as JSON; each page and each forged webhook; then the doctor and the
    settings. Lines of runs have agent, session, run and turn."""
    site, vault = plant
    port = free_port()
    site.environment["WAKELOOP_METRICS_PORT"] = str(port)
    shown: dict[str, str] = {}
    with site.web() as web, site.worker("vault") as worker:
        web.wait_for("listening")
        worker.wait_for("ready.")
        site.start("banker", "x", key="one")
        site.start("broken", "x", key="two")
        site.wait_until_over("broken", 1, seconds=60)
        site.twilio.wait_for(1, timeout=60)
        token = site.runtime.tokens.create("office", ["admin"])  # type: ignore[list-item]
        vault.known.add(token)
        page = site.runtime.links.page("alice") or ""
        for path in (
            "/",
            "/inbox",
            "/login",
            "/healthz",
            "/readyz",
            "/api/v1/runs",
            "/api/v1/openapi.json",
            "/nothing",
            page[page.index("/", 8) :],
        ):
            for headers in ({}, {"Authorization": f"Bearer {token}"}):
                shown[f"{path} {bool(headers)}"] = call(site.port, "GET", path, headers)
        shown["metrics"] = call(site.port, "GET", "/metrics", {"Authorization": f"Bearer {token}"})
        shown["metrics of the worker"] = call(port, "GET", "/metrics", {})
        for channel in (*ADAPTERS, "web", "none"):
            shown[f"webhook {channel}"] = call(
                site.port, "POST", f"/webhooks/{channel}", {"Content-Type": "application/json"}
            )
        logs = {"web": web.output, "worker": worker.output}
    for name, command in {"doctor": ["doctor"], "doctor --json": ["doctor", "--json", "--offline"]}.items():
        with Program([BIN / "wakeloop", *command], env=site.environment, cwd=site.folder) as program:
            program.wait(120)
            shown[name] = program.output
    shown["repr"] = repr(site.runtime.settings)

    assert "public_url" in shown["doctor"] and "wakeloop_due_lag_seconds" in shown["metrics"]
    assert {name: found for name, text in {**shown, **logs}.items() if (found := vault.found_in(text))} == {}
    for name, text in logs.items():
        assert TEXT.lower() not in text.lower(), name
        assert ALICE not in text and ALICE[1:] not in text, name
    lines = [json.loads(line) for line in logs["worker"].splitlines() if line.startswith("{")]
    runs = [line for line in lines if line["logger"] == "wakeloop.runs"]
    assert {"run started", "step done", "run waits", "run failed"} <= {line["event"] for line in runs}
    assert all({"at", "level", "agent", "session", "run", "turn"} <= line.keys() for line in runs)
    assert {line["logger"].partition(".")[0] for line in lines} >= {"wakeloop", "celery"}
    assert all(line.startswith("{") for line in logs["web"].splitlines())


def call(port: int, method: str, path: str, headers: dict[str, str]) -> str:
    """Everything that a server says to a request, headers included."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, b"{}" if method == "POST" else None, headers)
        answer = connection.getresponse()
        return f"{answer.status}\n{answer.headers}\n{answer.read().decode(errors='replace')}"
    finally:
        connection.close()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.file,)


def test_a_pickled_task_is_refused_and_the_worker_goes_on(plant: tuple[Plant, Vault]) -> None:
    """Whoever can write to the broker cannot run code of theirs: the message is dropped unread, and work goes on."""
    site, _ = plant
    traps = [site.folder / f"trap{number}" for number in range(2)]
    body = [([], {"deliveries": Bomb(str(traps[0]))}, {}), ([Bomb(str(traps[1]))], {}, {})]
    with site.worker("careful") as worker:
        worker.wait_for("ready.")
        with Connection(site.environment["WAKELOOP_BROKER_URL"], transport_options={"priority_steps": list(range(10)), "sep": ":"}) as connection:  # fmt: skip
            queue = Queue("wakeloop", Exchange("wakeloop", type="direct"), "wakeloop")
            producer = connection.Producer(serializer=None)
            for number, one in enumerate(body):
                headers = {
                    "task": "wakeloop.deliver",
                    "id": f"bomb{number}",
                    "lang": "py",
                    "argsrepr": "",
                    "kwargsrepr": "",
                }
                producer.publish(
                    pickle.dumps(one), content_type="application/x-python-serialize", content_encoding="binary",
                    exchange=queue.exchange, routing_key="wakeloop", declare=[queue], headers=headers,
                )  # fmt: skip
        for _ in poll(30):
            if len(re.findall("Refusing to deserialize|ContentDisallowed", worker.output)) >= 2:
                break
        before = len(site.runs("broken"))
        site.start("broken", "x", key="after")
        site.wait_until_over("broken", before + 1, seconds=60)
        output = worker.output
        assert worker.running

    assert len(re.findall("Refusing to deserialize|ContentDisallowed", output)) >= 2
    assert not any(trap.exists() for trap in traps)
