"""What may wake an agent: schedules, messages and signals, checked where they are written.

`cron`, `every`, `at`, `on_message` and `on_signal` are what an author calls. Whatever is wrong with their
arguments raises `ConfigurationError` at the definition, never at three in the morning. When a schedule comes
due is worked out in `wakeloop.calendar`; here is what it says.
"""

from __future__ import annotations

import difflib
import string
import zoneinfo
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from wakeloop.cron_expression import parse_expression
from wakeloop.errors import ConfigurationError, WakeloopError
from wakeloop.events import Message, Signal

KEY_CHARACTERS = 200
"""As many as a session's key may have: it is in an index, and in every list."""


def is_key(key: object) -> bool:
    """Whether a session may have this key."""
    return isinstance(key, str) and 1 <= len(key) <= KEY_CHARACTERS and "\x00" not in key


Misfire = Literal["fire_once", "skip", "fire_all"]
"""What becomes of occurrences that came due while nothing was running."""

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "allow"]
"""What an occurrence does while the previous run is still open."""

Gap = Literal["shift", "skip"]
"""What a wall-clock time does on a day that does not have it."""

Fold = Literal["first", "second", "both"]
"""Which one is meant on a day that has a wall-clock time twice."""

MISFIRE_GRACE = timedelta(seconds=60)
"""How late an occurrence may be and still count as punctual."""


# Schedules


class _Schedule(BaseModel, frozen=True, extra="forbid", strict=True):
    jitter: timedelta | None = None
    misfire: Misfire = "fire_once"
    catchup: timedelta | None = timedelta(days=1)
    overlap: Overlap = "skip"

    @model_validator(mode="after")
    def _check_policies(self) -> _Schedule:
        if self.jitter is not None and self.jitter < timedelta(0):
            raise ConfigurationError(f"jitter is {self.jitter}: it only delays, so it cannot be negative")
        if self.catchup is not None and self.catchup < MISFIRE_GRACE:
            raise ConfigurationError(
                f"catchup is {self.catchup}, shorter than the {MISFIRE_GRACE.seconds} s by which a punctual "
                f'occurrence may be late: nothing would ever fire; to run nothing late, say misfire="skip"'
            )
        return self


class Cron(_Schedule, frozen=True):
    """Wall-clock times in a zone, as a cron expression. An instance is always valid: see `cron`."""

    kind: Literal["cron"] = "cron"
    expr: str
    tz: str = "UTC"
    gap: Gap = "shift"
    fold: Fold = "first"

    @field_validator("expr", mode="before")
    @classmethod
    def _check_expr(cls, expr: object) -> str:
        if not isinstance(expr, str):
            raise ConfigurationError(
                f"cron {expr!r}: the expression is a {type(expr).__name__}; "
                'give a string such as "0 9 * * MON-FRI"'
            )
        parse_expression(expr)
        return " ".join(expr.split())

    @field_validator("tz", mode="before")
    @classmethod
    def _check_tz(cls, tz: object) -> str:
        return _check_zone(tz)

    @model_validator(mode="after")
    def _check_jitter(self) -> Cron:
        spacing = parse_expression(self.expr).spacing()
        if self.jitter is not None and spacing is not None and self.jitter > spacing:
            raise ConfigurationError(
                f"cron {self.expr!r}: jitter is {self.jitter}, longer than the {spacing} between two of its "
                "occurrences; use at most that, or they would run into each other"
            )
        return self


class Every(_Schedule, frozen=True):
    """A fixed interval of elapsed time, counted from when the schedule was registered. See `every`."""

    kind: Literal["every"] = "every"
    interval: timedelta

    @model_validator(mode="after")
    def _check_interval(self) -> Every:
        if self.interval <= timedelta(0):
            raise ConfigurationError(f"every {self.interval}: the interval must be longer than nothing")
        if self.jitter is not None and self.jitter > self.interval:
            raise ConfigurationError(
                f"every {self.interval}: jitter is {self.jitter}; use at most the interval, or the "
                "occurrences would run into each other"
            )
        return self


