"""The registry: which agents there are, whom an event wakes, and how a folder of agents is loaded."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

import pytest

from wakeloop.agent import Agent, agent
from wakeloop.errors import ConfigurationError, NotFound
from wakeloop.events import Message, Signal
from wakeloop.logs import FIELDS
from wakeloop.registry import PACKAGE, Loaded, Registry, load_folder
from wakeloop.triggers import Trigger, on_message, on_signal

NOW = datetime(2026, 11, 2, 14, 0, tzinfo=UTC)
AGENT = "from wakeloop.agent import agent\n\n@agent()\nasync def {0}(ctx):\n    pass\n"


@pytest.fixture(autouse=True)
def _import_system() -> Iterator[None]:
    """The import system as it was: no modules of ours, no finder of ours."""
    finders = list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def make(name: str, *triggers: Trigger) -> Agent:
    @agent(*triggers, name=name)
    async def handler(ctx: object) -> None: ...

    return handler


def signal(type: str = "invoice.paid", **data: str) -> Signal:
    return Signal(type=type, data=dict(data), id="s1", time=NOW)


def message(text: str = "hello", from_: str | None = "alice", channel: str = "sms") -> Message:
    return Message(id="m1", text=text, from_=from_, channel=channel, at=NOW)


def write(folder: Path, packaged: Mapping[str, str] = MappingProxyType({}), **files: str) -> Path:
    for name, text in {**packaged, **files}.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def names(loaded: Loaded) -> list[str]:
    return [one.name for one in loaded.agents]


# Names


def test_agents_are_known_by_name_in_their_order() -> None:
    """And the same agent given twice counts once."""
    second, first = make("second"), make("first")
    registry = Registry([second, first, second])

    assert registry.names == ("second", "first")
    assert registry.agents == (second, first)
    assert registry.get("first") is first


def test_an_unknown_agent_is_not_found_and_the_nearest_are_named() -> None:
    """Or that there are none."""
    with pytest.raises(NotFound, match=r"there is no agent 'standpu'; did you mean 'standup'\?"):
        Registry([make("standup"), make("invoices")]).get("standpu")
    with pytest.raises(NotFound, match="there are no agents at all"):
        Registry([]).get("standup")


def test_two_agents_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    """Neither silently replaces the other."""
    write(tmp_path / "one", a=AGENT.format("standup"))
    write(tmp_path / "two", b="\n\n" + AGENT.format("standup"))
    agents = [*load_folder(tmp_path / "one").agents, *load_folder(tmp_path / "two").agents]

    with pytest.raises(ConfigurationError) as caught:
        Registry(agents)

    assert str(caught.value) == (
        f"two agents are called 'standup', at {tmp_path}/one/a.py:3 and at {tmp_path}/two/b.py:5; "
        "rename one, or give it a name="
    )


# Events


def test_a_signal_wakes_every_session_that_listens() -> None:
    """Each pair of agent and key once, though several triggers give it."""
    one = make("one", on_signal("invoice.*"), on_signal("invoice.paid"), on_signal("*", key="of-{customer}"))
    two = make("two", on_signal("invoice.paid", match={"customer": "acme"}, key="fixed"))
    other = make("other", on_signal("order.*"), on_message())

    found = Registry([one, two, other]).listeners(signal(customer="acme"))

    assert found == [(one, "default"), (one, "of-acme"), (two, "fixed")]


def test_a_message_is_taken_by_at_most_one_session_of_an_agent() -> None:
    """That of the first trigger that fits."""
    one = make(
        "one", on_message(channel="email", key="mail"), on_message(contact="alice"), on_message(key="rest")
    )
    two = make("two", on_message(contact="bob"))
    registry = Registry([one, two, make("other", on_signal("*"))])

    assert registry.takers(message()) == [(one, "alice")]
    assert registry.takers(message(channel="email")) == [(one, "mail")]
    assert registry.takers(message(from_="bob")) == [(one, "rest"), (two, "bob")]
    assert registry.takers(message(from_=None)) == []


def test_a_trigger_that_raises_is_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    """The agent's other triggers, and the other agents, hear the event; the log above DEBUG does not quote it."""

    def broken(event: Signal | Message) -> str:
        raise RuntimeError(f"cannot use {event!r}")

    def match(event: Signal) -> bool:
        raise KeyError(event.data)

    first = make(
        "first", on_signal("*", key=broken), on_signal("*", match=match), on_message(key=broken), on_message()
    )
    second = make("second", on_signal("*"), on_signal("*", key="{hidden}"), on_message())
    registry = Registry([first, second])

    with caplog.at_level(logging.DEBUG, "wakeloop.registry"):
        assert registry.listeners(signal(note="body")) == [(second, "default")]
        assert registry.takers(message("body")) == [(first, "alice"), (second, "alice")]

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    facts = [getattr(record, FIELDS) for record in warnings]
    assert [(log["agent"], log["event_kind"], log["event_id"], log["error"]) for log in facts] == [
        ("first", "signal", "s1", "RuntimeError"),
        ("first", "signal", "s1", "KeyError"),
        ("second", "signal", "s1", "WakeloopError"),
        ("first", "message", "m1", "RuntimeError"),
    ]
    assert not any("body" in record.getMessage() or record.exc_info for record in warnings)
    debug = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert sum(record.exc_info is not None for record in debug) == len(warnings)


