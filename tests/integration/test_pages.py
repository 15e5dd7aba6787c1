"""People's pages and the operator's over real HTTP: who sees and decides what, and what no link, form or text can do."""

from __future__ import annotations

import http.client
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field, TypeAdapter
from tests.pages_kit import PagesSite, served
from tests.servers import poll

from wakeloop.clock import SystemClock
from wakeloop.decisions import Actor, Grant
from wakeloop.events import Attachment
from wakeloop.store import outbox
from wakeloop.store.records import NewMessage
from wakeloop.store.schema import audit, deliveries, grants, messages, received, recipients, requests
from wakeloop.tokens import Scope
from wakeloop.web import access, live
from wakeloop.web.security import CONTENT_SECURITY_POLICY, FORM_LIMIT_BYTES, proof

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&lt;"
TABLES = (audit, deliveries, grants, messages, received, recipients, requests)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PagesSite]:
    """A site on loopback, without a public address."""
    with served(tmp_path) as made:
        yield made


@pytest.fixture
def public(tmp_path: Path) -> Iterator[PagesSite]:
    """A site that is published under another name, under a path."""
    with served(tmp_path, public_url="https://agents.example.com/wake") as made:
        yield made


def stored(site: PagesSite) -> dict[str, list[Any]]:
    """Everything that requests, messages and their record hold."""
    with site.runtime.database.read() as connection:
        return {table.name: sorted(map(str, connection.execute(sa.select(table)))) for table in TABLES}


def later(site: PagesSite, delta: timedelta) -> None:
    """Let time pass on the database's clock."""

    class Late(SystemClock):
        def now(self) -> Any:
            return super().now() + delta

    site.runtime.database.use_clock(Late())


# Deciding by forms


class Size(StrEnum):
    SMALL = "S"
    LARGE = "L"


class Order(BaseModel):
    """A typed answer."""

    amount: int = Field(ge=1, le=9, description="How many are wanted.")
    size: Size
    gift: bool = False
    note: str = ""


def test_a_plain_question_is_answered(site: PagesSite) -> None:
    """The page has its text and a text area; afterwards it says so, and that the person answered."""
    question = site.ask("alice", text="What comes first?")
    page = site.get(site.page("alice")).text
    assert "What comes first?" in page
    assert "<textarea" in page

    told = site.follow(site.post("alice", "answer", question, field__answer=" the billing\r\nbug "))

    assert "Your answer has been recorded" in told
    assert "Answered by you" in told
    outcome = site.again(question).outcome
    assert outcome is not None
    assert (outcome.text, outcome.by, outcome.channel) == ("the billing\nbug", "alice", "web")
    assert site.record(question) == [("answer", "counted", "alice")]


def test_a_typed_question_is_read_as_its_type(site: PagesSite) -> None:
    """Inputs with labels, descriptions and limits; the values come back as JSON of the right types."""
    question = site.ask("alice", answer=Order)
    page = site.get(site.page("alice")).text
    assert re.search(r'type="number"[^>]*min="1"[^>]*max="9"', page)
    assert "How many are wanted." in page
    assert page.count('type="radio"') == 2

    answer = site.post(
        "alice", "answer", question, field__amount="3", field__size="L", field__gift="true", field__note=""
    )

    site.follow(answer)
    outcome = site.again(question).outcome
    assert outcome is not None
    assert outcome.value == {"amount": 3, "size": "L", "gift": True, "note": ""}


def test_a_form_that_does_not_fit_is_shown_again_with_reasons(site: PagesSite) -> None:
    """At the field, with what was written; nothing is decided."""
    question = site.ask("alice", answer=Order)

    answer = site.post("alice", "answer", question, field__amount="12", field__size="L", field__note=HOSTILE)

    assert answer.status == 422
    assert 'value="12"' in answer.text
    assert "is-wrong" in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text
    assert "<script>alert" not in answer.text
    assert site.again(question).status == "open"


