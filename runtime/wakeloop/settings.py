"""Settings: one frozen object, read once from `wakeloop.toml`, `.env` and the environment, and passed in.

Every mistake is told with its file and line, its key, what is wrong, and what to write. Secrets come from the
environment or `.env` only: `WAKELOOP_SMS_AUTH_TOKEN` is `auth_token` of the channel `sms`.
"""

from __future__ import annotations

import copy
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from wakeloop.adapters import adapters
from wakeloop.errors import ConfigurationError
from wakeloop.people import Contact, Text, explain, identified, key_of, wrong_names
from wakeloop.settings_sources import FILE_NAME, PREFIX, TABLES, Sources, channels_in


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
    given = {key: value for key, value in overrides.items() if value is not None}

    sources = Sources(Settings.model_fields, channels=adapters().keys() | channels_in(given))
    sources.add_toml(file, required=named is not None)
    sources.add_dotenv(file.parent / ".env")
    sources.add_variables(os.environ, lambda name: f"environment variable {name}")
    sources.add(given, lambda key: f"argument {key[0]}")
    sources.check()
    return _settings_of(sources, file.parent)


def _settings_of(sources: Sources, folder: Path) -> Settings:
    try:
        found = Settings(**sources.values)
    except ValidationError as error:
        for problem in error.errors():
            sources.report(key_of(problem["loc"]), _explain(problem))
    else:
        for path, what in wrong_names(found.contacts, found.approvers):
            sources.report(path, what)
        if not sources.problems:
            return found.model_copy(
                update={
                    "agents_dir": folder / found.agents_dir.expanduser(),
                    "database_url": _resolved(found.database_url, folder),
                }
            )
    raise ConfigurationError("\n".join(sources.problems))


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
