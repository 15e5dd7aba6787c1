"""Forms: what an answer must look like, and how words, pages and programs give one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from wakeloop.answers import Unreadable
from wakeloop.engine.values import codec_for
from wakeloop.errors import ConfigurationError
from wakeloop.forms import (
    Form,
    FormErrors,
    check,
    describe,
    fields_for,
    form_of,
    read_fields,
    read_text,
    values_for,
)
from wakeloop.forms.dialogue import PENDING, Draft, advance, prompt


class Colour(Enum):
    RED = "red"
    DARK_GREEN = "g"


class Mood(StrEnum):
    """How it went."""

    GOOD = "very good"
    BAD = "bad"


class Urgency(IntEnum):
    HIGH = 2
    LOW = 1


class Address(BaseModel):
    street: str
    city: str | None = None


class Order(BaseModel):
    amount: int = Field(ge=1, description="How many boxes")
    colour: Colour = Colour.RED
    gift: bool = False
    due: date | None = None


class Delivery(BaseModel):
    order_number: Annotated[str, Field(pattern=r"^\d{3}$")]
    address: Address
    notes: Annotated[str, Field(max_length=1000)] = ""
    tags: list[str] = []
    lines: list[Order] = []
    billing: Address | None = None


class Node(BaseModel):
    name: str
    children: list[Node] = []


def read(text: str, answer: Any, options: tuple[str, ...] = ()) -> Any:
    return read_text(text, form_of(answer, options))


def refusal(text: str, answer: Any, options: tuple[str, ...] = ()) -> str:
    with pytest.raises(Unreadable) as caught:
        read(text, answer, options)
    return str(caught.value)


# ---------------------------------------------------------------------- forms of types


def test_plain_text_has_no_schema_and_nothing_to_say() -> None:
    """Any text is an answer to a question without a type."""
    form = form_of(str)

    assert form == Form()
    assert form.is_plain and not form.is_flat
    assert (describe(form), prompt(form, Draft())) == ("", "")
    assert read_text("  as you like \n", form) == "as you like"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (int, "a whole number"),
        (Annotated[int, Field(ge=1)], "a whole number, at least 1"),
        (Annotated[float, Field(gt=0, lt=2.5)], "a number, more than 0, less than 2.5"),
        (Annotated[int, Field(multiple_of=5)], "a whole number, a multiple of 5"),
        (bool, "yes or no"),
        (date, "a date such as 2026-11-03"),
        (time, "a time such as 14:30"),
        (datetime, "a date and time such as 2026-11-03T14:30"),
        (timedelta, "a length of time such as PT1H30M"),
        (Colour, "one of: 1 red, 2 g"),
        (Urgency, "one of: 1 high, 2 low"),
        (Literal["x"], "one of: 1 x"),
        (Literal[5, 10], "one of: 1 5, 2 10"),
        (int | None, "a whole number, or - for none"),
        (int | date, "a whole number or a date such as 2026-11-03"),
        (Decimal, "a number"),
        (list[int], "a list with commas between, each a whole number"),
        (tuple[int, str], "a list with commas between, exactly 2 entries"),
        (Annotated[str, Field(min_length=2, max_length=20)], "text, at least 2 characters, at most 20 characters"),
        (Order, 'a line "field: value" for each of amount, colour, gift, due'),
        (dict[str, int], "JSON"),
        (Any, "anything"),
    ],
)  # fmt: skip
def test_what_is_expected_is_told_in_a_few_words(answer: Any, said: str) -> None:
    """One line for a text message, never a schema."""
    assert describe(form_of(answer)) == said


@pytest.mark.parametrize("answer", [str, int, Colour, Urgency, Order, Delivery, Node, list[Mood], Any])
def test_a_form_survives_json(answer: Any) -> None:
    """It is stored with the question, by its own text and within other records."""
    form = form_of(answer)

    codec = codec_for(Form)

    assert Form.load(form.dump()) == form
    assert codec.load(codec.dump(form, "a form")) == form
    assert Form.load(form.dump()).fields == form.fields


def test_what_is_no_form_is_not_loaded() -> None:
    """A stored text of another kind is noticed at once."""
    for text in ("3", "[]", '{"schema": 3}', "no json"):
        with pytest.raises(ValueError):
            Form.load(text)


def test_a_type_that_only_its_validator_knows_takes_any_text() -> None:
    """There is no schema to check against; the handler's process validates."""

    class Own:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            from pydantic_core import core_schema

            return core_schema.no_info_plain_validator_function(lambda text: cls())

    assert form_of(Own).is_plain


@pytest.mark.parametrize("answer", [3, "int", None, Callable, type, object()])
def test_what_cannot_be_an_answer_is_refused_with_what_can(answer: Any) -> None:
    """It fails where the question is asked, not when somebody replies."""
    with pytest.raises(TypeError, match="no answer can be that; use str, int"):
        form_of(answer)


@pytest.mark.parametrize(
    ("answer", "options", "said"),
    [
        (int, ["5", "many"], "option 'many' cannot be an answer of type int"),
        (bool, ["yes", "on Tuesday"], "option 'on Tuesday' cannot be an answer of type bool"),
        (str, ["Yes", "yes"], "more than once"),
        (str, "ab", "give a list of texts"),
        (str, ["a", " "], "give a list of texts"),
        (str, [1, 2], "give a list of texts"),
        (list[str], ["a", "b"], r"list\[Literal\[...\]\]"),
    ],
)
def test_options_must_fit_the_type_and_each_other(answer: Any, options: Any, said: str) -> None:
    """A question that nobody could answer is a mistake in the definition."""
    with pytest.raises(ConfigurationError, match=said):
        form_of(answer, options)


