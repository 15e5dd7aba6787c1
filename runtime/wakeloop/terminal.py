"""How things look on a terminal: times, durations, values and triggers in few words, and log lines."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import to_json
from rich.console import Console
from rich.control import strip_control_codes
from rich.text import Text

from wakeloop.logs import JsonFormatter
from wakeloop.triggers import At, Cron, Every, OnMessage, OnSignal, Trigger

OURS = ("wakeloop", "wakeloop_agents", "wakeloop_channels")
"""The loggers whose every line is shown; of the others, warnings."""

STATUS_STYLES = {
    "queued": "cyan",
    "running": "cyan",
    "waiting": "blue",
    "completed": "green",
    "failed": "red",
    "stuck": "red",
    "cancelled": "dim",
    "skipped": "dim",
    "open": "yellow",
    "unknown": "yellow",
}

_LEVELS = {logging.WARNING: ("!", "yellow"), logging.ERROR: ("✗", "red"), logging.CRITICAL: ("✗", "bold red")}
_FIELD = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\S*)")


def error_console() -> Console:
    """Where people are told things: standard error, so that standard output holds data alone."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def moment(at: datetime, now: datetime | None = None) -> str:
    """An instant on this machine's wall clock: `14:03:07` today, `Mon 3 Nov 14:03` this year, else with the year."""
    here = at.astimezone()
    today = (now or datetime.now(UTC)).astimezone()
    if here.date() == today.date():
        return f"{here:%H:%M:%S}"
    day = f"{here:%a} {here.day} {here:%b}"
    return f"{day} {here:%H:%M}" if here.year == today.year else f"{day} {here.year} {here:%H:%M}"


def distance(at: datetime, now: datetime) -> str:
    """How far away an instant is: `in 3 min`, `2 h ago`, `now`."""
    if abs(at - now) < timedelta(seconds=1):
        return "now"
    return f"in {duration(at - now)}" if at > now else f"{duration(now - at)} ago"


def duration(delta: timedelta) -> str:
    """A length of time in at most two units: `40 ms`, `2.1 s`, `3 min 5 s`, `1 h 12 min`, `3 d 4 h`."""
    seconds = delta / timedelta(seconds=1)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            count, rest = divmod(whole, size)
            return f"{count} {unit} {rest // below} {small}" if rest >= below else f"{count} {unit}"
    return f"{whole} s"


def short(value: Any, limit: int = 80) -> str:
    """A value on one line of at most `limit` characters; what is no text, as JSON."""
    text = value if isinstance(value, str) else to_json(value, serialize_unknown=True).decode()
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def trigger_words(trigger: Trigger) -> str:
    """What wakes an agent, in the words in which it was written."""
    if isinstance(trigger, Cron):
        return f"{trigger.expr} ({trigger.tz})"
    if isinstance(trigger, Every):
        return f"every {duration(trigger.interval)}"
    if isinstance(trigger, At):
        return f"once at {moment(trigger.when)}"
    if isinstance(trigger, OnMessage):
        senders = f" from {' or '.join(sorted(trigger.contact))}" if trigger.contact else ""
        channels = f" by {' or '.join(sorted(trigger.channel))}" if trigger.channel else ""
        return f"on message{senders}{channels}"
    assert isinstance(trigger, OnSignal)
    return f"on signal {trigger.type}"


class LogHandler(logging.Handler):
    """Log lines for people: the time, the message, and its fields dimmed; a traceback below."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        # What has no colours needs no layout either, which takes longer than everything else about a line.
        self._is_bare = console.color_system is None and not console.is_terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, whatever it is about: what logs must not fail because of it."""
        try:
            parts = _parts(record)
            if self._is_bare:
                file = self._console.file
                line = strip_control_codes("".join([text for text, _ in parts])).expandtabs()
                file.write(f"{line}\n")
                file.flush()
            else:
                self._console.print(Text.assemble(*parts))
        except Exception:
            self.handleError(record)


def _parts(record: logging.LogRecord) -> list[tuple[str, str]]:
    """The pieces of a log line, each with its style."""
    sign, style = _LEVELS.get(record.levelno, ("·", "dim"))
    head, _, rest = record.getMessage().partition("\n")
    message, _, fields = head.partition("  ")
    loud = f"not dim {style}" if record.levelno >= logging.WARNING else "not dim"
    parts = [
        (time.strftime("%H:%M:%S ", time.localtime(record.created)), "dim"),
        (f"{sign} ", f"not dim {style}"),
        (message, loud),
    ]
    known = _FIELD.findall(fields)
    # A session's name says it.
    told = {"agent", "turn"} if any(name == "session" for name, _ in known) else set()
    for name, value in known:
        if name not in told:
            parts += [(f"  {name} ", "dim"), (value.strip("'\""), "not dim")]
    if record.exc_info:
        rest = logging.Formatter().formatException(record.exc_info)
    if rest:
        parts.append((f"\n{rest}", "not dim"))
    return parts


class JsonHandler(logging.StreamHandler[Any]):
    """Writes log records as lines of JSON on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())


def log_to(console: Console, *, debug: bool = False, json: bool = False) -> None:
    """Show this process's log on a console, or as lines of JSON on standard error: ours in full, others' warnings."""
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, LogHandler | JsonHandler)]:
        root.removeHandler(old)
    root.addHandler(JsonHandler() if json else LogHandler(console))
    for name in OURS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else logging.INFO)
