"""Gates: what a call looks like as JSON, to people and as a digest; the options; and that nothing runs by itself."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
import hashlib
import inspect
import pickle
import re
import sys
import typing
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, assert_type, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
)
from tests.ids import stable
from typing_extensions import TypedDict, Unpack

from wakeloop.calls import digest, shown, summary
from wakeloop.engine.failures import describe, rebuild
from wakeloop.errors import (
    ApprovalExpired,
    ConfigurationError,
    Denied,
    InvalidArguments,
    NotPossible,
    NotSerializable,
    WakeloopError,
)
from wakeloop.gate_arguments import GateArguments
from wakeloop.gates import Approval, Escalation, Gate, define_gate, escalations, require_approval
from wakeloop.steps import Step, current_run, step

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # noqa: F401  # pyright: ignore[reportMissingImports]

HOUR = timedelta(hours=1)


class Order(BaseModel):
    sku: str
    quantity: int = Field(default=1, gt=0)
    tags: set[str] = set()


class Express(Order):
    by: str = "plane"


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Group:
    numbers: set[int]


class Groups(BaseModel):
    numbers: set[int] = Field(alias="Numbers")
    groups: list[Group] = []


class Moody:
    """It can be written, but not compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not today")

    __hash__ = None  # type: ignore[assignment]


MoodyValue = Annotated[
    Moody, PlainValidator(lambda given: Moody()), PlainSerializer(lambda value: "moody"), WithJsonSchema({})
]


def _a_point(given: Any) -> Point:
    if not isinstance(given, Point):
        raise ValueError("no point")
    return given


OnlyPoints = Annotated[
    Point, PlainValidator(_a_point), PlainSerializer(lambda point: [point.x]), WithJsonSchema({})
]


class Colour(enum.Enum):
    RED = "red"
    BLUE = 7


class Level(enum.IntEnum):
    LOW = 1


class Login(BaseModel):
    name: str
    password: SecretStr
    hint: str = Field(default="", exclude=True)


class Extras(TypedDict):
    note: str
    copies: int


def pay(amount: float, to: str = "ACME", *, memo: str = "") -> str:
    """Pays."""
    return f"{to} {amount} {memo}"


class FakeRun:
    """A run as the decorator sees it: a loop, and a place to hand the call to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls: list[tuple[Gate, tuple[Any, ...], dict[str, Any]]] = []

    async def run_step(self, step: Step[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise AssertionError("a gated function is no step of its own")

    async def run_gated(self, gate: Gate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Approve what is asked, and carry it out."""
        self.calls.append((gate, args, kwargs))
        arguments = gate.arguments.bind(args, kwargs)
        values, named = gate.arguments.call_with(arguments)
        result = gate.step.function(*values, **named)
        return await result if inspect.isawaitable(result) else result


def in_run(make: Callable[[], Any]) -> tuple[Any, FakeRun]:
    """The result of what is awaited in a run, and the run."""

    async def main() -> tuple[Any, FakeRun]:
        run = FakeRun(asyncio.get_running_loop())
        with current(run):
            return await make(), run

    return asyncio.run(main())


@contextmanager
def current(run: Any) -> Iterator[None]:
    token = current_run.set(run)
    try:
        yield
    finally:
        current_run.reset(token)


def refused(make: Callable[[], Any]) -> dict[str, str]:
    """The problems for which arguments are refused."""
    with pytest.raises(InvalidArguments) as caught:
        make()
    return caught.value.problems


# ---------------------------------------------------------------------- bind, validate, call_with


def test_a_call_becomes_json_by_name_with_its_defaults() -> None:
    """Positional arguments get their names, values their annotated types, and what was not given its default."""
    arguments = GateArguments(pay)

    bound = arguments.bind(("40",), {"memo": "May"})

    assert bound == {"amount": 40.0, "to": "ACME", "memo": "May"}
    assert arguments.names == ("amount", "to", "memo")
    assert arguments.call_with(bound) == ((40.0, "ACME"), {"memo": "May"})


def test_what_is_variable_is_shown_under_its_own_name() -> None:
    """*args is a list and **kwargs an object, even where their parts are called as other parameters are."""

    def mixed(first: int, /, second: str, *rest: Point, flag: bool, **more: Order) -> None: ...

    arguments = GateArguments(mixed)
    bound = arguments.bind((1, "x", Point(2)), {"flag": True, "first": Order(sku="a")})

    assert bound == {
        "first": 1,
        "second": "x",
        "rest": [{"x": 2, "y": 0.0}],
        "flag": True,
        "more": {"first": {"sku": "a", "quantity": 1, "tags": []}},
    }
    assert arguments.call_with(bound) == ((1, "x", Point(2)), {"flag": True, "first": Order(sku="a")})
    assert arguments.bind((1, "x"), {"flag": False})["rest"] == []


def test_keywords_may_be_described_by_a_typed_dict() -> None:
    """With Unpack, each of **kwargs has its own type and must be there."""

    def note(**extras: Unpack[Extras]) -> None: ...

    arguments = GateArguments(note)

    assert arguments.call_with(arguments.bind((), {"note": "x", "copies": "2"})) == (
        (),
        {"note": "x", "copies": 2},
    )
    assert refused(lambda: arguments.bind((), {"note": "x"})) == {"extras.copies": "is missing"}


def test_a_parameter_may_have_any_name_that_python_allows() -> None:
    """Names of pydantic's own, private ones, and self where it is no method."""

    def odd(
        schema: int, json: int, copy: int, model_config: int, _private: int, self: int, a1: int
    ) -> None: ...

    arguments = GateArguments(odd)
    values = dict.fromkeys(inspect.signature(odd).parameters, 1)

    assert arguments.bind((), values) == values
    assert set(arguments.schema["properties"]) == set(values)
    assert set(refused(lambda: arguments.bind((), {}))) == set(values)


WEIRD_NAMES = [
    "schema",
    "json",
    "copy",
    "model_config",
    "_private",
    "self",
    "cls",
    "args",
    "kwargs",
    "a0",
    "größe",
]

VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, st.text()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bytes, st.binary()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (UUID, st.uuids()),
    (date, st.dates()),
    (datetime, st.datetimes(timezones=st.just(UTC))),
    (int | None, st.none() | st.integers()),
    (list[int], st.lists(st.integers(), max_size=3)),
    (set[str], st.sets(st.text(), max_size=3)),
    (tuple[int, str], st.tuples(st.integers(), st.text())),
    (dict[str, float], st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3)),
    (Colour, st.sampled_from(Colour)),
    (Point, st.builds(Point, st.integers(), st.floats(allow_nan=False, allow_infinity=False))),
    (Order, st.builds(Order, sku=st.text(), quantity=st.integers(1), tags=st.sets(st.text(), max_size=3))),
    (Any, st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda part: st.lists(part, max_size=2))),
]  # fmt: skip

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=4), part, max_size=3),
    max_leaves=8,
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """A function of some signature, and arguments that fit it."""
    names = iter(draw(st.permutations(WEIRD_NAMES)))
    parameters: list[Parameter] = []
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    has_default, by_position = False, True
    for kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
        for _ in range(draw(st.integers(0, 2))):
            annotation, strategy = draw(st.sampled_from(VALUES))
            has_default = has_default or draw(st.booleans())
            default = draw(strategy) if has_default else Parameter.empty
            name = next(names)
            parameters.append(Parameter(name, kind, annotation=annotation, default=default))
            if has_default and draw(st.booleans()):
                by_position = False
            elif by_position and (kind is Parameter.POSITIONAL_ONLY or draw(st.booleans())):
                args.append(draw(strategy))
            elif kind is not Parameter.POSITIONAL_ONLY:
                by_position = False
                kwargs[name] = draw(strategy)
    if draw(st.booleans()):
        annotation, strategy = draw(st.sampled_from(VALUES))
        parameters.append(Parameter(next(names), Parameter.VAR_POSITIONAL, annotation=annotation))
        if len(args) == len(parameters) - 1:
            args.extend(draw(st.lists(strategy, max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        annotation, strategy = draw(st.sampled_from(VALUES))
        default = draw(strategy) if draw(st.booleans()) else Parameter.empty
        name = next(names)
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default))
        if default is Parameter.empty or draw(st.booleans()):
            kwargs[name] = draw(strategy)
    if draw(st.booleans()):
        annotation, strategy = draw(st.sampled_from(VALUES))
        parameters.append(Parameter(next(names), Parameter.VAR_KEYWORD, annotation=annotation))
        kwargs.update(draw(st.dictionaries(st.sampled_from(["x", "Y", "_z"]), strategy, max_size=2)))

    def function(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    function.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return function, tuple(args), kwargs


@given(calls())
@settings(deadline=None, max_examples=150)
def test_what_is_called_is_what_was_bound(
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]],
) -> None:
    """Whatever the signature, a call goes to JSON and back to equal arguments in their places, and names itself."""
    function, args, kwargs = call
    arguments = GateArguments(function)
    signature = inspect.signature(function)
    expected = signature.bind(*args, **kwargs)
    expected.apply_defaults()

    bound = arguments.bind(args, kwargs)
    actual = signature.bind(*arguments.call_with(bound)[0], **arguments.call_with(bound)[1])
    actual.apply_defaults()

    assert dict(actual.arguments) == dict(expected.arguments)
    assert list(bound) == list(arguments.names)
    assert digest("f", arguments.validate(bound)) == digest("f", bound)
    assert set(arguments.schema["required"]) == set(bound)


def test_sets_are_put_in_order_so_that_every_process_makes_the_same_of_them() -> None:
    """Also within lists, mappings and models: the order of a set says nothing, and a secret of the process decides it."""

    def f(a: set[int], b: list[frozenset[int]], c: dict[str, Groups], d: set[frozenset[int]]) -> None: ...

    def bound(numbers: list[int]) -> dict[str, Any]:
        some = set(numbers)
        groups = Groups(Numbers=some, groups=[Group(some)])
        return GateArguments(f).bind((some, [frozenset(numbers)], {"x": groups}, {frozenset(numbers)}), {})

    one, other = [0, 8, 16], [16, 8, 0]
    assert list(set(one)) != list(set(other))
    assert bound(one) == bound(other)
    assert bound(one)["c"] == {"x": {"Numbers": [0, 16, 8], "groups": [{"numbers": [0, 16, 8]}]}}


def test_every_wrong_argument_is_named_before_anybody_is_asked() -> None:
    """Types, what is missing, unknown, given twice or in the wrong way, all in one exception, without their values."""

    def strict(first: int, /, second: Order, third: str, *, fourth: float) -> None: ...

    problems = refused(
        lambda: GateArguments(strict).bind(
            ("hunter2",), {"first": 1, "second": {"quantity": 0}, "fourth": float("nan"), "fifth": 5}
        )
    )

    assert set(problems) == {"first", "second.sku", "second.quantity", "third", "fourth", "fifth"}
    assert problems["third"] == problems["second.sku"] == "is missing"
    assert problems["fifth"] == "is no argument of it (it takes: first, second, third, fourth)"
    assert "hunter2" not in str(problems)
    assert refused(lambda: GateArguments(pay).bind((1,), {"amount": 2})) == {"amount": "is given twice"}
    assert refused(lambda: GateArguments(pay).bind((1, "x", "y"), {})) == {
        "(by position)": "there are 3 for the 2 that it takes"
    }


def test_the_refusal_is_a_value_error_with_its_facts() -> None:
    """It names the function and what is wrong, and is of wakeloop's tree."""
    with pytest.raises(InvalidArguments, match=r"^pay was not called, .*amount: is missing$") as caught:
        GateArguments(pay).bind((), {})

    assert isinstance(caught.value, WakeloopError) and isinstance(caught.value, ValueError)
    assert caught.value.function == "pay"