class At(_Schedule, frozen=True):
    """One instant, kept in UTC. See `at`."""

    kind: Literal["at"] = "at"
    catchup: timedelta | None = None
    overlap: Overlap = "buffer_all"
    when: datetime

    @field_validator("when")
    @classmethod
    def _check_when(cls, when: datetime) -> datetime:
        if when.tzinfo is None:
            raise ConfigurationError(
                f"at {when.isoformat()}: the time has no zone; use ctx.now(), or give it a tzinfo such as "
                'ZoneInfo("Europe/Paris")'
            )
        return when.astimezone(UTC)


Schedule = Cron | Every | At
_SCHEDULE: TypeAdapter[Schedule] = TypeAdapter(Annotated[Schedule, Field(discriminator="kind")])


def dump_schedule(schedule: Schedule) -> str:
    """The schedule as JSON text, with every field: a later change of a default changes nothing stored."""
    return schedule.model_dump_json()


@lru_cache(maxsize=4096)
def load_schedule(text: str | bytes) -> Schedule:
    """The schedule that `dump_schedule` wrote.

    Raises ValueError if the text is not a schedule's, ConfigurationError if it cannot be followed any more (a
    zone that this machine does not know, say).
    """
    return _SCHEDULE.validate_json(text)


def cron(
    expr: str,
    *,
    tz: str = "UTC",
    jitter: timedelta | None = None,
    misfire: Misfire = "fire_once",
    catchup: timedelta | None = timedelta(days=1),
    overlap: Overlap = "skip",
    gap: Gap = "shift",
    fold: Fold = "first",
) -> Cron:
    """Wake at the wall-clock times that a cron expression names.

    expr: minute, hour, day of month, month, day of week and, if there is a sixth field, second. Names (`MON`,
        `JAN`), lists, ranges and steps; `L` for the last day of the month, `L5` for its last Friday, `FRI#2`
        for its second; or one of `@hourly @daily @midnight @weekly @monthly @yearly @annually`. If both day
        fields are given, a day that fits either one fits. 0 and 7 are Sunday.
    tz: the IANA zone in which those are wall-clock times.
    jitter: each occurrence is delayed by less than this, by an amount fixed by the schedule and the
        occurrence.
    misfire, catchup: what becomes of occurrences missed while nothing was running; those that are late by
        more than `catchup` are skipped, None means however late.
    overlap: what an occurrence does while the previous run is still open.
    gap, fold: what an occurrence does on a day that lacks its wall-clock time, or has it twice. They do not
        apply if the expression names all 24 hours: such a schedule runs on elapsed time.
        docs/daylight-saving.md has the contract.

    Raises ConfigurationError that says which field is wrong, why and what to do; also for what croniter would
    take but read as something else than it says (`59/15`, `5-1`, `13 * FRI#2`), or differently on each
    machine (`H`).
    """
    policies = {"jitter": jitter, "misfire": misfire, "catchup": catchup, "overlap": overlap}
    return _define(Cron, expr=expr, tz=tz, gap=gap, fold=fold, **policies)


def every(
    interval: timedelta,
    *,
    jitter: timedelta | None = None,
    misfire: Misfire = "fire_once",
    catchup: timedelta | None = timedelta(days=1),
    overlap: Overlap = "skip",
) -> Every:
    """Wake again and again, `interval` of elapsed time apart, first one interval after it is registered.

    A change of the clocks neither shortens nor lengthens an interval. The other arguments are those of
    `cron`. Raises ConfigurationError.
    """
    return _define(Every, interval=interval, jitter=jitter, misfire=misfire, catchup=catchup, overlap=overlap)


