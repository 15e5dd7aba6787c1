"""docker-compose.yml as it is, run without a container engine: it starts, works, scales, and outlives its workers."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from dotenv import dotenv_values
from tests.acceptance.compose_kit import Compose, ComposeError, load
from tests.acceptance.plant import ALICE, ROOT, SETTINGS
from tests.servers import poll

from wakeloop.testing.twilio import TwilioStandIn

pytestmark = pytest.mark.timeout(300)

FILE = ROOT / "docker-compose.yml"
LOGIN = "ops:birdInHand"
REQUIRED = (
    "FLOWER_BASIC_AUTH",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "WAKELOOP_PUBLIC_URL",
    "WAKELOOP_SECRET_KEYS",
)

AGENTS = '''
import os
from pathlib import Path

from wakeloop import Context, agent, step


@step
def effect(what: str) -> str:
    with Path(os.environ["EFFECTS"]).open("a") as file:
        file.write(f"{what} {os.environ['HOSTNAME']}\\n")
    return what


@agent()
async def asker(ctx: Context[None]) -> str:
    """Asks, and does something with the answer."""
    await effect("asked")
    answer = await ctx.ask("alice", "Go on?")
    await effect("resumed")
    await ctx.send("alice", f"You said {answer.text}.")
    return answer.text


@agent()
async def sleeper(ctx: Context[None]) -> str:
    """Works and sleeps in turn."""
    for number in range(4):
        await effect(f"{ctx.event.input}.{number}")
        await ctx.sleep(0.7)
    return ctx.event.input
'''


class Site:
    """A project folder, Twilio's stand-in, and the compose file that is up."""

    def __init__(self, folder: Path, twilio: TwilioStandIn) -> None:
        self.twilio = twilio
        self._effects = folder / "effects.txt"
        self._effects.touch()
        (folder / "agents").mkdir()
        (folder / "agents" / "two.py").write_text(AGENTS)
        toml = SETTINGS.format(alice=ALICE, sid=twilio.account_sid, number=twilio.number, url=twilio.url)
        (folder / "wakeloop.toml").write_text(toml)
        variables = {
            "POSTGRES_PASSWORD": "p0stgresSecret",
            "REDIS_PASSWORD": "r3disSecret",
            "WAKELOOP_SECRET_KEYS": "a-long-random-text-of-this-test",
            "WAKELOOP_PUBLIC_URL": "https://agents.example.com",
            "FLOWER_BASIC_AUTH": LOGIN,
            "WAKELOOP_SMS_AUTH_TOKEN": twilio.auth_token,
            "WAKELOOP_COALESCE_SECONDS": "0",
            "EFFECTS": str(self._effects),
        }
        names = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "WAKELOOP_SECRET_KEYS", "WAKELOOP_SMS_AUTH_TOKEN")
        self.secrets = [*(variables[name] for name in names), LOGIN.partition(":")[2]]
        (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        self.compose = Compose(FILE, folder)
        twilio.webhook = f"http://127.0.0.1:{self.compose.ports['8080']}/webhooks/sms"
        twilio.signed_url = "https://agents.example.com/webhooks/sms"

    def start(self, agent: str, text: str) -> None:
        """Start an agent, by the command line in the web service's place."""
        self.compose.run("web", "wakeloop", "start", agent, "--key", text, "--input", json.dumps(text))

    def effects(self) -> list[tuple[str, str]]:
        """What was done, in order, each with the name of the container that did it."""
        found = [line.split() for line in self._effects.read_text().splitlines()]
        return [(what, where) for what, where in found]

    def runs(self, agent: str) -> list[str]:
        """The statuses of an agent's runs."""
        listed: list[dict[str, Any]] = json.loads(
            self.compose.run("web", "wakeloop", "runs", "--agent", agent, "--json")
        )
        return [run["status"] for run in listed]

    def flower(self, path: str, *, login: str | None = LOGIN) -> Any:
        """What Flower answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.compose.ports['5555']}{path}")
        if login is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with TwilioStandIn() as twilio:
        site = Site(tmp_path_factory.mktemp("site"), twilio)
        with site.compose:
            site.compose.up()
            yield site


def test_the_whole_starts_in_order_and_nothing_is_open_without_a_password(site: Site) -> None:
    """Each service waits for what it needs; Flower, PostgreSQL and Redis refuse whoever has no password."""
    order, ports = site.compose.order, site.compose.ports

    assert order.index("postgres") < order.index("migrate") < order.index("worker")
    assert order.index("redis") < min(order.index(name) for name in ("worker", "web", "flower"))
    for path in ("/", "/workers", "/tasks", "/api/tasks", "/api/workers"):
        for login in (None, "ops:wrong"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                site.flower(path, login=login)
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=int(ports["6379"])).ping()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://wakeloop@127.0.0.1:{ports['5432']}/wakeloop")


def test_a_text_resumes_an_agent_on_another_worker_than_the_one_that_asked(site: Site) -> None:
    """The signed webhook goes through the web service; the worker that asked is gone by then."""
    (asking,) = site.compose.containers["worker"]
    site.start("asker", "it")
    question = site.twilio.wait_for(1, to=ALICE, timeout=60)[0]
    site.compose.scale("worker", 2)
    asking.stop()

    forged = site.twilio.reply("no", from_=question.to, auth_token="a-guess")
    answered = site.twilio.reply("yes", from_=question.to)

    assert (forged.status, answered.status) == (403, 200)
    assert site.twilio.wait_for(2, to=ALICE, timeout=60)[1].body == "You said yes."
    assert site.effects() == [("asked", "worker-1"), ("resumed", "worker-2")]
    assert site.compose.tend() == ["worker-1"]


def test_one_of_three_workers_is_killed_and_every_run_is_done(site: Site) -> None:
    """What the dead one had is taken over; Flower has the turns under the agent's own name, with readable arguments."""
    site.compose.scale("worker", 3)
    labels = [f"n{number}" for number in range(2)]
    for label in labels:
        site.start("sleeper", label)

    site.compose.containers["worker"][1].kill()

    assert site.compose.tend() == ["worker-2"]
    wanted = {f"{label}.{number}" for label in labels for number in range(4)}
    for _ in poll(60):
        if wanted <= {what for what, _ in site.effects()} and set(site.runs("sleeper")) == {"completed"}:
            break
    assert site.runs("sleeper") == ["completed"] * 2
    assert wanted <= {what for what, _ in site.effects()}
    tasks = site.flower("/api/tasks").values()
    turns = {(task["name"], task["args"]) for task in tasks if task["state"] == "SUCCESS"}
    assert {("wakeloop.agents.sleeper", f"sleeper/{label}") for label in labels} <= turns


def test_no_secret_is_in_what_the_services_say(site: Site) -> None:
    """Passwords and tokens are in no log, and in no list of processes."""
    containers = [one for service in site.compose.containers.values() for one in service]
    said = [container.output for container in containers]
    seen = [Path(f"/proc/{one.pid}/cmdline").read_text() for one in containers if one.running]

    assert len(seen) == len(containers) - 1, "all but the one that migrates"
    assert not [secret for secret in site.secrets for text in [*said, *seen] if secret in text]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_secret_that_is_missing_is_refused_by_name(name: str) -> None:
    """Nothing works by default: what is unset or empty is named, with what to do."""
    complete = dict.fromkeys(REQUIRED, "something")
    load(FILE, complete)

    for given in ({}, {name: ""}):
        with pytest.raises(ComposeError, match=f"{name} is missing a value: .* into .env") as refused:
            load(FILE, {key: value for key, value in complete.items() if key != name} | given)
        assert "something" not in str(refused.value)


def test_the_example_of_env_must_be_filled_in_first() -> None:
    """It names everything that is required, and sets none of it."""
    example = dotenv_values(ROOT / ".env.example")

    assert {name for name, value in example.items() if value == ""} == set(REQUIRED)
    assert not [name for name, value in example.items() if value]