@pytest.mark.parametrize(
    "value",
    [
        SecretStr("hunter2"), {1}, (1,), object(), float("nan"), float("inf"), {1: 2}, {"deep": [{1}]}, "\ud800", 10**5000,
        b"bytes", datetime.now(UTC), Order(sku="x"), Colour.RED, Level.LOW, iter([1]), len,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_does_not_bring_back_is_refused_with_its_name(value: Any) -> None:
    """Without an annotation only plain JSON passes, for a person would approve something else than is called."""

    def plain(first, second) -> None:  # type: ignore[no-untyped-def]
        ...

    problems = refused(lambda: GateArguments(plain).bind((1,), {"second": value}))

    assert list(problems) == ["second"]
    assert type(value).__name__ in problems["second"]
    assert "hunter2" not in str(problems)


def test_what_an_annotated_type_hides_or_changes_is_refused_too() -> None:
    """Secrets, fields that are left out, parts of a subclass, and validators that change the value each time."""

    def log_in(who: Login) -> None: ...
    def order(what: Order) -> None: ...
    def mood(value: MoodyValue) -> None: ...
    def draw(point: OnlyPoints) -> None: ...
    def double(number: Annotated[int, AfterValidator(lambda number: number * 2)]) -> None: ...

    login = Login(name="a", password=SecretStr("hunter2"), hint="b")
    assert list(refused(lambda: GateArguments(log_in).bind((login,), {}))) == ["who"]
    assert list(refused(lambda: GateArguments(order).bind((Express(sku="x"),), {}))) == ["what"]
    assert list(refused(lambda: GateArguments(mood).bind((1,), {}))) == ["value"]
    assert list(refused(lambda: GateArguments(draw).bind((Point(1),), {}))) == ["point"]
    assert list(refused(lambda: GateArguments(double).bind((1,), {}))) == ["number"]
    assert GateArguments(double).bind((0,), {}) == {"number": 0}


def test_what_a_person_edited_goes_through_the_same_checks() -> None:
    """Values come back in their normal form; wrong, unknown and missing ones are refused, as is what is no JSON."""

    def order(what: Order, express: bool = False, **more: int) -> None: ...

    arguments = GateArguments(order)
    edited = {"what": {"sku": "b", "quantity": "3"}, "express": "yes", "more": {"x": 1}}

    assert arguments.validate(edited) == {
        "what": {"sku": "b", "quantity": 3, "tags": []},
        "express": True,
        "more": {"x": 1},
    }
    problems = refused(
        lambda: arguments.validate(
            {"what": {"sku": "b", "price": 1, "quantity": 0}, "expres": True, "more": {}}
        )
    )
    assert set(problems) == {"expres", "express"}
    assert set(refused(lambda: arguments.validate({**edited, "what": {"quantity": 0}}))) == {
        "what.sku",
        "what.quantity",
    }
    assert set(refused(lambda: arguments.validate({**edited, "express": {1}}))) == {"express"}
    assert set(refused(lambda: arguments.validate({**edited, "more": {"what": 1}}))) == {"more.what"}
    assert set(refused(lambda: arguments.validate([1]))) == {"arguments"}  # type: ignore[arg-type]
    assert set(refused(lambda: arguments.validate({**edited, 5: 1}))) == {"'5'"}  # type: ignore[dict-item]


def test_a_person_s_json_that_is_nested_too_deeply_is_refused() -> None:
    """It is told as any other problem, not as a RecursionError."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    def anything(value: Any) -> None: ...

    assert set(refused(lambda: GateArguments(anything).validate({"value": deep}))) == {"value"}
    with pytest.raises(NotSerializable):
        digest("f", {"value": deep})
    while deep:
        deep = deep.pop()


def test_an_approval_of_what_the_function_no_longer_takes_is_not_carried_out() -> None:
    """After a deploy, what would be added, dropped or read otherwise was not approved by anybody."""

    def before(amount: str) -> None: ...
    def other_type(amount: int) -> None: ...
    def one_more(amount: str, express: bool = True) -> None: ...
    def other_name(sum: str) -> None: ...

    approved = GateArguments(before).bind(("40",), {})

    assert GateArguments(before).call_with(approved) == (("40",), {})
    assert set(refused(lambda: GateArguments(other_type).call_with(approved))) == {"arguments"}
    assert set(refused(lambda: GateArguments(one_more).call_with(approved))) == {"express"}
    assert set(refused(lambda: GateArguments(other_name).call_with(approved))) == {"amount", "sum"}


def test_the_arguments_cannot_be_changed_after_they_were_approved() -> None:
    """The function gets what the JSON says, not the objects of the caller, nor a default that it shares."""

    def collect(items: list[int], into: list[int] = []) -> None: ...  # noqa: B006

    items = [1]
    arguments = GateArguments(collect)
    bound = arguments.bind((items,), {})
    items.append(2)
    first, _ = arguments.call_with(bound)
    first[1].append(9)

    assert bound == {"items": [1], "into": []}
    assert arguments.call_with(bound) == (([1], []), {})


def test_the_schema_is_a_form_in_which_everything_is_filled_in() -> None:
    """One object with each argument's type, its default, and no others allowed."""
    schema = GateArguments(pay).schema

    assert schema["required"] == ["amount", "to", "memo"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["amount"]["type"] == "number"
    assert schema["properties"]["to"]["default"] == "ACME"
    assert schema["title"] == "pay"


def test_a_default_of_none_means_that_none_is_allowed() -> None:
    """As people write it: `when: date = None`."""

    def book(when: date = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    arguments = GateArguments(book)

    assert arguments.validate(arguments.bind((), {})) == {"when": None}
    assert arguments.bind(("2026-11-02",), {}) == {"when": "2026-11-02"}


def test_constraints_and_aliases_of_an_annotation_do_not_change_an_argument_s_name() -> None:
    """Annotated[…, Field(...)] constrains the value; the name is the function's."""

    def buy(count: Annotated[int, Field(alias="other", gt=1, exclude=True)]) -> None: ...

    assert GateArguments(buy).bind((2,), {}) == {"count": 2}
    assert set(refused(lambda: GateArguments(buy).bind((1,), {}))) == {"count"}


@pytest.mark.parametrize(
    "annotation",
    [
        "Callable[[], int]",
        "Connection",
        "Unknown",
        "asyncio.Queue[int]",
        "list[Connection]",
        "5",
        "typing.TypeVar",
    ],
)
def test_a_parameter_that_nobody_can_be_shown_is_refused_where_it_is_written(annotation: str) -> None:
    """The decorator tells which one, and what to do about it."""

    def run(query: str, on: Any) -> None: ...

    run.__annotations__["on"] = annotation
    with pytest.raises(ConfigurationError, match=r"run cannot be gated: .*'on'") as caught:
        require_approval("cfo")(run)

    assert "id by which" in str(caught.value) or "at the top of the module" in str(caught.value)


class Connection:
    pass


@pytest.mark.parametrize("default", [object(), "many", SecretStr("x"), Field(default=3), ...], ids=stable)
def test_a_default_that_nobody_can_be_shown_is_refused_where_it_is_written(default: Any) -> None:
    """It would be filled in, and then be refused by every call."""

    def run(count: int = default) -> None: ...

    if default is ...:
        assert GateArguments(run).bind((1,), {}) == {"count": 1}
    else:
        with pytest.raises(ConfigurationError, match="the default of its argument 'count'"):
            GateArguments(run)


def test_a_function_whose_arguments_python_does_not_know_is_refused() -> None:
    """Some functions written in C do not tell their signature."""
    with pytest.raises(ConfigurationError, match="a function of your own"):
        require_approval("cfo")(dict.update)


def test_classes_around_a_function_are_found() -> None:
    """An annotation may name what is known only where the function is written."""

    class Local(BaseModel):
        name: str

    def greet(who: Local) -> str:
        return Local.__name__ + who.name

    @require_approval("cfo")
    def again(who: Local, times: int) -> Any:
        return again(Local(name=who.name), times - 1)

    assert cast(Any, again).__gate__.arguments.names == ("who", "times")
    assert GateArguments(greet).bind((Local(name="x"),), {}) == {"who": {"name": "x"}}


# ---------------------------------------------------------------------- digest


def json_equal(one: Any, other: Any) -> bool:
    """Equality of JSON values: numbers by value, true is no 1, names in any order."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(json_equal(part, other[key]) for key, part in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return bool(one == other)


def _retold(value: Any, draw: st.DrawFn) -> Any:
    """An equal value, written otherwise; now and then not quite an equal one."""
    if isinstance(value, dict):
        return {key: _retold(value[key], draw) for key in draw(st.permutations(list(value)))}
    if isinstance(value, list):
        return [_retold(part, draw) for part in value]
    choices = [value]
    if isinstance(value, float) and value.is_integer():
        choices.append(int(value))
    if isinstance(value, int):
        choices += [bool(value), value + 1, str(value)]
        if abs(value) < 2**1000:
            choices.append(float(value))
    return draw(st.sampled_from(choices))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    one = draw(JSON)
    return one, draw(JSON) if draw(st.booleans()) else _retold(one, draw)


@given(pairs())
def test_digests_are_equal_where_the_json_is_and_nowhere_else(pair: tuple[Any, Any]) -> None:
    """The order of names, and 1 against 1.0, make no difference; everything else does."""
    one, other = pair

    assert (digest("pay", {"x": one}) == digest("pay", {"x": other})) == json_equal(one, other)


def test_a_digest_is_of_the_canonical_form_of_rfc_8785() -> None:
    """The RFC's own examples (3.2.2 and 3.2.3): numbers, escapes, and names sorted by UTF-16 units."""
    arguments = {
        "numbers": [333333333.33333329, 4.50, 2e-3, 1e-27, 1e20, -0.0, 1e-6, 1.5e-7],
        "string": "\u20ac$\u000f\u000aA'B\"\\\\\"/",
        "literals": [None, True, False],
        "\ufb33": 1, "😀": 2, "\r": 3, "1": 4, "\u0080": 5, "ö": 6, "€": 7,
    }  # fmt: skip
    canonical = (
        '{"action":"pay","args":{"\\r":3,"1":4,"literals":[null,true,false],'
        '"numbers":[333333333.3333333,4.5,0.002,1e-27,100000000000000000000,0,0.000001,1.5e-7],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/","\u0080":5,"ö":6,"€":7,"😀":2,"\ufb33":1}}'
    )

    assert digest("pay", arguments) == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def test_large_whole_numbers_never_share_a_digest() -> None:
    """Where RFC 8785 rounds to a double, all digits count; the action counts too."""
    assert digest("pay", {"x": 2**53}) != digest("pay", {"x": 2**53 + 1})
    assert digest("pay", {"x": 10**22}) == digest("pay", {"x": 1e22})
    assert digest("pay", {"x": 1}) != digest("repay", {"x": 1})


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        (1,),
        {1: 2},
        {None: 1},
        {"\ud800": 1},
        "\ud800",
        b"",
        Level.LOW,
        object(),
        10**5000,
    ],
    ids=repr if sys.version_info < (3, 11) else (lambda value: type(value).__name__),
)
def test_what_is_no_json_has_no_digest(value: Any) -> None:
    """It is refused, never turned into something else."""
    with pytest.raises(NotSerializable):
        digest("pay", {"x": [value]})


# ---------------------------------------------------------------------- shown, summary

NASTY = st.text(
    st.sampled_from(
        "ab:'\"\\|… \t\n\r\v\f\x00\x1b\x85\u2028\u2029\u202e\u2066\u200b\u200d\u3164\u00a0é👍\ud800"
    )
    | st.characters()
)
LINES = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


@given(
    st.dictionaries(
        NASTY,
        NASTY | st.recursive(NASTY | JSON, lambda part: st.lists(part) | st.dictionaries(NASTY, part), max_leaves=5),
        max_size=4,
    ),
    st.integers(0, 300),
)  # fmt: skip
def test_no_value_can_look_like_another_argument(arguments: dict[str, Any], limit: int) -> None:
    """However it is written, a value stays on its own line, or on lines that are marked, within its limit; so does a
    name."""
    told = shown(arguments, limit=limit)
    lines = summary("pay", arguments, limit=10**9).split("\n")

    assert len(told) == len(arguments)
    for (name, text, _), value in zip(told, arguments.values(), strict=True):
        rows = LINES.split(text)
        assert len(rows) == 1 or all(row == "|" or row.startswith("| ") for row in rows)
        assert (len(rows) > 1) == text.startswith("|")
        assert name.isidentifier() or name[0] == name[-1] in "'\""
        assert len(LINES.split(name)) == 1
        if isinstance(value, str) and len(rows) == 1:
            quote = text[0]
            assert text[-1] == quote and quote in "'\""
            assert quote not in re.sub(r"\\.", "", text[1:-1])
        for character in name + text:
            hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
            assert not hidden or character in "\n\u200c\u200d"
    assert sum(not line.startswith("    |") for line in lines) == 1 + len(arguments)


@given(NASTY | JSON, st.integers(3, 300))
def test_a_value_that_is_shown_whole_says_so(value: Any, limit: int) -> None:
    """What is marked as whole has all of its letters; what is marked as shortened has the sign for it, and is short."""
    ((_, text, shortened),) = shown({"x": value}, limit=limit)

    if shortened:
        assert "…" in text
        assert len(text) <= 4 * limit + 10
    elif isinstance(value, str):
        assert all(character in text for character in value if character.isalnum() and character != "\u3164")


def test_values_are_shown_as_people_read_them() -> None:
    """Text in quotes, numbers without needless digits, and structure in one line."""
    arguments = {
        "amount": 40.0,
        "to": "ACME",
        "who": "O'Brien",
        "path": "C:\\new",
        "ok": True,
        "none": None,
        "order": {"sku": "a'b", "card number": [1, 2.5]},
        "body": "Dear Bob,\r\n\r\n\tto: me",
    }

    assert [text for _, text, _ in shown(arguments)] == [
        "40",
        "'ACME'",
        '"O\'Brien"',
        "'C:\\\\new'",
        "true",
        "null",
        "{sku: \"a'b\", 'card number': [1, 2.5]}",
        "| Dear Bob,\n|\n|  to: me",
    ]
    assert not any(shortened for _, _, shortened in shown(arguments))


def test_what_hides_is_shown_and_what_needs_joining_is_joined() -> None:
    """Overrides, control characters and zero-width letters become visible; emoji and Persian stay as they are."""
    arguments = {
        "a": "ACME\u202e\x1b[2J\u200b",
        "b": "al\u200dice",
        "c": "👨\u200d👩",
        "d": "می\u200cخواهم",
        "e": "1\u00a0000",
    }

    assert [text for _, text, _ in shown(arguments)] == [
        "'ACME��[2J�'", "'al�ice'", "'👨\u200d👩'", "'می\u200cخواهم'", "'1 000'",
    ]  # fmt: skip
    assert shown({"a": "ok" + " " * 100 + "amount: 5"})[0][1] == "'ok [100 spaces] amount: 5'"


def test_long_values_lose_their_middle_and_structures_their_end() -> None:
    """So neither can a cut open a text's quotes, nor the end of a text be hidden."""
    long = {
        "text": "a" * 300 + "z",
        "rows": "\n".join("abcdefgh"),
        "nested": {"x": "'" * 300, "y": 1},
        "list": [1] * 300,
    }

    texts = {name: text for name, text, shortened in shown(long, limit=40) if shortened}

    assert set(texts) == set(long)
    assert texts["text"] == "'" + "a" * 26 + "…" + "a" * 12 + "z'"
    assert texts["nested"] == '{x: "' + "'" * 8 + "…" + "'" * 3 + '", y: 1}'
    assert texts["list"].startswith("[1, 1, ") and texts["list"].endswith("…") and len(texts["list"]) == 40
    assert texts["rows"] == "| a\n| …\n| h"
    assert shown({"rows": "\n".join("abcdefgh")}, limit=100)[0][1] == "| a\n| b\n| c\n| …\n| g\n| h"


def test_a_summary_is_a_line_for_each_argument() -> None:
    """The action, then every argument, those of several lines marked at each."""
    assert summary("pay", {"amount": 40, "to": "ACME"}) == "pay\n  amount: 40\n  to: 'ACME'"
    assert summary("pay\nto: me", {"note": "a\nto: me"}) == "pay�to: me\n  note:\n    | a\n    | to: me"
    assert summary("stop", {}) == "stop"


@given(st.dictionaries(NASTY, JSON | NASTY, max_size=6), st.integers(40, 400))
def test_a_summary_keeps_its_limit_and_says_what_it_leaves_out(arguments: dict[str, Any], limit: int) -> None:
    """All arguments are there, or how many are not is told."""
    text = summary("pay", arguments, limit=limit)

    assert len(text) <= limit
    entries = sum(not line.startswith("    |") for line in text.split("\n")) - 1
    left_out = re.search(r"^  … and (\d+) more that are not shown$", text, re.MULTILINE)
    assert entries - 1 + int(left_out[1]) == len(arguments) if left_out else entries == len(arguments)


def test_what_is_shown_never_fails() -> None:
    """Even for values that no journal would take."""
    deep: Any = 1
    for _ in range(50):
        deep = [deep]

    odd: dict[Any, Any] = {
        "a": float("inf"),
        "b": 10**5000,
        "c": deep,
        "d": date(2026, 1, 2),
        "e": 10**400,
        5: 1,
    }
    texts = {name: text for name, text, _ in shown(odd)}

    assert texts["a"] == "inf" and texts["b"].startswith("0x") and texts["c"].endswith("…" + "]" * 21)
    assert texts["e"].startswith("1000") and texts["d"] == "'2026-01-02'" and texts["'5'"] == "1"


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ((), []),
        (Escalation(after=HOUR, to="bob"), [(HOUR, "bob", None)]),
        ([(HOUR, "bob")], [(HOUR, "bob", None)]),
        ([(3600, "bob")], [(HOUR, "bob", None)]),
        ([("bob", HOUR)], [(HOUR, "bob", None)]),
        ([["bob", 3600.0]], [(HOUR, "bob", None)]),
        ([(HOUR, "bob", "email")], [(HOUR, "bob", "email")]),
        ([(HOUR, None, "email")], [(HOUR, None, "email")]),
        ([{"after": 3600, "to": "bob"}, {"after": HOUR / 2, "via": "sms"}], [(HOUR / 2, None, "sms"), (HOUR, "bob", None)]),
        ({"after": HOUR, "to": "bob", "via": "sms"}, [(HOUR, "bob", "sms")]),
        ([(2, "c"), (1, "b"), (1, "a")], [(timedelta(seconds=1), "b", None), (timedelta(seconds=1), "a", None), (timedelta(seconds=2), "c", None)]),
    ],
)  # fmt: skip
def test_a_timetable_may_be_written_in_several_ways(written: Any, expected: list[Any]) -> None:
    """They come out as one kind of record, the earliest first."""
    assert [(one.after, one.to, one.via) for one in escalations(written)] == expected


