"""People answer by mail, Slack and SMS, through real workers, a real web service and the providers' stand-ins."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.acceptance.channels_kit import MailProgram, Office, ids_of, open_office, plain_text
from tests.servers import Postgres, Program, Redis, until

from wakeloop.store import queries
from wakeloop.testing.slack import StandInMessage
from wakeloop.threads import plain_subject
from wakeloop.views import AuditLine, RequestView, RunView, run_view

pytestmark = pytest.mark.timeout(300)

NEWSROOM, BOB, EVE, ERIN = "C0NEWS0001", "U0BOB00001", "U0EVE00001", "U0ERIN0001"
ERINS_PHONE, DORAS_PHONE = "+14155550101", "+14155550102"
SETTINGS = f"""
[channels.slack.responders]
{NEWSROOM} = ["{BOB}"]

[contacts.alice]
email = "alice@example.org"

[contacts.lead]
email = "lead@example.org"
[contacts.newsroom]
slack = "{NEWSROOM}"

[contacts.dora]
sms = "{DORAS_PHONE}"
email = "dora@example.org"

[contacts.erin]
sms = "{ERINS_PHONE}"
slack = "{ERIN}"
"""


@pytest.fixture(scope="module")
def office(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres, redis_server: Redis
) -> Iterator[Office]:
    with open_office(
        tmp_path_factory.mktemp("office"), postgres_server, redis_server,
        agents=[Path(__file__).with_name("channel_agents.py")], settings=SETTINGS,
        channels={NEWSROOM: {BOB, EVE, ERIN}},
    ) as office:  # fmt: skip
        yield office


@pytest.fixture(scope="module", autouse=True)
def web(office: Office) -> Iterator[Program]:
    with office.plant.web() as web:
        web.wait_for("wakeloop web on")
        yield web


@pytest.fixture(scope="module", autouse=True)
def worker(office: Office) -> Iterator[Program]:
    with office.plant.worker("only") as worker:
        worker.wait_for("ready.")
        worker.wait_for("listening")
        yield worker
        worker.kill()


# ---------------------------------------------------------------------- looking


def run_of(office: Office, id: str) -> RunView:
    """A run when it is over or parked."""

    def look() -> RunView | None:
        with office.plant.runtime.database.read() as connection:
            view = run_view(queries.find_run(connection, UUID(id)), None)
        return view if view.status not in ("queued", "running", "waiting") else None

    return until(look, f"run {id} is not over")


def request_of(
    office: Office, contact: str, *, label: str | None = None, status: str = "open"
) -> RequestView:
    """A contact's only request, or that with this argument."""

    def look() -> RequestView | None:
        found = office.plant.runtime.requests.find(status=status, contact=contact, limit=500)
        fitting = [one for one in found if label is None or label in (one.args or {}).values()]
        return fitting[0] if len(fitting) == 1 else None

    return until(look, f"{contact} has no such request that is {status}")


def audit_of(office: Office, request: RequestView) -> list[AuditLine]:
    return office.plant.runtime.requests.audit(UUID(request.id))


def in_slack(office: Office, to: str, containing: str) -> StandInMessage:
    """A message in Slack with these words, once it is there."""
    channel = office.slack.workspace.direct(to) if to.startswith("U") else to
    return until(
        lambda: next(
            (one for one in office.slack.messages if one.channel == channel and containing in one.shown), None
        ),
        f"{to} was not told {containing!r} in Slack",
    )


def texts_to(office: Office, phone: str) -> list[str]:
    return [one.body for one in office.plant.twilio.messages if one.to == phone]


# ---------------------------------------------------------------------- a campaign in one thread


def test_a_campaign_is_clarified_drafted_approved_and_published_in_one_thread_of_mail(office: Office) -> None:
    """What is written in a mail without the receiving server's word decides nothing; then the person gets the link."""
    alice = office.program("alice@example.org")
    alice.write("Spring campaign", "Announce the spring sale.")
    asked = alice.next_mail("Who is it for?")
    alice.reply(asked, "our regular customers")
    first = alice.next_mail("May I publish?\n")
    alice.reply(first, "no, mention the free delivery")
    second = alice.next_mail("May I publish?\n")
    alice.reply(second, "yes", dmarc="fail")
    refused = alice.next_mail("could not be verified")
    text = "Announce the spring sale. For our regular customers. (mention the free delivery)"
    assert office.plant.effects_of("published") == Counter()
    alice.reply(second, "yes")
    alice.next_mail("It is out.")
    [run] = office.plant.wait_until_over("campaign", 1, seconds=20)

    assert run.result == f"published {text}"
    assert office.plant.effects_of("published") == Counter({f"published {text}": 1})
    assert "text: 'Announce the spring sale. For our regular customers.'" in plain_text(first)
    assert f"http://127.0.0.1:{office.plant.port}/" in plain_text(refused)
    request = request_of(office, "alice", label=text, status="approved")
    assert [(line.act, line.result, line.auth) for line in audit_of(office, request)] == [
        ("ask", "queued", None),
        ("reply", "refused: sender not verified", "dmarc=fail by mx.example.com"),
        ("approve", "counted", "dmarc=pass by mx.example.com"),
    ]
    _check_thread(alice, "spring campaign")


def _check_thread(person: MailProgram, subject: str) -> None:
    """All of it stands in one thread, by what it refers to and by its subject; each mail answers the one before it."""
    assert [len(thread) for thread in person.threads()] == [len(person.sent) + len(person.received)]
    for mail in person.received:
        assert plain_subject(str(mail["Subject"])) == subject
        assert ids_of(mail, "In-Reply-To") == ids_of(mail, "References")[-1:]
    known = {str(mail["Message-ID"]) for mail in [*person.sent, *person.received]}
    assert {id for mail in person.received for id in ids_of(mail, "In-Reply-To")} <= known


