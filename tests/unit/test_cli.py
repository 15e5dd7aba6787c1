"""The commands on projects in temporary folders: what they print, for people and for programs, and how they fail."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.pond_kit import install
from typer.testing import CliRunner, Result

from wakeloop import Context, agent, require_approval
from wakeloop.cli import app
from wakeloop.registry import load_folder
from wakeloop.store import listeners
from wakeloop.store.database import Database
from wakeloop.store.migration import head
from wakeloop.testing import Simulation

AGENTS = '''
from datetime import timedelta

from pydantic import BaseModel

from wakeloop import Context, agent, at, cron, every, on_message, on_signal, step


class Memory(BaseModel):
    answers: list[str] = []


@step
async def charge(amount: int) -> int:
    raise ValueError("card refused")


@step(idempotent=False)
async def pay() -> str:
    return "paid"


@agent(cron("0 9 * * MON-FRI", tz="Europe/Paris"), on_message(key="default"), state=Memory)
async def standup(ctx: Context[Memory]) -> str:
    """Ask what comes first.

    More about it."""
    answer = await ctx.ask("alice", "What comes first?", timeout=timedelta(hours=2))
    ctx.state.answers.append(answer.text)
    ctx.schedule.set(at(ctx.now() + timedelta(minutes=7)))
    await ctx.send("alice", f"Noted: {answer.text}")
    return answer.text


@agent(on_signal("invoice.*"))
async def billing(ctx: Context[None]) -> None:
    """Charge a card."""
    await charge(5)


@agent(every(timedelta(minutes=5)), queue="slow")
async def beat(ctx: Context[None]) -> None:
    pass
'''

SETTINGS = """
[contacts.alice]
console = "alice"
tz = "Europe/Paris"

