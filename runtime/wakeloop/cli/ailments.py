"""What `wakeloop doctor` asks of others: providers, the public address, and how the work in the store goes on."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit

import httpx2
from sqlalchemy.exc import DBAPIError

from wakeloop.channel import Channel
from wakeloop.cli.channels import ask_providers
from wakeloop.errors import ConfigurationError
from wakeloop.listeners import listening
from wakeloop.settings import Settings
from wakeloop.store import measures, verifications
from wakeloop.store.database import Database
from wakeloop.store.migration import head
from wakeloop.terminal import duration
from wakeloop.wiring import guides, is_loopback

CALL_SECONDS = 5.0
LAG_LIMIT = timedelta(seconds=60)
RECENT = timedelta(hours=1)

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. advice: what to do, unless it is fine."""

    verdict: Verdict
    about: str
    what: str
    advice: str = ""


def check_providers(channels: Mapping[str, Channel]) -> Iterator[Finding]:
    """Whether the credentials of channels work, as far as that can be asked without writing to anybody. Closes them."""
    for name, (works, told) in asyncio.run(ask_providers(dict(channels), is_checking=True)).items():
        if works is not None:
            yield Finding(
                verdict="ok" if works else "fail",
                about=f"channel {name}",
                what=told,
                advice=""
                if works
                else f"correct its settings (see docs/channels), then `wakeloop channels test {name} …`",
            )


# ---------------------------------------------------------------------- the way in


def check_address(settings: Settings, channels: Mapping[str, Channel], *, offline: bool) -> Iterator[Finding]:
    """Webhooks need a way in, and providers want HTTPS. What is fetched needs none."""
    fetching = listening(channels)
    callers = sorted(
        name
        for name, one in channels.items()
        if one.capabilities.inbound and name != "console" and name not in fetching
    )
    if not callers:
        return
    if settings.public_url is None:
        yield Finding(
            verdict="warn",
            about="public_url",
            what=f"is not set: replies by {', '.join(callers)} cannot come in",
            advice='set public_url = "https://…" in wakeloop.toml to where providers reach the web process',
        )
        return
    yield _plausible(settings.public_url)
    if not offline:
        yield _answers(settings.public_url)
    if settings.public_url.startswith("https:") and not settings.trusted_proxies:
        yield Finding(
            verdict="warn",
            about="trusted_proxies",
            what="is empty although something in front ends TLS: whoever calls seems to come from one address",
            advice="name that proxy's address, so that limits count each caller by itself",
        )
    for name, pairs in guides(settings, channels).items():
        for where, what in pairs:
            yield Finding(verdict="ok", about=f"channel {name}", what=f"its provider needs: {where}: {what}")


def _plausible(url: str) -> Finding:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or _is_private(host):
        return Finding(
            verdict="warn",
            about="public_url",
            what=f"{url} is an address that only your own network has",
            advice="providers cannot reach it: set the public one, or run a tunnel and give its address",
        )
    safe = parts.scheme == "https"
    return Finding(
        verdict="ok" if safe else "warn",
        about="public_url",
        what=url,
        advice="" if safe else "use https:// for real providers: most refuse anything else",
    )


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


def _answers(url: str) -> Finding:
    """Whether the web process answers at its public address."""
    try:
        answer = httpx2.get(f"{url}/healthz", timeout=CALL_SECONDS, follow_redirects=False)
        told = (
            ""
            if (answer.status_code, answer.text.strip()) == (200, "ok")
            else f"answers {answer.status_code}"
        )
    except httpx2.HTTPError as error:
        told = f"does not answer ({type(error).__name__})"
    if not told:
        return Finding(verdict="ok", about="public_url", what="the web process answers there")
    return Finding(
        verdict="warn",
        about="public_url",
        what=f"{url}/healthz {told}, as seen from this machine",
        advice="start `wakeloop web` and let the proxy pass everything on to it; a firewall may keep only this machine out",
    )


# ---------------------------------------------------------------------- how the work goes on


def check_work(settings: Settings, channels: Mapping[str, Channel]) -> Iterator[Finding]:
    """What waits in the store for a worker or a human. Nothing, if it cannot be asked: that is told elsewhere."""
    try:
        database = Database(settings.database_url)
        try:
            with database.read() as connection:
                if database.revision(connection) != head():
                    return
            yield from _due(database)
            yield from _parked(database)
            yield from _undelivered(database)
            yield from _opted_out(database, settings, channels)
        finally:
            database.close()
    except (ConfigurationError, DBAPIError):
        return


def _due(database: Database) -> Iterator[Finding]:
    now = database.now()
    with database.read() as connection:
        rows = measures.due_sessions(connection, now=now)
        rows += [row for row in measures.coming_sessions(connection, now=now, lease=timedelta(0)) if row.dispatches and not row.held]  # fmt: skip
    lag = now - min((measures.first_dispatch(row.at, row.dispatches) for row in rows), default=now)
    if lag > LAG_LIMIT:
        yield Finding(
            verdict="warn",
            about="work",
            what=f"sessions that are due and that no worker takes: {sum(row.number for row in rows)}, the first for {duration(lag)}",
            advice="start a worker (`celery -A wakeloop worker`, or `wakeloop dev`) that has their agents, and look that the "
            "broker is the same one",
        )


def _parked(database: Database) -> Iterator[Finding]:
    with database.read() as connection:
        rows = measures.parked_runs(connection)
    for row in rows:
        yield Finding(
            verdict="warn",
            about=f"agent {row.agent}",
            what=f"runs that are {row.status}: {row.number}",
            advice="`wakeloop inbox` says why; then `wakeloop retry`, `restart` or `cancel` each",
        )


def _undelivered(database: Database) -> Iterator[Finding]:
    with database.read() as connection:
        rows = measures.recent_deliveries(connection, since=database.now() - RECENT)
    for row in rows:
        if row.status == "failed":
            yield Finding(
                verdict="warn",
                about=f"channel {row.channel}",
                what=f"deliveries that failed for good in the last hour: {row.number}",
                advice="`wakeloop inbox` has the provider's words",
            )


def _opted_out(database: Database, settings: Settings, channels: Mapping[str, Channel]) -> Iterator[Finding]:
    for id, contact in settings.contacts.items():
        for name, address in contact.addresses.items():
            if name not in channels or not _has_opted_out(database, name, channels[name], address):
                continue
            yield Finding(
                verdict="warn",
                about=f"contact {id}",
                what=f"asked not to be written to by {name} any more",
                advice="only they can change that, by writing START; give them another channel meanwhile",
            )


def _has_opted_out(database: Database, name: str, channel: Channel, address: str) -> bool:
    try:
        known = channel.normalize(address)
    except ValueError:
        return False  # told elsewhere
    with database.read() as connection:
        return bool(verifications.opted_out(connection, name, [known]))
