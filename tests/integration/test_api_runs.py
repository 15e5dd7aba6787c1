"""Agents, runs, sessions and signals over real HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.integration.api_kit import Site, is_problem, sites
from tests.servers import poll

from wakeloop.channel import File, Incoming
from wakeloop.tokens import Scope

EVENT = {
    "specversion": "1.0", "id": "A234-1234-1234", "source": "https://shop.example.com/tills", "type": "invoice.paid",
    "subject": "7", "time": "2026-11-02T14:00:00Z", "datacontenttype": "application/json", "data": {"amount": 40},
    "comexampleextension": 5,
}  # fmt: skip
STRUCTURED = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
WOKEN = ["billing/default"]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites with these settings."""
    with sites(tmp_path) as make:
        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A site on this machine only, without tokens."""
    return make_site()


def test_agents_are_listed_with_what_wakes_them(site: Site) -> None:
    """In words, with the next time."""
    agents = {one["name"]: one for one in site.get("/agents").json["agents"]}

    assert agents.keys() == {"billing", "echo", "broken", "asker"}
    assert agents["billing"]["summary"] == "Counts what was paid."
    assert len(agents["billing"]["triggers"]) == 2 and agents["billing"]["next"] is not None
    assert agents["echo"]["next"] is None


def test_a_run_is_started_waited_for_and_gives_its_result(site: Site) -> None:
    """The poll ends with the run."""
    with site.working():
        started = site.post("/agents/echo/runs", {"input": {"a": [1, None]}, "key": "k/1"})
        run = site.get(f"/runs/{started.json['run']}?wait=30").json

    assert started.status == 201 and started.json | {"run": ""} == {"run": "", "agent": "echo", "key": "k/1"}
    assert started.headers["location"] == f"/api/v1/runs/{started.json['run']}"
    assert (run["status"], run["result"], run["error"]) == ("completed", {"a": [1, None]}, None)
    assert run["event"] == {"kind": "call", "input": {"a": [1, None]}, "by": None}


def test_the_same_start_ten_times_at_once_is_one_run(site: Site) -> None:
    """By its id; another start with it is refused."""
    body = {"id": str(uuid4()), "input": 1}

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: site.post("/agents/echo/runs", body), range(10)))

    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert len(site.get("/runs").json["runs"]) == 1
    assert is_problem(site.post("/agents/echo/runs", {**body, "input": 2}), 409, body["id"])
    assert is_problem(site.post("/agents/asker/runs", body), 409)
    assert is_problem(site.post("/agents/eco/runs", {}), 404, "echo")


def test_a_failed_run_says_why_and_can_be_retried_restarted_and_cancelled(site: Site) -> None:
    """What is not possible is refused with 409."""
    with site.working():
        id = site.post("/agents/broken/runs", {}).json["run"]
        run = site.get(f"/runs/{id}?wait=30").json
        assert run["status"] == "failed" and "no luck" in run["error"] and "no luck" in run["traceback"]
        assert site.post(f"/runs/{id}/retry").status == 202
        assert site.get(f"/runs/{id}?wait=30").json["status"] == "failed"
        again = site.post(f"/runs/{id}/restart")
        assert again.status == 201 and again.json["run"] != id
        assert site.get(f"/runs/{again.json['run']}?wait=30").json["status"] == "failed"

    assert site.get(f"/runs/{id}").json["status"] == "cancelled"
    assert site.post(f"/runs/{again.json['run']}/cancel").status == 202
    assert is_problem(site.post(f"/runs/{id}/cancel"), 409, "cancelled")
    assert is_problem(site.post(f"/runs/{uuid4()}/retry"), 404)


def test_runs_go_back_a_page_at_a_time(site: Site) -> None:
    """Newest first, by agent and status."""
    made = [site.post("/agents/echo/runs", {"input": n}).json["run"] for n in range(3)]
    site.post("/agents/asker/runs", {})

    first = site.get("/runs?agent=echo&limit=2&status=queued").json
    second = site.get(f"/runs?agent=echo&limit=2&before={first['next']}").json

    assert [one["id"] for one in first["runs"] + second["runs"]] == made[::-1]
    assert second["next"] is None


def test_a_session_shows_its_state_and_what_it_waits_for(site: Site) -> None:
    """With the question that was asked, as a message."""
    with site.working():
        run = site.post("/agents/asker/runs", {}).json["run"]
        for _ in range(100):
            open_now = site.get("/requests?status=open").json["requests"]
            if open_now:
                break
        session = site.get("/sessions/asker/default").json
        assert [(one["id"], one["waits"][0]["kind"]) for one in session["runs"]] == [(run, "reply")]
        assert (open_now[0]["agent"], open_now[0]["run"]) == ("asker", run)
        site.post(f"/requests/{open_now[0]['id']}/answer", {"contact": "alice", "text": "yes"})
        assert site.get(f"/runs/{run}?wait=30").json["result"] == "yes"
        detail = site.get(f"/runs/{run}").json
        assert detail["requests"] == [open_now[0]["id"]] and detail["journal_length"] >= 2
        site.post("/signals", EVENT, headers=STRUCTURED)
        for _ in range(100):
            billing = site.get("/sessions/billing/default").json
            if billing["state"] == {"paid": 1}:
                break

    assert billing["state"] == {"paid": 1} and billing["wakeups"][0]["own"] is False
    assert [(one["agent"], one["key"]) for one in site.get("/sessions").json["sessions"]] == [
        ("asker", "default"), ("billing", "default"),
    ]  # fmt: skip
    assert is_problem(site.get("/sessions/asker/other"), 404)


# Signals


def _binary(**changed: str) -> dict[str, str]:
    headers = {
        "ce-specversion": "1.0", "ce-id": "b1", "ce-source": "/tills", "ce-type": "invoice.paid",
        "Content-Type": "application/json",
    }  # fmt: skip
    return headers | changed


def test_a_file_that_came_with_a_message_is_fetched_by_its_id(site: Site) -> None:
    """To be saved, whatever it says it is: no browser shows it as a page of this server's."""
    page = File(name="naïve “page”.html", content_type="text/html", data=b"<script>alert(1)</script>")
    with site.working():
        run = site.post("/agents/asker/runs", {}).json["run"]
        for _ in poll(30):
            if site.get(f"/runs/{run}").json["requests"]:
                break
        message = Incoming(provider_id="1", address="alice", text="see there", files=(page,))
        site.runtime.intake.incoming("console", message)

    attached = site.get("/sessions/asker/default").json["messages"][-1]["attachments"]
    answer = site.get(f"/files/{attached[0]['file']}")

    assert [(one["name"], one["content_type"]) for one in attached] == [(page.name, "text/html")]
    assert (answer.status, answer.text) == (200, "<script>alert(1)</script>")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == (
        "attachment; filename*=UTF-8''na%C3%AFve%20%E2%80%9Cpage%E2%80%9D.html"
    )
    assert is_problem(site.get(f"/files/{uuid4()}"), 404, "there is no file")


