"""Requests over real HTTP: made once, waited for, decided once, and refused in problem documents."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from tests.integration.api_kit import BASE, Site, is_problem, sites
from tests.servers import poll

from wakeloop.tokens import Scope
from wakeloop.web.api_body import BODY_LIMIT_BYTES


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings."""
    with sites(tmp_path) as make:
        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site on this machine only, without tokens."""
    return make_site()


# Made


def test_a_question_is_made_and_read_back(site: Site) -> None:
    """With what was asked, whom, and the state to the letter."""
    state = {"invoice": 7, "tags": ["a", None], "ü": 1.5}

    made = site.ask(options=["Monday", "Friday"], state=state, timeout=60)

    assert made["kind"] == "question" and made["status"] == "open" and made["outcome"] is None
    assert (made["to"], made["asked"], made["options"]) == (["alice"], ["alice"], ["Monday", "Friday"])
    assert made["state"] == state
    assert made["maker"] == "local" and made["run"] is None
    assert made["expires_at"] > made["created_at"]
    assert site.get(f"/requests/{made['id']}").json == made


def test_an_approval_names_its_call(site: Site) -> None:
    """The arguments as they are, their digest, and who must approve them."""
    made = site.propose(to=["board"], quorum=2, options=["too expensive"], edit=True)

    assert made["text"] == "May I pay?"
    assert made["args"] == {"to": "ACME", "amount": 40}
    assert made["digest"].startswith("sha256:")
    assert made["asked"] == ["alice", "bob"]
    assert (made["quorum"], made["votes"], made["is_editable"]) == (2, [], True)


def test_the_same_id_makes_one_request_however_often_it_is_sent(site: Site) -> None:
    """Ten at once: one makes it, the others get it; the people are asked once."""
    body = {"id": str(uuid4()), "kind": "question", "to": "alice", "text": "Which day?", "state": [1]}

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: site.post("/requests", body), range(10)))

    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert {answer.json["id"] for answer in answers} == {body["id"]}
    audit = site.get(f"/requests/{body['id']}/audit").json["audit"]
    assert [(line["act"], line["contact"]) for line in audit] == [("ask", "alice")]


@pytest.mark.parametrize(
    "change", [{"text": "Which week?"}, {"state": [2]}, {"callback_url": "http://127.0.0.1/x"}]
)
def test_the_same_id_with_other_content_is_refused(site: Site, change: dict[str, Any]) -> None:
    """409: it would otherwise be somebody's mistake that nobody sees."""
    body = {"id": str(uuid4()), "kind": "question", "to": "alice", "text": "Which day?", "state": [1]}
    site.post("/requests", body)

    assert is_problem(site.post("/requests", {**body, **change}), 409, body["id"])