@pytest.mark.parametrize(
    "written",
    [
        "bob", ["bob"], 5, None, [None], [("bob",)], [(HOUR,)], (HOUR, "bob"), [("bob", "email")], [(HOUR, 5, "x")],
        [(True, "bob")], [(0, "bob")], [(-HOUR, "bob")], [(float("nan"), "bob")], [(1e300, "bob")], [(HOUR, "")],
        [(HOUR, "a", "b", "c")], [(HOUR, None)], [{"to": "bob"}], [{"after": 1, "to": "bob", "who": 1}], [{"after": "1h", "to": "bob"}],
        [{"after": 1, "to": 5}], [b"bob"],
    ],
    ids=repr,
)  # fmt: skip
def test_an_escalation_without_a_time_and_a_name_is_refused(written: Any) -> None:
    """The exception tells the form to write, or what is wrong with the time."""
    with pytest.raises(ConfigurationError, match=r"timedelta\(hours=2\), \"bob\"|seconds"):
        escalations(written)


@pytest.mark.parametrize("after", [3600, timedelta(0), -HOUR, None])
def test_an_escalation_record_takes_a_time_to_come(after: Any) -> None:
    """A timedelta of more than zero."""
    with pytest.raises(ConfigurationError, match="timedelta of more than zero"):
        Escalation(after=after, to="bob")


