"""The sources of the settings: what `wakeloop.toml`, `.env` and the environment say, and the line on which they say it."""

from __future__ import annotations

import difflib
import io
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from wakeloop.errors import ConfigurationError
from wakeloop.people import Contact, misnamed, suggestion

PREFIX = "WAKELOOP_"
FILE_NAME = "wakeloop.toml"
TABLES = ("contacts", "approvers", "channels")

Tree = Mapping[str, Any]
Key = tuple[str, ...]


class Sources:
    """The values of all sources, those added later over those before, where each comes from, and what is wrong.

    fields: the names of the settings. channels: those there can be, beside those that have a table in the file.
    """

    def __init__(self, fields: Collection[str], *, channels: Set[str]) -> None:
        self.values: dict[str, Any] = {}
        self._fields = fields
        self._channels = set(channels)
        self._places: dict[Key, str] = {}
        self._problems: dict[tuple[str, str], str] = {}

    def add(self, tree: Tree, place: Callable[[Key], str]) -> None:
        """Add values, of which `place` tells where they stand."""
        self._merge(self.values, tree, (), place)

    def _merge(self, into: dict[str, Any], tree: Tree, above: Key, place: Callable[[Key], str]) -> None:
        for key, value in tree.items():
            here = (*above, key)
            self._places[here] = place(here)
            if not isinstance(value, Mapping):
                into[key] = value
                continue
            if not isinstance(into.get(key), dict):
                into[key] = {}
            self._merge(into[key], value, here, place)

    def add_toml(self, file: Path, *, required: bool) -> None:
        """Add what the file says, and refuse the secrets in it. Raises ConfigurationError if it cannot be read."""
        text = _read(file, required=required)
        tree = _parse(file, text)
        lines = key_lines(text)
        self._channels |= channels_in(tree)
        self.add(tree, lambda key: f"{file}:{_line(lines, key)}")
        for key in _secrets(tree):
            self.report(key, _secret_refused(key, self._fields))

    def add_dotenv(self, file: Path) -> None:
        """Add what the file says, if there is one. Raises ConfigurationError if it cannot be read."""
        variables, lines = _read_dotenv(file)
        self.add_variables(variables, lambda name: f"{file}:{lines[name]}: {name}")

    def add_variables(self, variables: Mapping[str, str], place: Callable[[str], str]) -> None:
        """Add what the variables with our prefix say. One that is nearly, but not quite, a setting is refused: to run
        on the default instead could be another database."""
        for name, value in variables.items():
            if name.startswith(PREFIX) and value and name != f"{PREFIX}CONFIG":
                self._add_variable(name, value, place(name))

    def _add_variable(self, name: str, value: str, place: str) -> None:
        field = name.removeprefix(PREFIX).lower()
        owners = [channel for channel in self._channels if name.startswith(_variable(channel))]
        if field in TABLES:
            self._problems[place, field] = f"is a table; write [{field}.…] in {FILE_NAME}"
        elif field in self._fields:
            self.add({field: value}, lambda _: place)
        elif owners:
            channel = max(owners, key=len)
            key = name.removeprefix(_variable(channel)).lower()
            self.add({"channels": {channel: {key: value}}}, lambda _: place)
        elif near := difflib.get_close_matches(field, self._fields, n=1, cutoff=0.75):
            self._problems[place, field] = f"is no setting; did you mean {PREFIX}{near[0].upper()}?"

    def check(self) -> None:
        """Refuse, and leave out, what is no setting; refuse keys of contacts that would silently become channels that do
        not exist."""
        self._check_contacts()
        for key in [key for key in self.values if key not in self._fields]:
            self.report((key,), f"there is no such setting{suggestion(key, self._fields, 'settings')}")
            del self.values[key]

    def _check_contacts(self) -> None:
        contacts = self.values.get("contacts")
        for id, table in contacts.items() if isinstance(contacts, dict) else ():
            if isinstance(table, dict) and table.get("id", id) != id:
                self.report(("contacts", id, "id"), misnamed(table["id"]))
            for key in table if isinstance(table, dict) else ():
                if key in Contact.model_fields or key in self._channels:
                    continue
                if key in self._fields:
                    self.report(
                        ("contacts", id, key), "is no address but a setting; write it above the first [table]"
                    )
                elif near := difflib.get_close_matches(key, self._channels, n=1, cutoff=0.85):
                    self.report(("contacts", id, key), f"there is no such channel; did you mean {near[0]}?")

    def report(self, key: Key, problem: str) -> None:
        """Note the first thing that is wrong with a key."""
        place = next(
            (self._places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._places), "settings"
        )
        self._problems.setdefault((place, ".".join(key)), problem)

    @property
    def problems(self) -> list[str]:
        """All that is wrong, a line each: the source, the key, what is wrong and what to write."""
        return [f"{place}: {key}: {what}" for (place, key), what in self._problems.items()]