def test_an_unknown_contact_is_refused_with_the_nearest_one(site: Site) -> None:
    """422, as the body is wrong, and nothing is made."""
    answer = site.post("/requests", {"kind": "question", "to": "alise", "text": "Which day?"})

    assert is_problem(answer, 422, "alice")
    assert answer.json["errors"][0]["loc"] == ["body", "to"]
    assert site.get("/requests").json == {"requests": [], "next": None}


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"tetx": "x"}, ["body", "tetx"]),
        ({"text": None}, ["body", "text"]),
        ({"text": " "}, ["body", "text"]),
        ({"to": []}, None),
        ({"kind": "wish"}, ["body", "kind"]),
        ({"timeout": -1}, ["body", "timeout"]),
        ({"timeout": 1e300}, ["body", "timeout"]),
        ({"subject": "a\r\nBcc: eve@example.com"}, ["body", "subject"]),
        ({"callback_url": "ftp://example.com"}, ["body", "callback_url"]),
        ({"callback_url": "https://me:secret@example.com"}, ["body", "callback_url"]),
        ({"answer_schema": {"type": "nothing"}}, ["body", "answer_schema"]),
        ({"answer_schema": {"type": "integer"}, "options": ["many"]}, ["body", "options"]),
        ({"options": ["a", "A"]}, ["body", "options"]),
        ({"action": "pay"}, ["body", "action"]),
        ({"quorum": 2}, ["body", "quorum"]),
        ({"kind": "approval"}, ["body", "action"]),
        ({"kind": "approval", "action": "pay", "requester": "nobody"}, ["body", "requester"]),
        (
            {"kind": "approval", "action": "pay", "args": {"n": "x"}, "args_schema": {"properties": {"n": {"type": "integer"}}}},
            ["body", "args"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(
    site: Site, fields: dict[str, Any], loc: list[str] | None
) -> None:
    """Unknown fields too: a misspelt one would silently do nothing."""
    answer = site.post("/requests", {"kind": "question", "to": "alice", "text": "Which day?", **fields})

    assert is_problem(answer, 422)
    assert loc is None or answer.json["errors"][0]["loc"] == loc
    assert site.get("/requests").json["requests"] == []


# Looked at


def test_the_list_goes_back_a_page_at_a_time(site: Site) -> None:
    """Newest first, by when they were made and not by their ids, which may be the callers'."""
    made = [site.ask(text=f"Question {n}", id=str(uuid4()))["id"] for n in range(5)]
    site.propose(to="bob")

    first = site.get("/requests?contact=alice&limit=2").json
    second = site.get(f"/requests?contact=alice&limit=2&before={first['next']}").json
    third = site.get(f"/requests?contact=alice&limit=2&before={second['next']}").json

    pages = [[one["id"] for one in page["requests"]] for page in (first, second, third)]
    assert pages == [[made[4], made[3]], [made[2], made[1]], [made[0]]]
    assert third["next"] is None
    assert len(site.get("/requests?status=open").json["requests"]) == 6
    assert site.get("/requests?status=denied").json == {"requests": [], "next": None}


def test_contacts_are_shown_without_their_addresses(site: Site) -> None:
    """What a program or a model may know of people."""
    contacts = site.get("/contacts").json["contacts"]

    assert contacts[0] == {
        "id": "alice", "name": "Alice", "description": "Looks after money", "languages": [], "tz": "UTC",
    }  # fmt: skip
    assert [one["id"] for one in contacts] == ["alice", "bob", "carol"]


# Waited for


def test_a_long_poll_ends_with_the_request(site: Site) -> None:
    """Well before its time is over."""
    made = site.ask()

    with ThreadPoolExecutor(1) as pool:
        since = time.monotonic()
        waiting = pool.submit(site.get, f"/requests/{made['id']}?wait=30")
        time.sleep(0.5)
        assert not waiting.done()
        site.post(f"/requests/{made['id']}/answer", {"contact": "alice", "text": "Monday"})
        answer = waiting.result(20)

    assert time.monotonic() - since < 15
    assert answer.json["status"] == "answered"
    assert answer.json["outcome"]["text"] == "Monday"


def test_a_long_poll_gives_the_request_as_it_is_when_its_time_is_over(site: Site) -> None:
    """The caller asks again: nothing is lost between two polls."""
    made = site.ask()

    answer = site.get(f"/requests/{made['id']}?wait=0.5")

    assert answer.status == 200 and answer.json == made
    assert is_problem(site.get(f"/requests/{made['id']}?wait=61"), 422, "wait")
    assert is_problem(site.get(f"/requests/{uuid4()}?wait=1"), 404)


def test_a_hundred_wait_at_once_and_others_are_served(site: Site) -> None:
    """More than there are threads: a waiting caller holds none."""
    made = site.ask()

    with ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(site.get, f"/requests/{made['id']}?wait=30") for _ in range(100)]
        time.sleep(1)
        answer = site.post(
            f"/requests/{made['id']}/answer", {"contact": "alice", "text": "Monday"}, timeout=10
        )
        assert answer.status == 200
        statuses = {one.result(20).json["status"] for one in waiting}

    assert statuses == {"answered"}


def test_a_caller_that_hangs_up_is_not_waited_for(site: Site) -> None:
    """Its place is free at once."""
    made = site.ask()
    parts = urlsplit(site.url)
    waiting = site.server.app.state.api.state.requests

    with socket.create_connection((parts.hostname or "", parts.port or 0)) as caller:
        request = f"GET {BASE}/requests/{made['id']}?wait=60 HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
        caller.sendall(request.encode())
        for _ in poll(10):
            if waiting.count:
                break

    for _ in poll(10):
        if not waiting.count:
            break
    assert waiting.count == 0


def test_a_long_poll_ends_when_the_server_stops(site: Site) -> None:
    """The caller gets an answer, and asks the next process."""
    made = site.ask()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(site.get, f"/requests/{made['id']}?wait=60")
        time.sleep(0.5)
        since = time.monotonic()
        site.server.stop(10)
        answer = waiting.result(10)

    assert answer.status == 200 and answer.json["status"] == "open"
    assert time.monotonic() - since < 5


# Decided


def test_an_answer_is_read_as_the_question_asks(site: Site) -> None:
    """Words as a person's, values as they are; what does not fit is refused and changes nothing."""
    schema = {"type": "integer", "minimum": 1}
    first, second = site.ask(answer_schema=schema), site.ask(answer_schema=schema)

    assert is_problem(
        site.post(f"/requests/{first['id']}/answer", {"contact": "alice", "text": "a few"}), 422
    )
    assert is_problem(site.post(f"/requests/{first['id']}/answer", {"contact": "alice", "value": 0}), 422)
    assert is_problem(site.post(f"/requests/{first['id']}/answer", {"contact": "alice"}), 422, "text")
    assert site.get(f"/requests/{first['id']}").json["status"] == "open"

    by_text = site.post(f"/requests/{first['id']}/answer", {"contact": "alice", "text": " 1,200 "})
    by_value = site.post(f"/requests/{second['id']}/answer", {"contact": "alice", "value": 7})

    assert by_text.json | {"words": ""} == {
        "accepted": True, "status": "answered", "request_status": "answered", "words": "",
    }  # fmt: skip
    assert by_value.status == 200
    outcomes = [site.get(f"/requests/{one['id']}").json["outcome"] for one in (first, second)]
    assert [outcome["value"] for outcome in outcomes] == [1200, 7]
    assert [(outcome["by"], outcome["channel"]) for outcome in outcomes] == [("alice", "api")] * 2


def test_of_ten_decisions_at_once_one_counts(site: Site) -> None:
    """The others are told so, and are on record."""
    made = site.propose()
    verdicts = ["approve", "deny"] * 5

    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(
                lambda verdict: site.post(f"/requests/{made['id']}/{verdict}", {"contact": "alice"}), verdicts
            )
        )

    counted = [answer for answer in answers if answer.status == 200]
    late = [answer for answer in answers if answer.status == 409]
    assert (len(counted), len(late)) == (1, 9)
    assert all(is_problem(answer, 409, "too late") for answer in late)
    assert {answer.json["accepted"] for answer in late} == {False}
    assert {answer.json["request_status"] for answer in late} == {counted[0].json["status"]}
    lines = site.get(f"/requests/{made['id']}/audit").json["audit"]
    decided = [line["result"] for line in lines if line["act"] in ("approve", "deny")]
    assert sorted(result.partition(":")[0] for result in decided) == ["counted", *["late"] * 9]
    assert {line["auth"] for line in lines if line["act"] in ("approve", "deny")} == {"local"}


