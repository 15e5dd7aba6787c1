"""People as tools: what a model and a framework see of them."""

from __future__ import annotations

import asyncio
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Literal

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError, validate_call
from tests.unit.test_client import URL, Office, answers, client_of

from wakeloop import AsyncClient, ConfigurationError
from wakeloop.client import tool_name

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
IDS = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=100)
LOOKALIKES = st.sampled_from(
    ["a", "a_by_sms", "a.b", "a_b", "a-b", "by_sms", "sms", "A", "ä", "ö", "_", "x" * 60, "x" * 61]
)


def test_the_name_says_whom_it_asks_and_how() -> None:
    """As people would write it."""
    assert tool_name(None, None) == "contact_human"
    assert tool_name("marketing", None) == "contact_human_marketing"
    assert tool_name("marketing", "sms") == "contact_human_marketing_by_sms"


@given(IDS | LOOKALIKES, st.none() | st.sampled_from(["sms", "email", "by", "a.b"]))
def test_every_name_is_one_that_the_apis_of_models_take(contact: str, via: str | None) -> None:
    """Letters, digits, _ and -, at most 64, whatever the contact is called; and the same every time."""
    assert NAME.fullmatch(tool_name(contact, via))
    assert tool_name(contact, via) == tool_name(contact, via)


@given(st.sets(st.tuples(IDS | LOOKALIKES, st.none() | st.sampled_from(["sms", "email", "b"])), max_size=30))
def test_no_two_contacts_or_channels_share_a_name(pairs: set[tuple[str, str | None]]) -> None:
    """Not even those that differ only in characters that a name cannot have, or that read like each other."""
    assert len({tool_name(*pair) for pair in pairs}) == len(pairs)


def test_a_tool_is_a_plain_typed_documented_function() -> None:
    """As `inspect`, `typing` and pydantic see it; the docstring is in Google's form and says who is asked."""
    with client_of(Office(answers("Blue.", "Blue."))) as client:
        tool = client.human_as_tool("marketing", via="sms")

        assert tool("Which colour?") == "Blue."

    assert tool.__name__ == "contact_human_marketing_by_sms"
    assert str(inspect.signature(tool)) == "(message: str) -> str"
    assert typing.get_type_hints(tool) == {"message": str, "return": str}
    assert TypeAdapter(tool).json_schema()["properties"]["message"]["type"] == "string"
    assert inspect.getdoc(tool) == (
        "Ask Mara a question by sms, and wait for the answer.\n\n"
        "Mara is: Head of growth. A human reads it and replies, which can take minutes or hours.\n\n"
        "Args:\n    message: What to ask, with all they need to know to answer. They see nothing but this.\n\n"
        "Returns:\n    What they answered, in their own words."
    )


class Colour(BaseModel):
    red: int


def test_the_answers_type_is_the_functions_return_type() -> None:
    """For type checkers, for frameworks, and in fact."""
    with client_of(Office(answers({"red": 3}))) as client:
        tool: Callable[[str], Colour] = client.human_as_tool("marketing", answer=Colour)
        assert tool("Which colour?") == Colour(red=3)
    assert typing.get_type_hints(tool)["return"] is Colour


def test_a_tool_for_anybody_lists_who_there_is() -> None:
    """As choices in its schema, so that a model cannot make a contact up; with names and descriptions."""
    office = Office(answers("Blue."))
    with client_of(office) as client:
        tool = client.human_as_tool()
        assert tool(message="Which colour?", contact="marketing") == "Blue."

    assert tool.__name__ == "contact_human"
    assert typing.get_type_hints(tool)["contact"] == Literal["marketing"]
    assert "One of: Mara (marketing): Head of growth." in (inspect.getdoc(tool) or "")
    assert office.made[0]["to"] == "marketing"
    with pytest.raises(ValidationError):
        validate_call(tool)("Which colour?", "nobody")  # type: ignore[call-overload]


def test_options_and_words_of_ones_own_are_used() -> None:
    """A name and a description may be given; the options are told."""
    office = Office(answers("red"))
    with client_of(office) as client:
        tool = client.human_as_tool(
            "marketing", name="pick", description="Let them pick.", options=["red", "blue"], timeout=60
        )
        assert tool("Which?") == "red"

    assert tool.__name__ == "pick"
    assert (tool.__doc__ or "").startswith("Let them pick.\n") and "one of 'red', 'blue'" in (
        tool.__doc__ or ""
    )
    assert office.made[0]["options"] == ["red", "blue"] and office.made[0]["timeout"] == 60.0


def test_a_tool_can_be_made_while_the_server_is_away() -> None:
    """It is documented by the contact's id then, and does not keep a program from starting."""
    office = Office()
    office.troubles = [httpx2.ConnectError("refused")]
    with client_of(office) as client:
        tool = client.human_as_tool("marketing")
    assert (tool.__doc__ or "").startswith("Ask marketing a question, and wait")


@pytest.mark.parametrize(
    "options", [{"name": "ask mara"}, {"name": "x" * 65}, {"name": ""}, {"contact": ""}, {"contact": ["a"]}]
)
def test_what_could_never_be_a_tool_is_refused(options: dict[str, Any]) -> None:
    """Where it is made."""
    with client_of(Office()) as client, pytest.raises(ConfigurationError):
        client.human_as_tool(**{"contact": "marketing", **options})


def test_the_async_clients_tools_are_coroutine_functions() -> None:
    """With the same name and documentation; made outside a loop at once, in a loop from what `contacts()` gave."""
    office = Office(answers("Blue."), answers("Red."))
    client = AsyncClient(URL, transport=httpx2.MockTransport(office))
    outside = client.human_as_tool("marketing")

    async def main() -> list[str]:
        async with AsyncClient(URL, transport=httpx2.MockTransport(office)) as inner:
            bare = inner.human_as_tool("marketing")
            await inner.contacts()
            inside = inner.human_as_tool("marketing", answer=str)
            assert (bare.__doc__ or "").startswith("Ask marketing")
            assert inside.__doc__ == outside.__doc__
            return [await inside("Which?"), await outside(message="Which?")]

    assert asyncio.run(main()) == ["Blue.", "Red."]
    assert inspect.iscoroutinefunction(outside)
    assert (outside.__doc__ or "").startswith("Ask Mara a question")
