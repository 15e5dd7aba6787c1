"""Agents ask people, through real workers, a real web service and Twilio's stand-in: who may decide, when, and once.

One plant serves the whole file: the first test starts with workers that die, and the others go on with their heir.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.acceptance.plant import BIN, ROOT, Plant, make_plant
from tests.http_kit import Peer, Reply, json_reply
from tests.servers import Postgres, Program, Redis, poll

from wakeloop.decisions import Actor, Attempt
from wakeloop.events import Signal
from wakeloop.store import queries
from wakeloop.testing.stand_in import Asked
from wakeloop.views import AuditLine, RequestView, RunView, run_view

pytestmark = pytest.mark.timeout(180)

PEOPLE = {
    name: f"+1415555{number:04}"
    for number, name in enumerate(
        ["alice", "cfo", "head_of_marketing", "eve", "me", "hr", "manager", "oncall", "backup", "treasurer", "judge", "owner"],
        start=100,
    )
}  # fmt: skip
SETTINGS = """
lease_seconds = 3

[approvers]
pay = ["cfo"]
announce = ["head_of_marketing"]

[channels.sms]
account_sid = "{sid}"
from_number = "{number}"
api_url = "{url}"
""" + "".join(f'\n[contacts.{name}]\nsms = "{phone}"\n' for name, phone in PEOPLE.items())
SETTINGS = SETTINGS.replace(
    f'[contacts.oncall]\nsms = "{PEOPLE["oncall"]}"\n',
    f'[contacts.oncall]\nsms = "{PEOPLE["oncall"]}"\nconsole = "oncall"\n',
)


class Site(Peer):
    """The programs around an agent, as HTTP: a model that drafts, and an inbox that sends."""

    def __init__(self) -> None:
        super().__init__(self._take)
        self.drafted: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []

    def _take(self, asked: Asked) -> Reply:
        body = asked.json
        if asked.path == "/draft":
            self.drafted.append(body)
            style = ", ".join(body["wishes"]) or "plain"
            return json_reply({"draft": f"Dear {body['sender']} ({style})"})
        self.sent.append(body)
        return json_reply(None)


class People:
    """What the people of the plant do: they read their texts and write back."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._read: Counter[str] = Counter()

    def next_text(self, contact: str, containing: str, *, seconds: float = 20) -> str:
        """The next text with these words that a contact has not read yet; those before it are read by then."""
        texts: list[str] = []
        for _ in poll(seconds):
            texts = self.all_texts(contact)
            for place in range(self._read[contact], len(texts)):
                if containing in texts[place]:
                    self._read[contact] = place + 1
                    return texts[place]
        raise AssertionError(
            f"{contact} was not told {containing!r} after text {self._read[contact]} of {texts}"
        )

    def write(self, contact: str, text: str, *, sid: str | None = None) -> None:
        """A text of a contact, which the web service acknowledges."""
        assert self._plant.twilio.reply(text, from_=PEOPLE[contact], sid=sid).status == 200

    def all_texts(self, contact: str) -> list[str]:
        return [one.body for one in self._plant.twilio.messages if one.to == PEOPLE[contact]]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres, redis_server: Redis, site: Site
) -> Iterator[Plant]:
    agents = {
        "people_agents.py": Path(__file__).with_name("people_agents.py").read_text(),
        "inbox_assistant.py": (ROOT / "agents" / "inbox_assistant.py").read_text(),
    }
    environment = {"INBOX_DRAFT_URL": f"{site.url}/draft", "INBOX_SEND_URL": f"{site.url}/send"}
    folder = tmp_path_factory.mktemp("humans")
    with make_plant(folder, postgres_server, redis_server, agents=agents, settings=SETTINGS, **environment) as plant:  # fmt: skip
        yield plant


@pytest.fixture(scope="module")
def web(plant: Plant) -> Iterator[Program]:
    with plant.web() as web:
        web.wait_for("wakeloop web on")
        yield web


