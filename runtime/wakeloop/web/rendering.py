"""Makes pages from templates. Everything that is put into one is escaped; nothing here or in a template is exempt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from wakeloop.settings import Settings
from wakeloop.terminal import duration

HERE = Path(__file__).parent
STATIC = HERE / "static"


class Pages:
    """The templates, with what each of them needs: where things are, and how times are written."""

    def __init__(self, settings: Settings) -> None:
        self.root = urlsplit(settings.public_url or "").path
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._environment.globals.update(root=self.root, static=self._static)
        self._environment.filters.update(clock=clock, span=span, iso=machine_time)
        self._names: dict[str, str] = {}

    def page(self, template: str, facts: Mapping[str, Any], *, status: int = 200) -> HTMLResponse:
        """A page."""
        text = self._environment.get_template(template).render(facts)
        # What a model wrote may hold half a surrogate pair, which is no character.
        return HTMLResponse(text.encode("utf-8", "replace"), status_code=status)

    def refusal(self, status: int, title: str, words: str) -> HTMLResponse:
        """A page that says why there is nothing else."""
        return self.page("refusal.html", {"title": title, "words": words}, status=status)

    def _static(self, name: str) -> str:
        if name not in self._names:
            digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
            self._names[name] = f"{self.root}/static/{name}?v={digest}"
        return self._names[name]


def clock(at: datetime, now: datetime, zone: str = "UTC") -> str:
    """An instant on a wall clock: `today 14:03`, `tomorrow 09:00`, `Mon 3 Nov 14:03`, with the year if that is another."""
    here, today = at.astimezone(ZoneInfo(zone)), now.astimezone(ZoneInfo(zone))
    days = (here.date() - today.date()).days
    if days in _DAYS:
        return f"{_DAYS[days]} {here:%H:%M}"
    year = f" {here.year}" if here.year != today.year else ""
    return f"{here:%a} {here.day} {here:%b}{year} {here:%H:%M}"


_DAYS = {-1: "yesterday", 0: "today", 1: "tomorrow"}


def span(delta: timedelta) -> str:
    """A length of time in words for people who glance at it: "a moment", "5 min", "3 h 20 min"."""
    if delta < timedelta(minutes=1):
        return "a moment"
    whole = timedelta(minutes=int(delta.total_seconds()) // 60)
    return duration(whole)


def machine_time(at: datetime) -> str:
    """An instant as programs read it."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