def test_enums_and_literals_are_options_by_themselves() -> None:
    """Their words are shown as those of a handler's own options."""
    assert form_of(Mood).options == ("very good", "bad")
    assert form_of(Urgency).options == ("high", "low")
    assert form_of(Literal["a", None]).options == ("a",)
    assert form_of(Colour | None).options == ("red", "g")
    assert form_of(bool).options == ()


# ---------------------------------------------------------------------- choices


@pytest.mark.parametrize(
    "text",
    ["2", "2.", " 2) ", "#2", "option 2", "Option 2", "２", "(2)", "Café noir", "cafe NOIR", "  café   noir ", "'Café noir!'",
     "2 café noir", "2: cafe noir", "café noir."],
)  # fmt: skip
def test_a_choice_is_named_by_its_number_or_its_words(text: str) -> None:
    """Case, width, accents and the punctuation around it make no difference."""
    assert read(text, str, ("green tea", "Café noir")) == "Café noir"


@pytest.mark.parametrize(
    "text", ["", "3", "0", "-1", "caf", "green", "1 café noir", "2 or 1", "both", "noir café", "22", "1.5"]
)
def test_what_names_no_choice_is_refused_with_the_numbered_choices(text: str) -> None:
    """A choice is matched, never guessed: not even from the beginning of its words."""
    assert (
        refusal(text, str, ("green tea", "Café noir"))
        == "please answer with one of: 1 green tea, 2 Café noir"
    )


def test_options_that_differ_only_in_punctuation_or_accents_are_told_apart() -> None:
    """An exact match goes first; where only the less exact would match, several do, and that is refused."""
    languages = ("C", "C++", "C#")

    assert [read(text, str, languages) for text in ("c", "C++", "c#", "2")] == ["C", "C++", "C#", "C++"]
    assert "one of" in refusal("C!", str, languages)
    assert [read(text, str, ("Ré", "Re")) for text in ("ré", "re")] == ["Ré", "Re"]


def test_a_number_that_could_be_two_choices_is_refused_with_how_to_write_it() -> None:
    """Of "1 5, 2 10, 3 1", a 1 may be the first or the last; "#1" does nothing but count."""
    form = form_of(int, ["5", "10", "1"])

    assert describe(form) == "one of: 1 5, 2 10, 3 1"
    assert [read_text(text, form) for text in ("5", "10.", "2", "3", "#1", "option 3", "3 1")] == [
        5,
        10,
        10,
        1,
        5,
        1,
        1,
    ]
    assert refusal("1", int, ("5", "10", "1")) == '"1" could be two of them: write #1 for 5 or #3 for 1'
    assert [read(text, Literal[1, 2]) for text in ("1", "#2")] == [1, 2]
    assert read("2 boxes", str, ("2 boxes", "1 box")) == "2 boxes"
    assert read("2", str, ("2 boxes", "1 box")) == "1 box"


def test_members_of_an_enum_are_named_by_value_name_or_number() -> None:
    """The names travel with the schema, as its values alone do not tell them."""
    assert [read(text, Colour) for text in ("red", "RED", "g", "dark green", "Dark_Green", "2")] == [
        "red", "red", "g", "g", "g", "g",
    ]  # fmt: skip
    assert [read(text, Mood) for text in ("good", "very good", "BAD")] == ["very good", "very good", "bad"]
    assert read("ship it", list[Literal["ship it", "wait"]]) == ["ship it"]


def test_the_value_of_a_member_counts_only_where_no_number_is_shown() -> None:
    """People see "1 high, 2 low", not that HIGH is 2 to the program; what is no number of theirs may be a value."""

    class Port(IntEnum):
        HTTP = 80
        HTTPS = 443

    assert [read(text, Urgency) for text in ("1", "high", "2", "Low")] == [2, 2, 1, 1]
    assert [read(text, Port) for text in ("1", "80", "443", "https")] == [80, 80, 443, 443]


def test_options_of_a_type_give_its_values() -> None:
    """The words of the asker, the value of the type."""
    assert read("24", int, ("12", "24")) == 24
    assert read("3 May 2026", date, ("3 May 2026", "2026-05-04")) == "2026-05-03"
    assert read("#1", bool, ("Yes", "No")) is True


# ---------------------------------------------------------------------- single values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("12.", 12), (" +5 ", 5), ("-3", -3), ("−3", -3), ("１２", 12), ("1,200", 1200), ("1,200,000", 1200000),
        ("1.200.000", 1200000), ("1 200", 1200), ("1'200", 1200), ("12!", 12), ("12.0", 12), ("007", 7),
    ],
)  # fmt: skip
def test_whole_numbers_are_read_as_people_write_them(text: str, value: int) -> None:
    """With thousands apart, a sign, a full stop, in full-width digits."""
    assert read(text, int) == value


@pytest.mark.parametrize(
    "text",
    ["", "a dozen", "1.200", "1,20", "12,", "0,125", "1,2,3", "2.5", "1e3", "12 or 13", "inf", "9" * 400],
)
def test_what_is_no_whole_number_for_certain_is_refused(text: str) -> None:
    """The reason shows how to write one."""
    assert any(
        words in refusal(text, int) for words in ("such as", "too long", "please write a whole number")
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2.5", 2.5), ("2,5", 2.5), ("0,125", 0.125), ("1,2345", 1.2345), ("1,234.5", 1234.5), ("1.234,5", 1234.5),
        ("1,200,000", 1200000), (".5", 0.5), ("12.", 12), ("1e-3", 0.001), ("-2,50", -2.5), ("1.125", 1.125),
    ],
)  # fmt: skip
def test_numbers_are_read_with_a_point_or_a_comma(text: str, value: float) -> None:
    """A comma is the decimal sign where it cannot set thousands apart."""
    assert read(text, float) == value


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1,2,3", "five", "2.5%", "$5", "1.2.3"])
def test_what_is_no_number_is_refused(text: str) -> None:
    """Nothing is dropped to make it one."""
    assert "number" in refusal(text, float)