# ---------------------------------------------------------------------- from mail to Slack


def test_a_request_that_nobody_answers_by_mail_is_decided_in_slack_by_who_may(office: Office) -> None:
    """The mail is answered too late and told so; the message in Slack says how it ended, without its buttons."""
    lead = office.program("lead@example.org")
    run = office.plant.start("releases", "2.0")
    mail = lead.next_mail("May I release?\n")
    asked = in_slack(office, NEWSROOM, "May I release?")
    request = request_of(office, "lead")

    assert office.slack.press(asked, "Yes", user=EVE).status == 200
    note = office.slack.wait_for_note(1)
    assert request_of(office, "lead").status == "open"
    assert office.slack.press(asked, "Yes", user=BOB).status == 200
    assert run_of(office, run).result == "released 2.0"
    lead.next_mail("Approved by newsroom, nothing more to do")
    lead.reply(mail, "no, wait")
    lead.next_mail("was approved by newsroom")

    assert (note.channel, note.user) == (NEWSROOM, EVE)
    assert office.plant.effects_of("released") == Counter({"released 2.0": 1})
    until(lambda: not asked.labels, "the buttons are still there")
    assert "Approved by newsroom" in asked.shown
    lines = audit_of(office, request)
    assert [(line.act, line.contact, line.channel) for line in lines if line.result == "counted"] == [
        ("approve", "newsroom", "slack")
    ]
    assert [line.contact for line in lines if line.result.startswith("late: ")] == ["lead"]
    assert [line.auth for line in lines if line.result == "counted"] == [f"Slack signature, user {BOB}"]
    assert len(lead.threads()) == 1


# ---------------------------------------------------------------------- from SMS to mail


def test_a_question_whose_text_cannot_be_delivered_is_answered_by_mail(office: Office) -> None:
    """Twilio reports it with an error code, through its status webhook."""
    dora = office.program("dora@example.org")
    run = office.plant.start("curious", "dora")
    [text] = office.plant.twilio.wait_for(1, to=DORAS_PHONE)
    until(lambda: [one for one in _deliveries(office, "dora") if one.provider_id == text.sid], "not recorded")

    assert office.plant.twilio.post_status(text.sid, "undelivered", 30005).status in (200, 204)
    mail = dora.next_mail("Which colour?")
    dora.reply(mail, "green")

    assert run_of(office, run).result == "green"
    assert "Which colour?" in text.body
    told = [(one.channel, one.status, one.error) for one in _deliveries(office, "dora")]
    assert [(channel, status) for channel, status, _ in told] == [("sms", "failed"), ("email", "sent")]
    assert "30005" in told[0][2]
    assert texts_to(office, DORAS_PHONE) == [text.body]


def _deliveries(office: Office, contact: str) -> list[Any]:
    """All that a contact was written, first to last."""
    with office.plant.runtime.database.read() as connection:
        rows = reversed(queries.list_messages(connection, limit=500))
        ours = [row for row in rows if row.contact == contact and not row.inbound]
        return [one for row in ours for one in queries.deliveries_of(connection, row.id)]


# ---------------------------------------------------------------------- two channels in the same second


def test_one_person_who_answers_on_two_channels_at_once_has_decided_once(office: Office) -> None:
    """Many times, each channel a little ahead in turn: one of them counts, and is carried out; the other is told."""
    labels = [f"race-{number:02}" for number in range(24)]
    chance = random.Random(4)
    runs = {label: office.plant.start("transferrer", label, key=label) for label in labels}
    outcomes = Counter[str]()
    for number, label in enumerate(labels):
        asked = in_slack(office, ERIN, f"'{label}'")
        request = request_of(office, "erin", label=label)
        ahead = chance.uniform(0, 0.02)
        at_once(
            (0 if number % 2 else ahead, lambda asked=asked: office.slack.press(asked, "Yes", user=ERIN).status),
            (ahead if number % 2 else 0, lambda code=request.code: office.plant.twilio.reply(f"{code} no", from_=ERINS_PHONE).status),
        )  # fmt: skip

        result = run_of(office, runs[label]).result
        lines = audit_of(office, request)
        counted = [(line.act, line.channel) for line in lines if line.result == "counted"]
        assert len(counted) == 1
        act, channel = counted[0]
        outcomes[str(channel)] += 1
        assert (act, result) == {
            "slack": ("approve", f"transferred {label}"),
            "sms": ("deny", "denied by erin"),
        }[str(channel)]
        assert {line.channel for line in lines if line.result.startswith("late: ")} == {"slack", "sms"} - {
            channel
        }
        if channel == "slack":
            until(lambda label=label: [text for text in texts_to(office, ERINS_PHONE) if "is closed: it was approved by you" in text and label in text], "not told by SMS")  # fmt: skip
        else:
            in_slack(office, ERIN, f"is closed: it was denied by you: “May I transfer? (label '{label}')”")
        until(lambda asked=asked: not asked.labels, "the buttons are still there")

    assert office.plant.effects_of("transferred") == Counter(
        {
            f"transferred {label}": 1
            for label in labels
            if run_of(office, runs[label]).result == f"transferred {label}"
        }
    )
    assert set(outcomes) == {"slack", "sms"}, outcomes


def at_once(*actions: tuple[float, Callable[[], int]]) -> None:
    """Do these at the same moment, each so many seconds after it; each must be answered 2xx."""
    barrier = threading.Barrier(len(actions))
    statuses: list[int] = []

    def act(wait: float, action: Callable[[], int]) -> None:
        barrier.wait()
        time.sleep(wait)
        statuses.append(action())

    threads = [threading.Thread(target=act, args=one) for one in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(200 <= status < 300 for status in statuses) and len(statuses) == len(actions)
