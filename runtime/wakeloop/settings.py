"""Settings: one frozen object, read once from `wakeloop.toml`, `.env` and the environment, and passed in.

Every mistake is told with its file and line, its key, what is wrong, and what to write. Secrets come from the
environment or `.env` only: `WAKELOOP_SMS_AUTH_TOKEN` is `auth_token` of the channel `sms`.
"""

from __future__ import annotations

import copy
import difflib
import io
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from wakeloop.adapters import adapters
from wakeloop.errors import ConfigurationError
from wakeloop.people import Contact, Text, explain, identified, key_of, misnamed, suggestion, wrong_names

PREFIX = "WAKELOOP_"
FILE_NAME = "wakeloop.toml"
TABLES = ("contacts", "approvers", "channels")

Tree = Mapping[str, Any]
Key = tuple[str, ...]


class Settings(BaseSettings):
    """What a deployment chose. Made by `load_settings`; `Settings(...)` itself reads nothing and takes what it is given.

    Its repr shows neither secrets, nor passwords in URLs, nor anything of the channels but their keys.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: str = Field(
        default="sqlite:///.wakeloop/wakeloop.db",
        description="Where everything is kept: SQLite, or PostgreSQL in production; with ?prepare_threshold=none behind a "
        "pooler in transaction mode.",
        examples=["postgresql+psycopg://wakeloop@localhost/wakeloop"],
    )
    broker_url: str = Field(
        default="embedded://local",
        description="What carries work to the workers: within one process, or Redis, with TLS by rediss:// and through "
        "sentinels by sentinel://.",
        examples=["redis://localhost:6379/0"],
    )
    broker_key_prefix: str = Field(
        default="",
        description="What all keys in Redis begin with, where others use the same one; in braces they are in one slot of a "
        "cluster.",
        examples=["{agents}:"],
    )
    broker_sentinel_master: str | None = Field(
        default=None,
        description="The name under which Redis's sentinels know the master, with a sentinel:// broker_url.",
        examples=["mymaster"],
    )
    queue: str = Field(
        default="wakeloop", min_length=1, description="The Celery queue of turns.", examples=["wakeloop"]
    )
    agents_dir: Path = Field(
        default=Path("agents"), description="The folder that agents are loaded from.", examples=["agents"]
    )
    public_url: str | None = Field(
        default=None,
        description="How providers reach the web process from outside; without it they cannot.",
        examples=["https://agents.example.com"],
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address that the web process listens on.",
        examples=["0.0.0.0"],
    )
    port: int = Field(
        default=8080, ge=0, le=65535, description="Its port; 0 is any that is free.", examples=[8080]
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses or networks of proxies whose X-Forwarded headers are believed.",
        examples=[["10.0.0.0/8"]],
    )
    secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="What links and logins are signed with, newest first (several, with commas between, during a change); "
        "without it a key that is kept in the store. From the environment or .env only.",
        examples=[["a long random text"]],
    )
    callback_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts (`shop.internal`, or all below `.internal`) and networks that callbacks may go to although "
        "their addresses are not public ones.",
        examples=[[".internal", "10.1.0.0/16"]],
    )
    worker_concurrency: int = Field(
        default=32, ge=1, description="How many sessions a worker process turns at once.", examples=[32]
    )
    lease_seconds: float = Field(
        default=15.0,
        gt=0,
        allow_inf_nan=False,
        description="After how many seconds the session of a worker that fell silent is taken over; also how long "
        "one attempt at a delivery may take.",
        examples=[15.0],
    )
    stop_grace_seconds: float = Field(
        default=10.0,
        ge=0,
        allow_inf_nan=False,
        description="For how many seconds a worker that is told to end lets turns under way go on; what is not over by "
        "then is handed back. Whatever supervises it must wait for 20 seconds more.",
        examples=[10.0],
    )
    log_format: Literal["console", "json"] = Field(
        default="console",
        description="How the programs write their log: lines for people, or an object of JSON a line.",
        examples=["json"],
    )
    webhooks_per_minute: int = Field(
        default=6000,
        ge=0,
        description="How many requests a minute each address may send to a channel's webhook, all of them at once if it "
        "likes; beyond that the answer is 429. 0 is no limit.",
        examples=[6000],
    )
    refused_webhooks_per_minute: int = Field(
        default=30,
        ge=0,
        description="How many of them may be forged or malformed; after that the address waits, unless it has sent a good "
        "one within the hour. 0 is no limit.",
        examples=[30],
    )
    wrong_tokens: int = Field(
        default=10,
        ge=0,
        description="How often within five minutes an address may give a wrong token, at the login or to the API; after "
        "that it waits. 0 is no limit.",
        examples=[10],
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="The port on which each worker shows Prometheus what it counts; 0 for none. What the store knows is at "
        "/metrics of the web process.",
        examples=[9464],
    )
    metrics_address: str = Field(
        default="127.0.0.1", min_length=1, description="The address of that port.", examples=["0.0.0.0"]
    )
    traces: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether OpenTelemetry gets traces: auto, if OpenTelemetry's own variables (OTEL_…) name an exporter or "
        "the process has a provider already.",
        examples=["off"],
    )
    unknown_sender: Literal["ignore", "answer"] = Field(
        default="ignore",
        description="What becomes of a message from somebody who is no contact.",
        examples=["answer"],
    )
    unknown_sender_text: str = Field(
        default="This is an automated service that does not know you. Nobody will read your message.",
        min_length=1,
        description='What they are answered with unknown_sender = "answer".',
        examples=["Please call the office instead."],
    )
    unrouted_text: str | None = Field(
        default="Nothing here was waiting for your message. It has been kept.",
        description='What a known person is told when no agent takes a message; "" for nothing.',
        examples=["I cannot place that message."],
    )
    messages_per_hour: int = Field(
        default=60,
        ge=0,
        description="How many messages a person is sent in any hour, over all channels; the next waits. 0 is no limit. "
        "What answers a message of theirs at once does not count.",
        examples=[60],
    )
    coalesce_seconds: float = Field(
        default=60.0,
        ge=0,
        allow_inf_nan=False,
        description="For how long after a message what else is to be said to a person on that channel is held, to go "
        "together; 0 for not at all. Questions and reminders are never held.",
        examples=[60.0],
    )
    attachments_limit_mb: float = Field(
        default=20.0,
        ge=0,
        allow_inf_nan=False,
        description="How many MiB of files are kept of one message that comes in; what is over is left out, and that is "
        "on record.",
        examples=[20],
    )
    retention_days: int | None = Field(
        default=None,
        ge=1,
        description="After how many days a run that is over is deleted, with its journal and requests; without it "
        "everything is kept.",
        examples=[365],
    )
    message_retention_days: int | None = Field(
        default=None,
        ge=1,
        description="After how many days a message is deleted, with its deliveries and files; without it everything is kept.",
        examples=[365],
    )
    raw_retention_days: int | None = Field(
        default=None,
        ge=1,
        description="After how many days what a provider sent is deleted as it was sent; without it, with the message.",
        examples=[30],
    )
    contacts: dict[str, Contact] = Field(default_factory=dict, description="The people, by id.")
    approvers: dict[str, tuple[Text, ...]] = Field(
        default_factory=dict,
        description="Who may approve the calls of a function: contacts and groups, by its name.",
    )
    channels: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="The settings of each channel, by its name."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is given: `load_settings` reads the sources, because it knows the line of every key."""
        return (init_settings,)

    @field_validator("contacts", mode="before")
    @classmethod
    def _identify(cls, value: Any) -> Any:
        return (
            {id: identified(id, table) for id, table in value.items()}
            if isinstance(value, Mapping)
            else value
        )

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str) -> str:
        if not re.match(r"(sqlite|postgresql)(\+\w+)?://", value):
            raise ValueError("must be a URL that starts with sqlite:// or postgresql://")
        return value

    @field_validator("broker_url")
    @classmethod
    def _check_broker(cls, value: str) -> str:
        if not re.match(r"[a-z]\w*(\+\w+)?://", value):
            raise ValueError("must be a URL such as embedded://local or redis://…")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be an address that starts with https:// (or http://), without ? and #")
        return value.rstrip("/")

    @field_validator("trusted_proxies", "secret_keys", "callback_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"{error}; give IP addresses and networks") from None
        return value

    @field_validator("unrouted_text")
    @classmethod
    def _no_text(cls, value: str | None) -> str | None:
        return value or None

    def channel_section(self, name: str) -> dict[str, Any]:
        """The table `[channels.<name>]` with the environment's secrets merged in, as a copy; empty if there is none."""
        return copy.deepcopy(self.channels.get(name, {}))

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name == "channels":
                yield name, {channel: dict.fromkeys(section, "…") for channel, section in value.items()}
            else:
                yield name, _without_password(value) if name and name.endswith("_url") else value


def load_settings(*, path: Path | None = None, directory: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings. First come `overrides` (None counts as not given), then the environment's `WAKELOOP_…`, then
    `.env` beside the toml file, then the toml file, then defaults. Tables are merged key by key.

    path: the toml file; else what WAKELOOP_CONFIG names, else `wakeloop.toml`, which alone need not exist. directory:
    what these are relative to, the current folder by default. A relative `agents_dir` or SQLite path is resolved
    against the folder of the toml file. Variables of the environment that are set to nothing count as not set.

    Raises ConfigurationError with everything that is wrong, one per line, each naming its source (for a file, with
    the line), the key, what is wrong and what to write.
    """
    named = path or os.environ.get(f"{PREFIX}CONFIG") or None
    file = (directory or Path.cwd()).absolute() / (named or FILE_NAME)
    text = _read(file, required=named is not None)
    tree = _parse(file, text)
    lines = key_lines(text)
    given = {key: value for key, value in overrides.items() if value is not None}

    merged = _Merged()
    channels = adapters().keys() | _tables(tree) | _tables(given)
    merged.add(tree, lambda key: f"{file}:{_line(lines, key)}")
    for key in _secrets(tree):
        merged.report(key, _secret_refused(key))
    dotenv, dotenv_lines = _read_dotenv(file.parent / ".env")
    merged.add_variables(
        dotenv, channels, lambda name: f"{file.parent / '.env'}:{dotenv_lines[name]}: {name}"
    )
    merged.add_variables(os.environ, channels, lambda name: f"environment variable {name}")
    merged.add(given, lambda key: f"argument {key[0]}")

    merged.check_contacts(channels)
    return merged.settings(file.parent)


class _Merged:
    """The values of all sources, those added later over those before, and where each comes from."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._places: dict[Key, str] = {}
        self._problems: dict[tuple[str, str], str] = {}

    def add(self, tree: Tree, place: Callable[[Key], str]) -> None:
        self._merge(self._values, tree, (), place)

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

    def add_variables(
        self, variables: Mapping[str, str], channels: set[str], place: Callable[[str], str]
    ) -> None:
        """Add what the variables with our prefix say. One that is nearly, but not quite, a setting is refused: to run
        on the default instead could be another database."""
        for name, value in variables.items():
            if name.startswith(PREFIX) and value and name != f"{PREFIX}CONFIG":
                self._add_variable(name, value, channels, place(name))

    def _add_variable(self, name: str, value: str, channels: set[str], place: str) -> None:
        field = name.removeprefix(PREFIX).lower()
        owners = [channel for channel in channels if name.startswith(_variable(channel))]
        if field in TABLES:
            self._problems[place, field] = f"is a table; write [{field}.…] in {FILE_NAME}"
        elif field in Settings.model_fields:
            self.add({field: value}, lambda _: place)
        elif owners:
            channel = max(owners, key=len)
            key = name.removeprefix(_variable(channel)).lower()
            self.add({"channels": {channel: {key: value}}}, lambda _: place)
        elif near := difflib.get_close_matches(field, Settings.model_fields, n=1, cutoff=0.75):
            self._problems[place, field] = f"is no setting; did you mean {PREFIX}{near[0].upper()}?"

    def check_contacts(self, channels: set[str]) -> None:
        """Refuse keys of contacts that would silently become channels that do not exist."""
        contacts = self._values.get("contacts")
        for id, table in contacts.items() if isinstance(contacts, dict) else ():
            if isinstance(table, dict) and table.get("id", id) != id:
                self.report(("contacts", id, "id"), misnamed(table["id"]))
            for key in table if isinstance(table, dict) else ():
                if key in Contact.model_fields or key in channels:
                    continue
                if key in Settings.model_fields:
                    self.report(
                        ("contacts", id, key), "is no address but a setting; write it above the first [table]"
                    )
                elif near := difflib.get_close_matches(key, channels, n=1, cutoff=0.85):
                    self.report(("contacts", id, key), f"there is no such channel; did you mean {near[0]}?")

    def report(self, key: Key, problem: str) -> None:
        """Note the first thing that is wrong with a key."""
        place = next(
            (self._places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self._places), "settings"
        )
        self._problems.setdefault((place, ".".join(key)), problem)

    def settings(self, folder: Path) -> Settings:
        for key in [key for key in self._values if key not in Settings.model_fields]:
            self.report(
                (key,), f"there is no such setting{suggestion(key, Settings.model_fields, 'settings')}"
            )
            del self._values[key]
        try:
            found = Settings(**self._values)
        except ValidationError as error:
            for problem in error.errors():
                self.report(key_of(problem["loc"]), _explain(problem))
        else:
            for path, what in wrong_names(found.contacts, found.approvers):
                self.report(path, what)
            if not self._problems:
                return found.model_copy(
                    update={
                        "agents_dir": folder / found.agents_dir.expanduser(),
                        "database_url": _resolved(found.database_url, folder),
                    }
                )
        raise ConfigurationError(
            "\n".join(f"{place}: {key}: {what}" for (place, key), what in self._problems.items())
        )


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


def _tables(tree: Tree) -> set[str]:
    channels = tree.get("channels")
    return set(channels) if isinstance(channels, Mapping) else set()


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


def _secret_refused(key: Key) -> str:
    channel, name = (key[1], key[2:]) if key[0] == "channels" and len(key) > 2 else ("<CHANNEL>", key[-1:])
    variable = f"{_variable(channel)}{_upper('_'.join(name))}"
    return (
        f"is a secret, which must not stand in this file; put it into the environment or .env, as {variable}"
    )


def _variable(channel: str) -> str:
    """How the names of a channel's variables start."""
    return f"{PREFIX}{_upper(channel)}_"


def _upper(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


def _explain(error: ErrorDetails) -> str:
    field = str(error["loc"][0])
    if field in TABLES:
        return explain(error)
    told = error["type"] == "value_error" or field.endswith("_url")  # URLs may hold passwords
    given = "" if told else f", not {error['input']!r}"
    example = json.dumps(Settings.model_fields[field].examples, ensure_ascii=False)[1:-1]
    return f"{explain(error)}{given}; write for example {field} = {example}"


def _without_password(url: Any) -> Any:
    if not isinstance(url, str):
        return url
    return re.sub(r"([?&]\w*password=)[^&#]*", r"\1…", re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:…@", url))


def _resolved(url: str, folder: Path) -> str:
    """The URL with the path of a SQLite file made absolute."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)((?!:memory:|file:)[^?]+)(.*)", url, re.DOTALL)
    return f"{found[1]}{folder / found[2]}{found[3]}" if found else url
