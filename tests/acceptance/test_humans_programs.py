"""Programs ask people, with `Client` and the HTTP API of a real web service: they block, or exit and are called back."""

from __future__ import annotations

import json
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from tests.acceptance.plant import Plant, make_plant
from tests.http_kit import Peer, Reply
from tests.servers import Postgres, Program, Redis, poll

from wakeloop import Client
from wakeloop.testing.stand_in import Asked
from wakeloop.tokens import Scope

pytestmark = pytest.mark.timeout(180)

PEOPLE = {"cfo": "+14155550201", "buyer": "+14155550202", "racer": "+14155550203", "eve": "+14155550204"}
SETTINGS = """
lease_seconds = 3
callback_hosts = ["127.0.0.1"]

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"
""" + "".join(f'\n[contacts.{name}]\nsms = "{phone}"\n' for name, phone in PEOPLE.items())

MATH = '''
"""Multiplies, if a person lets it. Adding is free."""

import os

from wakeloop import Client, Denied

client = Client(os.environ["SERVER"], os.environ["TOKEN"])


def add(a: int, b: int) -> int:
    return a + b


@client.require_approval("cfo", timeout=60)
def multiply(a: int, b: int) -> int:
    print("multiplying", flush=True)
    return a * b


print("sum", add(2, 3), flush=True)
try:
    multiply(add(2, 3), 1_000_000)
except Denied as no:
    print(f"{no.by} said no: {no.comment}", flush=True)
print("product", multiply(add(2, 3), 5), flush=True)
'''

PURCHASE = '''
"""Asks for a purchase and exits: whoever is called back has all that is needed to finish it."""

import os
import sys

from wakeloop import Client

with Client(os.environ["SERVER"], os.environ["TOKEN"]) as client:
    request = client.create(
        "buyer",
        "May I buy this?",
        kind="approval",
        action="buy",
        args={"item": sys.argv[1], "price": 4200},
        state={"cart": sys.argv[1], "step": ["checkout", 3]},
        callback_url=os.environ["CALLBACK"],
        id=f"purchase {sys.argv[1]}",
    )
    print("asked", request.id)
'''


class Shop(Peer):
    """A receiver of callbacks, as small as one may be: it verifies, finishes a purchase once, and then answers."""

    def __init__(self) -> None:
        super().__init__(self._take)
        self.url += "/finished"
        self.secret = ""
        self.finished: list[dict[str, Any]] = []
        self.calls: list[tuple[str, int]] = []
        self._failures = 1
        self._seen: set[str] = set()

    def _take(self, asked: Asked) -> Reply:
        status = self._finish(asked)
        self.calls.append((asked.headers.get("webhook-id", ""), status))
        return Reply(status=status)

    def _finish(self, asked: Asked) -> int:
        try:
            event = Webhook(self.secret).verify(asked.body, dict(asked.headers))
        except WebhookVerificationError:
            return 400
        if asked.headers["webhook-id"] not in self._seen:
            self._seen.add(asked.headers["webhook-id"])
            self.finished.append(event)
        if self._failures:  # it did its work, and died before it could say so
            self._failures -= 1
            return 500
        return 204


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with Shop() as shop:
        yield shop


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres, redis_server: Redis, shop: Shop
) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("programs")
    with make_plant(folder, postgres_server, redis_server, agents={}, settings=SETTINGS) as plant:
        shop.secret = plant.runtime.webhook_secrets()[0]
        scopes = [Scope.REQUESTS_READ, Scope.REQUESTS_WRITE]
        plant.environment |= {
            "SERVER": f"http://127.0.0.1:{plant.port}",
            "TOKEN": plant.runtime.tokens.create("program", scopes),
            "DESK_TOKEN": plant.runtime.tokens.create("desk", [Scope.REQUESTS_READ, Scope.REQUESTS_DECIDE]),
            "CALLBACK": shop.url,
        }
        with plant.web() as web, plant.worker("worker") as worker:
            web.wait_for("wakeloop web on")
            worker.wait_for("ready.")
            yield plant
            worker.kill()  # nothing is left to be let go of in good order


@pytest.fixture(scope="module")
def client(plant: Plant) -> Iterator[Client]:
    with Client(plant.environment["SERVER"], plant.environment["TOKEN"]) as client:
        yield client


def script(plant: Plant, source: str, *arguments: str) -> Program:
    """A program of somebody's, as a process of its own."""
    file = plant.folder / f"{len(list(plant.folder.glob('*.py')))}.py"
    file.write_text(source)
    return Program([sys.executable, file, *arguments], env=plant.environment, cwd=plant.folder)


def write(plant: Plant, contact: str, text: str) -> None:
    """A text of a contact, which the web service acknowledges."""
    assert plant.twilio.reply(text, from_=PEOPLE[contact]).status == 200


