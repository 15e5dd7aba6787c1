"""When a person may be written to: what goes now, what goes together, and what is put off until when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from wakeloop.pacing import Circumstances, Pace, Plan, Recent, Waiting, joined, pack, plan

NOW = datetime(2026, 11, 2, 14, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def said(number: int, *, ago: float = 0.0, **facts: Any) -> Waiting:
    """A message that waits, by its number."""
    given = {"contact": "alice", "channel": "sms", "address": "+1", "text": f"text {number}"} | facts
    return Waiting(id=UUID(int=number), order=(NOW - timedelta(seconds=ago), UUID(int=number)), **given)


def went(ago: float, *, is_plain: bool = True, **facts: Any) -> Recent:
    """A message that a provider took so many seconds ago."""
    given = {"contact": "alice", "channel": "sms", "address": "+1"} | facts
    return Recent(order=(NOW - timedelta(seconds=ago), UUID(int=10**6)), is_plain=is_plain, **given)


def planned(*waiting: Waiting, **facts: Any) -> Plan:
    return plan(waiting, Circumstances(now=NOW, **{"pace": Pace(), **facts}))


def gone(made: Plan) -> list[list[int]]:
    return [[id.int for id in parcel.ids] for parcel in made.parcels]


def put_off(made: Plan) -> list[tuple[int, str, timedelta]]:
    return [(hold.id.int, str(hold.why), hold.until - NOW) for hold in made.holds]


# Bursts


def test_the_first_of_a_burst_goes_and_the_others_wait_for_a_minute() -> None:
    """Whoever says one thing is not delayed."""
    made = planned(said(1), said(2), said(3))

    assert gone(made) == [[1]]
    assert put_off(made) == [(2, "burst", MINUTE), (3, "burst", MINUTE)]


def test_what_waited_goes_together_when_its_time_has_come() -> None:
    """With what came meanwhile, also if that was to wait a little longer."""
    held = [said(1, ago=60, held="burst"), said(2, ago=30, held="burst")]

    assert gone(planned(*held, said(3), recent=[went(60)])) == [[1, 2, 3]]


def test_a_message_within_a_minute_of_the_last_one_waits_until_that_is_over() -> None:
    """Counted from the message that went, to the same address."""
    assert put_off(planned(said(2), recent=[went(20)])) == [(2, "burst", timedelta(seconds=40))]
    assert gone(planned(said(2), recent=[went(60)])) == [[2]]
    assert gone(planned(said(2), recent=[went(20, address="+2")])) == [[2]]
    assert gone(planned(said(2), recent=[went(20, is_plain=False)])) == [[2]]


def test_nothing_is_held_from_a_person_who_has_answered() -> None:
    """That is a conversation, no burst; what was held goes with it."""
    heard = {("alice", "sms"): (NOW - timedelta(seconds=10), UUID(int=5))}

    assert gone(planned(said(2), recent=[went(20)], heard=heard)) == [[2]]
    assert gone(planned(said(1, held="burst", is_due=False), said(2), recent=[went(20)], heard=heard)) == [
        [1, 2]
    ]
    assert gone(planned(said(2), recent=[went(5)], heard=heard)) == []
    assert gone(planned(said(2), recent=[went(20)], heard={("alice", "email"): heard["alice", "sms"]})) == []


def test_a_question_is_not_held_and_takes_along_what_was_said_before_it() -> None:
    """In order, and at once; what is said after it waits."""
    held = said(1, ago=10, held="burst", is_due=False)
    made = planned(held, said(2), said(3, is_request=True), said(4), recent=[went(10)])

    assert gone(made) == [[1, 2], [3]]
    assert put_off(made) == [(4, "burst", MINUTE)]


def test_a_question_on_another_channel_takes_nothing_along() -> None:
    """A burst is of one address."""
    made = planned(
        said(1, held="burst", is_due=False), said(2, is_request=True, channel="email", address="a@b.c")
    )

    assert gone(made) == [[2]]
    assert put_off(made) == []


def test_urgent_messages_and_answers_to_a_person_are_never_held_for_a_burst() -> None:
    """Each goes by itself."""
    made = planned(said(1, urgent=True), said(2, urgent=True), said(3, interactive=True), recent=[went(1)])

    assert gone(made) == [[1], [2], [3]]


def test_bursts_can_be_switched_off() -> None:
    """Then each message goes by itself."""
    assert gone(planned(said(1), said(2), pace=Pace(coalesce_seconds=0))) == [[1], [2]]


def test_a_message_that_was_tried_is_tried_again_as_it_was() -> None:
    """The provider may know it by its key."""
    assert gone(planned(said(1, is_retry=True), said(2), recent=[went(10)])) == [[1]]


def test_what_goes_together_fits_the_channel_and_has_one_subject() -> None:
    """More is several messages; one that is too long by itself goes as it is."""
    texts = [
        said(1, text="a" * 7),
        said(2, text="b"),
        said(3, text="c"),
        said(4, text="d" * 20),
        said(5, text="e"),
    ]

    assert [[one.id.int for one in parcel] for parcel in pack(texts, 10)] == [[1, 2], [3], [4], [5]]
    assert [[one.id.int for one in parcel] for parcel in pack(texts, None)] == [[1, 2, 3, 4, 5]]
    assert len(pack([said(1, subject="x"), said(2, subject="x"), said(3)], None)) == 2
    assert joined(["one", "two"]) == "one\n\ntwo"


# Quiet hours


def quiet(contact: str) -> datetime | None:
    return NOW + 9 * HOUR if contact == "alice" else None


def test_in_quiet_hours_a_message_is_put_off_to_their_end() -> None:
    """Questions and second tries too; other people are not concerned."""
    made = planned(
        said(1), said(2, is_request=True), said(3, is_retry=True), said(4, contact="bob", address="+2"), quiet_until=quiet
    )  # fmt: skip

    assert gone(made) == [[4]]
    assert put_off(made) == [(number, "quiet", 9 * HOUR) for number in (1, 2, 3)]


def test_what_is_urgent_or_answers_a_person_goes_in_quiet_hours() -> None:
    """At once, and nothing that is not goes along."""
    held = said(1, held="quiet", is_due=False)
    made = planned(held, said(2, urgent=True, is_request=True), said(3, interactive=True), quiet_until=quiet)

    assert gone(made) == [[2], [3]]
    assert put_off(made) == []


def test_what_may_have_left_is_looked_for_in_quiet_hours_and_not_sent() -> None:
    """Only what is found is settled."""
    [parcel] = planned(said(1, is_begun=True), quiet_until=quiet).parcels
    assert parcel.not_before == NOW + 9 * HOUR

    [parcel] = planned(said(1, is_begun=True, urgent=True), quiet_until=quiet).parcels
    assert parcel.not_before is None


def test_what_cannot_be_sent_at_all_is_told_so_at_once() -> None:
    """Somebody who opted out is reached by the next channel, not after the night."""
    assert gone(planned(said(1, is_hopeless=True), quiet_until=quiet)) == [[1]]


def test_what_was_put_off_in_the_night_goes_together_in_the_morning() -> None:
    """One message wakes them, not ten."""
    assert gone(planned(*(said(number, ago=3600, held="quiet") for number in range(1, 5)))) == [[1, 2, 3, 4]]


# So many an hour


def test_the_next_message_waits_until_one_falls_out_of_the_hour() -> None:
    """Over all channels and kinds, also what is urgent."""
    recent = [went(3000, is_plain=False, channel="email"), went(1200, is_plain=False)]
    pace = Pace(messages_per_hour=2)

    for facts in ({}, {"urgent": True}, {"is_request": True}, {"is_retry": True}):
        made = planned(said(1, **facts), recent=recent, pace=pace)
        assert gone(made) == []
        assert put_off(made) == [(1, "cap", timedelta(seconds=600))]
    assert gone(planned(said(1), recent=recent, pace=Pace(messages_per_hour=3))) == [[1]]
    assert gone(planned(said(1), recent=recent, pace=Pace(messages_per_hour=0))) == [[1]]


def test_a_lower_cap_than_what_went_waits_for_enough_to_fall_out() -> None:
    """After a change of the setting."""
    recent = [went(seconds, is_plain=False) for seconds in (3000, 2000, 1000)]

    assert put_off(planned(said(1), recent=recent, pace=Pace(messages_per_hour=1))) == [
        (1, "cap", timedelta(seconds=2600))
    ]


def test_answers_to_a_person_neither_wait_for_the_cap_nor_count() -> None:
    """Whoever writes gets an answer."""
    recent = [went(100, is_plain=False, interactive=True)] * 5
    pace = Pace(messages_per_hour=1)

    assert gone(planned(said(1, interactive=True), recent=[went(100)], pace=pace)) == [[1]]
    assert gone(planned(said(1), recent=recent, pace=pace)) == [[1]]


def test_where_there_is_room_for_one_what_asks_comes_first() -> None:
    """What only tells can wait for an hour."""
    made = planned(said(1), said(2, is_request=True), pace=Pace(messages_per_hour=1))

    assert gone(made) == [[2]]
    assert put_off(made) == [(1, "cap", HOUR)]


def test_what_waited_for_the_cap_goes_together() -> None:
    """A flood is a few messages an hour."""
    waiting = [said(number, held="cap") for number in range(1, 6)]

    assert gone(planned(*waiting, recent=[went(3600)], pace=Pace(messages_per_hour=1))) == [[1, 2, 3, 4, 5]]


# Always


_WAITING = st.builds(
    said,
    st.integers(1, 10**6),
    ago=st.integers(0, 300),
    contact=st.sampled_from(["alice", "bob"]),
    channel=st.sampled_from(["sms", "email"]),
    held=st.sampled_from([None, "quiet", "cap", "burst"]),
    is_request=st.booleans(),
    is_begun=st.booleans(),
    is_retry=st.booleans(),
    is_hopeless=st.booleans(),
    urgent=st.booleans(),
    interactive=st.booleans(),
    has_attachments=st.booleans(),
    is_due=st.booleans(),
)
_RECENT = st.builds(
    went, st.integers(0, 3599), is_plain=st.booleans(), contact=st.sampled_from(["alice", "bob"])
)


@given(
    st.lists(_WAITING, max_size=12, unique_by=lambda one: one.id),
    st.lists(_RECENT, max_size=6),
    st.integers(0, 4),
    st.sampled_from([0.0, 60.0]),
    st.booleans(),
)
def test_whatever_waits_each_delivery_has_one_outcome_and_no_rule_is_broken(
    waiting: list[Waiting], recent: list[Recent], most: int, seconds: float, night: bool
) -> None:
    """All that is due goes or is put off to later; nobody is written to in the night or beyond the cap; in order."""
    pace = Pace(messages_per_hour=most, coalesce_seconds=seconds)
    made = planned(*waiting, recent=recent, pace=pace, quiet_until=quiet if night else lambda contact: None)
    known = {one.id: one for one in waiting}
    sent = [id for parcel in made.parcels for id in parcel.ids]
    held = [hold.id for hold in made.holds]

    assert len(set(sent + held)) == len(sent) + len(held)
    assert {one.id for one in waiting if one.is_due} <= set(sent) | set(held)
    assert all(hold.until > NOW for hold in made.holds)
    assert [parcel.order for parcel in made.parcels] == sorted(parcel.order for parcel in made.parcels)
    for parcel in made.parcels:
        theirs = [known[id] for id in parcel.ids]
        assert theirs == sorted(theirs, key=lambda one: one.order)
        assert {(one.contact, one.channel, one.address) for one in theirs} == {
            (parcel.contact, parcel.channel, parcel.address)
        }
        free = [one.is_hopeless or one.interactive or one.urgent for one in theirs]
        if len(theirs) > 1:
            assert not any(free) and not any(one.is_request or one.is_retry or one.is_begun for one in theirs)
            assert not any(one.has_attachments for one in theirs)
        if night and parcel.contact == "alice" and parcel.not_before is None:
            assert all(free)
    for contact in ("alice", "bob"):
        counted = sum(one.contact == contact and not one.interactive for one in recent)
        new = sum(
            parcel.contact == contact
            and not any(
                known[id].is_hopeless or known[id].interactive or known[id].is_begun for id in parcel.ids
            )
            for parcel in made.parcels
        )
        assert not most or new == 0 or counted + new <= most
