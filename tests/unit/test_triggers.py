"""Triggers: what may be written, what is refused and how it is said, what a message or a signal wakes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from croniter import CroniterBadCronError, croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from wakeloop import cron_expression
from wakeloop.errors import ConfigurationError, WakeloopError
from wakeloop.events import Message, Signal
from wakeloop.triggers import (
    At,
    Cron,
    Every,
    OnMessage,
    OnSignal,
    Schedule,
    at,
    cron,
    dump_schedule,
    every,
    load_schedule,
    on_message,
    on_signal,
    parse_expression,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


# Cron expressions


@pytest.mark.parametrize(
    "expr",
    [
        "0 9 * * MON-FRI",
        "*/15 * * * *",
        "0 9,17 1-7 jan,JUL *",
        "30 1 * * 0",
        "30 1 * * 7",
        "0 9 * * SAT-SUN",
        "0 9 * * 5-7",
        "0 9 L * *",
        "0 9 1,L * *",
        "0 9 * * L5",
        "0 9 * * FRI#2",
        "0 9 * * mon#1,wed#3",
        "0 9 13 * FRI",
        "0 0 29 2 *",
        "0 0 30 2 MON",
        "0 0 ? * MON",
        "* * * * * */10",
        "0 9 * * * 30",
        "5/20 * * * *",
        "0-30/15 * * * *",
        " 0   9 * *  * ",
    ],
)
def test_what_cron_can_say_is_accepted(expr: str) -> None:
    """Five and six fields, names, lists, ranges, steps, L and # are accepted, white space is made single."""
    assert " ".join(expr.split()) == cron(expr).expr


@pytest.mark.parametrize(
    ("alias", "expr"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@Annually", "0 0 1 1 *"),
    ],
)
def test_an_alias_means_its_expression(alias: str, expr: str) -> None:
    """An alias is kept as it was written and means what its expression means."""
    assert alias == cron(alias).expr
    assert parse_expression(expr) == parse_expression(alias)


@pytest.mark.parametrize(
    ("expr", "field", "advice"),
    [
        ("61 * * * *", "minute '61'", "a number from 0 to 59"),
        ("x * * * *", "minute 'x'", "a number from 0 to 59"),
        ("-5 * * * *", "minute '-5'", "a number from 0 to 59"),
        ("٣ * * * *", "minute '٣'", "a number from 0 to 59"),
        ("* 24 * * *", "hour '24'", "a number from 0 to 23"),
        ("* 9,,10 * * *", "hour ''", "a number from 0 to 23"),
        ("0 0 32 * *", "day of month '32'", "a number from 1 to 31"),
        ("0 0 0 * *", "day of month '0'", "a number from 1 to 31"),
        ("0 0 * 13 *", "month '13'", "a name from JAN to DEC"),
        ("0 0 * MON *", "month 'MON'", "a name from JAN to DEC"),
        ("0 0 * * 8", "day of week '8'", "a name from SUN to SAT"),
        ("0 0 * * FUNDAY", "day of week 'FUNDAY'", "a name from SUN to SAT"),
        ("* * * * * 60", "second '60'", "of six fields, the second is the last"),
        ("0 0 9 ? * MON-FRI", "month '?'", "of six fields, the second is the last"),
        ("? * * * *", "minute '?'", "a number from 0 to 59"),
        ("5-1 * * * *", "minute '5-1'", "write 5-59,0-1"),
        ("0 0 * NOV-FEB *", "month 'NOV-FEB'", "write NOV-12,1-FEB"),
        ("0 0 * * FRI-MON", "day of week 'FRI-MON'", "write FRI-6,0-MON"),
        ("0 5-5 * * *", "hour '5-5'", "write 5"),
        ("0 0 * * SUN-SUN", "day of week 'SUN-SUN'", "write SUN"),
        ("59/15 * * * *", "minute '59/15'", "only mean 59"),
        ("50/15 * * * *", "minute '50/15'", "only mean 50"),
        ("*/90 * * * *", "minute '*/90'", "only mean 0"),
        ("0 0-10/20 * * *", "hour '0-10/20'", "only mean 0"),
        ("*/0 * * * *", "minute '*/0'", "a whole number from 1"),
        ("*/ * * * *", "minute '*/'", "a whole number from 1"),
        ("1/2/3 * * * *", "minute '1/2/3'", "a whole number from 1"),
        ("H * * * *", "minute 'H'", "jitter="),
        ("* h(0-5)/2 * * *", "hour 'h(0-5)/2'", "jitter="),
        ("0 0 R * *", "day of month 'R'", "jitter="),
        ("0 0 15W * *", "day of month '15W'", "only L"),
        ("0 0 L-3 * *", "day of month 'L-3'", "only L"),
        ("0 0 * * 5L", "day of week '5L'", "L5 is the last Friday"),
        ("0 0 * * FRI#6", "day of week 'FRI#6'", "FRI#2 is the second Friday"),
        ("0 0 * * MON-FRI#1", "day of week 'MON-FRI#1'", "FRI#2 is the second Friday"),
        ("0 0 * * FRI#2,MON", "day of week 'FRI#2,MON'", "two schedules"),
        ("0 0 13 * FRI#2", "day of month '13'", "two schedules"),
        ("0 0 L * L5", "day of month 'L'", "two schedules"),
    ],
)
def test_a_bad_field_is_named_with_the_way_out(expr: str, field: str, advice: str) -> None:
    """The error names the expression, the field, its bad part and what to write."""
    with pytest.raises(ConfigurationError) as caught:
        cron(expr)

    for expected in (repr(expr), field, advice):
        assert expected in str(caught.value)