def test_an_approval_shows_every_argument_and_is_approved(site: PagesSite) -> None:
    """Long values can be unfolded, lines are kept, and the approval covers the call that was seen."""
    long = "long " * 100
    approval = site.ask_approval(
        args={"amount": 40, "memo": "Dear\n  ACME", "why": long, "raw": {"a": [1, None]}}
    )
    page = site.get(site.page("alice")).text
    assert re.search(r"<dt>amount</dt>\s*<dd>\s*<div class=\"value\">40</div>", page)
    assert "Dear\n  ACME" in page
    assert long.strip() in page
    assert "{a: [1, null]}" in page
    assert approval.digest is not None

    told = site.follow(site.post("alice", "approve", approval, digest=approval.digest, comment="fine"))

    assert "Approved, exactly as you saw it." in told
    outcome = site.again(approval).outcome
    assert outcome is not None
    assert (outcome.status, outcome.comment, outcome.digest) == ("approved", "fine", approval.digest)
    assert site.record(approval) == [("approve", "counted", "alice")]


def test_a_denial_has_a_reason_and_a_comment(site: PagesSite) -> None:
    """Both are told to whoever asked."""
    approval = site.ask_approval(args={"amount": 40}, options=("too expensive", "not now"))

    told = site.follow(site.post("alice", "deny", approval, option="not now", comment="next week"))

    assert "Denied" in told
    outcome = site.again(approval).outcome
    assert outcome is not None
    assert (outcome.status, outcome.option, outcome.comment) == ("denied", "not now", "next week")


def test_a_comment_decides_nothing(site: PagesSite) -> None:
    """It is on record, and the request stays open; an empty one is refused."""
    approval = site.ask_approval(args={"amount": 40})

    assert "Nothing has been decided" in site.follow(site.post("alice", "comment", approval, comment="why?"))
    assert site.post("alice", "comment", approval).status == 422
    assert site.again(approval).status == "open"
    assert site.record(approval) == [("comment", "noted", "alice")]


def test_arguments_are_changed_and_approved(site: PagesSite) -> None:
    """What is approved is what was written; a field that was left alone keeps its value to the letter."""
    approval = site.ask_approval(args={"amount": 40, "to": "ACME\r\nBerlin", "rate": 1.0}, edit=True)
    assert approval.digest is not None
    fields = {"edit": "1", "field__amount": "30", "field__to": "ACME\nBerlin", "field__rate": "1.0"}

    site.follow(site.post("alice", "approve", approval, digest=approval.digest, **fields))

    outcome = site.again(approval).outcome
    assert outcome is not None
    assert outcome.args == {"amount": 30, "to": "ACME\r\nBerlin", "rate": 1.0}
    assert outcome.edited
    assert [act for act, _, _ in site.record(approval)] == ["edit", "approve"]


def test_arguments_that_may_not_be_changed_are_not(site: PagesSite) -> None:
    """There is no form for it, and one that is made up is refused."""
    approval = site.ask_approval(args={"amount": 40})
    assert "Change the arguments" not in site.get(site.page("alice")).text
    assert approval.digest is not None

    answer = site.post("alice", "approve", approval, digest=approval.digest, edit="1", field__amount="1")

    assert answer.status == 422
    assert site.again(approval).status == "open"


def test_an_approval_in_advance_has_limits(site: PagesSite) -> None:
    """The next call within them is not asked about."""
    approval = site.ask_approval(args={"amount": 40, "to": "ACME"})
    assert approval.digest is not None
    limits = {"limit__amount": "at_most", "limit__to": "equal"}

    site.follow(site.post("alice", "approve", approval, digest=approval.digest, grant="1", **limits))

    [grant] = site.runtime.requests.grants()
    assert "amount at most 40" in grant.limits
    assert grant.expires_at - grant.created_at == timedelta(hours=24)
    assert site.ask_approval(args={"amount": 39, "to": "ACME"}).status == "approved"
    assert site.ask_approval(args={"amount": 41, "to": "ACME"}).status == "open"