@pytest.fixture(scope="module")
def worker(plant: Plant, web: Program) -> Iterator[Program]:
    with plant.worker("heir") as worker:
        worker.wait_for("ready.")
        yield worker
        worker.kill()  # nothing is left to be let go of in good order


@pytest.fixture(scope="module")
def people(plant: Plant) -> People:
    return People(plant)


# ---------------------------------------------------------------------- looking


def requests_of(plant: Plant, contact: str, *, count: int, status: str = "open") -> list[RequestView]:
    """A contact's requests, oldest first, once there are so many."""
    found: list[RequestView] = []
    for _ in poll(20):
        found = plant.runtime.requests.find(status=status, contact=contact, limit=500)
        if len(found) >= count:
            return sorted(found, key=lambda one: one.created_at)
    raise AssertionError(f"{len(found)} requests of {contact} are {status}, {count} were awaited")


def run_of(plant: Plant, id: str, *, seconds: float = 30) -> RunView:
    """A run when it is over or parked."""
    view = None
    for _ in poll(seconds):
        with plant.runtime.database.read() as connection:
            row = queries.find_run(connection, UUID(id))
        view = run_view(row, None)
        if view.status not in ("queued", "running", "waiting"):
            return view
    raise AssertionError(f"after {seconds} s: {view}")


def results_of(plant: Plant, runs: Sequence[str]) -> list[Any]:
    """What these runs came to; each must have completed."""
    views = [run_of(plant, run) for run in runs]
    assert {view.status for view in views} == {"completed"}, [view.error for view in views]
    return [view.result for view in views]


def audit_of(plant: Plant, request: RequestView) -> list[AuditLine]:
    return plant.runtime.requests.audit(UUID(request.id))


def counted(lines: Sequence[AuditLine]) -> list[tuple[str, str | None, str | None]]:
    """The attempts that counted: what, by whom, how it came."""
    return [(one.act, one.contact, one.channel) for one in lines if one.result == "counted"]


def actor(contact: str) -> Actor:
    """A contact who decides on a page or through a program, not by text."""
    return Actor(contact=contact, channel="desk", auth="test")


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Do these in the same moment; what each gave."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(act, actions))


# ---------------------------------------------------------------------- a worker is killed


def test_a_worker_killed_between_decision_and_execution_leaves_the_function_to_run_once(
    plant: Plant, web: Program, people: People, request: pytest.FixtureRequest
) -> None:
    """Three workers die with an approval in hand; whoever takes over calls each function once, or leaves it to a person."""
    deaths = {
        "first": ("engine.committing", 2),
        "second": ("engine.committed", 2),
        "third": ("engine.step_done", 1),
    }
    workers = {
        queue: plant.worker(queue, crash_at=point, passing=passing, queues=f"wakeloop,{queue}")
        for queue, (point, passing) in deaths.items()
    }
    for one in workers.values():
        one.start()
    try:
        for one in workers.values():
            one.wait_for("ready.")
        runs = {queue: plant.start(queue, "launch") for queue in deaths}
        asked = {one.agent: one for one in requests_of(plant, "owner", count=3)}
        for _ in deaths:
            people.next_text("owner", "May I launch_rocket?\n")
        for queue in deaths:
            people.write("owner", f"{asked[queue].code} yes")
        assert {one.wait(30) for one in workers.values()} == {-signal.SIGKILL}
    finally:
        for one in workers.values():
            one.close()

    request.getfixturevalue("worker")
    done = {queue: run_of(plant, run) for queue, run in runs.items()}

    # Nobody can know whether the third one's function took effect, and it may not be repeated: a person says so.
    assert [one.status for one in done.values()] == ["completed", "completed", "stuck"]
    assert "UnknownOutcome" in str(done["third"].error)
    plant.runtime.operations.retry(UUID(runs["third"]), result={"value": "launched third"})
    assert results_of(plant, list(runs.values())) == [f"launched {queue}" for queue in deaths]
    assert plant.effects_of("launched") == Counter({f"launched {queue}": 1 for queue in deaths})
    for one in asked.values():
        assert counted(audit_of(plant, one)) == [("approve", "owner", "sms")]


# ---------------------------------------------------------------------- who decides what


