"""People: the contacts that agents may name, and by which channels and addresses they are reached.

A contact is written as a table. What is not a field of `Contact` is a channel with the person's address on it, in
order of preference::

    [contacts.alice]
    sms = "+15555550100"
    email = "alice@example.com"
    tz = "America/New_York"
    quiet_hours = "22:00-07:00"
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails

from wakeloop.errors import ConfigurationError, NotFound

_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)
# What people write for a field, besides its misspellings.
_SYNONYMS = {"timezone": "tz", "time_zone": "tz", "lang": "languages"}

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class QuietHours(BaseModel):
    """The time of day in which a person is not written to, on their own wall clock: `22:00-07:00`.

    `start` is within it, `end` is not; an `end` before the `start` is on the next day.
    """

    model_config = ConfigDict(frozen=True)

    start: time
    end: time

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        found = _HOURS.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            raise ValueError('must be two times of day as text, such as "22:00-07:00"')
        start, end = (time(int(hour), int(minute)) for hour, minute in (found.group(1, 2), found.group(3, 4)))
        if start == end:
            raise ValueError("starts and ends at the same time; leave it out for no quiet hours")
        return {"start": start, "end": end}

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


class Contact(BaseModel):
    """A human, as the settings describe them. Its repr shows no address.

    id: what agents call them. name: what people call them; the id by default. tz: the IANA zone of their wall clock.
    addresses: channel to address, the preferred one first.

    `Contact.model_validate({"id": "alice", "sms": "+1…", "tz": "Europe/Paris"})` takes the form of a settings table;
    a key that looks like a misspelt field is refused, it does not become a channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str
    name: Text = ""
    description: str = ""
    tz: str = "UTC"
    quiet_hours: QuietHours | None = None
    languages: tuple[Text, ...] = ()
    groups: tuple[Text, ...] = ()
    addresses: Mapping[str, Text] = Field(default_factory=dict, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        fields = {key: value for key, value in table.items() if key in cls.model_fields or _meant(key)}
        channels = {key: value for key, value in table.items() if key not in fields}
        if isinstance(table.get("id"), str) and table["id"].strip():
            fields.setdefault("name", table["id"])
        given = fields.get("addresses", {})
        return {**fields, "addresses": {**given, **channels}} if isinstance(given, Mapping) else fields

    @field_validator("id")
    @classmethod
    def _check_id(cls, value: str) -> str:
        if not re.fullmatch(r"\S{1,100}", value):
            raise ValueError("a contact's id has no white space in it and at most 100 characters")
        return value

    @field_validator("tz")
    @classmethod
    def _check_tz(cls, value: str) -> str:
        try:
            return ZoneInfo(value).key
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"{value!r} is no time zone that this machine knows: {_near_zone(value)}"
            ) from None

    def quiet_until(self, at: datetime) -> datetime | None:
        """The first instant at which they may be written to again (UTC), later than `at`; None if `at` is fine."""
        if self.quiet_hours is None:
            return None
        start, end = self.quiet_hours.start, self.quiet_hours.end
        here = at.astimezone(ZoneInfo(self.tz))
        now = here.time()
        if not (start <= now < end if start < end else now >= start or now < end):
            return None
        day = here.date() if now < end else here.date() + timedelta(days=1)
        # Within the hour that autumn repeats, the end meant is the one in the same pass.
        return datetime.combine(day, end, here.tzinfo).replace(fold=here.fold).astimezone(UTC)