def test_a_gate_holds_its_options_as_they_will_be_used() -> None:
    """Times in seconds, names in tuples, everything else as written."""
    gate = define_gate(
        pay, by=["cfo", "board", "cfo"], reject_options=["too much", "later"], edit=True, timeout=HOUR, escalate=[(60, "ceo")],
        quorum=2, when=lambda amount: amount > 10, remind=90, via="sms", urgent=True, four_eyes=True, name="pay out",
    )  # fmt: skip

    assert (gate.action, gate.by, gate.reject_options, gate.edit) == (
        "pay out",
        ("cfo", "board"),
        ("too much", "later"),
        True,
    )
    assert (gate.timeout, gate.remind, gate.quorum, gate.via, gate.urgent, gate.four_eyes) == (
        3600, 90, 2, "sms", True, True,
    )  # fmt: skip
    assert gate.escalate == (Escalation(after=timedelta(minutes=1), to="ceo"),)
    assert gate.function is pay and isinstance(gate.arguments, GateArguments)
    with pytest.raises(dataclasses.FrozenInstanceError):
        gate.quorum = 1  # type: ignore[misc]


def test_a_gated_function_becomes_a_step_that_is_never_repeated_by_itself() -> None:
    """One approval is for one execution, unless the author made it a step with other options."""
    plain = define_gate(pay, by="cfo")
    chosen = define_gate(step(retries=3, name="wire")(pay), by="cfo")
    renamed = define_gate(step(retries=3, name="wire")(pay), by="cfo", name="wire money")

    assert (plain.step.options.idempotent, plain.step.name, plain.action) == (False, "pay", "pay")
    assert (chosen.step.options.idempotent, chosen.step.options.retries, chosen.action) == (True, 3, "wire")
    assert (renamed.step.name, renamed.action) == ("wire", "wire money")
    assert chosen.function is pay and chosen.arguments.names == ("amount", "to", "memo")