def test_files_need_the_scope_of_sessions(make_site: Callable[..., Site]) -> None:
    """Who may start agents may not read what people sent."""
    site = make_site(host="0.0.0.0")
    starts = site.token("starts", Scope.AGENTS_START)

    assert is_problem(site.get(f"/files/{uuid4()}"), 401, "token")
    assert is_problem(site.get(f"/files/{uuid4()}", token=starts), 403, "runs:read")


def test_an_event_in_structured_mode_wakes_who_listens(site: Site) -> None:
    """Once by its source and id, however often it is sent."""
    for _ in range(3):
        answer = site.post("/signals", EVENT, headers=STRUCTURED)
        assert (answer.status, answer.json) == (202, {"signals": [{"id": EVENT["id"], "sessions": WOKEN}]})
    with site.working():
        for _ in range(100):
            runs = site.get("/runs?agent=billing").json["runs"]
            if runs and runs[0]["status"] == "completed":
                break

    [run] = runs
    assert run["event"] == {
        "kind": "signal", "type": "invoice.paid", "data": {"amount": 40}, "id": EVENT["id"],
        "source": EVENT["source"], "subject": "7", "time": "2026-11-02T14:00:00Z",
    }  # fmt: skip


def test_a_batch_is_taken_as_a_whole_or_not_at_all(site: Site) -> None:
    """The refusal says which of the events is wrong."""
    good = [{**EVENT, "id": str(n)} for n in range(3)]

    taken = site.post("/signals", good, headers=BATCH)
    refused = site.post("/signals", [good[0], {**EVENT, "id": ""}], headers=BATCH)

    assert [one["id"] for one in taken.json["signals"]] == ["0", "1", "2"]
    assert is_problem(refused, 422, "1.id")
    assert refused.json["errors"][0]["loc"] == ["body", 1, "id"]
    assert site.post("/signals", [], headers=BATCH).json == {"signals": []}
    assert is_problem(site.post("/signals", good * 40, headers=BATCH), 413)