def test_arguments_that_another_has_changed_are_not_approved_unseen(site: PagesSite) -> None:
    """The form says which it was made for."""
    approval = site.ask_approval("alice", "bob", args={"amount": 40}, edit=True, quorum=2)
    assert approval.digest is not None
    first = site.post("bob", "approve", approval, digest=approval.digest, edit="1", field__amount="50")
    assert "1 of 2" in site.follow(first)

    told = site.follow(site.post("alice", "approve", approval, digest=approval.digest))

    assert "have been changed since you saw them" in told
    assert "50" in told
    assert site.again(approval).status == "open"
    assert site.record(approval)[-1] == ("approve", "refused: changed meanwhile", "alice")
    now = site.again(approval).digest
    assert now is not None
    assert "Approved" in site.follow(site.post("alice", "approve", approval, digest=now))


def test_an_approval_without_what_was_seen_does_not_count(site: PagesSite) -> None:
    """A form that leaves the digest out is none of ours."""
    approval = site.ask_approval(args={"amount": 40})

    assert site.post("alice", "approve", approval).status == 422
    assert site.again(approval).status == "open"


# Links that are stale, stolen, changed, or too old


@pytest.mark.parametrize("act", ["approve", "deny", "comment"])
def test_a_stale_form_says_what_happened_and_changes_nothing(site: PagesSite, act: str) -> None:
    """Sent twice, and after another has decided; each attempt is on record as late."""
    approval = site.ask_approval("alice", "bob", args={"amount": 40})
    assert approval.digest is not None
    site.post("alice", "approve", approval, digest=approval.digest)

    mine = site.follow(site.post("alice", act, approval, digest=approval.digest, comment="again"))
    others = site.follow(site.post("bob", act, approval, digest=approval.digest, comment="me too"))

    assert "closed: it was approved by you" in mine
    assert "closed: it was approved by Alice" in others
    assert site.record(approval)[1:] == [(act, "late: approved", "alice"), (act, "late: approved", "bob")]
    outcome = site.again(approval).outcome
    assert outcome is not None
    assert outcome.by == "alice"


def test_what_has_expired_is_not_shown_as_denied(site: PagesSite) -> None:
    """Nobody decided; a late approval is on record and told so."""
    approval = site.ask_approval(args={"amount": 40}, timeout=60)
    assert approval.digest is not None
    later(site, timedelta(minutes=2))

    told = site.follow(site.post("alice", "approve", approval, digest=approval.digest))

    assert "the time had run out (expired), nobody decided" in told
    assert "Expired: the time ran out, nobody decided" in told
    assert "Denied" not in told
    assert site.record(approval)[-1] == ("approve", "late: expired", "alice")


@pytest.mark.parametrize("act", ["answer", "approve", "deny", "comment"])
def test_whoever_was_not_asked_decides_nothing(site: PagesSite, act: str) -> None:
    """They are told that there is nothing to decide, not what it was; the attempt is on record."""
    approval = site.ask_approval("alice", text="A secret matter", args={"amount": 40})
    assert approval.digest is not None

    answer = site.post("bob", act, approval, digest=approval.digest, comment="x", field__answer="x")

    assert answer.status == 404
    assert "There is nothing to decide here" in answer.text
    assert "secret" not in answer.text + site.get(site.page("bob")).text
    assert site.record(approval) == [(act, "refused: not asked", "bob")]
    assert site.again(approval).status == "open"


def test_a_request_that_is_not_there_is_told_in_the_same_words(site: PagesSite) -> None:
    """Also what is no id at all, and an act that there is not."""
    approval = site.ask_approval(args={"amount": 40})
    answers = [
        site.post("alice", "approve", str(uuid4()), digest="x"), site.post("alice", "approve", "nonsense"),
        site.post("alice", "explode", approval), site.post("bob", "deny", approval),
    ]  # fmt: skip

    assert {answer.status for answer in answers} == {404}
    assert len({answer.text for answer in answers}) == 1