def test_a_comma_that_could_be_either_is_refused_with_both_ways_to_write_it() -> None:
    """ "2,500" is two and a half to some, and two and a half thousand to others."""
    assert refusal("2,500", float) == '"2,500" could be two numbers: write it as 2500 or as 2.500'


def test_a_decimal_loses_no_digit() -> None:
    """What a JSON number would round travels as text."""
    precise = "0.12345678901234567890123"

    assert (read("0.10", Decimal), read(precise, Decimal)) == (0.1, precise)
    assert (
        read("106518073931482.12", Decimal) == "106518073931482.12"
    )  # pydantic's parser makes .13 of it as a number
    assert refusal("0,5", Annotated[Decimal, Field(ge=1)]) == "must be at least 1"
    assert refusal(precise, Annotated[Decimal, Field(ge=1)]) == "must be at least 1"


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", True), ("Yes.", True), ("ja", True), ("oui", True), ("sí", True), ("true", True), ("1", True), ("ON", True),
     ("no", False), ("nein", False), ("non", False), ("False", False), ("0", False), ("off", False)],
)  # fmt: skip
def test_yes_and_no_are_read_in_several_languages(text: str, value: bool) -> None:
    """By the words of verdicts, and as programs write them."""
    assert read(text, bool) is value


@pytest.mark.parametrize("text", ["", "maybe", "yes and no", "2", "10"])
def test_what_is_neither_yes_nor_no_is_refused(text: str) -> None:
    """The reason asks for one of them."""
    assert "yes or no" in refusal(text, bool)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-03", "2026-11-03"), ("2026-4-3", "2026-04-03"), ("2026/04/03", "2026-04-03"), ("3 November 2026", "2026-11-03"),
        ("3 Nov 2026", "2026-11-03"), ("Nov 3, 2026", "2026-11-03"), ("November 3rd 2026", "2026-11-03"), ("1st of May 2026", "2026-05-01"),
        ("3-sept-2026", "2026-09-03"), ("13/4/2026", "2026-04-13"), ("4/13/2026", "2026-04-13"), ("4/4/2026", "2026-04-04"),
        ("31.12.2026", "2026-12-31"), ("29 Feb 2028", "2028-02-29"),
    ],
)  # fmt: skip
def test_dates_are_read_where_only_one_day_can_be_meant(text: str, value: str) -> None:
    """Year first, the month in words, or numbers of which only one is a month."""
    assert read(text, date) == value


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "3 November", "2026-02-30", "29 Feb 2027", "30/2/2026", "12", "2026", "3 Foo 2026"],
)
def test_what_is_no_date_is_refused(text: str) -> None:
    """The reason shows one."""
    assert "2026-11-03" in refusal(text, date)


def test_a_date_that_could_be_two_days_is_refused_with_both() -> None:
    """Day first and month first are both customary."""
    assert (
        refusal("3/4/2026", date) == '"3/4/2026" could be two days: write it as 2026-04-03 or as 2026-03-04'
    )
    assert "2026-04-03" in refusal("03.04.2026 14:30", datetime)


@pytest.mark.parametrize(
    ("answer", "text", "value"),
    [
        (time, "14:30", "14:30:00"), (time, "9:05", "09:05:00"), (time, "2pm", "14:00:00"), (time, "12:15 a.m.", "00:15:00"),
        (time, "14:30:15.5", "14:30:15.500000"), (time, "14:30Z", "14:30:00+00:00"),
        (datetime, "2026-11-03T14:30", "2026-11-03T14:30:00"), (datetime, "2026-11-03 14:30+01:00", "2026-11-03T14:30:00+01:00"),
        (datetime, "3 Nov 2026 at 2:30 pm", "2026-11-03T14:30:00"), (datetime, "2026-11-03T14:30:00Z", "2026-11-03T14:30:00+00:00"),
    ],
)  # fmt: skip
def test_times_are_read_with_an_offset_or_without(answer: Any, text: str, value: str) -> None:
    """As pydantic takes them, and on a clock of twelve hours."""
    assert read(text, answer) == value


@pytest.mark.parametrize(
    ("answer", "text"),
    [(time, ""), (time, "14"), (time, "25:00"), (time, "13pm"), (time, "noon"), (datetime, "2026-11-03"), (datetime, "14:30"),
     (datetime, "1762180200"), (datetime, "2026-02-30 14:30")],
)  # fmt: skip
def test_what_is_no_time_is_refused(answer: Any, text: str) -> None:
    """A bare number is no time, nor is a date alone a date and time."""
    assert "such as" in refusal(text, answer)


@pytest.mark.parametrize("text", ["-", "none", "None", "—", "n/a"])
def test_an_optional_answer_is_left_out_by_a_word(text: str) -> None:
    """Null, where null will do."""
    assert read(text, int | None) is None
    assert read(text, Colour | None) is None
    assert read(text, str | None) is None
    assert "one of" in refusal(text, Colour)


def test_in_a_union_a_text_is_what_it_fits_best() -> None:
    """Text comes last, as everything is text."""
    assert [read(text, int | str) for text in ("5", "five")] == [5, "five"]
    assert [read(text, date | bool) for text in ("2026-11-03", "yes")] == ["2026-11-03", True]
    assert read("3", Literal["a", "b"] | int) == 3
    assert refusal("soon", int | date) == '"soon" is not a whole number or a date such as 2026-11-03'