def test_each_tool_has_its_own_approvers_and_outsiders_are_ignored(
    plant: Plant, worker: Program, people: People
) -> None:
    """What another person writes or tries changes nothing, and stays on record."""
    run = plant.start("launch", "F-7")
    people.next_text("cfo", "May I pay?\n  invoice: 'F-7'")
    people.next_text("head_of_marketing", "May I announce?\n  words: 'F-7'")
    [paying], [announcing] = (
        requests_of(plant, "cfo", count=1),
        requests_of(plant, "head_of_marketing", count=1),
    )

    for outsider, other in (("eve", paying), ("head_of_marketing", paying)):
        attempt = plant.runtime.requests.approve(UUID(other.id), actor(outsider))
        assert not attempt.accepted and "may not decide" in attempt.words
    people.write("eve", f"{paying.code} yes")
    people.write("eve", "yes")
    people.write("head_of_marketing", "no, wrong date")
    people.write("cfo", "Yes, thanks!")

    assert results_of(plant, [run]) == [["paid F-7", "denied by head_of_marketing: wrong date"]]
    assert plant.effects_of("announced") == Counter()
    refused = [one.contact for one in audit_of(plant, paying) if one.result == "refused: not asked"]
    assert refused == ["eve", "head_of_marketing"]
    assert counted(audit_of(plant, paying)) == [("approve", "cfo", "sms")]
    assert counted(audit_of(plant, announcing)) == [("deny", "head_of_marketing", "sms")]
    with plant.runtime.database.read() as connection:
        kept = [(one.contact, one.outcome) for one in queries.list_received(connection, limit=100)]
    assert kept.count(("eve", "nobody takes it; answered")) == 2


def test_an_assistant_drafts_until_a_person_sends(
    plant: Plant, worker: Program, people: People, site: Site
) -> None:
    """Each message of an inbox is drafted, shown and sent; a reason for no ends it, or has it written anew."""

    def arrives(id: str, text: str) -> str:
        signal = Signal(
            type="inbox.message", data={"id": id, "sender": "Robin", "text": text}, id=id, source="inbox",
            time=datetime.now(UTC),
        )  # fmt: skip
        plant.runtime.intake.signal(signal)
        return people.next_text("me", "May I send_reply?\n")

    first = arrives("m1", "Are you hiring?")
    people.write("me", "no rewrite shorter")
    second = people.next_text("me", "May I send_reply?\n")
    people.write("me", "no, mention the team")
    third = people.next_text("me", "May I send_reply?\n")
    people.write("me", "yes")
    runs = {one.key: one for one in plant.wait_until_over("inbox_assistant", 1, seconds=20)}
    fourth = arrives("m2", "Buy gold now!")
    people.write("me", "not relevant")
    runs |= {one.key: one for one in plant.wait_until_over("inbox_assistant", 2, seconds=20)}

    assert "text: 'Are you hiring?'" in first and "reply: 'Dear Robin (plain)'" in first
    assert "1 not relevant, 2 rewrite shorter, 3 rewrite friendlier" in first
    assert ["(shorter)" in second, "(shorter, mention the team)" in third, "gold" in fourth] == [True] * 3
    assert {key: run.result for key, run in runs.items()} == {
        "m1": "sent after 3 drafts",
        "m2": "left unanswered: not relevant",
    }
    assert [one["wishes"] for one in site.drafted] == [[], ["shorter"], ["shorter", "mention the team"], []]
    assert site.sent == [{"id": "m1", "sender": "Robin", "reply": "Dear Robin (shorter, mention the team)"}]