class People:
    """The contacts of one deployment. Immutable.

    contacts: by id, each a `Contact` or a table as in the settings. Raises ConfigurationError naming the contact and
    the key, with everything that is wrong.
    """

    def __init__(self, contacts: Mapping[str, Contact | Mapping[str, Any]]) -> None:
        self._contacts: dict[str, Contact] = {}
        problems: list[str] = []
        for id, table in contacts.items():
            try:
                contact = self._contacts[id] = Contact.model_validate(identified(id, table))
            except ValidationError as error:
                for found in error.errors():
                    key = key_of(("contacts", id, *found["loc"]))
                    problems.append(f"{'.'.join(key)}: {explain(found)}")
            else:
                if contact.id != id:
                    problems.append(f"contacts.{id}: {misnamed(contact.id)}")
        if problems:
            raise ConfigurationError("\n".join(problems))
        self._normalizers: Mapping[str, Callable[[str], str]] = {}
        self._ids: dict[tuple[str, str], list[str]] = {}
        for contact in self._contacts.values():
            for address in contact.addresses.items():
                self._ids.setdefault(address, []).append(contact.id)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all contacts, in the order in which they were given."""
        return tuple(self._contacts)

    def get(self, id: str) -> Contact:
        """The contact. Raises NotFound, with the nearest ids."""
        if (contact := self._contacts.get(id)) is not None:
            return contact
        raise NotFound(f"there is no contact {id!r}{suggestion(id, self._contacts, 'contacts')}", contact=id)

    def route(self, id: str, via: str | None = None) -> list[tuple[str, str]]:
        """Where to reach a contact: pairs of channel and address, the preferred one first; `via`: only that channel.

        Raises NotFound if there is no such contact, or no such address, saying what there is.
        """
        addresses = self.get(id).addresses
        if via is not None and via not in addresses:
            has = f"there is {', '.join(addresses)}" if addresses else "there is none at all"
            raise NotFound(
                f"contact {id!r} has no address on {via!r}: {has}; add one to [contacts.{id}]",
                contact=id,
                via=via,
            )
        if not addresses:
            raise NotFound(
                f'contact {id!r} has no address; add one to [contacts.{id}], such as sms = "+1…"', contact=id
            )
        return [(channel, address) for channel, address in addresses.items() if via in (None, channel)]

    def by_address(self, channel: str, address: str) -> list[str]:
        """The ids of the contacts with exactly this address on the channel, once both are normalised.

        Several contacts may share one. An address that the channel's normaliser refuses is nobody's.
        """
        normalize = self._normalizers.get(channel)
        try:
            canonical = normalize(address) if normalize else address.strip()
        except ValueError:
            return []
        return list(self._ids.get((channel, canonical), ()))

    def normalized(self, normalizers: Mapping[str, Callable[[str], str]]) -> People:
        """The same people, with each address in the form that its channel's normaliser gives it.

        normalizers: by channel; each raises ValueError for what is no address. Addresses on other channels stay as
        they are. Raises ConfigurationError naming contact and channel of every address refused, but not the address.
        """
        contacts: dict[str, Contact] = {}
        problems: list[str] = []
        for contact in self._contacts.values():
            addresses: dict[str, str] = {}
            for channel, address in contact.addresses.items():
                normalize = normalizers.get(channel)
                try:
                    addresses[channel] = normalize(address) if normalize else address
                except ValueError as error:
                    problems.append(f"contacts.{contact.id}.{channel}: no address of this channel: {error}")
            contacts[contact.id] = contact.model_copy(update={"addresses": addresses})
        if problems:
            raise ConfigurationError("\n".join(problems))
        people = People(contacts)
        people._normalizers = dict(normalizers)
        return people


def identified(id: str, table: Any) -> Any:
    """The table of a contact with the id that it stands under, in the form that `Contact` validates."""
    return {"id": id, **table} if isinstance(table, Mapping) else table


def misnamed(id: object) -> str:
    """What is wrong with a contact that stands under another id than it says."""
    return (
        f"says that its id is {id!r}; the id is the name of the table, so leave that out or rename the table"
    )


def key_of(loc: Iterable[int | str]) -> tuple[str, ...]:
    """The key at which something was written that pydantic found at `loc`: a contact's addresses stand beside its fields."""
    return tuple(str(part) for depth, part in enumerate(loc) if (depth, part) != (2, "addresses"))


def explain(error: ErrorDetails) -> str:
    """What is wrong with a value, and what to write instead: a finding of pydantic in the words of a settings file."""
    if error["type"] == "extra_forbidden":
        return f"is no field of a contact; did you mean {_meant(str(error['loc'][-1]))}?"
    return _WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")


def suggestion(wanted: str, known: Iterable[str], what: str) -> str:
    """How a message about an unknown name goes on: the nearest known ones, or else all of them. `what`: the plural."""
    names = list(known)
    if near := difflib.get_close_matches(wanted, names, n=3):
        return f"; did you mean {' or '.join(repr(name) for name in near)}?"
    return f"; {what}: {', '.join(names)}" if names else f"; there are no {what} at all"


_WORDS = {
    "string_type": "must be text: put quotes around it",
    "string_too_short": "is empty; give a value, or leave it out",
    "tuple_type": 'must be a list, such as ["one", "two"]',
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": 'must be a table, such as { sms = "+1…" }',
    "model_attributes_type": 'must be a table, such as { sms = "+1…" }',
}


def _meant(key: str) -> str | None:
    """The field of a contact that a key is a misspelling of; None if it looks like a channel."""
    if found := _SYNONYMS.get(key.casefold()):
        return found
    near = difflib.get_close_matches(key.casefold(), Contact.model_fields, n=1, cutoff=0.8)
    return near[0] if near else None


def _near_zone(tz: str) -> str:
    names = {name.casefold(): name for name in sorted(zoneinfo.available_timezones())}
    wanted = "_".join(tz.casefold().split())
    cities = [name for folded, name in names.items() if folded == wanted or folded.endswith(f"/{wanted}")]
    near = cities or [names[folded] for folded in difflib.get_close_matches(wanted, names, n=1, cutoff=0.75)]
    return f"did you mean {near[0]}?" if near else "write an IANA name such as Europe/Paris"