def test_links_that_were_changed_or_made_by_others_are_refused(site: PagesSite) -> None:
    """Without a word about whose they were; also a link of a person who is no contact any more."""
    page = site.page("alice")
    gone = f"/people/{site.runtime.links.page_token('mallory')}"
    token = site.runtime.links.reply_token("alice", uuid4())

    answers = [site.get(path) for path in (page[:-1], page + "x", "/people/alice", gone, f"/people/{token}")]

    assert {answer.status for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1
    assert "alice" not in answers[0].text.lower()


def test_a_link_that_is_too_old_is_gone(site: PagesSite) -> None:
    """For looking, deciding, and hearing what is new."""
    approval = site.ask_approval(args={"amount": 40})
    page = site.page("alice")
    proof = site.proof(page)
    later(site, timedelta(days=31))

    answers = [
        site.get(page), site.get(f"{page}/events"),
        site.call("POST", f"{page}/requests/{approval.id}/deny", {"proof": proof}),
        site.call("POST", f"{page}/messages", {"proof": proof, "text": "hi"}),
    ]  # fmt: skip

    assert {answer.status for answer in answers} == {410}
    assert "too old" in answers[0].text
    assert site.again(approval).status == "open"


# GET, CSRF, headers, escaping


def test_a_get_or_head_decides_nothing(site: PagesSite) -> None:
    """Whatever looks at links before people do, such as a messenger's preview: no route changes the store."""
    approval = site.ask_approval(args={"amount": 40})
    question = site.ask()
    page = site.page("alice")
    site.get(page)
    before = stored(site)

    paths = [
        "/",
        "/inbox",
        "/login",
        "/logout",
        page,
        f"{page}?before={uuid4()}",
        f"{page}?notice=x",
        f"{page}/messages",
    ]
    for request in (approval, question):
        paths += [f"/requests/{request.id}", f"/requests/{request.id}/cancel"]
        paths += [f"{page}/requests/{request.id}/{act}?comment=x&digest={approval.digest}&field.answer=yes"
                  for act in ("answer", "approve", "deny", "comment")]  # fmt: skip
    for path in paths:
        for method in ("GET", "HEAD"):
            assert site.call(method, path).status in (200, 303, 307, 405), path

    assert stored(site) == before


def test_a_form_of_another_page_is_refused(site: PagesSite) -> None:
    """Without the proof, with another person's, and from another site; nothing is decided or recorded."""
    approval = site.ask_approval("alice", "bob", args={"amount": 40})
    path = f"{site.page('alice')}/requests/{approval.id}/deny"
    good = {"proof": site.proof(site.page("alice"))}
    attempts: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, {}), ({"proof": ""}, {}), ({"proof": site.proof(site.page("bob"))}, {}), ({"proof": good["proof"] + "x"}, {}),
        (good, {"Sec-Fetch-Site": "cross-site"}), (good, {"Sec-Fetch-Site": "same-site"}),
        (good, {"Origin": "https://evil.example.com"}), (good, {"Origin": f"{site.url}.evil.example.com"}),
        (good, {"Origin": "null", "Sec-Fetch-Site": "cross-site"}),
    ]  # fmt: skip

    for form, headers in attempts:
        answer = site.call("POST", path, form, headers=headers)
        assert answer.status == 403, (form, headers)
        assert "Nothing has been decided" in answer.text

    assert site.record(approval) == []
    ours = {"Origin": site.url, "Sec-Fetch-Site": "same-origin"}
    assert site.call("POST", path, good, headers=ours).status == 303


def test_a_form_that_is_too_much_or_none_is_refused(site: PagesSite) -> None:
    """By its size, its kind, and its number of fields."""
    path = f"{site.page('alice')}/messages"
    json_type = {"Content-Type": "application/json"}

    assert site.call("POST", path, {"text": "x" * FORM_LIMIT_BYTES}).status == 413
    assert site.call("POST", path, {"text": "x"}, headers=json_type).status == 415
    assert site.call("POST", path, {f"f{n}": "x" for n in range(1001)}).status == 400
    assert site.post("alice", "messages", text="x" * 5001).status == 413


