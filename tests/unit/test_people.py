"""People: how contacts are written, found, routed to and left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from wakeloop.errors import ConfigurationError, NotFound
from wakeloop.people import Contact, People

ALICE = {
    "sms": "+15555550100",
    "email": "alice@example.com",
    "tz": "Europe/Paris",
    "quiet_hours": "22:00-07:00",
    "languages": ["fr", "en"],
    "groups": ["finance"],
    "description": "Decides about money.",
}


def refusal(table: Any, id: str = "alice") -> str:
    with pytest.raises(ConfigurationError) as caught:
        People({id: table})
    return str(caught.value)


def paris(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_what_is_no_field_of_a_contact_is_a_channel_in_order_of_preference() -> None:
    """The table of the settings file becomes fields and addresses."""
    contact = People({"alice": ALICE}).get("alice")

    assert (contact.id, contact.name, contact.tz) == ("alice", "alice", "Europe/Paris")
    assert str(contact.quiet_hours) == "22:00-07:00"
    assert (contact.languages, contact.groups) == (("fr", "en"), ("finance",))
    assert list(contact.addresses.items()) == [("sms", "+15555550100"), ("email", "alice@example.com")]


def test_a_contact_survives_being_written_and_read() -> None:
    """Dumped as JSON and validated again, it is equal; so it can be passed on as a plain table."""
    contact = People({"alice": ALICE}).get("alice")

    assert Contact.model_validate_json(contact.model_dump_json()) == contact
    assert People({"alice": contact.model_dump()}).get("alice") == contact


def test_a_contact_shows_no_address_in_its_repr() -> None:
    """Addresses are personal: they reach no log by accident."""
    assert "5555550100" not in repr(People({"alice": ALICE}).get("alice"))


def test_contacts_are_given_as_tables_or_as_contacts() -> None:
    """Both forms mix, and the ids keep their order."""
    people = People({"zoe": Contact.model_validate({"id": "zoe"}), "alice": ALICE})

    assert people.ids == ("zoe", "alice")
    assert people.get("alice").name == "alice"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"quiet_hour": "22:00-07:00"}, "contacts.alice.quiet_hour: is no field of a contact; did you mean quiet_hours?"),
        ({"timezone": "UTC"}, "contacts.alice.timezone: is no field of a contact; did you mean tz?"),
        ({"tz": "Paris"}, "contacts.alice.tz: 'Paris' is no time zone that this machine knows: did you mean Europe/Paris?"),
        ({"tz": "Europe/Pariss"}, "did you mean Europe/Paris?"),
        ({"tz": "nowhere at all"}, "write an IANA name such as Europe/Paris"),
        ({"tz": ""}, "write an IANA name such as Europe/Paris"),
        ({"quiet_hours": "10pm to 7"}, 'contacts.alice.quiet_hours: must be two times of day as text, such as "22:00-07:00"'),
        ({"quiet_hours": "22:00-24:00"}, "must be two times of day"),
        ({"quiet_hours": 22}, "must be two times of day"),
        ({"quiet_hours": "07:00-07:00"}, "starts and ends at the same time"),
        ({"sms": 15555550100}, "contacts.alice.sms: must be text: put quotes around it"),
        ({"sms": " "}, "contacts.alice.sms: is empty"),
        ({"name": ""}, "contacts.alice.name: is empty"),
        ({"languages": "fr"}, 'contacts.alice.languages: must be a list, such as ["one", "two"]'),
        ({"addresses": "x"}, "contacts.alice: must be a table"),
        ({"id": "bob"}, "contacts.alice: says that its id is 'bob'"),
        ("+15555550100", "contacts.alice: must be a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_contact_is_told_with_its_key(table: Any, said: str) -> None:
    """The contact, the key, what is wrong and what to write instead."""
    assert said in refusal(table)


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """One line for each mistake, over all contacts, without any address."""
    with pytest.raises(ConfigurationError) as caught:
        People({"alice": {"sms": 15555550100, "tz": "Mars/Base"}, "bob": {"quiet_hours": "never"}})

    told = str(caught.value)
    assert [line.split(": ")[0] for line in told.splitlines()] == [
        "contacts.alice.tz",
        "contacts.alice.sms",
        "contacts.bob.quiet_hours",
    ]
    assert "5555550100" not in told


@pytest.mark.parametrize("id", ["", "alice smith", "a" * 101])
def test_an_id_is_a_short_word(id: str) -> None:
    """It goes into commands, logs and session keys."""
    assert "no white space in it and at most 100 characters" in refusal({}, id=id)


def test_a_contact_says_the_id_it_stands_under() -> None:
    """A ready-made contact under another name is refused, not renamed in silence."""
    assert "says that its id is 'bob'" in refusal(Contact.model_validate({"id": "bob"}))


def test_an_unknown_contact_is_not_found_and_the_nearest_are_named() -> None:
    """Or all of them, if none is near; or that there are none."""
    with pytest.raises(NotFound, match=r"there is no contact 'alcie'; did you mean 'alice'\?"):
        People({"alice": ALICE, "bob": {}}).get("alcie")
    with pytest.raises(NotFound, match="there is no contact 'xy'; contacts: alice, bob"):
        People({"alice": ALICE, "bob": {}}).get("xy")
    with pytest.raises(NotFound, match="there are no contacts at all"):
        People({}).get("alice")


def test_a_route_is_every_address_in_order_of_preference() -> None:
    """Or the one on the channel asked for."""
    people = People({"alice": ALICE})

    assert people.route("alice") == [("sms", "+15555550100"), ("email", "alice@example.com")]
    assert people.route("alice", via="email") == [("email", "alice@example.com")]


def test_a_route_that_does_not_exist_says_what_there_is() -> None:
    """No contact, no such channel, or no address at all."""
    people = People({"alice": ALICE, "bob": {}})

    with pytest.raises(NotFound, match="did you mean 'alice'"):
        people.route("alise")
    with pytest.raises(NotFound, match="'alice' has no address on 'fax': there is sms, email; add one"):
        people.route("alice", via="fax")
    with pytest.raises(NotFound, match="'bob' has no address on 'fax': there is none at all"):
        people.route("bob", via="fax")
    with pytest.raises(NotFound, match=r"'bob' has no address; add one to \[contacts.bob\]"):
        people.route("bob")


def test_an_address_may_belong_to_several_contacts() -> None:
    """All of them are found, by exactly that address on that channel."""
    people = People({"alice": {"sms": "+1"}, "bob": {"sms": "+1"}, "carol": {"email": "+1"}})

    assert people.by_address("sms", "+1") == ["alice", "bob"]
    assert people.by_address("sms", "+2") == []
    assert people.by_address("email", "+1") == ["carol"]


def lower(address: str) -> str:
    if "@" not in address:
        raise ValueError("there is no @ in it")
    return address.lower()


def test_addresses_are_compared_in_the_form_of_their_channel() -> None:
    """Both the contact's and the one looked for are normalised; other channels stay as they are."""
    people = People({"alice": {"email": "Alice@Example.com", "sms": "+1 555"}}).normalized({"email": lower})

    assert people.route("alice") == [("email", "alice@example.com"), ("sms", "+1 555")]
    assert people.by_address("email", "ALICE@example.com") == ["alice"]
    assert people.by_address("sms", "+1 555") == ["alice"]


