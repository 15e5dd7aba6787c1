"""`wakeloop doctor`: what is right and wrong with this installation, and what to do about it."""

# kombu is typed in part; its connection is not.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from wakeloop import __version__
from wakeloop.agent import Agent
from wakeloop.channel import Channel
from wakeloop.cli.ailments import Finding, check_address, check_providers, check_work
from wakeloop.cli.base import Config, Json, chosen, console, print_json, quiet, table
from wakeloop.errors import ConfigurationError, SchemaMismatch
from wakeloop.listeners import listening
from wakeloop.people import People, suggestion
from wakeloop.registry import load_folder
from wakeloop.settings import Settings, load_settings
from wakeloop.store import listeners
from wakeloop.store.database import Database
from wakeloop.store.migration import head
from wakeloop.terminal import duration
from wakeloop.wiring import WEB_CHANNEL, load_channel, wanted_channels, webhook_url

OLDEST_PYTHON = (3, 11)
SKEW_LIMIT = timedelta(seconds=1)
BROKER_SECONDS = 3

Offline = Annotated[bool, typer.Option("--offline", help="Ask no provider, and do not call public_url.")]
_SIGNS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def doctor(ctx: typer.Context, offline: Offline = False, config: Config = None, json: Json = False) -> None:
    """Check this installation; exit code 1 if something keeps it from working."""
    choices = chosen(ctx, config, json)
    quiet()
    findings = list(_examine(choices.config, offline=offline))
    failed = any(one.verdict == "fail" for one in findings)
    if choices.json:
        print_json({"ok": not failed, "findings": findings})
    else:
        shown = table("", "about", "finding")
        for one in findings:
            sign, style = _SIGNS[one.verdict]
            text = Text(one.what)
            if one.advice:
                text.append(f"\n{one.advice}", style="bold" if one.verdict == "fail" else "dim")
            shown.add_row(Text(sign, style=f"bold {style}"), one.about, text)
        console().print(shown)
    raise typer.Exit(1 if failed else 0)


def _examine(config: Any, *, offline: bool) -> Iterator[Finding]:
    yield _python()
    try:
        settings = load_settings(path=config)
    except ConfigurationError as error:
        for line in str(error).splitlines():
            yield Finding(verdict="fail", about="settings", what=line, advice="correct it, then ask again")
        return
    yield Finding(verdict="ok", about="settings", what="read without a complaint")
    yield from _database(settings)
    yield _broker(settings)
    yield from _agents(settings)
    channels: dict[str, Channel] = {}
    for finding, name, adapter in _channels(settings):
        yield finding
        if adapter is not None:
            channels[name] = adapter
    if not offline:
        yield from check_providers(channels)
    yield from _listeners(settings, channels)
    yield from _contacts(settings, channels)
    yield from check_address(settings, channels, offline=offline)
    yield from check_work(settings, channels)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    old = sys.version_info < OLDEST_PYTHON
    return Finding(
        verdict="fail" if old else "ok",
        about="python",
        what=f"Python {version}, wakeloop {__version__}",
        advice="install Python 3.11 or newer" if old else "",
    )


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        database = Database(settings.database_url)
    except ConfigurationError as error:
        yield Finding(verdict="fail", about="database", what=str(error))
        return
    try:
        with database.read() as connection:
            revision = database.revision(connection)
        if revision is None and not database.is_postgres:
            yield Finding(
                verdict="ok", about="database", what=f"{database.name} is new; the first command sets it up"
            )
            return
        database.check_schema()
        yield Finding(verdict="ok", about="database", what=f"{database.name}, schema {head()}")
        yield _skew(database)
    except SchemaMismatch as error:
        yield Finding(verdict="fail", about="database", what=str(error), advice="run `wakeloop db upgrade`")
    except (ConfigurationError, DBAPIError) as error:
        told = database.explain(error) if isinstance(error, DBAPIError) else error
        yield Finding(verdict="fail", about="database", what=str(told))
    finally:
        database.close()


def _skew(database: Database) -> Finding:
    ahead = datetime.now(UTC) - database.now()
    if abs(ahead) <= SKEW_LIMIT:
        return Finding(verdict="ok", about="clock", what="agrees with the database's")
    where = "ahead of" if ahead > timedelta(0) else "behind"
    return Finding(
        verdict="warn",
        about="clock",
        what=f"is {duration(abs(ahead))} {where} the database's",
        advice="timers are right, since they go by the database's clock alone; but the times in logs are off, and providers "
        "refuse or are refused when a signature's time is off by minutes: synchronise both machines (NTP)",
    )