async def _condition(amount: float) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": []}, "names nobody"),
        ({"by": ""}, "contacts"),
        ({"by": ["cfo", " "]}, "contacts"),
        ({"by": ["cfo", 5]}, "not 5"),
        ({"by": 5}, "not 5"),
        ({"by": None}, "not None"),
        ({"by": b"cfo"}, "contacts"),
        ({"by": {"cfo": 1}}, "contacts"),
        ({"quorum": 0}, "quorum must be a whole number from 1"),
        ({"quorum": True}, "quorum must be"),
        ({"quorum": 1.0}, "quorum must be"),
        ({"timeout": 0}, "timeout must be more than zero"),
        ({"timeout": -HOUR}, "timeout must be more than zero"),
        ({"timeout": "1h"}, "timeout must be seconds or a timedelta"),
        ({"timeout": True}, "timeout must be seconds or a timedelta"),
        ({"timeout": float("inf")}, "timeout must be a number of seconds"),
        ({"remind": -1}, "remind must be more than zero"),
        ({"reject_options": "too much"}, r"not 'too much'"),
        ({"reject_options": ["no", 5]}, "not 5"),
        ({"reject_options": [""]}, "reasons"),
        ({"reject_options": ["No", "no"]}, "twice"),
        ({"reject_options": None}, "reasons"),
        ({"edit": 1}, "edit must be True or False"),
        ({"edit": ["amount"]}, "edit must be True or False"),
        ({"urgent": "yes"}, "urgent must be True or False"),
        ({"four_eyes": None}, "four_eyes must be True or False"),
        ({"via": ""}, "via must be"),
        ({"via": ["sms"]}, "via must be"),
        ({"name": ""}, "name must be text"),
        ({"name": 5}, "name must be text"),
        ({"escalate": ["bob"]}, "timedelta"),
        ({"when": True}, "when must be a function"),
        ({"when": _condition}, "when must be a plain function"),
        ({"when": functools.partial(_condition)}, "when must be a plain function"),
        ({"when": step(_condition)}, "when must be a plain function"),
        ({"when": step(lambda amount: True)}, "when must be a plain function"),
        ({"when": lambda price: True}, r"when asks for 'price', .*amount, to, memo"),
    ],
    ids=stable,
)  # fmt: skip
def test_options_with_which_nothing_could_be_decided_are_refused(options: dict[str, Any], words: str) -> None:
    """Where it is written, with the function's name and what to write."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        require_approval(**{"by": "cfo", **options})(pay)

    assert "pay" in str(caught.value) or "escalate" in options


def test_a_group_may_be_asked_for_more_voices_than_names() -> None:
    """A group is written as a contact is, so the number of names says nothing about that of people."""
    assert define_gate(pay, by="board", quorum=3).quorum == 3


@pytest.mark.parametrize(
    "bare",
    [pay, step(pay), staticmethod(pay), classmethod(cast(Any, pay)), len],
    ids=lambda one: type(one).__name__,
)
def test_the_decorator_without_anybody_s_name_tells_how_to_write_it(bare: Any) -> None:
    """`@require_approval` directly above a function."""
    with pytest.raises(ConfigurationError, match=r'write @require_approval\("cfo"\) above (pay|len)'):
        require_approval(bare)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (staticmethod(pay), "write @staticmethod above @require_approval"),
        (classmethod(cast(Any, pay)), "write @classmethod above @require_approval"),
        (5, "needs a function below it, not 5"),
        (Order, "needs a function below it"),
        (require_approval("cto")(pay), r'by=\["cfo", "cto"\], quorum=2'),
        (step(require_approval("cto")(pay)), r'by=\["cfo", "cto"\], quorum=2'),
    ],
    ids=stable,
)  # fmt: skip
def test_what_is_no_function_of_its_own_is_refused(function: Any, words: str) -> None:
    """Descriptors below the decorator, classes, and what is gated already."""
    with pytest.raises(ConfigurationError, match=words):
        require_approval("cfo")(function)


def test_a_generator_is_refused() -> None:
    """It would run when it is looped over, not when it was approved."""

    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="generator"):
        require_approval("cfo")(rows)


# ---------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("when", "amount", "expected"),
    [
        (None, 1, True),
        (lambda amount: amount > 10, 11, True),
        (lambda amount: amount > 10, 10, False),
        (lambda *, to, **rest: rest == {"amount": 10.0, "memo": ""} and to == "ACME", 10, True),
        (lambda amount, /, memo: amount > 10 and memo == "", 11, True),
        (lambda amount, limit=100: amount > limit, 11, False),
        (lambda **everything: everything["amount"] > 10, 10, False),
        (lambda *others: bool(others), 10, False),
        (lambda: 0, 11, False),
        (lambda: 1 / 0, 1, True),
        (lambda amount: amount.no_such, 1, True),
        (lambda amount: _condition(amount), 1, True),
        (dict, 1, True),
    ],
)
def test_a_condition_decides_by_the_real_values(when: Any, amount: float, expected: bool) -> None:
    """It gets those arguments that it names; an exception, or something to await, never lets a call through."""
    gate = define_gate(pay, by="cfo", when=when)

    assert gate.needs_approval(gate.arguments.bind((amount,), {})) is expected


def test_a_condition_gets_typed_values_and_a_failure_is_logged_without_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Models are models; what was in the arguments stays out of the log."""
    seen: list[Any] = []

    def buy(what: Order, *points: Point, **more: Colour) -> None: ...

    def look(what: Order, points: list[Point], more: dict[str, Colour]) -> bool:
        seen.extend([what, points, more])
        raise ValueError("hunter2")

    gate = define_gate(buy, by="cfo", when=look)
    with caplog.at_level("WARNING"):
        assert gate.needs_approval(gate.arguments.bind((Order(sku="x"), Point(1)), {"c": "red"}))

    assert seen == [Order(sku="x"), [Point(1)], {"c": Colour.RED}]
    assert "condition of a gate failed" in caplog.text and "error=ValueError" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_condition_is_not_asked_about_arguments_that_do_not_fit() -> None:
    """They could not be called with either."""
    gate = define_gate(pay, by="cfo", when=lambda: False)

    assert set(refused(lambda: gate.needs_approval({}))) == {"amount", "to", "memo"}


