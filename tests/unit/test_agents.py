"""The agents that are ready to run, each on a virtual clock."""

from __future__ import annotations

import io
import json
import urllib.error
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import wakeloop
from wakeloop.registry import load_folder
from wakeloop.testing import Simulation

FOLDER = Path(__file__).parents[2] / "agents"
ME = {"me": {"sms": "+15555550100"}}
URL, OTHER = "https://one.example/", "https://two.example/"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., wakeloop.Agent]:
    """Loads one of the agents as a worker does, with these variables in the environment."""

    def load(name: str, **variables: str) -> wakeloop.Agent:
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        loaded = load_folder(FOLDER)
        assert loaded.problems == ()
        return next(agent for agent in loaded.agents if agent.name == name)

    return load


def test_every_agent_loads_without_any_setting(load: Callable[..., wakeloop.Agent]) -> None:
    """A folder of agents works as it is, with a contact `me`."""
    load("standup")

    assert {agent.name for agent in load_folder(FOLDER).agents} == {"inbox_assistant", "standup", "watchdog"}


def test_standup_asks_remembers_and_comes_back(load: Callable[..., wakeloop.Agent]) -> None:
    """Its question at nine, the answer in its state over a crash, and its return before five."""
    standup = load("standup", STANDUP_CONTACT="alice", STANDUP_TZ="America/New_York")
    people = {"alice": {"sms": "+15555550100"}}

    with Simulation([standup], contacts=people, start="2026-11-02T13:00:00Z") as sim:
        sim.advance(to="2026-11-02T14:00:00Z")
        asked = sim.outbox("alice")[-1].text
        sim.reply("alice", "the billing bug")
        sim.crash()
        state = sim.session(standup).state
        sim.advance(to="2026-11-02T21:44:59Z")
        before = len(sim.outbox("alice"))
        sim.advance(1)
        checked = sim.outbox("alice")[before:]
        sim.advance(to="2026-11-03T14:00:00Z")
        again = sim.outbox("alice")[-1].text

    assert asked == "What comes first today?"
    assert (state.days, state.focus) == (1, "the billing bug")
    assert [message.text for message in checked] == ["Is 'the billing bug' done?"]
    assert again == "What comes first today? Last time it was 'the billing bug'."


def test_standup_gives_up_on_a_silent_morning(load: Callable[..., wakeloop.Agent]) -> None:
    """Without an answer within two hours nothing is remembered, and nobody is written to again that day."""
    standup = load("standup")

    with Simulation([standup], contacts=ME, start="2026-11-02T08:00:00Z") as sim:
        sim.advance(timedelta(hours=12))
        runs, texts, state = sim.runs(standup), sim.outbox("me"), sim.session(standup).state

    assert [run.result for run in runs] == ["no answer"]
    assert len(texts) == 1
    assert state.days == 0


def test_standup_begins_when_it_is_written_to(load: Callable[..., wakeloop.Agent]) -> None:
    """A message of its person starts it outside its hours, in the same session."""
    standup = load("standup")

    with Simulation([standup], contacts=ME, start="2026-11-07T10:00:00Z") as sim:
        sim.reply("me", "let us plan")
        sim.reply("me", "rest")
        state, runs = sim.session(standup).state, sim.runs(standup)

    assert state.focus == "rest"
    assert len(runs) == 1