def test_two_people_onboard_somebody_and_one_of_them_has_it_written_anew(
    plant: Plant, worker: Program, people: People
) -> None:
    """HR is asked for a model's fields, one by one; the manager's no comes back to the agent as a note."""
    run = plant.start("onboarding", None)
    people.next_text("hr", "1/3 name")
    people.write("hr", "Ada")
    people.next_text("hr", "2/3 first day")
    people.write("hr", "soon")
    people.next_text("hr", "could not be read")
    people.write("hr", "1 March 2027")
    people.next_text("hr", "3/3 remote")
    people.write("hr", "no")
    first = people.next_text("manager", "May I mail?\n")
    people.write("manager", "no, name her buddy")
    second = people.next_text("manager", "May I mail?\n")
    people.write("manager", "yes")

    welcome = "Welcome Ada, you start at the office on 01 March 2027. P.S. name her buddy."
    assert results_of(plant, [run]) == [f"mailed Ada: {welcome}"]
    assert "01 March 2027." in first and "P.S." not in first and "P.S." in second
    assert plant.effects_of("mailed") == Counter({f"mailed Ada: {welcome}": 1})
    for contact in ("hr", "manager"):
        people.next_text(contact, "Ada has been welcomed.")


def test_one_request_goes_to_another_person_and_then_through_another_channel(
    plant: Plant, worker: Program, people: People
) -> None:
    """In seconds of real time; whoever answers first, wherever, settles it for all of them."""
    run = plant.start("outage", "the shop")
    people.next_text("oncall", "May I restart?\n")
    people.next_text("backup", "May I restart?\n")
    worker.wait_for("to oncall at", 20)
    [request] = requests_of(plant, "oncall", count=1)

    argv = [BIN / "wakeloop", "reply", "oncall", "yes", "--channel", "console"]
    with Program(argv, env=plant.environment, cwd=plant.folder) as reply:
        assert reply.wait(30) == 0

    assert results_of(plant, [run]) == ["restarted the shop"]
    assert request.asked == ("oncall", "backup")
    lines = audit_of(plant, request)
    after = [(line.at - lines[0].at).total_seconds() for line in lines[1:3]]
    assert [after[0] >= 1.0, after[1] >= 2.0] == [True, True]
    acts = [(one.act, one.contact, one.channel) for one in lines]
    assert acts == [
        ("ask", "oncall", "sms"),
        ("ask", "backup", "sms"),
        ("escalate", "oncall", "console"),
        ("approve", "oncall", "console"),
        ("tell", "backup", "sms"),
    ]
    people.next_text("backup", "Approved by oncall, nothing more to do")
    assert plant.effects_of("restarted") == Counter({"restarted the shop": 1})


# ---------------------------------------------------------------------- races


def test_of_two_channels_that_decide_at_once_one_counts_and_the_other_is_told(
    plant: Plant, worker: Program, people: People
) -> None:
    """A text that approves and a page that denies, in the same moment, many times."""
    labels = [f"race-{number}" for number in range(24)]
    runs = {label: plant.start("transferrer", label, key=label) for label in labels}
    open_ones = {
        one.args["label"]: one for one in requests_of(plant, "treasurer", count=len(labels)) if one.args
    }

    attempts: dict[str, Attempt] = {}
    for label, one in open_ones.items():
        [attempts[label], _] = at_once(
            lambda one=one: plant.runtime.requests.deny(UUID(one.id), actor("treasurer"), comment="from the desk"),
            lambda one=one: people.write("treasurer", f"{one.code} yes"),
        )  # fmt: skip
    results = dict(zip(labels, results_of(plant, list(runs.values())), strict=True))

    by_text = [label for label in labels if not attempts[label].accepted]
    assert results == {
        label: f"transferred {label}" if label in by_text else "denied by treasurer: from the desk"
        for label in labels
    }
    assert plant.effects_of("transferred race") == Counter({f"transferred {label}": 1 for label in by_text})
    for label, one in open_ones.items():
        winner, loser = ("sms", "desk") if label in by_text else ("desk", "sms")
        lines = audit_of(plant, one)
        assert [channel for _, _, channel in counted(lines)] == [winner]
        assert [line.channel for line in lines if line.result.startswith("late: ")] == [loser]
    for label in by_text:
        assert "too late" in attempts[label].words
    told = len(labels) - len(by_text)
    for _ in poll(20):
        late = [text for text in people.all_texts("treasurer") if "was denied by you" in text]
        if len(late) >= told:
            break
    assert len(late) == told