# ---------------------------------------------------------------------- the decorator


@require_approval("cfo")
def sync_pay(amount: int, to: str = "ACME") -> str:
    """Pays at once."""
    return f"{to} {amount}"


@require_approval(["cfo", "cto"], quorum=2, name="pay slowly")
async def async_pay(amount: int) -> list[int]:
    """Pays later."""
    return [amount]


@require_approval("cfo")
@step(retries=3)
async def step_pay(amount: int) -> int:
    """Pays, if need be again."""
    return amount


def test_a_gated_function_looks_as_it_did_but_is_awaited() -> None:
    """Name, docstring, signature and type hints are the function's own, for those who read tools from them."""
    for gated, doc in (
        (sync_pay, "Pays at once."),
        (async_pay, "Pays later."),
        (step_pay, "Pays, if need be again."),
    ):
        assert inspect.iscoroutinefunction(gated) and asyncio.iscoroutinefunction(gated)
        assert inspect.isfunction(gated)
        assert gated.__doc__ == doc
        assert "amount" in inspect.signature(gated).parameters
        assert typing.get_type_hints(gated)["amount"] is int
        assert isinstance(gated.__gate__, Gate)  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
    assert sync_pay.__name__ == "sync_pay" and sync_pay.__qualname__ == "sync_pay"
    assert str(inspect.signature(sync_pay)) == "(amount: 'int', to: 'str' = 'ACME') -> 'str'"


