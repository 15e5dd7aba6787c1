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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Card:
    """What agents and models may know of a contact: never an address."""

    id: str
    name: str
    description: str
    languages: tuple[str, ...]
    tz: str


class People:
    """The contacts of one deployment, their groups, and who may approve what. Immutable.

    contacts: by id, each a `Contact` or a table as in the settings. approvers: for a function's name, the contacts and
    groups that may approve its calls. Raises ConfigurationError naming the contact and the key, with everything that is
    wrong.
    """

    def __init__(
        self,
        contacts: Mapping[str, Contact | Mapping[str, Any]],
        approvers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._contacts: dict[str, Contact] = {}
        self._approvers = {function: tuple(names) for function, names in (approvers or {}).items()}
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
        problems = problems or [
            f"{'.'.join(key)}: {problem}" for key, problem in wrong_names(self._contacts, self._approvers)
        ]
        if problems:
            raise ConfigurationError("\n".join(problems))
        self._groups = _groups(self._contacts)
        self._normalizers: Mapping[str, Callable[[str], str]] = {}
        self._ids: dict[tuple[str, str], list[str]] = {}
        for contact in self._contacts.values():
            for address in contact.addresses.items():
                self._ids.setdefault(address, []).append(contact.id)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all contacts, in the order in which they were given."""
        return tuple(self._contacts)

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of each group's members: a group is what contacts say in their `groups`."""
        return dict(self._groups)

    def expand(self, names: Iterable[str]) -> tuple[str, ...]:
        """The ids of the contacts that are named, themselves or by a group, in order and each once.

        Raises NotFound for a name that is neither, with the nearest ones."""
        found: dict[str, None] = {}
        for name in names:
            if name in self._contacts:
                found[name] = None
            elif name in self._groups:
                found.update(dict.fromkeys(self._groups[name]))
            else:
                raise NotFound(_unknown(name, self._contacts, self._groups), contact=name)
        return tuple(found)

    def approvers(self, function: str) -> tuple[str, ...] | None:
        """The ids of the contacts that may approve calls of a function; None if the settings say nothing of it."""
        names = self._approvers.get(function)
        return None if names is None else self.expand(names)

    def card(self, id: str) -> Card:
        """What agents and models may know of a contact. Raises NotFound, with the nearest ids."""
        one = self.get(id)
        return Card(id=one.id, name=one.name, description=one.description, languages=one.languages, tz=one.tz)

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
        people = People(contacts, self._approvers)
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


def wrong_names(
    contacts: Mapping[str, Contact], approvers: Mapping[str, Sequence[str]]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the names of groups and approvers, each with the key at which it was written."""
    for contact in contacts.values():
        for group in contact.groups:
            if group in contacts:
                yield (
                    ("contacts", contact.id, "groups"),
                    f"{group!r} is a contact, so no group can have that name; rename one of them",
                )
    groups = _groups(contacts)
    for function, names in approvers.items():
        if not names:
            yield ("approvers", function), "names nobody; name a contact or a group, or leave it out"
        for name in names:
            if name not in contacts and name not in groups:
                yield ("approvers", function), _unknown(name, contacts, groups)


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


def _groups(contacts: Mapping[str, Contact]) -> dict[str, tuple[str, ...]]:
    members: dict[str, dict[str, None]] = {}
    for contact in contacts.values():
        for group in contact.groups:
            members.setdefault(group, {})[contact.id] = None
    return {group: tuple(ids) for group, ids in members.items()}


def _unknown(name: str, contacts: Iterable[str], groups: Iterable[str]) -> str:
    known = [*contacts, *groups]
    return f"there is no contact and no group {name!r}{suggestion(name, known, 'contacts and groups')}"


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