def at(
    when: datetime,
    *,
    jitter: timedelta | None = None,
    misfire: Misfire = "fire_once",
    catchup: timedelta | None = None,
    overlap: Overlap = "buffer_all",
) -> At:
    """Wake once, at an aware datetime: for agents that schedule themselves.

    There is no next occurrence to make up for this one. So by default it is never given up, however late it
    is and whatever run is open. The other arguments are those of `cron`. Raises ConfigurationError.
    """
    return _define(At, when=when, jitter=jitter, misfire=misfire, catchup=catchup, overlap=overlap)


_S = TypeVar("_S", Cron, Every, At)


def _define(model: type[_S], **fields: Any) -> _S:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        kind = model.model_fields["kind"].default
        is_span = first["type"].startswith("time_delta")
        said = "give a timedelta, such as timedelta(minutes=5)" if is_span else first["msg"]
        raise ConfigurationError(f"{kind}: {name} is {first['input']!r}: {said}") from error


def _check_zone(tz: object) -> str:
    if isinstance(tz, str):
        try:
            return ZoneInfo(tz).key
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            near = _near_zones(tz)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else "use an IANA name such as Europe/Paris, or UTC"
            )
    else:
        hint = f"it is a {type(tz).__name__}; give an IANA name as a string, such as Europe/Paris"
    raise ConfigurationError(f"tz {tz!r} is not a time zone that this machine knows: {hint}")


def _near_zones(tz: str) -> list[str]:
    names = {name.casefold(): name for name in sorted(zoneinfo.available_timezones())}
    wanted = "_".join(tz.casefold().split())
    cities = [name for folded, name in names.items() if folded == wanted or folded.endswith(f"/{wanted}")]
    return cities[:2] or [names[near] for near in difflib.get_close_matches(wanted, names, n=2, cutoff=0.8)]


# Messages and signals


@dataclass(frozen=True, kw_only=True)
class OnMessage:
    """Messages from known people. See `on_message`."""

    channel: frozenset[str] | None = None
    contact: frozenset[str] | None = None
    key: str | Callable[[Message], str] | None = None

    def fits(self, message: Message) -> bool:
        """Whether the message wakes the agent. One whose sender is no contact never does."""
        return (
            message.from_ is not None
            and (self.channel is None or message.channel in self.channel)
            and (self.contact is None or message.from_ in self.contact)
        )

    def session_key(self, message: Message) -> str:
        """Which session a message that fits belongs to. Raises WakeloopError if `key` does not tell."""
        if isinstance(self.key, str):
            return self.key
        key = message.from_ if self.key is None else self.key(message)
        return _session_key(key, f"message {message.id}")


@dataclass(frozen=True, kw_only=True)
class OnSignal:
    """Signals of one type, or of a family of types. See `on_signal`."""

    type: str
    match: Mapping[str, JsonValue] | Callable[[Signal], bool] | None = field(default=None, hash=False)
    key: str | Callable[[Signal], str] | None = None

    def names(self, signal: Signal) -> bool:
        """Whether it is for signals of this type."""
        return fnmatchcase(signal.type, self.type)

    def fits(self, signal: Signal) -> bool:
        """Whether the signal wakes the agent. What a callable `match` raises is passed on."""
        if not self.names(signal):
            return False
        if self.match is None:
            return True
        if isinstance(self.match, Mapping):
            data = signal.data if isinstance(signal.data, dict) else {}
            return all(name in data and data[name] == value for name, value in self.match.items())
        return bool(self.match(signal))

    def session_key(self, signal: Signal) -> str:
        """Which session a signal that fits belongs to.

        Raises WakeloopError if the signal lacks a field that the key needs, or the key is empty, too long or no string.
        """
        if self.key is None:
            return "default"
        if not isinstance(self.key, str):
            return _session_key(self.key(signal), f"signal {signal.id}")
        if "{" not in self.key:
            return self.key
        data = signal.data if isinstance(signal.data, dict) else {}
        fields = {name: data.get(name) for name in _placeholders(self.key)}
        for name, value in fields.items():
            if value is None or isinstance(value, dict | list):
                raise WakeloopError(
                    f"signal {signal.id} of type {signal.type} has {value!r} for {name!r}, which the session "
                    f"key {self.key!r} needs: send text or a number there, or narrow the trigger with match=",
                    signal=signal.id,
                    field=name,
                )
        return _session_key(self.key.format(**fields), f"signal {signal.id}")