def test_an_approval_can_be_edited_and_covers_what_was_approved(site: Site) -> None:
    """A digest that is not that of the call as it stands does not count."""
    made = site.propose(edit=True)
    path = f"/requests/{made['id']}/approve"

    assert is_problem(site.post(path, {"contact": "alice", "args": {"to": "ACME", "amount": "x"}}), 422)
    assert is_problem(site.post(path, {"contact": "alice", "digest": "sha256:other"}), 409, "changed")
    assert is_problem(site.post(path, {"contact": "bob"}), 409, "refused")
    answer = site.post(path, {"contact": "alice", "args": {"to": "ACME", "amount": 30}, "comment": "less"})

    assert answer.status == 200
    outcome = site.get(f"/requests/{made['id']}").json["outcome"]
    assert outcome["args"] == {"to": "ACME", "amount": 30} and outcome["edited"]
    assert outcome["comment"] == "less" and outcome["approvers"] == ["alice"]
    assert outcome["digest"] != made["digest"]


def test_a_denial_has_one_of_the_reasons(site: Site) -> None:
    """Another is refused, and the request stays open."""
    made = site.propose(options=["too expensive"])
    path = f"/requests/{made['id']}/deny"

    assert is_problem(site.post(path, {"contact": "alice", "option": "not now"}), 422, "too expensive")
    assert site.post(path, {"contact": "alice", "option": "too expensive", "comment": "sorry"}).status == 200
    outcome = site.get(f"/requests/{made['id']}").json["outcome"]
    assert (outcome["status"], outcome["option"], outcome["comment"]) == ("denied", "too expensive", "sorry")