@pytest.mark.parametrize(
    ("changed", "body", "data"),
    [
        ({}, b'{"amount": 40}', {"amount": 40}),
        ({"ce-subject": "Euro%20%E2%82%AC%20%F0%9F%98%80", "ce-time": "2026-11-02T14:00:00.5+01:00"}, b"[1]", [1]),
        ({"ce-subject": '"a \\"quoted\\" one"'}, b"null", None),
        ({"Content-Type": "text/plain"}, "größer".encode(), "größer"),
        ({"Content-Type": "application/vnd.shop+json"}, b'"x"', "x"),
        ({"Content-Type": "image/png"}, b"\x89PNG", {"datacontenttype": "image/png", "data_base64": "iVBORw=="}),
        ({}, b"", None),
    ],
)  # fmt: skip
def test_an_event_in_binary_mode_has_its_attributes_in_headers(
    site: Site, changed: dict[str, str], body: bytes, data: Any
) -> None:
    """Percent-decoded once; data of other types than JSON and text comes as Base64."""
    taken: list[Any] = []
    intake = site.runtime.intake
    real = intake.signal
    intake.signal = lambda signal: (taken.append(signal), real(signal))[1]  # type: ignore[method-assign]

    answer = site.post("/signals", body, headers=_binary(**changed))

    assert (answer.status, answer.json) == (202, {"signals": [{"id": "b1", "sessions": WOKEN}]})
    [signal] = taken
    assert signal.data == data
    if "Euro" in changed.get("ce-subject", ""):
        assert signal.subject == "Euro € 😀" and signal.time.isoformat() == "2026-11-02T14:00:00.500000+01:00"
    if "quoted" in changed.get("ce-subject", ""):
        assert signal.subject == 'a "quoted" one'


def test_base64_in_structured_mode_is_decoded(site: Site) -> None:
    """JSON is what it means if nothing else is said."""
    event = {key: value for key, value in EVENT.items() if key not in ("data", "datacontenttype")}
    coded = base64.b64encode(b'{"n": 1}').decode()

    assert site.post("/signals", {**event, "data_base64": coded}, headers=STRUCTURED).status == 202
    both = site.post("/signals", {**EVENT, "data_base64": coded}, headers=STRUCTURED)
    assert is_problem(both, 422, "exclude")


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"specversion": "0.3"}, "specversion"), ({"specversion": None}, "specversion"), ({"id": ""}, "id"),
        ({"source": None}, "source"), ({"type": 5}, "type"), ({"subject": ""}, "subject"),
        ({"time": "yesterday"}, "time"), ({"time": "1700000000"}, "time"), ({"time": "2026-13-02T14:00:00Z"}, "time"),
        ({"Comment": "x"}, "Comment"), ({"traceparent": {"a": 1}}, "traceparent"), ({"id": "x" * 1001}, "id"),
        ({"data_base64": "###", "data": None}, "data_base64"),
    ],
)  # fmt: skip
def test_what_is_no_event_of_the_specification_is_refused(
    site: Site, changed: dict[str, Any], place: str
) -> None:
    """By the name of the attribute."""
    answer = site.post("/signals", {**EVENT, **changed}, headers=STRUCTURED)

    assert is_problem(answer, 422, place)
    assert answer.json["errors"][0]["loc"] == ["body", place]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, json.dumps(EVENT).encode(), 415),
        ({"Content-Type": "application/cloudevents+xml", "ce-specversion": "1.0"}, b"<x/>", 415),
        (STRUCTURED, b"", 422), (STRUCTURED, b"[]", 422), (BATCH, b"{}", 422), (STRUCTURED, b"{", 400),
        (_binary(**{"ce-id": "a%00b"}), b"1", 422), (_binary(**{"ce-id": "%FF"}), b"1", 422),
        (_binary(**{"ce-data": "x"}), b"1", 422), (_binary(), b"{", 400),
    ],
)  # fmt: skip
def test_what_is_no_cloud_event_at_all_is_refused(
    site: Site, headers: dict[str, str], body: bytes, status: int
) -> None:
    """Never with a 5xx."""
    assert is_problem(site.post("/signals", body, headers=headers), status)


def test_a_signal_that_nobody_listens_for_is_taken_and_wakes_nobody(site: Site) -> None:
    """The sender cannot know who listens."""
    assert (
        site.post("/signals", {**EVENT, "type": "other"}, headers=STRUCTURED).json["signals"][0]["sessions"]
        == []
    )


def test_the_scopes_of_agents_and_signals_are_kept_apart(make_site: Callable[..., Site]) -> None:
    """A token for signals starts nothing, and one that starts sees no run."""
    site = make_site(public_url="https://agents.example.com")
    sends, starts = site.token("s", Scope.SIGNALS_SEND), site.token("a", Scope.AGENTS_START)

    assert site.post("/signals", EVENT, headers=STRUCTURED, token=sends).status == 202
    assert is_problem(site.post("/agents/echo/runs", {}, token=sends), 403, "agents:start")
    assert site.post("/agents/echo/runs", {}, token=starts).status == 201
    assert is_problem(site.get("/runs", token=starts), 403, "runs:read")
    assert site.get("/agents", token=starts).status == 200