# ---------------------------------------------------------------------- lists and objects


@pytest.mark.parametrize("text", ["1, 2,3", "1;2; 3", "1\n2\n3\n", "[1, 2, 3]", "1, 2, 3,"])
def test_a_list_is_written_with_commas_semicolons_lines_or_as_json(text: str) -> None:
    """Each entry is read by itself."""
    assert read(text, list[int]) == [1, 2, 3]


def test_entries_of_a_list_follow_the_rules_of_single_values() -> None:
    """Choices by number, a reason that names the entry, a line end before commas."""
    assert read("1, dark green", list[Colour]) == ["red", "g"]
    assert read("a, b\nc", list[str]) == ["a, b", "c"]
    assert read("[x], y", list[str]) == ["[x]", "y"]
    assert read("-", list[str]) == []
    assert read("3, x", tuple[int, str]) == [3, "x"]
    assert refusal("1, x", list[int]) == 'entry 2: "x" is no whole number; write one such as 12'
    assert refusal("1", Annotated[list[int], Field(min_length=2)]) == "must have at least 2 entries"
    assert refusal("1,1", set[int]) == "must not have the same entry twice"
    assert "must have" in refusal("1, x, 3", tuple[int, str])
    assert "at most 1,000" in refusal("1," * 2000, list[int])


def test_an_object_is_written_as_json_or_as_lines() -> None:
    """By the name of the field or its label; what is left out is the type's to fill in."""
    lines = "Amount: 5\ncolour = dark green\n\n gift: yes\ndue: -"

    assert read(lines, Order) == {"amount": 5, "colour": "g", "gift": True}
    assert read('{"amount": 5, "due": null}', Order) == {"amount": 5, "due": None}
    assert read("order number: 123\naddress.street: Elm\ntags: a, b", Delivery) == {
        "order_number": "123", "address": {"street": "Elm"}, "tags": ["a", "b"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("amount: 0", "amount: must be at least 1"),
        ("amount: lots", 'amount: "lots" is no whole number; write one such as 12'),
        ("gift: yes", "amount: is missing"),
        ("five", '"five" is no line "field: value"; the fields are amount, colour, gift, due'),
        (
            "amount: 5\nsize: 3",
            '"size: 3" is no line "field: value"; the fields are amount, colour, gift, due',
        ),
        ('{"amount": "5"}', "amount: must be a whole number"),
        ("[]", '"[]" is no line "field: value"; the fields are amount, colour, gift, due'),
        ('{"amount": 5, "due": "soon"}', "due: must be a date such as 2026-11-03"),
        ('{"amount": 5, "colour": "blue"}', "colour: must be one of: 1 red, 2 g"),
    ],
)
def test_what_is_wrong_with_an_object_is_told_by_field(text: str, said: str) -> None:
    """In plain words, not those of a schema."""
    assert refusal(text, Order) == said


def test_at_most_three_reasons_are_told() -> None:
    """A text message is short."""
    said = refusal('{"amount": 0, "colour": 1, "gift": 2, "due": 3}', Order)

    assert said.count(";") == 3 and said.endswith("; and more")


@pytest.mark.parametrize(
    ("answer", "text", "said"),
    [
        (Annotated[str, Field(max_length=20)], "x" * 21, "must have at most 20 characters"),
        (Annotated[str, Field(min_length=1)], " ", "must have at least 1 character"),
        (Annotated[int, Field(multiple_of=5)], "12", "must be a multiple of 5"),
        (Annotated[float, Field(lt=2)], "2", "must be less than 2"),
        (Annotated[str, Field(pattern=r"^\d+$")], "abc", r"is not in the form asked for (^\d+$)"),
        (Annotated[str, Field(pattern=r"^\d+$", examples=["123"])], "abc", "is not in the form asked for, such as 123"),
        (timedelta, "a while", "must be a length of time such as PT1H30M"),
        (dict[str, int], '{"a": "b"}', "a: must be a whole number"),
        (dict[str, int], "a", "the text is no JSON (Expecting value, line 1 column 1); write JSON"),
        (list[Order], '[{"amount": 1}, {"amount": 0}]', "entry 2 amount: must be at least 1"),
    ],
)  # fmt: skip
def test_constraints_are_told_in_plain_words(answer: Any, text: str, said: str) -> None:
    """What the value must be, never a dump of the schema."""
    assert refusal(text, answer) == said


def test_what_cannot_be_stored_is_refused() -> None:
    """Sizes are bounded, and a database takes neither NUL nor half a character."""
    for answer in (str, int, Order, Any, list[str]):
        assert "too long" in refusal("x" * 1_000_000, answer)
        assert "cannot be stored" in refusal("a\x00b", answer)
        assert "cannot be stored" in refusal("a\ud800b", answer)
    assert "cannot be stored" in refusal('{"a": "\\u0000"}', dict)
    assert "cannot be stored" in refusal('{"a": NaN}', dict)
    assert "nested too deeply" in refusal("[" * 5000 + "]" * 5000, dict[str, Any])
    assert "nested too deeply" in refusal('{"a":' * 50 + "1" + "}" * 50, dict[str, Any])


# ---------------------------------------------------------------------- programs


def test_a_program_answers_with_json_values() -> None:
    """They are validated, not converted; a choice may be told in words too."""
    assert check(5, form_of(int)) == 5
    assert check({"amount": 5}, form_of(Order)) == {"amount": 5}
    assert check("g", form_of(Colour)) == "g"
    assert check("dark green", form_of(Colour)) == "g"
    assert check(2, form_of(Urgency)) == 2
    assert check(None, form_of(Colour | None)) is None
    assert check("x", form_of(str)) == "x"
    assert check("2026-11-03T14:30:00Z", form_of(datetime)) == "2026-11-03T14:30:00Z"