def test_an_address_that_is_none_is_nobodys() -> None:
    """What comes in from outside cannot break the look-up."""
    assert (
        People({"alice": {"email": "a@b.c"}}).normalized({"email": lower}).by_address("email", "junk") == []
    )


def test_addresses_that_their_channel_refuses_are_told_with_contact_and_channel() -> None:
    """All of them, with the channel's reason, and without the address."""
    people = People({"alice": {"email": "junk-1"}, "bob": {"email": "b@c.d"}, "carol": {"email": "junk-2"}})

    with pytest.raises(ConfigurationError) as caught:
        people.normalized({"email": lower})

    assert str(caught.value).splitlines() == [
        "contacts.alice.email: no address of this channel: there is no @ in it",
        "contacts.carol.email: no address of this channel: there is no @ in it",
    ]


@pytest.mark.parametrize(
    ("hours", "at", "until"),
    [
        ("22:00-07:00", "2026-11-02T21:59:59+01:00", None),
        ("22:00-07:00", "2026-11-02T22:00:00+01:00", "2026-11-03T07:00:00+01:00"),
        ("22:00-07:00", "2026-11-03T06:59:59+01:00", "2026-11-03T07:00:00+01:00"),
        ("22:00-07:00", "2026-11-03T07:00:00+01:00", None),
        ("12:30-14:00", "2026-11-03T13:00:00+01:00", "2026-11-03T14:00:00+01:00"),
        ("12:30-14:00", "2026-11-03T14:00:00+01:00", None),
        ("22:00-07:00", "2026-10-24T23:00:00+02:00", "2026-10-25T07:00:00+01:00"),
        ("22:00-02:30", "2026-10-25T02:10:00+02:00", "2026-10-25T02:30:00+02:00"),
        ("22:00-02:30", "2026-10-25T02:10:00+01:00", "2026-10-25T02:30:00+01:00"),
        ("22:00-02:30", "2026-03-29T01:50:00+01:00", "2026-03-29T03:30:00+02:00"),
    ],
)
def test_quiet_hours_are_on_the_persons_own_wall_clock(hours: str, at: str, until: str | None) -> None:
    """Past midnight, at their edges, and on the days when the clock is changed."""
    contact = Contact.model_validate({"id": "alice", "tz": "Europe/Paris", "quiet_hours": hours})

    assert contact.quiet_until(paris(at)) == (until and paris(until))