def test_every_answer_has_the_security_headers(site: PagesSite) -> None:
    """Pages, refusals, redirects, files, probes and webhooks."""
    page = site.page("alice")
    paths = ["/", "/inbox", "/login", page, "/people/x", f"/requests/{uuid4()}", "/healthz", "/nowhere",
             "/static/wakeloop.css", "/static/person.js", "/static/nothing"]  # fmt: skip
    answers = [site.get(path) for path in paths]
    answers += [
        site.call("POST", f"{page}/messages", {}),
        site.call("POST", "/webhooks/sms", {}),
        site.call("DELETE", page),
    ]

    for answer in answers:
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-robots-tag"].startswith("noindex")
    assert {answer.headers["cache-control"] for answer in answers if "css" not in str(answer.headers)} >= {
        "no-store"
    }
    assert site.get(page).headers["cache-control"] == "no-store"
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_everything_that_people_and_models_wrote_is_escaped(site: PagesSite) -> None:
    """In questions, options, arguments, names of them, comments, messages, and an operator's pages."""
    site.post("alice", "messages", text=HOSTILE)
    site.ask("alice", text=HOSTILE, options=[HOSTILE, "other"])
    site.ask("alice", text="x", answer=Order)
    approval = site.ask_approval(
        args={HOSTILE: HOSTILE, "lines": f"a\n{HOSTILE}", "long": HOSTILE * 20, "deep": {HOSTILE: [HOSTILE]}},
        action=HOSTILE, text=HOSTILE, options=(HOSTILE,), edit=True, subject=HOSTILE,
    )  # fmt: skip
    site.post("alice", "comment", approval, comment=HOSTILE)
    ended = site.ask("alice", text=HOSTILE)
    site.post("alice", "answer", ended, field__answer=HOSTILE)
    denied = site.ask_approval(args={"x": HOSTILE}, options=(HOSTILE,))
    site.post("alice", "deny", denied, option=HOSTILE, comment=HOSTILE)

    pages = [site.page("alice"), "/inbox", *(f"/requests/{one.id}" for one in (approval, ended, denied))]
    for path in pages:
        text = site.get(path).text
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>alert" not in text
        assert "<img" not in text
        assert not re.search(r"\son\w+=\"", text)
        assert not re.search(r"<script(?![^>]* src=)", text)
        assert "style=" not in text
        assert "{{ 7 * 7 }}" in text
    assert "�" in site.get(f"/requests/{site.ask_approval(args={'a': 'x‮y'}).id}").text


def test_a_notice_cannot_be_made_up(site: PagesSite) -> None:
    """Words on the page come from us, or are not shown."""
    text = site.get(f"{site.page('alice')}?notice=Approved.").text

    assert 'id="notice"' not in text
    forged = site.runtime.links.page_token("alice")
    assert 'id="notice"' not in site.get(f"{site.page('alice')}?notice={forged}").text


# The conversation


def test_the_conversation_is_shown_a_part_at_a_time(site: PagesSite) -> None:
    """Newest at the bottom; older ones on the page before, each once."""
    for number in range(95):
        site.post("alice", "messages", text=f"message {number:03}.")

    path, seen, pages = site.page("alice"), [], 0
    while path:
        text = site.get(path).text
        seen = re.findall(r"message (\d{3})\.</p>", text) + seen
        older = re.search(r'href="([^"]+\?before=[^"#]+)', text)
        path = older[1] if older else ""
        pages += 1

    assert seen == [f"{number:03}" for number in range(95)]
    assert pages > 2


def test_files_stand_below_their_message_and_are_only_for_whom_they_were_sent(site: PagesSite) -> None:
    """One by its address, one from here, as a download that no browser shows; nobody else gets it."""
    page = b'<script>alert("x")</script>'
    files = [
        Attachment.from_bytes(page, name="a & b.html", content_type="text/html"),
        Attachment(url="https://files.example.com/r.pdf", name="r.pdf"),
    ]
    message = NewMessage(
        id=uuid4(), contact="alice", channel="web", address="alice", via=None, subject=None, text="See these.",
        attachments=TypeAdapter(tuple[Attachment, ...]).dump_json(tuple(files)).decode(),
    )  # fmt: skip
    with site.runtime.database.begin() as connection:
        outbox.put(connection, None, [message], now=site.runtime.database.now())

    here, path = site.page("alice"), f"/files/{message.id}"
    shown = site.get(here).text
    answer = site.get(f"{here}{path}/0")

    assert f'href="{here}{path}/0" download>a &amp; b.html</a>' in shown
    assert 'href="https://files.example.com/r.pdf">r.pdf</a>' in shown
    assert (answer.status, answer.text) == (200, page.decode())
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''a%20%26%20b.html"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    for refused in (
        f"{here}{path}/1", f"{here}{path}/2", f"{here}{path}/-9", f"{here}{path}/x", f"{here}/files/{uuid4()}/0",
        f"{here}/files/x/0", f"{site.page('bob')}{path}/0",
    ):  # fmt: skip
        assert site.get(refused).status == 404
    assert site.get(f"/people/nobody{path}/0").status == 403