@pytest.mark.parametrize(
    ("value", "answer", "said"),
    [
        ("5", int, "must be a whole number"), (True, int, "must be a whole number"), (5, str, "must be text"), (True, Urgency, "one of"),
        ("blue", Colour, "one of: 1 red, 2 g"), (None, Colour, "one of"), ({}, Order, "amount: is missing"),
        ("12", date, "must be a date such as 2026-11-03"), ("12", datetime, "must be a date and time"), ("a\x00", str, "cannot be stored"),
        (date(2026, 1, 1), date, "no JSON"), ({1: 2}, dict, "no JSON"), (float("nan"), float, "cannot be stored"),
        (["x" * 1_000_000], list, "too long"), ("abc", Decimal, "must be a number"),
    ],
)  # fmt: skip
def test_what_a_program_gives_wrong_is_refused(value: Any, answer: Any, said: str) -> None:
    """With the reason that a person would get."""
    with pytest.raises(Unreadable, match=said):
        check(value, form_of(answer))


# ---------------------------------------------------------------------- pages


def test_a_page_has_an_input_for_every_field() -> None:
    """Nested objects lie flat, by dotted names; what has no input of its own is JSON."""
    fields = {field.name: field for field in form_of(Delivery).fields}

    assert {name: (field.kind, field.label, field.required) for name, field in fields.items()} == {
        "order_number": ("text", "Order number", True),
        "address.street": ("text", "Address, street", True),
        "address.city": ("text", "Address, city", False),
        "notes": ("multiline", "Notes", False),
        "tags": ("multiline", "Tags", False),
        "lines": ("json", "Lines", False),
        "billing": ("json", "Billing", False),
    }
    assert fields["order_number"].pattern == r"^\d{3}$"
    assert fields["notes"].max_length == 1000


def test_an_input_knows_its_limits_choices_and_default() -> None:
    """What HTML needs, so that a browser helps before anything is sent."""
    amount, colour, gift, due = form_of(Order).fields

    assert (amount.kind, amount.min, amount.step, amount.description) == ("integer", 1, 1, "How many boxes")
    assert (colour.kind, colour.choices, colour.default) == ("select", (("red", "red"), ("g", "g")), "red")
    assert (gift.kind, gift.required, gift.default) == ("checkbox", False, "")
    assert (due.kind, due.required, due.default) == ("date", False, None)
    (only,) = form_of(Annotated[int, Field(gt=0, lt=10)]).fields
    assert (only.name, only.min, only.max) == ("answer", 1, 9)
    (choice,) = form_of(bool | None).fields
    assert (choice.kind, choice.choices) == ("select", (("true", "yes"), ("false", "no")))


def test_objects_within_objects_lie_flat_three_names_deep() -> None:
    """Deeper ones are JSON."""

    class C(BaseModel):
        d: Address

    class B(BaseModel):
        c: C

    class A(BaseModel):
        b: B
        e: int

    assert [(field.name, field.kind) for field in form_of(A).fields] == [("b.c.d", "json"), ("e", "integer")]
    assert [field.kind for field in form_of(Node).fields] == ["text", "json"]


def test_the_inputs_of_a_page_become_the_value() -> None:
    """Names that are no field's are ignored, as pages send more than their fields."""
    data = {
        "token": "…", "order_number": "123", "address.street": " Elm 1 ", "address.city": "", "notes": "a\r\nb", "tags": "x, y\r\nz",
        "lines": '[{"amount": 2}]', "billing": "",
    }  # fmt: skip

    assert read_fields(data, form_of(Delivery)) == {
        "order_number": "123", "address": {"street": "Elm 1", "city": None}, "notes": "a\nb", "tags": ["x, y", "z"],
        "lines": [{"amount": 2}], "billing": None,
    }  # fmt: skip
    assert read_fields({"amount": "3", "gift": "on"}, form_of(Order)) == {"amount": 3, "gift": True}
    assert read_fields({"answer": ["red", "g"]}, form_of(list[Colour])) == ["red", "g"]
    assert read_fields({"answer": "2"}, form_of(int)) == 2
    assert read_fields({"answer": "g"}, form_of(Colour)) == "g"
    assert read_fields({"answer": ""}, form_of(list[int])) == []
    assert read_fields({"answer": "as you like"}, form_of(str)) == "as you like"


def test_each_field_that_does_not_fit_has_its_reason() -> None:
    """So that the page can show it beside the input."""
    data = {"order_number": "12", "address.street": "", "lines": '[{"amount": 0}]', "billing": "{"}

    with pytest.raises(FormErrors) as caught:
        read_fields(data, form_of(Delivery))

    assert caught.value.reasons == {
        "order_number": r"is not in the form asked for (^\d{3}$)",
        "address.street": "is missing",
        "lines": "entry 1 amount: must be at least 1",
        "billing": "is no JSON (Expecting property name enclosed in double quotes, line 1 column 2)",
    }
    assert str(caught.value).startswith("order_number: is not in the form")
    assert isinstance(caught.value, Unreadable)


def test_a_page_that_is_left_as_it_was_shown_changes_nothing() -> None:
    """Not even what no input can hold: an empty text, white space, a field that the form does not know."""
    form = form_of(Delivery)
    value = {
        "order_number": "123",
        "address": {"street": " ", "zip": 7},
        "notes": "a\nb ",
        "tags": ["x\ny", ""],
        "more": [1],
    }

    sent = {name: text.replace("\n", "\r\n") for name, text in values_for(form, value).items()}

    assert read_fields(sent, form, value) == value
    assert read_fields({**sent, "address.street": "Elm"}, form, value) == {
        **value,
        "address": {"street": "Elm", "zip": 7},
    }