@pytest.mark.parametrize("expr", ["0 0 31 2 *", "0 0 30,31 2 *", "0 0 31 4,6,9,11 ?", "* * 30 FEB *"])
def test_an_expression_that_never_happens_is_refused(expr: str) -> None:
    """A date that no year has is refused with the two fields that exclude each other."""
    with pytest.raises(ConfigurationError, match=r"never happens: no month .* has a day of month"):
        cron(expr)


@pytest.mark.parametrize("expr", ["", "   ", "*", "* * * *", "* * * * * * *"])
def test_a_wrong_number_of_fields_is_told_with_the_right_ones(expr: str) -> None:
    """The error gives the number found and the fields wanted."""
    with pytest.raises(ConfigurationError, match=rf"number of fields is {len(expr.split())}; give five"):
        cron(expr)


def test_an_unknown_alias_is_refused_with_the_known_ones() -> None:
    """An alias that does not exist lists those that do."""
    with pytest.raises(ConfigurationError, match=r"@reboot.*@hourly @daily"):
        cron("@reboot")


@pytest.mark.parametrize("expr", [None, 5, b"* * * * *", ["*"] * 5])
def test_an_expression_that_is_no_string_is_refused_as_clearly(expr: Any) -> None:
    """None and other types get the same kind of error, with the type and an example."""
    with pytest.raises(ConfigurationError, match=rf"{type(expr).__name__}; give a string such as"):
        cron(expr)


def test_what_only_croniter_refuses_is_a_configuration_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """If croniter refuses an expression that passed our checks, its reason is told in the same way."""

    class Strict(croniter):  # type: ignore[misc]
        @classmethod
        def expand(cls, *args: Any, **kwargs: Any) -> Any:
            raise CroniterBadCronError("not on my watch")

    monkeypatch.setattr(cron_expression, "croniter", Strict)

    with pytest.raises(ConfigurationError, match="cron '58 23 27 12 6': not on my watch"):
        cron("58 23 27 12 6")


@st.composite
def elements(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """One element of a field, as text and as the values that it stands for."""
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, 10))
    return draw(
        st.sampled_from(
            [
                ("*", set(range(low, high + 1))),
                (f"*/{step}", set(range(low, high + 1, step))),
                (f"{first}", {first}),
                (f"{first}-{last}", set(range(first, last + 1))),
                (f"{first}-{last}/{step}", set(range(first, last + 1, step))),
                (f"{first}/{step}", set(range(first, high + 1, step))),
            ]
        )
    )


@settings(deadline=None)
@given(st.data())
def test_times_of_day_are_what_the_fields_say_or_the_expression_is_refused(data: st.DataObject) -> None:
    """Whatever hours and minutes are written, they are read as textbook cron reads them, or refused."""
    minutes = data.draw(st.lists(elements(0, 59), min_size=1, max_size=3))
    hours = data.draw(st.lists(elements(0, 23), min_size=1, max_size=3))
    expr = f"{','.join(text for text, _ in minutes)} {','.join(text for text, _ in hours)} * * *"

    never_stepped = any(re.search("[-/]", text) and len(values) == 1 for text, values in (*minutes, *hours))

    if never_stepped:
        with pytest.raises(ConfigurationError, match=r"range of one|never takes its step"):
            parse_expression(expr)
        return
    found = parse_expression(expr)

    assert tuple(sorted(set().union(*(values for _, values in minutes)))) == found.minutes
    assert tuple(sorted(set().union(*(values for _, values in hours)))) == found.hours
    assert (len(found.hours) == 24) is found.every_hour