def channels_in(tree: Tree) -> set[str]:
    """The channels that have a table."""
    channels = tree.get("channels")
    return set(channels) if isinstance(channels, Mapping) else set()


def key_lines(text: str) -> dict[Key, int]:
    """The line of every key and table of a valid TOML document, from 1; of several, the first.

    What is within an inline table or a list has no entry of its own.
    """
    lines: dict[Key, int] = {}
    table: Key = ()
    position, line = 0, 1
    while position < len(text):
        if found := _STATEMENT.match(text, position):
            path = _dotted(found["table"] or found["key"])
            if found["table"]:
                table = path
            else:
                path = table + path
            for length in range(1, len(path) + 1):
                lines.setdefault(path[:length], line)
        end = _statement_end(text, found.end() if found else position)
        line += text.count("\n", position, end)
        position = end
    return lines


_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_STATEMENT = re.compile(rf"[ \t]*(?:\[\[?[ \t]*(?P<table>{_KEYS})[ \t]*\]\]?|(?P<key>{_KEYS})[ \t]*=)")
# Strings and comments whole, so that no bracket or line end within them counts.
_TOKEN = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[\[\]{}\n]''',
    re.DOTALL,
)


def _statement_end(text: str, position: int) -> int:
    """Where the next line begins that is not within the brackets or the string that the statement opens."""
    depth = 0
    for token in _TOKEN.finditer(text, position):
        if token[0] in ("[", "{"):
            depth += 1
        elif token[0] in ("]", "}"):
            depth -= 1
        elif token[0] == "\n" and depth == 0:
            return token.end()
    return len(text)


def _dotted(keys: str) -> Key:
    path: list[str] = []
    tree: Any = tomllib.loads(f"{keys} = 0")
    while isinstance(tree, dict):
        ((key, tree),) = tree.items()
        path.append(key)
    return tuple(path)


def _line(lines: Mapping[Key, int], key: Key) -> int:
    return next((lines[key[:length]] for length in range(len(key), 0, -1) if key[:length] in lines), 1)


def _read(file: Path, *, required: bool) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if not required:
            return ""
        raise ConfigurationError(
            f"{file}: there is no such file; correct the path or {PREFIX}CONFIG, or write the file"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f"{file}:{line}: is not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rpartition(" (at ")
        found = re.match(r"line (\d+)", where)
        line = int(found[1]) if found else text.rstrip().count("\n") + 1
        raise ConfigurationError(f"{file}:{line}: is not valid TOML: {what}") from None


def _read_dotenv(file: Path) -> tuple[dict[str, str], dict[str, int]]:
    """The variables of a `.env` file and their lines; none if there is no such file."""
    text = _read(file, required=False)
    lines: dict[str, int] = {}
    for binding in parse_stream(io.StringIO(text)):
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string.count("\n", 0, blank)
        if binding.error:
            raise ConfigurationError(
                f"{file}:{line}: cannot be read; write NAME=value, with quotes around a value with spaces"
            )
        if binding.key is not None:
            lines[binding.key] = line
    values = dotenv_values(stream=io.StringIO(text))
    return {name: value for name, value in values.items() if value is not None}, lines


def _secrets(tree: Tree, above: Key = ()) -> Iterator[Key]:
    """The keys whose text, by their name, is secret."""
    for key, value in tree.items():
        if (*above, key) == ("approvers",):
            continue  # its keys are functions, whatever they are called
        if isinstance(value, Mapping):
            yield from _secrets(value, (*above, key))
        elif isinstance(value, str | list) and _SECRET.search(key):
            yield (*above, key)


_SECRET = re.compile(
    r"(token|secret|password|passwd|passphrase|(api|secret|private|access|signing)[_-]?key)s?$", re.IGNORECASE
)


def _secret_refused(key: Key, fields: Collection[str]) -> str:
    if len(key) == 1 and key[0] in fields:
        variable = f"{PREFIX}{_upper(key[0])}"
    else:
        channel, name = (
            (key[1], key[2:]) if key[0] == "channels" and len(key) > 2 else ("<CHANNEL>", key[-1:])
        )
        variable = f"{_variable(channel)}{_upper('_'.join(name))}"
    return (
        f"is a secret, which must not stand in this file; put it into the environment or .env, as {variable}"
    )


def _variable(channel: str) -> str:
    """How the names of a channel's variables start."""
    return f"{PREFIX}{_upper(channel)}_"


def _upper(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")