def test_a_value_that_does_not_fit_is_not_kept_as_shown() -> None:
    """An agent's own arguments may be wrong; leaving them as they are does not make them right."""
    with pytest.raises(FormErrors) as caught:
        read_fields(values_for(form_of(Order), {"amount": 0}), form_of(Order), {"amount": 0})

    assert caught.value.reasons == {"amount": "must be at least 1"}


def test_inputs_fit_the_value_that_they_show() -> None:
    """A browser's text input drops line ends, and its input for a time knows no offset."""

    class Mail(BaseModel):
        body: str
        at: datetime
        title: str

    form = form_of(Mail)

    assert [field.kind for field in form.fields] == ["text", "datetime-local", "text"]
    value = {"body": "a\nb", "at": "2026-11-03T14:30:00-01:00", "title": "t"}
    assert [field.kind for field in fields_for(form, value)] == ["multiline", "text", "text"]
    assert [field.kind for field in fields_for(form, {**value, "at": "2026-11-03T14:30"})][
        1
    ] == "datetime-local"


def test_a_page_without_a_value_shows_the_defaults() -> None:
    """A check box is there only if it is ticked, as browsers send it."""
    assert values_for(form_of(Order)) == {"amount": "", "colour": "red", "due": ""}


# ---------------------------------------------------------------------- dialogues


def test_a_flat_form_is_asked_field_by_field() -> None:
    """With the place, what is expected, and what a dash stands for."""
    form, draft = form_of(Order), Draft()
    asked = []
    for text in ("5", "-", "yes", "-"):
        asked.append(prompt(form, draft))
        draft, value = advance(form, draft, text)

    assert asked == [
        "1/4 amount: How many boxes (a whole number, at least 1)?",
        "2/4 colour (one of: 1 red, 2 g; - for red)?",
        "3/4 gift (yes or no; - for no)?",
        "4/4 due (a date such as 2026-11-03; - to leave it out)?",
    ]
    assert value == {"amount": 5, "gift": True}
    assert prompt(form, draft) == ""


def test_one_reply_may_answer_several_fields_and_correct_earlier_ones() -> None:
    """As lines or as JSON; the dialogue goes on with what is left."""
    form = form_of(Order)
    draft, value = advance(form, Draft(), "colour: 2\ngift: no")

    assert value is PENDING and prompt(form, draft).startswith("1/4 amount")
    draft, value = advance(form, draft, "3")
    assert value is PENDING and prompt(form, draft).startswith("4/4 due")
    draft, value = advance(form, draft, '{"amount": 4}')
    assert value is PENDING
    draft, value = advance(form, draft, "due: 3 May 2026")
    assert value == {"amount": 4, "colour": "g", "gift": False, "due": "2026-05-03"}


def test_tries_are_counted_for_each_field() -> None:
    """The caller counts a reply that could not be read; the next field begins at none."""
    form, draft = form_of(Order), Draft()

    with pytest.raises(Unreadable, match="amount: must be at least 1"):
        advance(form, draft, "0")
    draft = draft.tried_again().tried_again()
    assert draft.tries == 2
    draft, _ = advance(form, draft, "gift: yes")
    assert draft.tries == 2
    draft, _ = advance(form, draft, "1")
    assert draft.tries == 0


def test_nothing_is_taken_of_a_reply_that_is_wrong_in_part() -> None:
    """The person is told of the wrong part, and sends all of it again."""
    form = form_of(Order)

    with pytest.raises(Unreadable, match="gift: "):
        advance(form, Draft(), "amount: 5\ngift: perhaps not")
    with pytest.raises(Unreadable, match="none of the fields"):
        advance(form, Draft(), '{"size": 5}')
    with pytest.raises(Unreadable, match="no JSON"):
        advance(form, Draft(), "{")
    with pytest.raises(Unreadable, match="amount: must be a whole number"):
        advance(form, Draft(), '{"amount": "5"}')


def test_a_draft_survives_json() -> None:
    """It is stored between two messages."""
    draft, _ = advance(form_of(Order), Draft().tried_again(), "amount: 5\ncolour: -\ndue: -")

    codec = codec_for(Draft)

    assert Draft.load(draft.dump()) == draft
    assert codec.load(codec.dump(draft, "a draft")) == draft
    assert draft == Draft(values={"amount": 5}, left_out=("colour", "due"), tries=0)


def test_what_is_not_flat_is_asked_at_once() -> None:
    """A number, a list of objects, or more fields than anybody answers one by one."""
    wide = Form(schema={"type": "object", "properties": {f"f{i}": {"type": "string"} for i in range(9)}})

    assert not form_of(int).is_flat and not form_of(Delivery).is_flat and not wide.is_flat
    assert form_of(Order).is_flat and form_of(Address).is_flat
    assert prompt(form_of(int), Draft()) == "a whole number"
    assert advance(form_of(int), Draft(tries=2), "5") == (Draft(), 5)
    assert advance(form_of(str), Draft(), "amount: 5") == (Draft(), "amount: 5")


# ---------------------------------------------------------------------- odd schemas