@settings(deadline=None)
@given(st.text(alphabet="0123456789*/-,LWH#?@ MONFRISTU", max_size=24))
def test_whatever_is_typed_croniter_takes_it_or_we_refuse_it(expr: str) -> None:
    """No text makes anything but a schedule that croniter understands too, or a ConfigurationError."""
    try:
        schedule = cron(expr)
    except ConfigurationError:
        return

    assert croniter.is_valid(schedule.expr)


@pytest.mark.parametrize(
    ("expr", "spacing"),
    [
        ("* * * * *", timedelta(minutes=1)),
        ("* * * * * */20", timedelta(seconds=20)),
        ("0,50 * * * *", timedelta(minutes=10)),
        ("0,50 9 * * *", timedelta(minutes=50)),
        ("0 9,17 * * *", timedelta(hours=8)),
        ("0 1,23 * * *", timedelta(hours=2)),
        ("0 9 * * *", timedelta(days=1)),
        ("0,30 9,10 * * * 0,10", timedelta(seconds=10)),
        ("0 9 1 * *", None),
    ],
)
def test_the_spacing_of_an_expression_is_its_least_distance(expr: str, spacing: timedelta | None) -> None:
    """The least time between two occurrences counts across hours and midnight; dates alone do not tell."""
    assert spacing == parse_expression(expr).spacing()


# Schedules


@pytest.mark.parametrize(
    ("tz", "advice"),
    [
        ("Europe/Pariss", "did you mean Europe/Paris"),
        ("europe/paris", "did you mean Europe/Paris?"),
        ("New York", "did you mean America/New_York?"),
        ("US/Pacfic", "did you mean US/Pacific?"),
        ("Nowhere", "use an IANA name"),
        ("America", "use an IANA name"),
        ("", "use an IANA name"),
        ("../UTC", "use an IANA name"),
        ("/absolute/path", "use an IANA name"),
        (None, "it is a NoneType"),
        (ZoneInfo("UTC"), "it is a ZoneInfo"),
    ],
)
def test_an_unknown_zone_is_refused_with_near_names(tz: Any, advice: str) -> None:
    """A zone that this machine does not know is refused; names that resemble it are offered."""
    with pytest.raises(ConfigurationError, match=re.escape(advice)) as caught:
        cron("0 9 * * *", tz=tz)

    assert repr(tz) in str(caught.value)


@pytest.mark.parametrize("interval", [timedelta(0), timedelta(seconds=-1), 60, None, "PT1H"])
def test_an_interval_is_a_positive_timedelta(interval: Any) -> None:
    """Zero, negative intervals and other types are refused."""
    with pytest.raises(ConfigurationError, match="interval"):
        every(interval)


@pytest.mark.parametrize("when", [datetime(2026, 3, 1, 12), "2026-03-01T12:00Z", None, 5])  # noqa: DTZ001
def test_a_time_is_an_aware_datetime(when: Any) -> None:
    """A naive datetime is refused, and so are other types."""
    with pytest.raises(ConfigurationError, match=r"has no zone|valid datetime"):
        at(when)


def test_a_time_is_kept_in_utc() -> None:
    """The same instant makes the same schedule, whichever zone it was given in."""
    assert at(NOON) == at(NOON.astimezone(ZoneInfo("Asia/Tokyo")))
    assert at(NOON.astimezone(timezone(timedelta(hours=5)))).when.tzinfo is UTC


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"misfire": "later"}, "misfire is 'later': Input should be 'fire_once', 'skip' or 'fire_all'"),
        ({"overlap": None}, "overlap is None"),
        ({"jitter": timedelta(seconds=-1)}, "it only delays"),
        ({"jitter": 5}, "jitter is 5: give a timedelta, such as timedelta(minutes=5)"),
        ({"jitter": timedelta(hours=2)}, "jitter is 2:00:00"),
        ({"catchup": timedelta(0)}, 'misfire="skip"'),
        ({"catchup": timedelta(seconds=59)}, 'misfire="skip"'),
        ({"catchup": "1 day"}, "catchup is '1 day': give a timedelta"),
    ],
)
def test_wrong_policies_are_refused_for_every_repeating_schedule(options: Any, problem: str) -> None:
    """Misfire, overlap, jitter and catchup are checked alike, and the error has the name and the value."""
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        cron("0 * * * *", **options)
    with pytest.raises(ConfigurationError, match=re.escape(problem)):
        every(timedelta(hours=1), **options)