def test_in_a_run_the_call_is_handed_over_with_its_gate() -> None:
    """Nothing is carried out but what the run carries out; the result is the function's."""
    result, run = in_run(lambda: sync_pay(40, to="X"))
    ((gate, args, kwargs),) = run.calls

    assert result == "X 40"
    assert (gate.action, args, kwargs) == ("sync_pay", (40,), {"to": "X"})
    assert in_run(lambda: async_pay(1))[0] == [1]
    assert in_run(lambda: async_pay(1))[1].calls[0][0].action == "pay slowly"
    assert in_run(lambda: step_pay(2))[0] == 2


@pytest.mark.parametrize("gated", [sync_pay, async_pay, step_pay])
def test_outside_a_run_nothing_is_carried_out(gated: Any) -> None:
    """Not without a run, nor elsewhere than on the run's own loop, such as in a step: the exception tells what to do."""
    with pytest.raises(NotPossible, match=r"with the approval of cfo.* wakeloop\.Client"):
        asyncio.run(gated(1))

    elsewhere = FakeRun(asyncio.new_event_loop())
    with current(elsewhere), pytest.raises(NotPossible):
        asyncio.run(gated(1))
    elsewhere.loop.close()
    assert elsewhere.calls == []


class Bank:
    """Methods of every kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    @require_approval("cfo")
    def transfer(self, amount: int) -> str:
        return f"{self.name} {amount}"

    @require_approval("cfo")
    @step(retries=2)
    async def wire(self, amount: int) -> str:
        return f"{self.name} wires {amount}"

    @classmethod
    @require_approval("cfo")
    def open(cls, name: str) -> str:
        return f"{cls.__name__} {name}"

    @staticmethod
    @require_approval("cfo")
    async def close(name: str) -> str:
        return f"closed {name}"


def test_a_method_s_instance_is_no_argument() -> None:
    """It is handed on unseen; what is shown, and digested, are the arguments."""
    bank = Bank("ACME")

    for call, expected in (
        (lambda: bank.transfer(5), "ACME 5"),
        (lambda: Bank.transfer(bank, amount=5), "ACME 5"),
        (lambda: bank.wire(5), "ACME wires 5"),
        (lambda: Bank.open("x"), "Bank x"),
        (lambda: bank.open("x"), "Bank x"),
        (lambda: Bank.close("x"), "closed x"),
        (lambda: bank.close("x"), "closed x"),
    ):
        result, run = in_run(call)
        ((gate, args, kwargs),) = run.calls
        assert result == expected
        assert bank not in args and Bank not in args
        assert set(gate.arguments.bind(args, kwargs)) in ({"amount"}, {"name"})
    gate = in_run(lambda: bank.wire(5))[1].calls[0][0]
    assert (gate.step.options.retries, gate.step.is_async, gate.action) == (2, True, "wire")


def test_a_method_without_its_instance_is_refused() -> None:
    """As Python would, before anybody is asked."""
    with pytest.raises(InvalidArguments, match="transfer is a method"):
        in_run(lambda: Bank.transfer(amount=5))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_self_is_an_argument_like_any_other_outside_a_class_or_with_a_type() -> None:
    """Nothing that a caller chooses may stay unseen because of its name."""

    def plain(self, amount: int) -> None:  # type: ignore[no-untyped-def]
        ...

    assert GateArguments(plain).names == ("self", "amount")
    assert GateArguments(Bank.__dict__["transfer"].__wrapped__).names == ("amount",)


def test_partials_and_objects_that_are_called_can_be_gated() -> None:
    """What is given already is not asked about."""

    class Printer:
        def __call__(self, text: str) -> str:
            return text

    partial = require_approval("cfo")(functools.partial(pay, 5, memo="x"))

    assert in_run(lambda: partial("me"))[0] == "me 5.0 x" or in_run(lambda: partial("me"))[0] == "me 5 x"
    assert partial.__name__ == "partial"
    assert in_run(lambda: require_approval("cfo")(Printer())("hello"))[0] == "hello"


async def _the_types_are_seen_by_type_checkers() -> None:
    assert_type(await sync_pay(1), str)
    assert_type(await async_pay(1), list[int])
    assert_type(await step_pay(1), int)
    assert_type(await Bank("x").transfer(1), str)
    assert_type(await Bank("x").wire(1), str)
    assert_type(await Bank.open("x"), str)
    await sync_pay("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------------- records and exceptions


def test_an_approval_is_a_record_of_who_decided_what() -> None:
    """Frozen, by keyword, with what is usually empty left out."""
    approval = Approval(
        args={"amount": 40}, by="cfo", approvers=("cfo",), channel="sms", at=datetime(2026, 1, 1, tzinfo=UTC), request="q1"
    )  # fmt: skip

    assert (approval.comment, approval.option, approval.edited) == ("", None, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        approval.by = "me"  # type: ignore[misc]


@pytest.mark.parametrize(
    "error",
    [
        Denied("no", comment="too much", option="later", by="cfo", request="q1"),
        Denied("no", comment="", option=None, by="cfo", request="q1"),
        ApprovalExpired("too late", request="q1", by="cfo", action="pay"),
        InvalidArguments("pay: wrong", function="pay", problems={"amount": "is missing"}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_exceptions_come_back_from_pickle_and_from_the_journal(error: WakeloopError) -> None:
    """Same class, same words, same facts."""
    for back in (pickle.loads(pickle.dumps(error)), rebuild(describe(error), "pay")):
        assert type(back) is type(error)
        assert str(back) == str(error)
        for name in type(error).__annotations__:
            assert getattr(back, name) == getattr(error, name)


def test_too_late_is_not_no() -> None:
    """Whoever catches the one does not get the other; too late is a TimeoutError."""
    assert not issubclass(ApprovalExpired, Denied) and not issubclass(Denied, ApprovalExpired)
    assert issubclass(ApprovalExpired, TimeoutError) and issubclass(ApprovalExpired, WakeloopError)
    assert issubclass(Denied, WakeloopError) and not issubclass(Denied, TimeoutError)