ODD: list[Any] = [
    {"$ref": "#/$defs/nowhere"}, {"$ref": "https://example.com/schema"}, {"$ref": "#"}, {"$ref": 3}, {"$defs": {"a": {"$ref": "#/$defs/b"},
    "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {"anyOf": [{"$ref": "#"}]}, {"allOf": [{"$ref": "#"}]}, {"type": "thing"}, {"type": 3},
    {"type": []}, {"type": ["integer", "string", "null"]}, {"type": [3]}, {"enum": 3}, {"enum": []}, {"enum": [{"a": 1}]}, {"enum": [None]},
    {"const": None}, {"const": [1]}, {"enum": ["", "a"]}, {"enum": ["1", 1, True, 1.5]}, {"enum": ["a", "A"]},
    {"type": "object", "properties": 3}, {"type": "object", "properties": {"": {}, "a.b": {}}},
    {"type": "object", "properties": {"a": False, "b": 3}, "required": 3}, {"type": "array", "items": 3}, {"type": "array", "items": {"$ref": "#"}},
    {"type": "array", "prefixItems": [{}, {"type": "integer"}], "items": False}, {"type": "string", "pattern": "("},
    {"type": "string", "format": ["date"]}, {"type": "number", "multipleOf": 0}, {"type": "integer", "minimum": "x"}, {"not": {}},
    {"if": {}, "then": False}, {"oneOf": []}, {"oneOf": [{"type": "integer"}, {"minimum": 3}]}, {"minimum": 3}, {"x-enum-varnames": [1]},
    {"type": "object", "properties": {"a": {"default": {"b": 1}, "type": "integer"}}, "anyOf": [{"required": ["a"]}]},
    {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]}, {"type": "null"}, {"allOf": [{"type": "integer"}]},
    {"type": "object", "properties": {"a": {"type": "string", "maxLength": "x", "title": 3, "description": 4}}, "unevaluatedProperties": False},
]  # fmt: skip


def try_everything(form: Form, text: str, value: Any) -> None:
    """Everything that a form is used for; only Unreadable may come of it."""
    describe(form), prompt(form, Draft()), form.choices, Form.load(form.dump())
    for attempt in (
        lambda: read_text(text, form),
        lambda: check(value, form),
        lambda: advance(form, Draft(), text),
        lambda: read_fields({field.name: text for field in form.fields}, form),
        lambda: read_fields({field.name: text for field in form.fields}, form, value),
        lambda: fields_for(form, value),
        lambda: values_for(form),
    ):
        with contextlib.suppress(Unreadable):
            attempt()


@pytest.mark.parametrize("schema", ODD)
def test_no_schema_makes_a_form_fail(schema: dict[str, Any]) -> None:
    """Schemas of tools come from elsewhere: what is not understood is asked for as JSON, and nothing is fetched."""
    said = ["", "a", "1", "-", "{}", '{"a": 1}', "[1]", "a: 1", "null"]
    given_by_programs = ["a", 1, None, {}, {"a": 1}, [1], "", {"a": None}, 1.5]

    for text, value in zip(said, given_by_programs, strict=True):
        try_everything(Form(schema=schema), text, value)
    try_everything(Form(schema=schema, options=("a", "1")), "1", "a")


TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="0123456789.,:;-+eT/ '#\n\r\x00apmnovyes{}[]\"", max_size=25),
    st.sampled_from(["1", "-", "amount: 5\ngift: yes", '{"amount": 1}', "[1,2]", "3/4/2026", "14:30"]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["amount", "gift", "due", "a", "address"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
TYPES = [
    str,
    int,
    float,
    bool,
    date,
    datetime,
    time,
    Colour,
    Urgency,
    int | None,
    int | str,
    list[int],
    list[str],
    Order,
    Delivery,
    Node,
    Any,
    Decimal,
    dict,
]


@given(answer=st.sampled_from(TYPES), text=TEXTS, value=VALUES)
@settings(max_examples=500, deadline=None)
def test_nothing_but_unreadable_is_raised_for_any_words(answer: Any, text: str, value: Any) -> None:
    """Whatever a person or a program sends, there is a reason to tell."""
    try_everything(form_of(answer), text, value)


KEYWORDS = {
    "type": st.sampled_from(["string", "integer", "number", "boolean", "array", "object", "null", "odd", ["integer", "null"], 3]),
    "enum": st.lists(st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=3)), max_size=4),
    "const": st.integers() | st.text(max_size=3), "minimum": st.integers(-5, 5) | st.floats(), "maxLength": st.integers(-3, 5),
    "pattern": st.sampled_from(["^a", "(", "a*$", "\\z"]), "format": st.sampled_from(["date", "time", "uuid", "uri", "odd", "decimal"]),
    "multipleOf": st.sampled_from([0, 0.1, 3, -1]), "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
    "default": VALUES, "title": st.text(max_size=5), "$ref": st.sampled_from(["#", "#/properties/a", "#/anyOf/0", "#/x", "x"]),
}  # fmt: skip


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    schema: dict[str, Any] = {
        key: draw(KEYWORDS[key])
        for key in draw(st.lists(st.sampled_from(sorted(KEYWORDS)), max_size=3, unique=True))
    }
    if depth:
        inner = schemas(depth=depth - 1)
        for key in draw(
            st.lists(
                st.sampled_from(["anyOf", "allOf", "items", "properties", "prefixItems"]),
                max_size=2,
                unique=True,
            )
        ):
            if key == "properties":
                schema[key] = draw(st.dictionaries(st.sampled_from(["a", "b", "a.b", ""]), inner, max_size=2))
            else:
                schema[key] = draw(inner if key == "items" else st.lists(inner, max_size=2))
    return schema


@given(schema=schemas(), text=TEXTS, value=VALUES)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_nothing_but_unreadable_is_raised_for_any_schema(
    schema: dict[str, Any], text: str, value: Any
) -> None:
    """Keywords in any combination, valid or not."""
    try_everything(
        Form(
            schema=json.loads(json.dumps(schema, allow_nan=True).replace("NaN", "1").replace("Infinity", "1"))
        ),
        text,
        value,
    )