@pytest.mark.parametrize("options", [{"gap": "ignore"}, {"fold": "third"}, {"fold": None}])
def test_wrong_gap_and_fold_are_refused(options: Any) -> None:
    """Gap and fold take their documented values only."""
    with pytest.raises(ConfigurationError, match=r"gap is 'ignore'|fold is"):
        cron("0 9 * * *", **options)


def test_a_jitter_may_be_as_long_as_the_time_between_two_occurrences() -> None:
    """The longest jitter that cannot make occurrences overtake each other is accepted."""
    assert timedelta(hours=1) == cron("0 * * * *", jitter=timedelta(hours=1)).jitter
    assert timedelta(hours=1) == every(timedelta(hours=1), jitter=timedelta(hours=1)).jitter


def test_the_defaults_are_those_of_the_documentation() -> None:
    """A repeating schedule catches up once, within a day, and skips while busy; one time is not given up."""
    expected = Cron(
        expr="0 9 * * *",
        tz="UTC",
        jitter=None,
        misfire="fire_once",
        catchup=timedelta(days=1),
        overlap="skip",
        gap="shift",
        fold="first",
    )

    assert expected == cron("0 9 * * *")
    assert Every(interval=timedelta(hours=1)) == every(timedelta(hours=1))
    assert ("fire_once", timedelta(days=1), "skip") == (
        every(timedelta(hours=1)).misfire,
        every(timedelta(hours=1)).catchup,
        every(timedelta(hours=1)).overlap,
    )
    assert (at(NOON).misfire, at(NOON).catchup, at(NOON).overlap) == ("fire_once", None, "buffer_all")


def schedules() -> st.SearchStrategy[Schedule]:
    """Any schedule with any options."""
    instants = st.timedeltas(timedelta(-40000), timedelta(40000)).map(lambda since: NOON + since)
    options: dict[str, st.SearchStrategy[Any]] = {
        "jitter": st.none() | st.timedeltas(timedelta(0), timedelta(minutes=1)),
        "misfire": st.sampled_from(["fire_once", "skip", "fire_all"]),
        "catchup": st.none() | st.timedeltas(timedelta(minutes=1), timedelta(days=4000)),
        "overlap": st.sampled_from(["skip", "buffer_one", "buffer_all", "cancel_other", "allow"]),
    }
    return st.one_of(
        st.builds(
            cron,
            st.sampled_from(["0 9 * * MON-FRI", "@daily", "*/5 * * * * 30", "0 0 L * *"]),
            tz=st.sampled_from(["UTC", "Europe/Paris", "Australia/Lord_Howe"]),
            gap=st.sampled_from(["shift", "skip"]),
            fold=st.sampled_from(["first", "second", "both"]),
            **options,
        ),
        st.builds(every, st.timedeltas(timedelta(minutes=1), timedelta(days=4000)), **options),
        st.builds(
            lambda when, zone, **rest: at(when.astimezone(zone), **rest), instants, st.timezones(), **options
        ),
    )


@settings(deadline=None)
@given(schedules())
def test_a_schedule_survives_storage(schedule: Schedule) -> None:
    """A schedule that is dumped and loaded is equal, of the same kind, and dumps to the same text."""
    text = dump_schedule(schedule)

    assert schedule == load_schedule(text)
    assert schedule == load_schedule(text.encode())
    assert text == dump_schedule(load_schedule(text))
    assert f'"kind":"{schedule.kind}"' in text


def test_a_stored_schedule_holds_its_defaults() -> None:
    """What is stored says every option, so that a new version's defaults do not change old schedules."""
    text = dump_schedule(cron("0 9 * * *"))

    assert all(f'"{name}":' in text for name in Cron.model_fields)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"kind": "moon"}', '{"kind": "cron"}', '{"kind": "every", "interval": 1, "x": 1}']
)
def test_text_that_is_no_schedule_is_not_loaded(text: str) -> None:
    """Broken text raises ValueError."""
    with pytest.raises(ValueError):
        load_schedule(text)


def test_a_stored_schedule_is_checked_like_a_new_one() -> None:
    """A stored schedule whose zone is gone says so when it is loaded."""
    text = dump_schedule(cron("0 9 * * *", tz="Europe/Paris")).replace("Europe/Paris", "Europe/Pariss")

    with pytest.raises(ConfigurationError, match="did you mean Europe/Paris"):
        load_schedule(text)