class Internet:
    """Answers in place of urllib, and counts. `down`: the URLs that do not answer."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.fetched: list[str] = []

    def urlopen(self, request: Any, timeout: float) -> Any:
        self.fetched.append(request.full_url)
        if request.full_url in self.down:
            raise urllib.error.URLError("connection refused")
        return Answer()


class Answer:
    status = 200

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *details: object) -> None:
        pass


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    found = Internet()
    monkeypatch.setattr("urllib.request.urlopen", found.urlopen)
    return found


def test_watchdog_tells_once_when_a_url_goes_down_and_once_when_it_is_back(
    load: Callable[..., wakeloop.Agent], internet: Internet
) -> None:
    """Whatever crashes in between; the other URL is not mentioned."""
    watchdog = load("watchdog", WATCHDOG_URLS=f"{URL}, {OTHER}")

    with Simulation([watchdog], contacts=ME) as sim:
        sim.advance(timedelta(minutes=5))
        internet.down.add(URL)
        for _ in range(4):
            sim.advance(timedelta(minutes=5))
            sim.crash()
        down = sim.session(watchdog).state.down
        internet.down.clear()
        sim.advance(timedelta(minutes=30))
        texts = [message.text for message in sim.outbox("me")]
        results = {run.result for run in sim.runs(watchdog)}

    assert set(down) == {URL}
    assert texts[0] == f"{URL} is down: <urlopen error connection refused>"
    assert texts[1].startswith(f"{URL} is back after ")
    assert len(texts) == 2
    assert results == {"0 of 2 down", "1 of 2 down"}


def test_watchdog_lets_a_hiccup_pass(load: Callable[..., wakeloop.Agent], internet: Internet) -> None:
    """One that answers at the second attempt was never down."""
    watchdog = load("watchdog", WATCHDOG_URLS=URL)

    with Simulation([watchdog], contacts=ME) as sim:
        internet.down.add(URL)
        sim.advance(timedelta(minutes=5))
        internet.down.clear()
        sim.advance(timedelta(minutes=4))
        texts, results = sim.outbox("me"), [run.result for run in sim.runs(watchdog)]

    assert internet.fetched == [URL, URL]
    assert texts == []
    assert results == ["0 of 1 down"]


def test_watchdog_forgets_a_url_that_is_not_watched_any_more(
    load: Callable[..., wakeloop.Agent], internet: Internet
) -> None:
    """It is not reported as back, and not remembered as down."""
    internet.down.add(URL)

    with Simulation([load("watchdog", WATCHDOG_URLS=f"{URL} {OTHER}")], contacts=ME) as sim:
        sim.advance(timedelta(minutes=6))
        watchdog = load("watchdog", WATCHDOG_URLS=OTHER)
        sim.replace_agents([watchdog])
        sim.advance(timedelta(minutes=10))
        down, texts = sim.session(watchdog).state.down, sim.outbox("me")

    assert down == {}
    assert len(texts) == 1


def test_inbox_assistant_sends_nothing_that_nobody_agreed_to(
    load: Callable[..., wakeloop.Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason or a comment has the reply written anew; after enough of them it gives up, as it does after a day."""
    posts: list[tuple[str, dict[str, Any]]] = []

    def urlopen(request: Any, timeout: float) -> Any:
        body = json.loads(request.data)
        posts.append((request.full_url, body))
        return io.BytesIO(json.dumps({"draft": f"draft {body.get('wishes')}"}).encode())

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assistant = load("inbox_assistant", INBOX_DRAFT_URL=URL, INBOX_SEND_URL=OTHER)
    message = {"sender": "Robin", "text": "Are you hiring?"}

    with Simulation([assistant], contacts=ME) as sim:
        sim.signal("inbox.message", {"id": "1", **message})
        sim.reply("me", "no 3")
        sim.reply("me", "yes")
        sim.signal("inbox.message", {"id": "2", **message})
        for _ in range(5):
            sim.reply("me", "no, too long")
        sim.signal("inbox.message", {"id": "3", **message})
        sim.advance(timedelta(days=1))
        sim.signal("inbox.message", {"id": "4", **message})
        sim.reply("me", "no")
        results = {run.key: run.result for run in sim.runs(assistant)}

    assert results == {
        "1": "sent after 2 drafts",
        "2": "given up after 5 drafts",
        "3": "nobody decided",
        "4": "left unanswered: denied",
    }
    assert [body for url, body in posts if url == OTHER] == [
        {"id": "1", "sender": "Robin", "reply": "draft ['friendlier']"}
    ]