def call(plant: Plant, token: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """One call of the HTTP API, without any client of ours; its status and what it says."""
    headers = {"Authorization": f"Bearer {plant.environment[token]}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url = f"{plant.environment['SERVER']}/api/v1{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def audit_of(plant: Plant, id: str) -> list[dict[str, Any]]:
    _, found = call(plant, "DESK_TOKEN", f"/requests/{id}/audit")
    lines: list[dict[str, Any]] = found["audit"]
    return lines


def texts(plant: Plant, contact: str) -> list[str]:
    return [one.body for one in plant.twilio.messages if one.to == PEOPLE[contact]]


def wait_for_text(plant: Plant, contact: str, containing: str, *, count: int = 1) -> None:
    for _ in poll(20):
        if sum(containing in text for text in texts(plant, contact)) >= count:
            return
    raise AssertionError(f"{contact} was told {texts(plant, contact)}, not {containing!r}")


def test_a_gated_multiply_waits_for_a_person_and_the_denial_reaches_the_caller(
    plant: Plant, client: Client
) -> None:
    """The script blocks; the comment of a no, written by SMS, comes out of the call; outsiders change nothing."""
    with script(plant, MATH) as math:
        wait_for_text(plant, "cfo", "a: 5\n  b: 1000000")
        [asked] = client.requests(status="open", contact="cfo")
        refused = call(plant, "DESK_TOKEN", f"/requests/{asked.id}/approve", {"contact": "eve"})
        write(plant, "eve", "yes")
        write(plant, "cfo", "no we have enough")
        wait_for_text(plant, "cfo", "a: 5\n  b: 5\n")
        assert "multiplying" not in math.output
        write(plant, "cfo", "Yes, thanks!")

        assert math.wait(30) == 0
        output = math.output

    assert output.splitlines() == ["sum 5", "cfo said no: we have enough", "multiplying", "product 25"]
    assert (refused[0], refused[1]["accepted"]) == (409, False)
    lines = [(one["act"], one["result"], one["contact"]) for one in audit_of(plant, asked.id)]
    assert lines == [
        ("ask", "queued", "cfo"),
        ("approve", "refused: not asked", "eve"),
        ("deny", "counted", "cfo"),
    ]


def test_a_purchase_is_finished_by_a_webhook_long_after_its_program_has_ended(
    plant: Plant, shop: Shop
) -> None:
    """The signed callback brings the program's state back; it comes again if it was not taken, and counts once."""
    with script(plant, PURCHASE, "desk-7") as program:
        assert program.wait(30) == 0
        id = program.output.split()[-1]
    with script(plant, PURCHASE, "desk-7") as again:  # by mistake; it is the same request
        assert again.wait(30) == 0
        assert again.output.split()[-1] == id
    wait_for_text(plant, "buyer", "May I buy this?\n")

    write(plant, "buyer", "yes")

    for _ in poll(30):
        if len(shop.calls) >= 2:
            break
    [event] = shop.finished
    assert [status for _, status in shop.calls] == [500, 204]
    assert len({webhook_id for webhook_id, _ in shop.calls}) == 1
    assert event["type"] == "request.approved"
    data = event["data"]
    assert (data["id"], data["action"], data["by"], data["channel"]) == (id, "buy", "buyer", "sms")
    assert data["args"] == {"item": "desk-7", "price": 4200}
    assert data["state"] == {"cart": "desk-7", "step": ["checkout", 3]}
    assert sum("May I buy this?\n" in text for text in texts(plant, "buyer")) == 1


def test_a_text_and_a_call_of_the_api_that_decide_at_once_count_as_one(plant: Plant, client: Client) -> None:
    """One of them wins; the caller of the API who comes too late gets 409, the person a text that says so."""
    made = [
        client.create("racer", "May I race?", kind="approval", action="race", args={"number": number})
        for number in range(12)
    ]
    codes = {one.id: one.code for one in client.requests(contact="racer", status="open")}
    late_calls = 0

    with ThreadPoolExecutor(2) as pool:
        for one in made:
            barrier = threading.Barrier(2)

            def by_text(code: str = codes[one.id], barrier: threading.Barrier = barrier) -> None:
                barrier.wait()
                write(plant, "racer", f"{code} yes")

            def by_call(id: str = one.id, barrier: threading.Barrier = barrier) -> tuple[int, Any]:
                barrier.wait()
                return call(
                    plant, "DESK_TOKEN", f"/requests/{id}/deny", {"contact": "racer", "comment": "no race"}
                )

            texting, calling = pool.submit(by_text), pool.submit(by_call)
            texting.result()
            status, said = calling.result()
            settled = client.wait(one.id, timeout=10)
            counted = [line["channel"] for line in audit_of(plant, one.id) if line["result"] == "counted"]
            late = [line["channel"] for line in audit_of(plant, one.id) if line["result"].startswith("late")]
            if status == 200:
                assert (settled.status, counted, late) == ("denied", ["api"], ["sms"])
            else:
                late_calls += 1
                assert (status, said["request_status"]) == (409, "approved")
                assert (settled.status, counted, late) == ("approved", ["sms"], ["api"])

    late_texts = len(made) - late_calls
    if late_texts:
        wait_for_text(plant, "racer", "was denied by you", count=late_texts)


def test_a_question_of_any_framework_s_tool_is_answered_by_sms(plant: Plant, client: Client) -> None:
    """A person as a plain function: what they write is what it returns."""
    ask = client.human_as_tool("eve", timeout=60)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, "Which colour?")
        wait_for_text(plant, "eve", "Which colour?")
        write(plant, "eve", "Blue, please")

        assert answer.result(30) == "Blue, please"