def test_schedules_are_values() -> None:
    """Schedules compare and hash by what they say, and do not change."""
    assert {cron("0 9 * * *"), cron(" 0 9  * * *"), at(NOON), at(NOON)} == {cron("0 9 * * *"), at(NOON)}
    with pytest.raises(ValueError, match="frozen"):
        at(NOON).misfire = "skip"  # type: ignore[misc]
    assert isinstance(at(NOON), At)


# Messages


def message(*, from_: str | None = "alice", channel: str = "sms", text: str = "hi") -> Message:
    """A message, inbound from Alice unless told otherwise."""
    return Message(id="m1", text=text, from_=from_, channel=channel, at=NOON)


def test_any_message_of_a_known_person_fits_by_default() -> None:
    """Without arguments every contact's message fits on every channel, in the contact's own session."""
    trigger = on_message()

    assert trigger.fits(message())
    assert trigger.fits(message(from_="bob", channel="email"))
    assert trigger.session_key(message(from_="bob")) == "bob"


def test_a_stranger_wakes_no_agent() -> None:
    """A message whose sender is no contact does not fit, whatever else is asked for."""
    assert not on_message().fits(message(from_=None))
    assert not on_message(channel="sms", key="support").fits(message(from_=None))


@pytest.mark.parametrize(
    "names", ["alice", ["alice", "bob"], {"alice"}, ("alice",), frozenset({"alice", "bob"})]
)
def test_contacts_and_channels_narrow_it(names: Any) -> None:
    """One name or several, in any collection: only those fit."""
    assert on_message(contact=names).fits(message(from_="alice"))
    assert not on_message(contact=names).fits(message(from_="carol"))
    assert on_message(channel=names).fits(message(channel="alice"))
    assert not on_message(channel=names).fits(message(channel="carol"))
    assert not on_message(channel="sms", contact=names).fits(message(from_="carol", channel="sms"))


def test_a_message_key_is_fixed_or_worked_out() -> None:
    """A string is the session's key itself; a function gets the message."""
    assert on_message(key="desk {x}").session_key(message()) == "desk {x}"
    assert (
        on_message(key=lambda event: f"{event.channel}-{event.from_}").session_key(message()) == "sms-alice"
    )


@pytest.mark.parametrize("key", ["", 5, None])
def test_a_key_function_that_gives_no_key_is_told_so(key: Any) -> None:
    """The error has the message or signal and what came instead of a key."""
    with pytest.raises(WakeloopError, match=rf"message m1 is {key!r}; it must be a non-empty string"):
        on_message(key=lambda _: key).session_key(message())
    with pytest.raises(WakeloopError, match=rf"signal s1 is {key!r}; it must be a non-empty string"):
        on_signal("x", key=lambda _: key).session_key(signal())


@pytest.mark.parametrize("key", ["k" * 201, "a\x00b"])
def test_a_key_that_no_store_could_keep_is_refused(key: str) -> None:
    """Whatever a signal from outside says: PostgreSQL indexes no key of thousands of characters, and keeps no NUL."""
    with pytest.raises(WakeloopError, match="it has at most 200, and none of them NUL"):
        on_signal("*", key="{project}").session_key(signal(data={"project": key}))

    assert on_signal("*", key="{project}").session_key(signal(data={"project": "k" * 200})) == "k" * 200


@pytest.mark.parametrize(
    "options",
    [
        {"contact": []},
        {"contact": ""},
        {"contact": 5},
        {"contact": ["alice", 5]},
        {"channel": set()},
        {"key": ""},
        {"key": 5},
    ],
)
def test_wrong_message_triggers_are_refused(options: Any) -> None:
    """Empty collections would never fit and other types are mistakes: both are refused by name."""
    with pytest.raises(ConfigurationError, match=f"on_message: {next(iter(options))} is"):
        on_message(**options)


# Signals


def signal(type: str = "invoice.paid", data: Any = None) -> Signal:
    """A signal."""
    return Signal(type=type, data=data, id="s1", time=NOON)