def _broker(settings: Settings) -> Finding:
    from kombu.connection import Connection
    from kombu.exceptions import OperationalError
    from kombu.utils.url import maybe_sanitize_url

    if settings.broker_url.startswith("embedded:"):
        return Finding(verdict="ok", about="broker", what="within the process of `wakeloop dev`")
    url = maybe_sanitize_url(settings.broker_url)
    limits = {"socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS}
    try:
        with Connection(settings.broker_url, transport_options=limits) as connection:
            connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
    except (OperationalError, OSError) as error:
        return Finding(
            verdict="fail",
            about="broker",
            what=f"{url}: {error}",
            advice="start it, or correct WAKELOOP_BROKER_URL",
        )
    return Finding(verdict="ok", about="broker", what=str(url))


def _agents(settings: Settings) -> Iterator[Finding]:
    try:
        loaded = load_folder(settings.agents_dir)
    except ConfigurationError as error:
        yield Finding(
            verdict="fail", about="agents", what=str(error), advice="`wakeloop init` writes a first one"
        )
        return
    names = ", ".join(agent.name for agent in loaded.agents)
    yield Finding(
        verdict="ok" if loaded.agents else "warn",
        about="agents",
        what=names or f"there is none in {settings.agents_dir}",
        advice="" if loaded.agents else "`wakeloop init` writes a first one",
    )
    for problem in loaded.problems:
        yield Finding(
            verdict="fail",
            about="agents",
            what=str(problem),
            advice="correct the file; the others work without it",
        )
    for agent in loaded.agents:
        yield from _takes(agent, settings)


def _takes(agent: Agent, settings: Settings) -> Iterator[Finding]:
    """The contacts and channels from which an agent would take messages, and none will come."""
    addresses = {name for contact in settings.contacts.values() for name in contact.addresses}
    channels = wanted_channels(settings, addresses)
    for trigger in agent.message_triggers:
        for what, wanted, known in (
            ("contact", trigger.contact, settings.contacts),
            ("channel", trigger.channel, channels),
        ):
            for name in sorted((wanted or set()) - set(known)):
                yield Finding(
                    verdict="warn",
                    about=f"agent {agent.name}",
                    what=f"on_message({what}={name!r}): there is no such {what}{suggestion(name, known, f'{what}s')}",
                    advice=f"correct the name, or add [{what}s.{name}] to wakeloop.toml",
                )


def _channels(settings: Settings) -> Iterator[tuple[Finding, str, Channel | None]]:
    """Each channel that is set up or that somebody has an address on, and its adapter if it can be made."""
    addresses = {name for contact in settings.contacts.values() for name in contact.addresses}
    for name in wanted_channels(settings, addresses):
        if name == WEB_CHANNEL and name not in {*addresses, *settings.channels}:
            continue
        try:
            adapter = load_channel(settings, name)
        except ConfigurationError as error:
            yield Finding(verdict="fail", about=f"channel {name}", what=str(error)), name, None
            continue
        url = webhook_url(settings, name)
        told = f"set up, webhook {url}" if url and name != "console" else "set up"
        yield Finding(verdict="ok", about=f"channel {name}", what=told), name, adapter


def _listeners(settings: Settings, channels: dict[str, Channel]) -> Iterator[Finding]:
    """Channels that fetch their messages need a process that works."""
    fetching = sorted(listening(channels))
    if not fetching:
        return
    try:
        database = Database(settings.database_url)
        try:
            with database.read() as connection:
                if database.revision(connection) != head():
                    return
                now = database.now()
                held = {name for name in fetching if listeners.is_held(connection, name, now=now)}
        finally:
            database.close()
    except (ConfigurationError, DBAPIError):
        return  # told above
    for name in fetching:
        yield Finding(
            verdict="ok" if name in held else "warn",
            about=f"channel {name}",
            what="its messages are fetched" if name in held else "nobody fetches its messages now",
            advice="" if name in held else "they wait with the provider: start a worker, or `wakeloop dev`",
        )


def _contacts(settings: Settings, channels: dict[str, Channel]) -> Iterator[Finding]:
    if not settings.contacts:
        yield Finding(
            verdict="warn",
            about="contacts",
            what="there is nobody to ask",
            advice="add [contacts.…] to wakeloop.toml",
        )
    holders: dict[tuple[str, str], str] = {}
    for id, contact in settings.contacts.items():
        known = {name: address for name, address in contact.addresses.items() if name in channels}
        if not contact.addresses:
            yield Finding(
                verdict="warn",
                about=f"contact {id}",
                what="has no address",
                advice=f"add one to [contacts.{id}]",
            )
            continue
        try:
            one = People({id: contact}).normalized({name: channels[name].normalize for name in known})
        except ConfigurationError as error:
            yield Finding(verdict="fail", about=f"contact {id}", what=str(error))
            continue
        for name, address in one.get(id).addresses.items():
            first = holders.setdefault((name, address), id)
            if first != id and name in known and channels[name].capabilities.inbound:
                yield Finding(
                    verdict="warn",
                    about=f"contact {id}",
                    what=f"has the same {name} address as {first}: what is written from there is taken for neither of them",
                    advice="give each person an address of their own",
                )
        yield Finding(verdict="ok", about=f"contact {id}", what=f"by {', '.join(contact.addresses)}")