[contacts.bob]
console = "bob"
"""
CONTACTS = {"alice": {"console": "alice", "tz": "Europe/Paris"}, "bob": {"console": "bob"}}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of this machine, and no log handler that a command leaves behind."""
    for name in ("WAKELOOP_CONFIG", "WAKELOOP_DATABASE_URL", "WAKELOOP_BROKER_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = before


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with agents and settings, which is the current one."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "team.py").write_text(AGENTS)
    (tmp_path / "wakeloop.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _simulation(project: Path) -> Simulation:
    """The real engine on the project's store, for what a worker would do."""
    return Simulation(
        load_folder(project / "agents").agents,
        contacts=CONTACTS,
        store=project / ".wakeloop" / "wakeloop.db",
        start=datetime.now(UTC),  # the commands go by the real clock
    )


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def _ok(*arguments: str) -> str:
    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def _json(*arguments: str) -> Any:
    return json.loads(_ok(*arguments, "--json"))


def _refused(*arguments: str, code: int = 1) -> str:
    result = _run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code == 1:
        assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# The command line itself


def test_help_lists_every_command() -> None:
    """What a new user looks at first."""
    shown = _ok("--help")

    for name in ("init", "dev", "web", "db", "doctor", "agents", "next", "sessions", "runs", "inbox"):
        assert f" {name} " in shown
    for name in ("start", "signal", "reply", "retry", "restart", "cancel"):
        assert f" {name} " in shown


def test_the_version_is_told() -> None:
    """For reports of faults."""
    assert _ok("--version").startswith("wakeloop 0.")


def test_a_missing_argument_is_a_usage_error() -> None:
    """Two is the shells' code for wrong usage."""
    assert "agent" in _refused("start", code=2).lower()


def test_options_for_all_commands_may_stand_before_the_command(project: Path) -> None:
    """`wakeloop --config x --json runs` is what `wakeloop runs --config x --json` is."""
    other = project / "other"
    other.mkdir()
    shutil.copytree(project / "agents", other / "agents")
    (other / "w.toml").write_text(SETTINGS)
    file = str(other / "w.toml")

    _ok("start", "standup", "--config", file)

    assert len(json.loads(_ok("--config", file, "--json", "runs"))) == 1
    assert len(json.loads(_ok("runs", "--config", file, "--json"))) == 1
    assert _json("runs") == []


# init


def test_init_writes_a_project_whose_parts_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes loads, and the doctor has no complaint."""
    monkeypatch.chdir(tmp_path)

    shown = _ok("init", "mine")
    monkeypatch.chdir(tmp_path / "mine")

    files = {
        str(file.relative_to(tmp_path / "mine")) for file in (tmp_path / "mine").rglob("*") if file.is_file()
    }
    assert files == {
        ".env.example", ".gitignore", "README.md", "agents/hello.py", "docker-compose.yml", "wakeloop.toml",
    }  # fmt: skip
    assert "cd mine && wakeloop dev" in shown
    assert _json("doctor")["ok"] is True
    assert [one["name"] for one in _json("agents")["agents"]] == ["hello"]


def test_the_agent_of_init_asks_remembers_and_sleeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new user's first agent does what its docstring says."""
    monkeypatch.chdir(tmp_path)
    _ok("init")
    agents = load_folder(tmp_path / "agents").agents

    with Simulation(agents, contacts={"me": {"console": "me"}}, start="2026-11-02T08:00:00Z") as sim:
        sim.advance(to="2026-11-02T09:00:00Z")
        sim.reply("me", "the billing bug")
        sim.advance(60)
        sim.reply("me", "well")

        texts = [message.text for message in sim.outbox("me")]
        assert "What matters today?" in texts[0]
        assert "I will be back in a minute" in texts[1]
        assert "How is “the billing bug” going?" in texts[2]
        assert sim.session("hello").state.goals == ["the billing bug"]
        assert [run.status for run in sim.runs()] == ["completed"]


def test_init_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file in the way, and none is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wakeloop.toml").write_text("# mine\n")

    told = _refused("init")

    assert "has wakeloop.toml already" in told
    assert [file.name for file in tmp_path.iterdir()] == ["wakeloop.toml"]
    assert (tmp_path / "wakeloop.toml").read_text() == "# mine\n"


def test_init_says_where_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file stands where the folder should be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")

    told = _refused("init", "mine")

    assert "mine/README.md cannot be written" in told
    assert "choose another folder" in told


# agents, next


def test_agents_are_listed_with_what_wakes_them(project: Path) -> None:
    """Name, schedule in words, and the docstring's first line."""
    shown = _ok("agents")
    data = _json("agents")

    assert "0 9 * * MON-FRI (Europe/Paris)" in shown
    assert "on signal invoice.*" in shown
    assert "every 5 min" in shown
    assert "Ask what comes first." in shown
    assert "More about it" not in shown
    assert [one["name"] for one in data["agents"]] == ["standup", "billing", "beat"]
    assert data["agents"][2]["queue"] == "slow"
    assert datetime.fromisoformat(data["agents"][0]["next"]).astimezone(ZoneInfo("Europe/Paris")).hour == 9
    assert data["agents"][1]["next"] is None
    assert data["problems"] == []


def test_a_broken_file_is_shown_with_its_line_beside_the_agents_that_work(project: Path) -> None:
    """One author's mistake does not hide the others' agents."""
    (project / "agents" / "bad.py").write_text(
        'from wakeloop import agent, cron\n\nagent(cron("99 * * * *"))\n'
    )

    shown = _ok("agents")

    assert "standup" in shown
    assert f"{project}/agents/bad.py:3: cron '99 * * * *'" in shown
    assert _json("agents")["problems"][0]["line"] == 3


def test_starting_an_agent_that_is_not_there_tells_of_broken_files(project: Path) -> None:
    """The one that is looked for may be in there."""
    (project / "agents" / "bad.py").write_text("def broken(:\n")

    result = _run("start", "standdup")

    assert result.exit_code == 1
    assert "there is no agent 'standdup'; did you mean 'standup'?" in result.stderr
    assert "bad.py:1" in result.stderr


def test_next_merges_the_schedules_of_the_code_and_of_the_sessions(project: Path) -> None:
    """A session's own wakeup stands among the ticks of the code, in order of time."""
    with _simulation(project) as sim:
        asked = sim.now
        sim.start("standup")
        sim.reply("alice", "the bug")

    ticks = _json("next", "--count", "8")
    assert [one["at"] for one in ticks] == sorted(one["at"] for one in ticks)
    [own] = [one for one in ticks if one["own"]]
    assert (own["agent"], own["key"]) == ("standup", "default")
    assert timedelta(minutes=7) <= datetime.fromisoformat(own["at"]) - asked < timedelta(minutes=8)
    assert "set by itself" in _ok("next")


def test_next_marks_ticks_of_agents_that_are_gone(project: Path) -> None:
    """Their schedules stay in the store, where a worker that knows them would fire them."""
    with _simulation(project):
        pass
    (project / "agents" / "team.py").unlink()

    assert "there is no such agent here" in _ok("next")
    assert {one["known"] for one in _json("next")} == {False}


# start, signal, reply


def test_start_queues_a_run_with_its_input_and_key(project: Path) -> None:
    """The store is new: the first command sets it up."""
    made = _json("start", "standup", "--input", '{"a": [1]}', "--key", "emea")

    [run] = _json("runs")
    assert run["id"] == made["run"]
    assert (run["agent"], run["key"], run["status"]) == ("standup", "emea", "queued")
    assert run["event"] == {"kind": "call", "input": {"a": [1]}, "by": None}


def test_an_input_that_is_no_json_is_a_usage_error(project: Path) -> None:
    """Unquoted text is the likely mistake."""
    told = " ".join(_refused("start", "standup", "--input", "hello", code=2).split())

    assert "hello is no JSON" in told
    assert "text needs quotes of its own" in told
    assert _json("runs") == []


@pytest.mark.parametrize("key", ["", "k" * 201])
def test_a_key_is_neither_empty_nor_endless(project: Path, key: str) -> None:
    """As in the HTTP API: nobody could name such a session again, and no list could show it."""
    told = " ".join(_refused("start", "standup", "--key", key, code=2).replace("│", "").split())

    assert f"from 1 to 200 characters, this one {len(key)}" in told
    assert _json("runs") == []


def test_a_signal_without_a_type_is_a_usage_error(project: Path) -> None:
    """An unset variable of a script is the likely mistake."""
    assert "a signal has a type, such as invoice.paid" in _refused("signal", "", code=2)


def test_a_signal_that_makes_no_key_says_why_nobody_gets_it(project: Path) -> None:
    """Not that nobody listens."""
    (project / "agents" / "watch.py").write_text(
        "from wakeloop import Context, agent, on_signal\n\n\n"
        '@agent(on_signal("budget.watch", key="{project}"))\nasync def watch(ctx: Context[None]) -> None: ...\n'
    )

    told = " ".join(_ok("signal", "budget.watch", "--data", '{"team": 1}').split())

    assert told.startswith("not taken by agent watch: signal ")
    assert "has None for 'project', which the session key '{project}' needs" in told
    assert "is for watch/a" in _ok("signal", "budget.watch", "--data", '{"project": "a"}')


def test_signal_names_the_sessions_that_it_is_for(project: Path) -> None:
    """And says so if nobody listens."""
    assert _json("signal", "invoice.paid", "--data", '{"n": 1}', "--id", "s1")["sessions"] == [
        "billing/default"
    ]
    assert "no agent listens for other" in _ok("signal", "other")


def test_reply_answers_the_open_question_as_the_contact(project: Path) -> None:
    """Through the routing of a real message; words need no quotes."""
    with _simulation(project) as sim:
        run = sim.start("standup")

    told = _json("reply", "alice", "the", "billing", "bug")

    assert told["channel"] == "console"
    assert told["outcome"].startswith("the answer to request")
    with _simulation(project) as sim:
        sim.advance(1)
        assert sim.run(run).result == "the billing bug"


def test_reply_refuses_strangers_and_channels_they_are_not_on(project: Path) -> None:
    """With what there is instead."""
    assert "there is no contact 'alcie'; did you mean 'alice'?" in _refused("reply", "alcie", "hi")
    assert "has no address on 'sms'" in _refused("reply", "alice", "hi", "--channel", "sms")


# sessions, runs


def test_sessions_show_their_state(project: Path) -> None:
    """As JSON, whether or not the agent's code is there."""
    with _simulation(project) as sim:
        sim.start("standup")
        sim.reply("alice", "the bug")

    assert {"answers": ["the bug"]} in [one["state"] for one in _json("sessions")]
    assert "standup/default" in _ok("sessions", "--agent", "standup")
    assert "there is no session yet" in _ok("sessions", "--agent", "nobody")


def test_runs_tell_what_they_wait_for_and_why_they_failed(project: Path) -> None:
    """Newest first, by agent, status and number."""
    with _simulation(project) as sim:
        sim.start("standup")
        sim.start("billing")

    shown = _ok("runs")
    assert "waits for alice's reply, or " in shown
    assert "ValueError: card refused" in shown
    assert [one["agent"] for one in _json("runs", "--limit", "1")] == ["billing"]
    assert [one["agent"] for one in _json("runs", "--agent", "standup")] == ["standup"]
    assert [one["status"] for one in _json("runs", "--status", "failed")] == ["failed"]
    assert "there is no such run" in _ok("runs", "--status", "stuck")


def test_a_run_is_shown_as_a_timeline(project: Path) -> None:
    """What was asked, answered and sent, in order, by the end of its id."""
    with _simulation(project) as sim:
        id = sim.start("standup")
        sim.advance(600)
        sim.reply("alice", "the bug")

    head_line, _, shown = _ok("runs", "show", id[-8:]).partition("\n")
    assert id in head_line
    order = ["queued", "started", "ask alice", "answered by alice", "send to alice", "completed"]
    assert [shown.index(what) for what in order] == sorted(shown.index(what) for what in order)
    assert "+10 min" in shown
    assert "“the bug”" in shown

    data = _json("runs", "show", id)
    assert data["result"] == "the bug"
    assert [one["kind"] for one in data["journal"] if one["kind"] in ("ask", "reply", "send")] == [
        "ask",
        "reply",
        "send",
    ]
    assert data["requests"][0]["status"] == "answered"


def test_a_waiting_run_shows_its_question(project: Path) -> None:
    """With the code that answers it."""
    with _simulation(project) as sim:
        id = sim.start("standup")
        [request] = sim.requests()
        code = request.code

    shown = _ok("runs", "show", id)

    assert "waits for alice's reply, or " in shown
    assert f"open question {code} to alice: What comes first?" in shown
    assert "until " in _ok("requests", "show", request.id)


def test_a_run_that_waits_for_an_approval_says_of_what(project: Path) -> None:
    """The function is nobody who could reply."""

    @require_approval("alice")
    def pay(amount: int) -> None:
        """Pay."""

    @agent()
    async def buyer(ctx: Context[None]) -> None:
        await pay(7)

    store = project / ".wakeloop" / "wakeloop.db"
    with Simulation([buyer], contacts=CONTACTS, store=store, start=datetime.now(UTC)) as sim:
        id = sim.start(buyer)

    assert "waits for approval of pay" in _ok("runs")
    assert "waits for approval of pay" in _ok("runs", "show", id)


def test_a_failed_run_shows_the_step_s_traceback_and_the_way_on(project: Path) -> None:
    """The line in the author's file, and the command to type."""
    with _simulation(project) as sim:
        id = sim.start("billing")

    shown = _ok("runs", "show", id)

    assert 'raise ValueError("card refused")' in shown
    assert "agents/team.py" in shown
    assert f"wakeloop retry {id[-8:]}" in shown


@pytest.mark.parametrize("fragment", ["ffffffff", "%", "x'"])
def test_a_run_that_is_not_there_is_refused(project: Path, fragment: str) -> None:
    """With the command that lists those that are; nothing in the fragment is a pattern."""
    _ok("start", "standup")

    assert "`wakeloop runs` lists them" in _refused("runs", "show", fragment)


# retry, restart, cancel


def test_a_failed_run_is_retried_from_its_last_step(project: Path) -> None:
    """After the code was corrected."""
    with _simulation(project) as sim:
        id = sim.start("billing")
    file = project / "agents" / "team.py"
    file.write_text(AGENTS.replace('raise ValueError("card refused")', "return amount"))

    assert "goes on from its last recorded step" in _ok("retry", id)

    with _simulation(project) as sim:
        sim.advance(1)
        assert sim.run(id).status == "completed"


def test_restart_begins_a_new_run_of_the_same_event(project: Path) -> None:
    """The failed one is closed."""
    with _simulation(project) as sim:
        id = sim.start("billing", {"n": 1})

    made = _json("restart", id)

    assert made["instead_of"] == id
    by_id = {one["id"]: one for one in _json("runs")}
    assert by_id[id]["status"] == "cancelled"
    assert by_id[made["run"]]["event"]["input"] == {"n": 1}


def test_cancel_ends_a_waiting_run_and_refuses_one_that_is_over(project: Path) -> None:
    """The second time there is nothing left to cancel."""
    with _simulation(project) as sim:
        id = sim.start("standup")
    _ok("cancel", id)
    with _simulation(project) as sim:
        sim.advance(1)
        assert sim.run(id).status == "cancelled"

    assert "nothing left to cancel" in _refused("cancel", id)


def test_a_step_of_unknown_outcome_wants_a_decision(project: Path) -> None:
    """The refusal names the options; one of them settles it."""
    (project / "agents" / "pays.py").write_text(
        "from wakeloop import Context, agent\nfrom .team import pay\n\n\n"
        "@agent()\nasync def pays(ctx: Context[None]) -> str:\n    return await pay()\n"
    )
    with _simulation(project) as sim:
        sim.kill_at("engine.step_done")
        id = sim.start("pays")
        assert sim.run(id).status == "stuck"

    assert "--repeat, --result JSON or --fail REASON" in _refused("retry", id)
    _ok("retry", id, "--result", '"by hand"')

    with _simulation(project) as sim:
        sim.advance(1)
        assert sim.run(id).result == "by hand"


# inbox


def test_the_inbox_holds_everything_that_wants_a_human(project: Path) -> None:
    """Questions, failed runs, and what nobody takes; it is empty to begin with."""
    assert "nothing wants a human" in _ok("inbox")
    with _simulation(project) as sim:
        sim.start("standup")
        sim.start("billing")
    (project / "agents" / "team.py").write_text(AGENTS.replace(', on_message(key="default")', ""))
    _ok("reply", "bob", "anyone there?")

    shown = _ok("inbox")
    data = _json("inbox")

    assert "What comes first?" in shown
    assert "card refused" in shown
    assert "anyone there?" in shown
    assert [len(data[kind]) for kind in ("requests", "runs", "undelivered", "unrouted")] == [1, 1, 0, 1]
    assert data["unrouted"][0]["contact"] == "bob"


# The store


def test_a_store_with_another_schema_is_refused_with_the_way_on(project: Path) -> None:
    """A newer one is not touched, an older one is upgraded by `db upgrade` only."""
    _ok("runs")
    with sqlite3.connect(project / ".wakeloop" / "wakeloop.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    assert "newer than this version of wakeloop knows" in _refused("runs")
    assert "newer than this version of wakeloop knows" in _refused("db", "upgrade")
    assert json.loads(_run("db", "check", "--json").stdout)["ok"] is False


def test_db_upgrade_sets_a_store_up_and_db_check_agrees(project: Path) -> None:
    """Before it, the check says what to do."""
    assert "run `wakeloop db upgrade`" in _refused("db", "check")

    assert _json("db", "upgrade")["revision"] == head()

    assert _json("db", "check")["ok"] is True


def test_a_database_that_is_away_is_told_in_a_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the password."""
    monkeypatch.setenv("WAKELOOP_DATABASE_URL", "postgresql://wakeloop:hunter2@127.0.0.1:1/nowhere")

    told = _refused("runs")

    assert "cannot be used" in told
    assert "hunter2" not in told


def test_settings_that_are_wrong_are_told_with_their_line(project: Path) -> None:
    """One line for each mistake."""
    (project / "wakeloop.toml").write_text("port = 99999\nprot = 1\n")

    result = _run("runs")

    assert result.exit_code == 1
    assert "wakeloop.toml:1: port" in result.stderr
    assert "wakeloop.toml:2: prot" in result.stderr
    assert result.stderr.count("\n") == 2


def test_a_folder_without_agents_names_the_way_to_a_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likely reason is that it is the wrong folder."""
    monkeypatch.chdir(tmp_path)

    assert "there is no such folder of agents" in _refused("agents")


# doctor


def _findings(*arguments: str) -> tuple[int, dict[str, list[dict[str, str]]]]:
    result = _run("doctor", "--offline", "--json", *arguments)
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(result.stdout)["findings"]:
        found.setdefault(one["about"], []).append(one)
    return result.exit_code, found


def test_the_doctor_is_content_with_a_project_that_works(project: Path) -> None:
    """Before the store is there, and after."""
    for _ in range(2):
        code, found = _findings()
        assert code == 0
        assert {one["verdict"] for group in found.values() for one in group} == {"ok"}
        _ok("runs")
    assert found["database"][0]["what"].endswith(f"schema {head()}")


def test_the_doctor_names_each_thing_that_is_wrong(project: Path) -> None:
    """A broken file, a channel without its secret, an address that is none: each with its own line, and code 1."""
    (project / "agents" / "bad.py").write_text("import nothing_of_that_name\n")
    (project / "wakeloop.toml").write_text(
        '[channels.sms]\naccount_sid = "AC1"\n[contacts.alice]\nconsole = "alice"\n[contacts.carol]\n'
    )

    code, found = _findings()

    assert code == 1
    assert "bad.py:1" in found["agents"][1]["what"]
    assert found["channel sms"][0]["verdict"] == "fail"
    assert found["contact carol"][0]["verdict"] == "warn"
    assert found["contact alice"][0]["verdict"] == "ok"


def test_the_doctor_tells_of_an_address_that_two_people_share(project: Path) -> None:
    """However it is written: a reply from there could be either's, and would be taken for neither."""
    sid = "AC" + "0" * 32
    (project / ".env").write_text("WAKELOOP_SMS_AUTH_TOKEN=hidden\n")
    (project / "wakeloop.toml").write_text(
        f'[channels.sms]\naccount_sid = "{sid}"\nfrom_number = "+15555550199"\n'
        '[contacts.alice]\nsms = "+15555550100"\n[contacts.bob]\nsms = "+1 555 555 0100"\n'
    )

    _, found = _findings()

    assert [one["verdict"] for one in found["contact alice"]] == ["ok"]
    assert [one["verdict"] for one in found["contact bob"]] == ["warn", "ok"]
    assert "has the same sms address as alice" in found["contact bob"][0]["what"]


def test_the_doctor_asks_for_a_public_url_when_replies_need_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nothing comes in; without HTTPS most providers refuse."""
    sid = "AC" + "0" * 32
    table = f'[channels.sms]\naccount_sid = "{sid}"\nfrom_number = "+15555550199"\n'
    (project / "wakeloop.toml").write_text(f'{table}[contacts.alice]\nsms = "+15555550100"\n')
    monkeypatch.setenv("WAKELOOP_SMS_AUTH_TOKEN", "secret")

    assert "replies by sms cannot come in" in _findings()[1]["public_url"][0]["what"]
    monkeypatch.setenv("WAKELOOP_PUBLIC_URL", "http://agents.example.com")
    assert _findings()[1]["public_url"][0]["verdict"] == "warn"
    monkeypatch.setenv("WAKELOOP_PUBLIC_URL", "https://agents.example.com")
    assert _findings()[1]["public_url"][0]["verdict"] == "ok"


def test_the_doctor_tells_of_a_channel_that_nobody_listens_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages wait with the provider; such a channel needs no public URL."""
    install(project / "packages")
    monkeypatch.syspath_prepend(project / "packages")
    table = '[channels.pond]\nurl = "http://localhost"\n'
    (project / "wakeloop.toml").write_text(f'{table}[contacts.alice]\npond = "alice"\n')
    _ok("runs")

    code, found = _findings()
    assert code == 0 and "public_url" not in found
    assert (found["channel pond"][1]["verdict"], found["channel pond"][1]["what"]) == (
        "warn", "nobody fetches its messages now",
    )  # fmt: skip

    database = Database(f"sqlite:///{project / '.wakeloop' / 'wakeloop.db'}")
    with database.begin() as connection:
        now = database.now()
        listeners.take(connection, "pond", owner="somebody", now=now, until=now + timedelta(minutes=1))
    database.close()
    assert _findings()[1]["channel pond"][1] | {"about": ""} == {
        "verdict": "ok", "about": "", "what": "its messages are fetched", "advice": "",
    }  # fmt: skip


def test_the_doctor_reports_a_broker_and_a_database_that_are_away(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on to the rest."""
    monkeypatch.setenv("WAKELOOP_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/x")
    monkeypatch.setenv("WAKELOOP_BROKER_URL", "redis://:hunter2@127.0.0.1:1/0")

    code, found = _findings()

    assert code == 1
    assert found["database"][0]["verdict"] == "fail"
    assert found["broker"][0]["verdict"] == "fail"
    assert found["agents"][0]["verdict"] == "ok"
    assert "hunter2" not in str(found)


def test_the_doctor_tells_of_settings_that_cannot_be_read(project: Path) -> None:
    """Nothing more can be looked at then."""
    (project / "wakeloop.toml").write_text("port = \n")

    code, found = _findings()

    assert code == 1
    assert "wakeloop.toml:1" in found["settings"][0]["what"]
