"""The registry: the agents that a process knows, and how they are loaded from a folder.

A folder of agents is no package that was installed, but its files behave as one: they are the modules of
`wakeloop_agents`, so `agents/standup.py` is `wakeloop_agents.standup` in every process. Relative imports between
them, dataclasses and pickling by name work.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import linecache
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from wakeloop.agent import Agent
from wakeloop.errors import ConfigurationError, NotFound, WakeloopError
from wakeloop.events import Message, Signal
from wakeloop.logs import get_logger
from wakeloop.people import suggestion

PACKAGE = "wakeloop_agents"

log = get_logger("wakeloop.registry")


class Registry:
    """The agents that a process knows, by name. Immutable.

    The same agent given twice counts once. Raises ConfigurationError if two have the same name.
    """

    def __init__(self, agents: Iterable[Agent]) -> None:
        self._agents: dict[str, Agent] = {}
        for agent in agents:
            if self._agents.setdefault(agent.name, agent) is not agent:
                raise ConfigurationError(_same_name(agent, self._agents[agent.name]))

    @property
    def agents(self) -> tuple[Agent, ...]:
        """In the order in which they were given."""
        return tuple(self._agents.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._agents)

    def get(self, name: str) -> Agent:
        """The agent. Raises NotFound, with the nearest names."""
        if (agent := self._agents.get(name)) is not None:
            return agent
        raise NotFound(f"there is no agent {name!r}{suggestion(name, self._agents, 'agents')}", agent=name)

    def listeners(self, signal: Signal) -> list[tuple[Agent, str]]:
        """Which sessions a signal wakes: pairs of an agent and a session key, each once.

        An agent whose triggers give several keys is woken in each. A trigger whose `match` or `key` raises is logged
        and skipped.
        """
        found = [
            (agent, key)
            for agent in self.agents
            for trigger in agent.signal_triggers
            if (key := _key(agent, trigger.fits, trigger.session_key, signal)) is not None
        ]
        return list(dict.fromkeys(found))

    def without_key(self, signal: Signal) -> list[str]:
        """Why agents whose triggers a signal fits do not get it: their `key` cannot be made of it."""
        reasons: list[str] = []
        for agent in self.agents:
            for trigger in agent.signal_triggers:
                with contextlib.suppress(Exception):  # of an author's function: see `listeners`
                    if not trigger.fits(signal):
                        continue
                    try:
                        trigger.session_key(signal)
                    except WakeloopError as error:
                        reasons.append(f"agent {agent.name}: {error}")
        return reasons

    def takers(self, message: Message) -> list[tuple[Agent, str]]:
        """Which sessions may take a message: at most one per agent, by the first of its triggers that fits.

        A trigger whose `key` raises is logged and skipped.
        """
        found: list[tuple[Agent, str]] = []
        for agent in self.agents:
            keys = (
                _key(agent, trigger.fits, trigger.session_key, message) for trigger in agent.message_triggers
            )
            if (key := next((key for key in keys if key is not None), None)) is not None:
                found.append((agent, key))
        return found


def _key(
    agent: Agent, fits: Callable[[Any], bool], key: Callable[[Any], str], event: Message | Signal
) -> str | None:
    try:
        return key(event) if fits(event) else None
    except Exception as error:
        # What an author's function says may quote the message, which is only for DEBUG.
        facts = {"agent": agent.name, "event_kind": event.kind, "event_id": event.id}
        log.warning("trigger failed", error=type(error).__name__, **facts)
        log.debug("trigger failed", exc_info=True, **facts)
        return None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a file of the folder gave no agents. `line` is in that file, if it is known; the message names any other."""

    file: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a folder holds: agents of distinct names, by file and then in the order of their definition, and what is
    wrong with the other files."""

    agents: tuple[Agent, ...]
    problems: tuple[Problem, ...]


def load_folder(path: Path) -> Loaded:
    """Load every `*.py` file and every package directly in the folder whose name does not start with `_` or `.`.

    A file that cannot be loaded is a `Problem` and does not keep the others from loading. An agent that several files
    import counts once. Of two agents with one name the first is kept, and the other's file has a problem.

    Loading again drops the modules loaded before, also those of another folder: a process has one folder of agents.
    What still runs keeps the old classes; everything loaded is new.

    Raises ConfigurationError if there is no such folder.
    """
    folder = path.absolute()
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: there is no such folder of agents; make it, or set agents_dir")
    with _loading:
        _start_package(folder)
        agents: dict[str, Agent] = {}
        problems: list[Problem] = []
        for file in _files(folder):
            try:
                module = _import(file)
            except (Exception, SystemExit) as error:
                problems.append(_problem(file, folder, error))
                continue
            for agent in _agents_in(module):
                if agents.setdefault(agent.name, agent) is not agent:
                    place, line = _place(agent)
                    message = _same_name(agent, agents[agent.name])
                    problems.append(
                        Problem(file=file, line=line if place == str(file) else None, message=message)
                    )
    return Loaded(agents=tuple(agents.values()), problems=tuple(problems))


_loading = threading.Lock()


class _Loader(SourceFileLoader):
    """Compiles afresh each time: Python's cache goes by whole seconds and sizes, and misses a quick second edit."""

    def get_code(self, fullname: str) -> CodeType:
        file = self.get_filename(fullname)
        return self.source_to_code(self.get_data(file), file)