# Loading


def test_a_folder_gives_the_agents_of_its_files_and_packages(tmp_path: Path) -> None:
    """By file name, then as they are defined; private and other files are let be."""
    write(
        tmp_path,
        {"alpha/__init__": AGENT.format("packaged"), "no_package/file": "raise SystemExit"},
        beta=AGENT.format("zoe") + AGENT.format("adam"),
        _private="raise SystemExit",
    )
    (tmp_path / ".hidden.py").write_text("raise SystemExit", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("raise SystemExit", encoding="utf-8")

    loaded = load_folder(tmp_path)

    assert loaded.problems == ()
    assert names(loaded) == ["packaged", "zoe", "adam"]


def test_modules_have_stable_names_and_are_found_by_them(tmp_path: Path) -> None:
    """What is pickled by name in one process is found in another."""
    write(
        tmp_path,
        standup="from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Focus:\n    text: str\n    more: list[Focus] | None = None\n"
        + AGENT.format("standup"),
    )
    (loaded,) = load_folder(tmp_path).agents
    focus = loaded.handler.__globals__["Focus"]("billing")

    assert type(focus).__module__ == "wakeloop_agents.standup"
    assert pickle.loads(pickle.dumps(focus)) == focus


def test_files_import_each_other_relatively(tmp_path: Path) -> None:
    """Files, private files, packages and files within packages; also in a circle, and a dash in a name is fine."""
    write(
        tmp_path,
        {
            "pack/__init__": "from .inner import DEPTH\nfrom .._shared import WORD\n" + AGENT.format("pack"),
            "pack/inner": "DEPTH = 2\n",
            "daily-report": "from wakeloop_agents.one import WORD\n" + AGENT.format("daily"),
        },
        _shared="from . import one\nWORD = 'shared'\n",
        one="from ._shared import WORD\nfrom .pack.inner import DEPTH\n" + AGENT.format("one"),
    )

    loaded = load_folder(tmp_path)

    assert loaded.problems == ()
    assert names(loaded) == ["daily", "one", "pack"]


def test_an_agent_that_several_files_import_counts_once(tmp_path: Path) -> None:
    """Under whatever names they import it."""
    write(tmp_path, a="from .z import standup as other\nagain = other\n", z=AGENT.format("standup"))

    loaded = load_folder(tmp_path)

    assert (names(loaded), loaded.problems) == (["standup"], ())


def test_of_two_agents_with_one_name_the_first_is_kept(tmp_path: Path) -> None:
    """The other file has the problem, at the line of its definition; its other agents count."""
    write(tmp_path, a=AGENT.format("standup"), b=AGENT.format("fine") + AGENT.format("standup"))

    loaded = load_folder(tmp_path)

    assert names(loaded) == ["standup", "fine"]
    (problem,) = loaded.problems
    assert (problem.file, problem.line) == (tmp_path / "b.py", 8)
    assert problem.message.startswith(
        f"two agents are called 'standup', at {tmp_path}/a.py:3 and at {tmp_path}/b.py:8;"
    )


STATES = """
from pydantic import BaseModel
from wakeloop import Context, agent
class Memory(BaseModel):
    days: int = 0
class More(Memory):
    weeks: int = 0
class Other(BaseModel): ...
"""
BROKEN = [
    ("x = 1\ny = undefined\n", 2, "NameError: name 'undefined' is not defined"),
    ("x = 1\n\ndef f(:\n", 3, "SyntaxError: invalid syntax"),
    ("def f():\nreturn 1\n", 2, "IndentationError: expected an indented block"),
    ("from wakeloop.agent import agent\n\n@agent(queue=5)\nasync def f(ctx): ...\n", 3, "agent f: queue must be the name of a Celery queue, not 5"),
    ("from wakeloop.agent import agent\n\n@agent(state=int)\nasync def f(ctx): ...\n", 3, "agent f: state must be a pydantic model class"),
    (f"{STATES}\n@agent()\nasync def f(ctx: Context[Memory]): ...\n", 10, "Context[Memory], and its state is none: write @agent(…, state=Memory)"),
    (f"{STATES}\n@agent(state=Other)\nasync def f(ctx: 'Context[Memory]'): ...\n", 10, "Context[Memory], and its state is Other: write"),
    ("from wakeloop.triggers import cron\n\nWHEN = cron(\n  'often',\n)\n", 3, "cron 'often': the number of fields is 1"),
    ("import json\njson.loads('{')\n", 2, "JSONDecodeError: "),
    ("import sys\nsys.exit('bye')\n", 2, "SystemExit: bye: a file of agents must not end the process"),
    ("import no_such_thing\n", 1, "ModuleNotFoundError: No module named 'no_such_thing'"),
    ("\nimport good\n", 2, "No module named 'good'; it is beside this file: write `from . import good`"),
    ("from .gone import bad\n", 1, "ModuleNotFoundError: No module named 'wakeloop_agents.gone'"),
    ("from .good import bad\n", 1, "ImportError: cannot import name 'bad'"),
    ("from . import _helper\n", 1, "ZeroDivisionError: division by zero (at _helper.py:3)"),
    ("from . import _syntax\n", 1, "SyntaxError: unmatched ')' (at _syntax.py:2)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "said"), BROKEN)
def test_a_broken_file_is_a_problem_with_its_line_and_the_others_load(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    """The line is in that file, though the error came up elsewhere."""
    write(tmp_path, broken=text, good=AGENT.format("good"), _helper="\n\n1 / 0\n", _syntax="\n)\n")

    loaded = load_folder(tmp_path)

    assert names(loaded) == ["good"]
    (problem,) = loaded.problems
    assert (problem.file, problem.line) == (tmp_path / "broken.py", line)
    assert said in problem.message
    assert str(problem) == f"{tmp_path}/broken.py:{line}: {problem.message}"


def test_a_state_may_be_more_than_the_context_says_and_what_cannot_be_read_is_left_to_type_checkers(
    tmp_path: Path,
) -> None:
    """A model that is derived, none, a variable of types, a name that is known to type checkers only."""
    handlers = [
        ("state=More", "Context[Memory]"), ("", "Context[None]"), ("state=More", "Context"), ("state=More", "'Context[S]'"),
        ("state=More", "'Context[Unknown]'"), ("", "Context[Any]"),
    ]  # fmt: skip
    text = f"from typing import Any, TypeVar\n{STATES}\nS = TypeVar('S')\n" + "".join(
        f"@agent({state})\nasync def f{number}(ctx: {context}): ...\n"
        for number, (state, context) in enumerate(handlers)
    )
    write(tmp_path, a=text)

    loaded = load_folder(tmp_path)

    assert (len(loaded.agents), loaded.problems) == (len(handlers), ())


def test_a_problem_within_a_package_is_told_in_its_file(tmp_path: Path) -> None:
    """The innermost file of the package."""
    write(tmp_path, {"pack/__init__": "from . import inner\n", "pack/inner": "\n1 / 0\n"})

    (problem,) = load_folder(tmp_path).problems

    assert (problem.file, problem.line) == (tmp_path / "pack" / "inner.py", 2)
    assert problem.message == "ZeroDivisionError: division by zero"


def test_files_whose_names_cannot_be_imported_are_problems(tmp_path: Path) -> None:
    """A dot in the name, or a package of the same name."""
    write(tmp_path, {"twin/__init__": AGENT.format("package")}, twin=AGENT.format("file"))
    (tmp_path / "v1.2.py").write_text(AGENT.format("dotted"), encoding="utf-8")

    loaded = load_folder(tmp_path)

    assert names(loaded) == ["package"]
    assert [str(problem) for problem in loaded.problems] == [
        f"{tmp_path}/twin.py: is hidden by {tmp_path}/twin/__init__.py, which has the same name; rename one of them",
        f"{tmp_path}/v1.2.py: 'v1.2' cannot be imported because of the dot; rename it",
    ]


def test_a_folder_that_does_not_exist_is_a_configuration_error(tmp_path: Path) -> None:
    """An empty one is fine."""
    with pytest.raises(
        ConfigurationError, match="there is no such folder of agents; make it, or set agents_dir"
    ):
        load_folder(tmp_path / "gone")
    assert load_folder(tmp_path) == Loaded(agents=(), problems=())


def test_loading_again_gives_new_objects_of_the_new_text(tmp_path: Path) -> None:
    """Also after an edit of the same length within the same second, in a file that others import."""
    write(
        tmp_path,
        _names="NAME = 'aa'\n",
        one="from ._names import NAME\n" + AGENT.format("one").replace("()", "(name=NAME)", 1),
    )
    before = load_folder(tmp_path)
    write(tmp_path, _names="NAME = 'bb'\n", two=AGENT.format("two"))

    after = load_folder(tmp_path)

    assert (names(before), names(after)) == (["aa"], ["bb", "two"])
    assert load_folder(tmp_path).agents[1] is not after.agents[1]


def test_loading_again_forgets_files_that_are_gone(tmp_path: Path) -> None:
    """Their modules too."""
    write(tmp_path, one=AGENT.format("one"), two=AGENT.format("two"))
    load_folder(tmp_path)
    (tmp_path / "two.py").unlink()

    assert names(load_folder(tmp_path)) == ["one"]
    assert "wakeloop_agents.one" in sys.modules
    assert "wakeloop_agents.two" not in sys.modules


def test_loading_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    """No bytecode cache: it may be read-only, and a cache could be stale."""
    write(tmp_path, one=AGENT.format("one"))

    load_folder(tmp_path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["one.py"]