def test_the_same_webhook_ten_times_in_parallel_has_one_effect(
    plant: Plant, worker: Program, people: People
) -> None:
    """A provider that repeats itself is answered each time, and counts once."""
    run = plant.start("transferrer", "once", key="once")
    [request] = requests_of(plant, "treasurer", count=1)
    sid = "SM" + "5" * 32

    at_once(*[lambda: people.write("treasurer", f"{request.code} yes", sid=sid)] * 10)

    assert results_of(plant, [run]) == ["transferred once"]
    assert plant.effects_of("transferred once") == Counter({"transferred once": 1})
    lines = audit_of(plant, request)
    assert counted(lines) == [("approve", "treasurer", "sms")]
    assert not [line for line in lines if line.result.startswith(("late", "refused"))]


def test_a_decision_in_the_very_moment_of_the_timeout_is_either_or(
    plant: Plant, worker: Program, people: People
) -> None:
    """Approved and executed, or expired and not: around the instant, by text and otherwise, and the record agrees."""
    labels = [f"claim-{number}" for number in range(40)]
    with ThreadPoolExecutor(len(labels)) as pool:
        runs = {label: plant.start("claimant", label, key=label) for label in labels}
        requests: dict[str, RequestView] = {}
        pending = set(labels)
        decided = []
        for _ in poll(10):
            for one in plant.runtime.requests.find(contact="judge", limit=500):
                label = (one.args or {})["label"]
                if label in pending:
                    pending.discard(label)
                    requests[label] = one
                    decided.append(pool.submit(_decide_around_the_end, plant, people, one, len(decided)))
            if not pending:
                break
        attempts = [one.result() for one in decided]
    results = dict(zip(labels, results_of(plant, list(runs.values())), strict=True))

    assert len(attempts) == len(labels)
    claimed = {label for label, result in results.items() if result == f"claimed {label}"}
    assert {results[label] for label in labels if label not in claimed} == {"expired"}
    assert claimed, "all of them were too late"
    assert plant.effects_of("claimed") == Counter({f"claimed {label}": 1 for label in claimed})
    for label, one in requests.items():
        settled = plant.runtime.requests.get(UUID(one.id))
        lines = audit_of(plant, one)
        ends = [line for line in lines if line.act == "expire"]
        if label in claimed:
            assert (settled.status, ends) == ("approved", [])
            assert [act for act, _, _ in counted(lines)] == ["approve"]
        else:
            assert (settled.status, counted(lines)) == ("expired", [])
            assert len(ends) == 1
            assert [line.result for line in lines if line.contact == "judge" and line.act in ("approve", "reply")] == ["late: expired"]  # fmt: skip


def _decide_around_the_end(plant: Plant, people: People, one: RequestView, number: int) -> None:
    """Approve some time from half a second before the end to a quarter after it, every second time by text."""
    assert one.expires_at is not None
    at = one.expires_at + timedelta(milliseconds=20 * (number % 40 - 27))
    time.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))
    if number % 2:
        people.write("judge", f"{one.code} yes")
    else:
        plant.runtime.requests.approve(UUID(one.id), actor("judge"))


def test_fifty_open_questions_to_one_phone_each_get_their_own_answer(
    plant: Plant, worker: Program, people: People
) -> None:
    """The person knows the codes from the texts alone, and answers in any order, several at once."""
    numbers = [f"{number:02}" for number in range(50)]
    runs = [plant.start("curious", number, key=number) for number in numbers]
    codes: dict[str, str] = {}
    for _ in poll(40):
        text = "\n".join(people.all_texts("alice"))
        codes = dict(re.findall(r"Question (\d\d)\?\n\(Reply (\S+) and", text))
        codes |= dict(re.findall(r"\(For “Question (\d\d)\?” reply (\S+) and", text))
        if len(codes) == len(numbers):
            break

    assert len(set(codes.values())) == len(numbers)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda number: people.write("alice", f"{codes[number]} it is {number}"), reversed(numbers)
            )
        )

    assert results_of(plant, runs) == [f"it is {number}" for number in numbers]