def test_a_comment_decides_nothing(site: Site) -> None:
    """It is on record."""
    made = site.propose()

    answer = site.post(f"/requests/{made['id']}/comment", {"contact": "alice", "text": "who is ACME?"})

    assert answer.json["status"] == "open"
    assert site.get(f"/requests/{made['id']}/audit").json["audit"][-1]["comment"] == "who is ACME?"


def test_a_grant_covers_the_next_call_until_it_is_revoked(site: Site) -> None:
    """Approved in advance, as the audit record says; afterwards it is asked about again."""
    made = site.propose()
    grant = {"seconds": 60, "limits": {"amount": "at_most"}}
    assert site.post(f"/requests/{made['id']}/approve", {"contact": "alice", "grant": grant}).status == 200

    covered = site.propose(args={"to": "ACME", "amount": 39})
    beyond = site.propose(args={"to": "ACME", "amount": 41})

    assert (covered["status"], beyond["status"]) == ("approved", "open")
    [found] = site.get("/grants").json["grants"]
    assert found["is_active"] and found["contact"] == "alice" and "amount at most 40" in found["limits"]
    revoked = site.post(f"/grants/{found['id']}/revoke").json
    assert not revoked["is_active"] and revoked["revoked_by"] == "local"
    assert site.propose(args={"to": "ACME", "amount": 39})["status"] == "open"
    assert is_problem(site.post(f"/grants/{uuid4()}/revoke"), 404)


def test_a_request_is_cancelled_once(site: Site) -> None:
    """With or without a reason; the second time there is nothing to cancel."""
    made, other = site.ask(), site.ask()

    assert site.post(f"/requests/{made['id']}/cancel", {"reason": "found out"}).json["status"] == "cancelled"
    assert site.post(f"/requests/{other['id']}/cancel").status == 200
    assert is_problem(site.post(f"/requests/{made['id']}/cancel"), 409, "too late")
    assert site.get(f"/requests/{made['id']}").json["outcome"]["reason"] == "found out"


# Who may


def test_every_operation_asks_for_a_token(make_site: Callable[..., Site]) -> None:
    """Where others can reach the server: none, an unknown one, a revoked one."""
    site = make_site(public_url="https://agents.example.com", wrong_tokens=0)
    revoked = site.token("old", Scope.ADMIN)
    site.runtime.tokens.revoke("old")
    document = site.get("/openapi.json").json

    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["security"], path
            place = path.replace("{id}", str(uuid4())).replace("{agent}", "echo").replace("{key}", "default")
            body = {} if method == "post" else None
            for token in (None, "wl_unknown", "x", revoked):
                answer = site.call(method.upper(), place, body, token=token)
                assert is_problem(answer, 401), (path, answer)
                assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_token_is_good_for_its_scopes_only(make_site: Callable[..., Site]) -> None:
    """403 for the rest; admin is good for everything."""
    site = make_site(public_url="https://agents.example.com")
    reads, writes = site.token("r", Scope.REQUESTS_READ), site.token("w", Scope.REQUESTS_WRITE)
    admin = site.token("a", Scope.ADMIN)
    question = {"kind": "question", "to": "alice", "text": "Which day?"}

    refused = site.post("/requests", question, token=reads)
    assert is_problem(refused, 403, "requests:write")
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    made = site.post("/requests", question, token=writes)
    assert made.status == 201 and made.json["maker"] == "w"
    assert is_problem(site.get(f"/requests/{made.json['id']}", token=writes), 403)
    assert site.get(f"/requests/{made.json['id']}", token=reads).status == 200
    decided = site.post(
        f"/requests/{made.json['id']}/answer", {"contact": "alice", "text": "Monday"}, token=admin
    )
    assert decided.status == 200
    line = site.get(f"/requests/{made.json['id']}/audit", token=reads).json["audit"][-1]
    assert (line["auth"], line["channel"]) == ("token a", "api")