def test_a_message_is_recorded_once_and_known_by_its_link(site: PagesSite) -> None:
    """Pressed twice is sent once; somebody without an address here is known by the link all the same."""
    page = site.page("carol")
    text = site.get(page).text
    found = re.search(r'name="nonce" value="([^"]+)"', text)
    assert found is not None
    form = {"proof": site.proof(page), "nonce": found[1], "text": "hello"}

    assert [site.call("POST", f"{page}/messages", form).status for _ in range(2)] == [303, 303]
    assert site.post("carol", "messages", text="  ").status == 422

    with site.runtime.database.read() as connection:
        [row] = connection.execute(sa.select(received)).all()
    assert (row.channel, row.contact, row.outcome) == ("web", "carol", "message for echo/carol")


def test_words_in_the_conversation_answer_the_only_open_request(site: PagesSite) -> None:
    """As on any channel; the record says that it came by the link."""
    question = site.ask("alice", text="What comes first?")

    site.post("alice", "messages", text="the billing bug")

    assert site.again(question).answer == "the billing bug"
    [line] = [one for one in site.runtime.requests.audit(UUID(question.id)) if one.act == "answer"]
    assert (line.channel, line.auth, line.contact) == ("web", "signed link", "alice")


def test_what_a_page_does_not_take_from_the_network(site: PagesSite) -> None:
    """No address of another host is on it."""
    site.ask()
    for path in (site.page("alice"), "/inbox", "/login"):
        addresses = re.findall(r'(?:src|href|action)="([^"]*)"', site.get(path).text)
        assert addresses
        assert all(address.startswith(("/", "#")) and not address.startswith("//") for address in addresses)


# What is new


class Stream:
    """An open stream of events."""

    def __init__(self, site: PagesSite, path: str) -> None:
        parts = urlsplit(site.url)
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        self.connection.request("GET", path)
        self.answer = self.connection.getresponse()

    def close(self) -> None:
        """Leave."""
        self.answer.close()
        self.connection.close()


@pytest.fixture
def stream() -> Iterator[Callable[[PagesSite, str], Stream]]:
    """Opens streams; what is left of them is closed."""
    opened: list[Stream] = []

    def make(site: PagesSite, path: str) -> Stream:
        opened.append(Stream(site, path))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


Opener = Callable[[PagesSite, str], Stream]


def next_version(stream: Stream) -> str:
    """What a stream says next."""
    while True:
        line = stream.answer.readline().decode()
        assert line, "the stream has ended"
        if line.startswith("data: "):
            return str(line.removeprefix("data: ").strip())


def test_a_stream_tells_what_the_page_does_not_show_yet(site: PagesSite, stream: Opener) -> None:
    """First the version of the page as it is, then one for each change, and nothing for others' changes."""
    shown = re.search(r'data-version="(\w+)"', site.get(site.page("alice")).text)
    assert shown is not None
    answer = stream(site, f"{site.page('alice')}/events")
    assert str(answer.answer.getheader("content-type")).startswith("text/event-stream")
    assert next_version(answer) == shown[1]

    site.ask("bob")
    question = site.ask("alice")
    second = next_version(answer)
    site.post("alice", "answer", question, field__answer="yes")
    third = next_version(answer)

    now = re.search(r'data-version="(\w+)"', site.get(site.page("alice")).text)
    assert now is not None
    assert len({shown[1], second, third}) == 3
    assert third == now[1]


def test_an_edit_and_a_vote_of_others_are_told(site: PagesSite, stream: Opener) -> None:
    """They stand on the card, and an edit makes what was seen stale."""
    approval = site.ask_approval("alice", "bob", args={"amount": 40}, edit=True, quorum=2)
    assert approval.digest is not None
    answer = stream(site, f"{site.page('alice')}/events")
    first = next_version(answer)

    site.post("bob", "approve", approval, digest=approval.digest, edit="1", field__amount="50")

    assert next_version(answer) != first