Trigger = Schedule | OnMessage | OnSignal


def on_message(
    channel: str | Collection[str] | None = None,
    contact: str | Collection[str] | None = None,
    key: str | Callable[[Message], str] | None = None,
) -> OnMessage:
    """Wake on a message that answers no request and belongs to no other session.

    channel, contact: a name, several, or None for any: the channel that it came by, the contact who sent it.
    key: the session it goes to: the contact's own (None), a fixed one, or what a function of the message
        gives.

    Raises ConfigurationError.
    """
    if not (key is None or callable(key) or (isinstance(key, str) and key)):
        raise ConfigurationError(
            f"on_message: key is {key!r}; give None, a non-empty string, or a function of the message"
        )
    return OnMessage(channel=_names("channel", channel), contact=_names("contact", contact), key=key)


def on_signal(
    type: str,
    match: Mapping[str, JsonValue] | Callable[[Signal], bool] | None = None,
    key: str | Callable[[Signal], str] | None = None,
) -> OnSignal:
    """Wake on a signal. A run of the session that waits for it (`ctx.receive`) gets it; otherwise it starts one.

    type: its exact type, or a pattern such as `invoice.*` (`*` matches any text, dots too).
    match: top-level fields of its data with the values that they must have, or a function of the signal.
    key: the session it goes to: `default` (None), a fixed one, one with fields of the data filled in
        (`"customer-{customer_id}"`), or what a function of the signal returns.

    Raises ConfigurationError.
    """
    if not isinstance(type, str) or not type:
        raise ConfigurationError(
            f'on_signal: type is {type!r}; give a signal\'s type such as "invoice.paid", or "invoice.*"'
        )
    if isinstance(match, Mapping):
        match = dict(match)
    elif match is not None and not callable(match):
        raise ConfigurationError(
            f"on_signal {type!r}: match is {match!r}; give a dict of fields, or a function of the signal"
        )
    if isinstance(key, str) and key:
        _placeholders(key)
    elif key is not None and not callable(key):
        raise ConfigurationError(
            f"on_signal {type!r}: key is {key!r}; give a non-empty string, or a function of the signal"
        )
    return OnSignal(type=type, match=match, key=key)


def _names(what: str, given: str | Collection[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    names = (
        frozenset((given,))
        if isinstance(given, str) or not isinstance(given, Collection)
        else frozenset(given)
    )
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f"on_message: {what} is {given!r}; give a name, a collection of names, or None for any"
        )
    return names


@lru_cache(maxsize=1024)
def _placeholders(key: str) -> tuple[str, ...]:
    if "{" not in key:
        return ()
    try:
        parsed = [part[1:] for part in string.Formatter().parse(key) if part[1] is not None]
    except ValueError as error:
        raise ConfigurationError(f"on_signal: key {key!r}: {error}") from error
    for name, spec, conversion in parsed:
        if not name or not name.isidentifier() or spec or conversion:
            raise ConfigurationError(
                f"on_signal: key {key!r}: between the braces goes the name of a top-level field of the "
                "data and nothing else; for more, give a function of the signal"
            )
    return tuple(name for name, _, _ in parsed if name)


def _session_key(key: object, of: str) -> str:
    if not (isinstance(key, str) and key):
        raise WakeloopError(f"the session key for {of} is {key!r}; it must be a non-empty string", key=key)
    if not is_key(key):
        raise WakeloopError(
            f"the session key for {of} has {len(key):,} characters; it has at most {KEY_CHARACTERS}, and none of them NUL",
            key=key,
        )
    return key