def test_only_its_maker_or_an_admin_cancels_a_request(make_site: Callable[..., Site]) -> None:
    """Another program's token may not."""
    site = make_site(public_url="https://agents.example.com")
    one, other = site.token("one", Scope.REQUESTS_WRITE), site.token("other", Scope.REQUESTS_WRITE)
    admin = site.token("admin", Scope.ADMIN)
    question = {"kind": "question", "to": "alice", "text": "Which day?"}
    made = [site.post("/requests", question, token=one).json["id"] for _ in range(2)]

    assert is_problem(site.post(f"/requests/{made[0]}/cancel", token=other), 403)
    assert site.post(f"/requests/{made[0]}/cancel", token=one).status == 200
    assert site.post(f"/requests/{made[1]}/cancel", token=admin).status == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Host": "localhost:8080"}, True),
        ({"Host": "[::1]:8080"}, True),
        ({"Host": "rebound.example.com"}, False),
        ({"Host": "127.0.0.1.example.com"}, False),
        ({"Origin": "https://evil.example.com"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"X-Forwarded-For": "203.0.113.7"}, False),
        ({"Authorization": "Basic eDp5"}, False),
        ({"Authorization": "Bearer wl_unknown"}, False),
    ],
)
def test_on_this_machine_no_token_is_needed_but_no_page_elsewhere_gets_in(
    site: Site, headers: dict[str, str], allowed: bool
) -> None:
    """Neither by a name that was pointed here, nor by a browser's request across origins, nor through a proxy."""
    assert site.get("/contacts", headers=headers).status == (200 if allowed else 401)


@pytest.mark.parametrize("public", [{"public_url": "https://agents.example.com"}, {"host": "0.0.0.0"}])
def test_a_server_that_others_reach_has_no_local_callers(
    make_site: Callable[..., Site], public: dict[str, str]
) -> None:
    """Whatever the Host header says."""
    site = make_site(**public)

    assert is_problem(site.get("/contacts", headers={"Host": "127.0.0.1"}), 401)


# What is not let in


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_a_body_that_a_page_could_send_unasked_is_refused(site: Site, kind: str | None) -> None:
    """The types that browsers send across origins without a preflight are not taken as JSON."""
    body = b'{"kind": "question", "to": "alice", "text": "Which day?"}'

    answer = site.post("/requests", body, headers={} if kind is None else {"Content-Type": kind})

    assert is_problem(answer, 415, "application/json")


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[" * 100_000, b'{"a":' * 100_000, b'{"text": NaN}', b'{"text": 1e999}', b'{"text": "\\ud800"}',
        b'{"text": "a\\u0000b"}', b"\xff\xfe", b'{"text": ' + b"9" * 5000 + b"}", b'{"text": ' + b"9" * 500_000 + b"}",
    ],
)  # fmt: skip
def test_json_that_cannot_be_kept_is_refused(site: Site, body: bytes) -> None:
    """Malformed, a bomb, not a number, or of characters that a database does not take."""
    answer = site.post("/requests", body, headers={"Content-Type": "application/json"}, timeout=10)

    assert is_problem(answer, 400)


def test_a_body_over_the_limit_is_refused(site: Site) -> None:
    """At once by its declared length, else as soon as it is too much."""
    headers = {"Content-Type": "application/json"}
    declared = site.post("/requests", b"", headers={**headers, "Content-Length": str(BODY_LIMIT_BYTES + 1)})
    sent = site.post("/requests", {"text": "x" * BODY_LIMIT_BYTES})

    assert is_problem(declared, 413, "1,048,576")
    assert is_problem(sent, 413)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404), ("DELETE", "/requests", 405), ("GET", "/docs", 404), ("GET", "/redoc", 404),
        ("GET", "/requests/x", 422), ("GET", "/requests?limit=0", 422), ("GET", "/sessions/a%00b/c", 400),
        ("GET", "/requests?contact=%00", 400), ("GET", "/sessions/a/b%0Ac", 404),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_problem_document_too(site: Site, method: str, path: str, status: int) -> None:
    """No refusal is of another form, and no character reaches the database that it does not take."""
    assert is_problem(site.call(method, path), status)


def test_a_store_that_is_away_is_told_as_such(site: Site) -> None:
    """503 with when to try again; nothing of the inside is shown."""
    file = Path(str(site.runtime.database.url.database))
    site.runtime.database.close()
    file.rename(file.with_suffix(".aside"))
    file.mkdir()

    answer = site.get("/requests")

    assert is_problem(answer, 503)
    assert answer.headers["retry-after"] == "5"
    assert str(file) not in answer.text