@pytest.mark.parametrize(
    ("pattern", "type", "fits"),
    [
        ("invoice.paid", "invoice.paid", True),
        ("invoice.paid", "invoice.paid.late", False),
        ("invoice.paid", "Invoice.paid", False),
        ("invoice.*", "invoice.paid", True),
        ("invoice.*", "invoice.eu.paid", True),
        ("invoice.*", "invoice", False),
        ("*.failed", "deploy.failed", True),
        ("*", "anything", True),
    ],
)
def test_a_signal_type_is_exact_or_a_pattern(pattern: str, type: str, fits: bool) -> None:
    """Types compare exactly, letter case included; * stands for any text."""
    assert fits is on_signal(pattern).fits(signal(type))


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        ({"status": "paid", "amount": 5}, True),
        ({"status": "paid", "amount": 5, "more": [1]}, True),
        ({"status": "paid"}, False),
        ({"status": "open", "amount": 5}, False),
        ([1], False),
        ("paid", False),
        (None, False),
    ],
)
def test_fields_of_a_signal_must_equal_those_of_match(data: Any, fits: bool) -> None:
    """Every named field must be there and equal; data without fields does not fit."""
    assert fits is on_signal("invoice.*", match={"status": "paid", "amount": 5}).fits(signal(data=data))


def test_a_missing_field_is_not_a_null_field() -> None:
    """A field that must be null must be there."""
    assert on_signal("*", match={"error": None}).fits(signal(data={"error": None}))
    assert not on_signal("*", match={"error": None}).fits(signal(data={}))


def test_match_may_be_a_function_and_is_asked_only_for_its_type() -> None:
    """A function decides about signals of the type, and never sees others."""
    asked: list[str] = []
    trigger = on_signal("invoice.*", match=lambda event: not asked.append(event.type))

    assert trigger.fits(signal("invoice.paid"))
    assert not trigger.fits(signal("order.paid"))
    assert asked == ["invoice.paid"]


def test_a_match_does_not_change_with_the_dict_it_was_made_of() -> None:
    """The trigger keeps its own copy of the fields."""
    fields: dict[str, Any] = {"status": "paid"}
    trigger = on_signal("*", match=fields)

    fields["status"] = "open"

    assert trigger.fits(signal(data={"status": "paid"}))


@pytest.mark.parametrize(
    ("key", "data", "session"),
    [
        (None, None, "default"),
        ("billing", None, "billing"),
        ("customer-{customer_id}", {"customer_id": "c7"}, "customer-c7"),
        ("{region}/{customer_id}", {"region": "eu", "customer_id": 7}, "eu/7"),
        ("{{{customer_id}}}", {"customer_id": 7}, "{7}"),
        (lambda event: event.data["a"]["b"], {"a": {"b": "deep"}}, "deep"),
    ],
)
def test_a_signal_key_is_fixed_filled_in_or_worked_out(key: Any, data: Any, session: str) -> None:
    """No key is the default session; braces are filled in from the data; a function gets the signal."""
    assert session == on_signal("*", key=key).session_key(signal(data=data))


@pytest.mark.parametrize(
    "data", [None, [], {}, {"customer_id": None}, {"customer_id": {"id": 1}}, {"customer_id": [1]}]
)
def test_a_signal_without_the_key_s_field_says_which(data: Any) -> None:
    """A field that is missing, or is not a text or a number, is an error with the signal and the field."""
    with pytest.raises(
        WakeloopError, match=r"signal s1 of type invoice\.paid has .* for 'customer_id'"
    ) as caught:
        on_signal("*", key="customer-{customer_id}").session_key(signal(data=data))

    assert (caught.value.signal, caught.value.field) == ("s1", "customer_id")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "key", ["", 5, "{", "a}{b", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{0}", "{a-b}"]
)
def test_a_signal_key_that_cannot_be_filled_in_is_refused(key: Any) -> None:
    """Only names of top-level fields go between braces: no paths, conversions or formats."""
    with pytest.raises(ConfigurationError, match="key"):
        on_signal("x", key=key)


@pytest.mark.parametrize(
    "options", [{"type": ""}, {"type": None}, {"type": "x", "match": 5}, {"type": "x", "match": "a"}]
)
def test_wrong_signal_triggers_are_refused(options: Any) -> None:
    """A type is a non-empty string, a match is a dict or a function."""
    with pytest.raises(ConfigurationError, match="on_signal"):
        on_signal(**options)


def test_message_and_signal_triggers_are_values() -> None:
    """Equal triggers are equal and hash alike, with a dict as match too."""
    assert {on_message(contact=["a", "b"]), on_message(contact=["b", "a"])} == {
        on_message(contact={"a", "b"})
    }
    assert {on_signal("x", match={"a": [1]}), on_signal("x", match={"a": [1]})} == {
        on_signal("x", match={"a": [1]})
    }
    assert isinstance(on_message(), OnMessage)
    assert isinstance(on_signal("x"), OnSignal)