def test_there_are_only_so_many_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: Opener
) -> None:
    """One link cannot take them all; beyond that the page is told to come again later."""
    monkeypatch.setattr(live, "STREAMS_OF_ONE_LIMIT", 2)
    with served(tmp_path) as site:
        path = f"{site.page('alice')}/events"
        opened = [stream(site, path) for _ in range(2)]
        for one in opened:
            next_version(one)

        refused = site.get(path)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        other = stream(site, f"{site.page('bob')}/events")
        assert other.answer.status == 200

        for one in [*opened, other]:
            one.close()
        for _ in poll(20):
            again = stream(site, path)
            is_open = again.answer.status == 200
            again.close()
            if is_open:
                return
        raise AssertionError("closed streams were never given back")


def test_streams_end_at_once_when_the_server_stops(site: PagesSite, stream: Opener) -> None:
    """Open pages keep no process."""
    opened = [stream(site, f"{site.page(contact)}/events") for contact in ("alice", "bob", "alice")]
    for one in opened:
        next_version(one)
    since = time.monotonic()

    site.server.stop(10)

    assert time.monotonic() - since < 0.9
    assert all(b"data" not in one.answer.read() for one in opened)


# The operator's pages


def test_on_this_machine_alone_no_login_is_needed(site: PagesSite) -> None:
    """The start leads to the inbox, which shows what wants a human."""
    question = site.ask("alice", text="What comes first?")

    assert site.get("/").headers["location"] == "/inbox"
    inbox = site.get("/inbox")

    assert inbox.status == 200
    assert "What comes first?" in inbox.text
    assert f"/requests/{question.id}" in inbox.text
    one = site.get(f"/requests/{question.id}").text
    assert "Record" in one
    assert "program tests" in one


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.com"}, {"Host": "rebound.example.com:8080"}, {"Host": "127.0.0.1.example.com"}, {"Host": "[::1"},
        {"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"Via": "1.1 proxy"},
    ],
)  # fmt: skip
def test_a_request_that_may_come_from_elsewhere_needs_a_login(
    site: PagesSite, headers: dict[str, str]
) -> None:
    """A page in a browser on this machine that gave our address a name of its own (DNS rebinding), or a proxy."""
    question = site.ask("alice", text="A secret matter")
    for path in ("/inbox", f"/requests/{question.id}"):
        answer = site.call("GET", path, headers=headers)
        assert answer.status == 303
        assert answer.headers["location"].startswith("/login?next=")
    form = {"proof": proof(site.runtime.links, "operator", "local")}
    assert site.call("POST", f"/requests/{question.id}/cancel", form, headers=headers).status == 403
    assert site.again(question).status == "open"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "127.0.0.1:9999", "LOCALHOST:80"])
def test_names_of_this_machine_are_local(site: PagesSite, host: str) -> None:
    """Whatever the port."""
    assert site.call("GET", "/inbox", headers={"Host": host}).status == 200


def test_elsewhere_an_operator_logs_in_with_a_token(public: PagesSite) -> None:
    """The cookie is out of reach for scripts, other sites and plain HTTP; the path of the public address is kept."""
    secret = public.runtime.tokens.create("office", [Scope.ADMIN])
    assert public.get("/inbox").headers["location"] == "/wake/login?next=%2Finbox"
    form = {"proof": public.proof("/login"), "token": secret, "next": "/inbox"}

    answer = public.call("POST", "/login", form)

    assert (answer.status, answer.headers["location"]) == (303, "/wake/inbox")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Secure", "Path=/wake", "SameSite=strict", "Max-Age=43200"} <= set(cookie.split("; "))
    assert secret not in cookie
    headers = {"Cookie": cookie.partition(";")[0]}
    inbox = public.call("GET", "/inbox", headers=headers)
    assert inbox.status == 200
    assert "office" in inbox.text

    proof = public.proof("/inbox", headers=headers)
    assert public.call("POST", "/logout", {"proof": proof}, headers=headers).status == 303
    public.runtime.tokens.revoke("office")
    assert public.call("GET", "/inbox", headers=headers).status == 303