# ---------------------------------------------------------------------- round trips

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=12).filter(
    lambda text: (
        not text.startswith(("[", "{")) and text.casefold() not in ("-", "–", "—", "none", "null", "n/a")
    )
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MEANT: list[tuple[Any, st.SearchStrategy[Any], Any]] = [
    (str, WORDS, str),
    (int, st.integers(-(10**50), 10**50), str),
    (int, st.integers(), "{:,}".format),
    (float, FLOATS, repr),
    (bool, st.booleans(), lambda value: "yes" if value else "no"),
    (bool, st.booleans(), str),
    (date, st.dates(), str),
    (date, st.dates(), lambda value: f"{value.day} {value:%B} {value.year:04}"),
    (datetime, st.datetimes(), datetime.isoformat),
    (datetime, st.datetimes(timezones=ZONES), str),
    (time, st.times(), time.isoformat),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30), "{:f}".format),
    (Colour, st.sampled_from(Colour), lambda value: value.name),
    (Colour, st.sampled_from(Colour), lambda value: value.value),
    (Mood, st.sampled_from(Mood), lambda value: f"#{list(Mood).index(value) + 1}"),
    (Urgency, st.sampled_from(Urgency), lambda value: str(list(Urgency).index(value) + 1)),
    (Literal["a", 7, True], st.sampled_from(["a", 7]), str),
    (int | None, st.none() | st.integers(), lambda value: "-" if value is None else str(value)),
    (int | date, st.integers() | st.dates(), str),
    (list[int], st.lists(st.integers(), max_size=5), lambda value: ", ".join(map(str, value)) or "-"),
    (list[str], st.lists(WORDS, min_size=2, max_size=5), "\n".join),
    (list[str], st.lists(st.text(max_size=5).filter(lambda text: "\x00" not in text), max_size=5), json.dumps),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "values", "say"), MEANT)
def test_what_is_written_is_what_the_type_gets(answer: Any, values: st.SearchStrategy[Any], say: Any) -> None:
    """A value, written in words, read against the schema and validated by the type, is the value again."""
    form = Form.load(form_of(answer).dump())
    adapter: TypeAdapter[Any] = TypeAdapter(answer)

    @given(value=values)
    @settings(max_examples=60, deadline=None)
    def holds(value: Any) -> None:
        back = adapter.validate_json(json.dumps(read_text(say(value), form)))
        assert back == value and type(back) is type(value)

    holds()


class Flat(BaseModel):
    count: int = Field(ge=0)
    share: float
    colour: Colour
    sure: bool
    on: date
    at: datetime
    note: Annotated[str, Field(min_length=1)]
    tags: list[int] = []


FLAT = st.builds(
    Flat, count=st.integers(0, 10**12), share=FLOATS, colour=st.sampled_from(Colour), sure=st.booleans(), on=st.dates(),
    at=st.datetimes(), note=WORDS.filter(lambda text: not {":", "="} & set(text)), tags=st.lists(st.integers(), min_size=1, max_size=3),
)  # fmt: skip
DELIVERIES = st.builds(
    Delivery, order_number=st.integers(100, 999).map(str), address=st.builds(Address, street=st.text(max_size=8), city=st.none() | st.text(max_size=8)),
    notes=st.text(max_size=20), tags=st.lists(st.text(max_size=5), max_size=3), billing=st.none() | st.builds(Address, street=WORDS),
    lines=st.lists(st.builds(Order, amount=st.integers(1, 9), due=st.none() | st.dates()), max_size=2),
)  # fmt: skip


@given(value=FLAT | DELIVERIES)
@settings(max_examples=200, deadline=None)
def test_a_page_gives_back_the_value_that_it_shows(value: BaseModel) -> None:
    """For every valid value, whatever its texts hold, when the page was shown with it."""
    form, data = form_of(type(value)), value.model_dump(mode="json")
    if "\x00" in json.dumps(data) or "\\u0000" in json.dumps(data):
        return

    assert read_fields(values_for(form, data), form, data) == data


@given(value=FLAT)
@settings(max_examples=100, deadline=None)
def test_the_texts_of_a_page_alone_say_the_value(value: Flat) -> None:
    """As another person would type them into an empty page."""
    form = form_of(Flat)

    back = read_fields(values_for(form, value.model_dump(mode="json")), form)

    assert Flat.model_validate(back) == value


@given(
    value=FLAT,
    order=st.permutations(sorted(Flat.model_fields)),
    group=st.integers(1, 4),
    as_json=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_dialogue_ends_with_the_same_value_in_any_order(
    value: Flat, order: list[str], group: int, as_json: bool
) -> None:
    """Field by field as asked, or some at a time as lines or JSON."""
    form, data = form_of(Flat), value.model_dump(mode="json")

    def said(name: str) -> str:
        return json.dumps(data[name]) if name != "note" and not isinstance(data[name], str) else data[name]

    asked, one = Draft(), PENDING
    for name in Flat.model_fields:
        asked, one = advance(form, Draft.load(asked.dump()), said(name))
    told, several = Draft(), PENDING
    for start in range(0, len(order), group):
        names = order[start : start + group]
        lines = "\n".join(f"{name}: {said(name)}" for name in names)
        told, several = advance(
            form, told, json.dumps({name: data[name] for name in names}) if as_json else lines
        )

    assert Flat.model_validate(one) == Flat.model_validate(several) == value


def test_every_kind_of_input_is_tried() -> None:
    """The kinds are the contract with the page: a new one needs its page too."""
    from wakeloop.forms.fields import FieldKind

    class All(BaseModel):
        a: str
        b: Annotated[str, Field(max_length=999)]
        c: int
        d: float
        e: bool
        f: date
        g: datetime
        h: time
        i: Colour
        j: dict[str, int]

    assert {field.kind for field in form_of(All).fields} == set(get_args(FieldKind))