def test_without_quiet_hours_any_time_is_fine() -> None:
    """None is the default."""
    assert Contact.model_validate({"id": "alice"}).quiet_until(datetime(2026, 1, 1, 3, tzinfo=UTC)) is None


# Groups, approvers and cards


TEAM = {
    "alice": {"sms": "+15555550100", "groups": ["finance", "board"]},
    "bob": {"sms": "+15555550101", "groups": ["finance"]},
    "carol": {
        "email": "carol@example.com",
        "name": "Carol",
        "languages": ["de"],
        "description": "Knows the law.",
    },
}


def test_a_group_is_what_contacts_say_that_they_are_in() -> None:
    """In the order of the contacts; there is no other list to keep."""
    assert People(TEAM).groups == {"finance": ("alice", "bob"), "board": ("alice",)}


def test_names_of_contacts_and_groups_become_contacts_in_order_and_once() -> None:
    """Whoever is named twice, or by two groups, counts once, at the first place."""
    people = People(TEAM)

    assert people.expand(["carol", "finance", "alice", "board"]) == ("carol", "alice", "bob")
    assert people.expand([]) == ()


def test_a_name_that_is_neither_a_contact_nor_a_group_is_not_found_with_the_nearest() -> None:
    """The message helps to mend a misspelling."""
    with pytest.raises(NotFound, match=r"no contact and no group 'finanse'; did you mean 'finance'\?"):
        People(TEAM).expand(["alice", "finanse"])


def test_a_group_cannot_have_the_name_of_a_contact() -> None:
    """A name means one thing."""
    with pytest.raises(ConfigurationError, match=r"contacts\.alice\.groups: 'bob' is a contact"):
        People({"alice": {"groups": ["bob"]}, "bob": {}})


def test_the_approvers_of_a_function_are_its_contacts_and_the_members_of_its_groups() -> None:
    """None stands for a function that the settings say nothing of, which is not the same as nobody."""
    people = People(TEAM, {"pay": ["carol", "finance"]})

    assert people.approvers("pay") == ("carol", "alice", "bob")
    assert people.approvers("refund") is None
    assert people.normalized({"sms": str.strip}).approvers("pay") == ("carol", "alice", "bob")


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["carl"], r"approvers\.pay: there is no contact and no group 'carl'; did you mean 'carol'\?"),
        ([], r"approvers\.pay: names nobody"),
    ],
)
def test_approvers_that_do_not_exist_are_refused(names: list[str], problem: str) -> None:
    """A function that nobody can approve is a mistake, told when the settings are read."""
    with pytest.raises(ConfigurationError, match=problem):
        People(TEAM, {"pay": names})


def test_a_card_shows_who_somebody_is_and_no_address() -> None:
    """This is all that agents and models get to see."""
    card = People(TEAM).card("carol")

    assert (card.id, card.name, card.description) == ("carol", "Carol", "Knows the law.")
    assert (card.languages, card.tz) == (("de",), "UTC")
    assert "carol@example.com" not in repr(card)
    with pytest.raises(NotFound, match="did you mean 'carol'"):
        People(TEAM).card("carola")