def test_a_login_ends_by_itself(public: PagesSite) -> None:
    """After twelve hours."""
    secret = public.runtime.tokens.create("office", [Scope.ADMIN])
    answer = public.call("POST", "/login", {"proof": public.proof("/login"), "token": secret})
    headers = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    assert public.call("GET", "/inbox", headers=headers).status == 200

    later(public, timedelta(hours=13))

    assert public.call("GET", "/inbox", headers=headers).status == 303


def test_only_tokens_of_operators_open_the_door(public: PagesSite) -> None:
    """Neither another scope, nor a made-up secret or cookie; after some failures a peer waits."""
    weak = public.runtime.tokens.create("weak", [Scope.REQUESTS_READ])
    secret = public.runtime.tokens.create("office", [Scope.ADMIN])
    proof = public.proof("/login")
    made_up = public.runtime.links.page_token("office")
    assert public.call("GET", "/inbox", headers={"Cookie": f"{access.COOKIE}={made_up}"}).status == 303

    for attempt in range(public.runtime.settings.wrong_tokens):
        token = weak if attempt % 2 else "wl_nonsense"
        assert public.call("POST", "/login", {"proof": proof, "token": token}).status == 403
    waiting = public.call("POST", "/login", {"proof": proof, "token": secret})

    assert waiting.status == 429
    assert 0 < int(waiting.headers["retry-after"]) <= access.TRIES_SECONDS + 1


@pytest.mark.parametrize(
    "next", ["https://evil.example.com", "//evil.example.com", "/\\evil", "/requests/\\..", "javascript:x"]
)
def test_a_login_leads_nowhere_else(public: PagesSite, next: str) -> None:
    """What stands in a link is no reason to leave."""
    secret = public.runtime.tokens.create("office", [Scope.ADMIN])
    form = {"proof": public.proof("/login"), "token": secret, "next": next}

    assert public.call("POST", "/login", form).headers["location"] == "/wake/inbox"


def test_a_request_is_cancelled_and_a_grant_revoked(site: PagesSite) -> None:
    """Both are on record with who did it."""
    approval = site.ask_approval("alice", args={"amount": 40})
    other = site.ask_approval("alice", args={"amount": 1}, action="other")
    actor = Actor(contact="alice", channel="web", auth="test")
    site.runtime.requests.approve(UUID(other.id), actor, grant=Grant(seconds=600))
    [grant] = site.runtime.requests.grants()
    proof = site.proof("/inbox")

    cancelled = site.call("POST", f"/requests/{approval.id}/cancel", {"proof": proof, "reason": "a mistake"})
    revoked = site.call("POST", f"/grants/{grant.id}/revoke", {"proof": proof})

    assert (cancelled.status, revoked.status) == (303, 303)
    outcome = site.again(approval).outcome
    assert outcome is not None
    assert (outcome.status, outcome.reason) == ("cancelled", "a mistake")
    assert ("cancel", "local operator") in [
        (line.act, line.auth) for line in site.runtime.requests.audit(UUID(approval.id))
    ]
    [over] = site.runtime.requests.grants()
    assert (over.is_active, over.revoked_by) == (False, "local operator")
    assert "No longer needed" in site.get(site.page("alice")).text
    assert site.call("POST", f"/requests/{uuid4()}/cancel", {"proof": proof}).status == 404
    assert site.call("POST", f"/requests/{approval.id}/cancel", {}).status == 403


def test_the_database_away_is_told_on_the_page(site: PagesSite) -> None:
    """In plain words, with when to come again; and what was sent then is not acknowledged."""
    page = site.page("alice")
    token = site.proof(page)
    file = Path(str(site.runtime.database.url.database))
    site.runtime.database.close()
    aside = file.parent.with_name("aside")
    shutil.move(file.parent, aside)
    file.parent.mkdir()
    file.mkdir()

    answers = [site.get(page), site.call("POST", f"{page}/messages", {"proof": token, "text": "hi"})]

    assert {answer.status for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    assert "try again in a moment" in answers[0].text
    site.runtime.database.close()
    shutil.rmtree(file.parent)
    shutil.move(aside, file.parent)
    assert "No messages yet." in site.get(page).text