class _Finder(MetaPathFinder):
    """Finds the modules below our package, along its path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{PACKAGE}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, str(spec.loader.path))
            spec.cached = None
        return spec


_finder = _Finder()


def _start_package(folder: Path) -> None:
    """Make an empty package of the folder, in the place of one that was there."""
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    importlib.invalidate_caches()
    linecache.checkcache()
    spec = ModuleSpec(PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(("_", ".")):
            continue
        if entry.suffix == ".py" and entry.is_file():
            yield entry
        elif (entry / "__init__.py").is_file():
            yield entry / "__init__.py"


def _import(file: Path) -> ModuleType:
    name = file.parent.name if file.name == "__init__.py" else file.stem
    if "." in name:
        raise ConfigurationError(f"{name!r} cannot be imported because of the dot; rename it")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if module.__file__ != str(file):
        raise ConfigurationError(
            f"is hidden by {module.__file__}, which has the same name; rename one of them"
        )
    return module


def _agents_in(module: ModuleType) -> list[Agent]:
    return list(dict.fromkeys(value for value in vars(module).values() if isinstance(value, Agent)))


def _problem(file: Path, folder: Path, error: BaseException) -> Problem:
    own = file.parent if file.name == "__init__.py" else file
    places = [
        (Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError) and error.filename is not None and error.lineno is not None:
        places.append((Path(error.filename), error.lineno))
    inside = [place for place in places if place[0].is_relative_to(folder)]
    mine = [place for place in inside if place[0].is_relative_to(own)]
    message = _said(error, folder)
    if inside and inside[-1] not in mine:
        message += f" (at {inside[-1][0].relative_to(folder)}:{inside[-1][1]})"
    at, line = mine[-1] if mine else (file, None)
    return Problem(file=at, line=line, message=message)


def _said(error: BaseException, folder: Path) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    if isinstance(error, SystemExit):
        return f"SystemExit: {error}: a file of agents must not end the process"
    message = f"{type(error).__name__}: {error}"
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if name and ((folder / f"{name}.py").is_file() or (folder / name).is_dir()):
        message += f"; it is beside this file: write `from . import {name}`"
    return message


def _same_name(agent: Agent, other: Agent) -> str:
    first, second = ("{}:{}".format(*_place(one)) for one in (other, agent))
    return f"two agents are called {agent.name!r}, at {first} and at {second}; rename one, or give it a name="


def _place(agent: Agent) -> tuple[str, int]:
    handler: Any = inspect.unwrap(agent.handler)
    code: CodeType = (handler.func if isinstance(handler, functools.partial) else handler).__code__
    return code.co_filename, code.co_firstlineno
