"""Which messages of a conversation stand in one thread: by what they answer, and by their subjects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeloop.threads import LONGEST, Said, ids_of, plain_subject, thread_of, topic_of

START = datetime(2026, 11, 2, 9, tzinfo=UTC)


def ours(number: int, subject: str | None = None) -> Said:
    at = START + timedelta(minutes=number)
    return Said(provider_id=f"o{number}", at=at, is_ours=True, subject=subject)


def theirs(number: int, **facts: Any) -> Said:
    return Said(provider_id=f"t{number}", at=START + timedelta(minutes=number), is_ours=False, **facts)


def told_of(said: list[Said], subject: str | None = None) -> tuple[str, ...]:
    """The ids of the thread in which a message with this subject comes next."""
    return ids_of(thread_of(said, subject))


def test_a_conversation_is_told_oldest_first() -> None:
    """Theirs and ours, in the order in which they were said, each once."""
    said = [ours(3), theirs(2), ours(1), theirs(2)]

    assert told_of(said) == ("o1", "t2", "o3")
    assert told_of([]) == ()


def test_what_a_persons_first_message_stands_in_comes_before_it() -> None:
    """The thread that the provider names, and the message that they answered."""
    said = [theirs(1, thread="root", reply_to="earlier"), ours(2)]

    assert told_of(said) == ("root", "earlier", "t1", "o2")
    assert ids_of([theirs(1, thread="t1", reply_to="t1")]) == ("t1",)


def test_another_subject_begins_a_new_thread_and_the_same_goes_on_with_its_own() -> None:
    """What has no subject goes on where the last one stands."""
    said = [ours(1, "Draft"), theirs(2, subject="Re: Draft"), ours(3, "Invoice"), ours(4)]

    assert told_of(said, "Budget") == ()
    assert told_of(said, "draft ") == ("o1", "t2")
    assert told_of(said, "Invoice") == ("o3", "o4")
    assert told_of(said) == ("o3", "o4")


def test_a_reply_stands_where_the_message_stands_that_it_answers() -> None:
    """Whatever subject it has, and however late it comes."""
    said = [ours(1, "Draft"), ours(2, "Invoice"), theirs(3, reply_to="o1", subject="My dog")]

    assert told_of(said, "Draft") == ("o1", "t3")
    assert told_of(said) == ("o1", "t3")
    assert told_of(said, "Invoice") == ("o2",)


def test_a_message_in_a_thread_that_is_known_stands_there() -> None:
    """Where the provider tells the thread and not what is answered."""
    said = [ours(1, "Draft"), ours(2, "Invoice"), theirs(3, thread="o1")]

    assert told_of(said, "Draft") == ("o1", "t3")


def test_a_thread_goes_on_under_its_latest_subject() -> None:
    """A person who gave it another one knows it by that."""
    said = [
        ours(1, "Draft"),
        theirs(2, subject="Re: Draft"),
        ours(3),
        theirs(4, reply_to="o3", subject="My dog"),
        ours(5),
    ]

    assert topic_of(thread_of(said)) == "My dog"
    assert topic_of(thread_of(said[:3])) == "Re: Draft"
    assert topic_of(thread_of([theirs(1, subject=""), ours(2)])) is None


def test_of_a_long_thread_the_first_and_the_latest_are_told() -> None:
    """So that a mail's References stay short, and the thread's root is known."""
    told = told_of([ours(number) for number in range(100)])

    assert len(told) == LONGEST == 20
    assert told[0] == "o0"
    assert told[1:] == tuple(f"o{number}" for number in range(81, 100))


@pytest.mark.parametrize(
    ("subject", "plain"),
    [
        ("Re: Draft", "draft"), ("AW: WG: Draft", "draft"), ("Re[2]: re:  My   draft ", "my draft"), ("Reply", "reply"),
        ("Fwd:Draft", "draft"), ("", ""),
    ],
)  # fmt: skip
def test_subjects_are_compared_without_what_mail_programs_put_before_them(subject: str, plain: str) -> None:
    """In several languages, and however often."""
    assert plain_subject(subject) == plain


@given(
    st.lists(
        st.builds(
            Said,
            provider_id=st.sampled_from("abcdefgh"),
            at=st.integers(0, 50).map(lambda minute: START + timedelta(minutes=minute)),
            is_ours=st.booleans(),
            subject=st.sampled_from([None, "X", "Re: x", "Y"]),
            thread=st.sampled_from([None, "a", "z"]),
            reply_to=st.sampled_from([None, "a", "b", "y"]),
        ),
        max_size=40,
    ),
    st.sampled_from([None, "X", "Z"]),
)
def test_whatever_was_said_no_id_is_told_twice_and_none_is_made_up(
    said: list[Said], subject: str | None
) -> None:
    """Every id is a message of the conversation, or is named by one."""
    told = told_of(said, subject)

    assert len(set(told)) == len(told) <= LONGEST
    known = {id for one in said for id in (one.provider_id, one.thread, one.reply_to)}
    assert set(told) <= known
