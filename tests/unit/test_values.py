"""Journal values: whatever is dumped comes back equal, or is refused on the spot with its place and its type."""

# ruff: noqa: DTZ001

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr
from tests.ids import stable
from typing_extensions import TypedDict

from wakeloop.engine.values import (
    JSON_CODEC,
    VALUE_LIMIT_BYTES,
    Codec,
    codec_for,
    result_codec,
    return_annotation,
)
from wakeloop.errors import NotSerializable, ValueTooLarge

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = 7


class Level(enum.IntEnum):
    LOW = 1


class Point(BaseModel):
    x: int = 0
    y: float = 0.0


class Point3(Point):
    z: int = 0


class Box(BaseModel, Generic[T]):
    content: T


class Tree(BaseModel):
    value: Decimal
    leaves: list[Tree] = []


class Blob(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
    data: bytes
    level: float = 0.0


class Login(BaseModel):
    name: str
    password: SecretStr


class Cached(BaseModel):
    size: int = 1
    _cache: dict[str, int] = PrivateAttr(default_factory=dict)


class Forgetful(BaseModel):
    kept: int = 1
    dropped: int = Field(default=1, exclude=True)


@dataclasses.dataclass
class Parcel:
    data: bytes
    weight: float
    at: datetime | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class NoEquality:
    number: int


class Row(TypedDict):
    key: bytes
    when: date


class Pair(NamedTuple):
    left: Decimal
    right: bytes


GOOD: list[tuple[Any, Any]] = [
    (Any, {"a": [1, 2.5, None, True, "ü\x00\n"]}),
    (Any, 2**200),
    (Any, -0.0),
    (Any, 5e-324),
    (Any, ""),
    (int, True),
    (float, 3),
    (float, math.inf),
    (bool | int, 1),
    (int | float, 1.0),
    (int | str, "5"),
    (str | None, None),
    (None, None),
    (bytes, b"\xff\xfe\x00"),
    (list[bytes], [b"", b"\x80"]),
    (dict[str, bytes], {"a": b"\xff"}),
    (Decimal, Decimal("0.10000000000000000000000000001")),
    (Decimal | None, Decimal("1E+3")),
    (datetime, datetime(2026, 11, 1, 1, 30, 0, 123456, tzinfo=ZoneInfo("America/New_York"))),
    (datetime, datetime(2026, 11, 1, 1, 30)),
    (datetime | str, "next week"),
    (datetime | date, date(2026, 1, 2)),
    (date, date(1, 1, 1)),
    (time, time(1, 2, 3, 4, tzinfo=UTC)),
    (timedelta, timedelta(days=-3, microseconds=1)),
    (UUID, UUID(int=5)),
    (complex, 1 + 2j),
    (Colour, Colour.BLUE),
    (dict[Colour, list[Colour]], {Colour.RED: [Colour.BLUE]}),
    (Level, Level.LOW),
    (Literal["a", 1], 1),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (set[date], {date(2026, 1, 1), date(2026, 1, 2)}),
    (frozenset[int], frozenset({1})),
    (dict[int, str], {1: "a"}),
    (dict[date, dict[int, tuple[Decimal, ...]]], {date(2026, 1, 1): {3: (Decimal("1"),)}}),
    (Point, Point(x=1, y=2.5)),
    (Point | Point3, Point3(z=4)),
    (list[Point | None], [Point(), None]),
    (Box[list[datetime]], Box[list[datetime]](content=[datetime(2026, 1, 1, tzinfo=UTC)])),
    (Tree, Tree(value=Decimal("1"), leaves=[Tree(value=Decimal("2.50"))])),
    (Blob, Blob(data=b"\xff\x00", level=math.inf)),
    (Cached, Cached(size=3)),
    (Parcel, Parcel(b"\xff", -math.inf, datetime(2026, 1, 1, tzinfo=UTC))),
    (list[Parcel], [Parcel(b"\x80", 1.5)]),
    (Row, {"key": b"\xff", "when": date(2026, 1, 1)}),
    (list[Row], [{"key": b"\xff", "when": date(2026, 1, 1)}]),
    (Pair, Pair(Decimal("1"), b"\xff")),
    (Annotated[int, Field(gt=5)], 6),
]


@pytest.mark.parametrize(("annotation", "value"), GOOD, ids=lambda value: stable(value)[:40])
def test_a_value_comes_back_equal_by_its_annotation(annotation: Any, value: Any) -> None:
    """What an annotation allows comes back equal, and the second time the same."""
    codec = Codec(annotation)

    text = codec.dump(value, "it")
    back = codec.load(text)

    assert value == back or value.timestamp() == back.timestamp()
    if not isinstance(value, set | frozenset):  # whose order is not part of them
        assert text == codec.dump(back, "it")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (float, math.nan),
        (Any, {"a": [math.nan]}),
        (list[float], [1.0, math.nan]),
        (Parcel, Parcel(b"", math.nan)),
        (Blob, Blob(data=b"", level=math.nan)),
        (dict[str, tuple[float, ...]], {"a": (math.nan, 1.0)}),
        (dict[str, Any], {"a": math.nan}),
    ],
    ids=str,
)
def test_not_a_number_comes_back_as_not_a_number(annotation: Any, value: Any) -> None:
    """NaN, equal to nothing, is no reason to refuse a value."""
    codec = Codec(annotation)

    text = codec.dump(value, "it")

    assert repr(value) == repr(codec.load(text))


@pytest.mark.parametrize(
    ("annotation", "value", "named"),
    [
        (Any, datetime(2026, 1, 1), "datetime.datetime"),
        (Any, (1, 2), "tuple"),
        (Any, {1: "a"}, "dict"),
        (Any, [{"a": {1}}], "list"),
        (Any, object(), "object"),
        (Any, Level.LOW, "Level"),
        (Any, "\ud800", "str"),
        (str, "\udcff", "str"),
        (dict, {"a": datetime(2026, 1, 1)}, "dict"),
        (dict, {1: 2}, "dict"),
        (list, [b"x"], "list"),
        (dict[str, Any], {"price": Decimal("1.5")}, "dict"),
        (list[Any], [(1, 2)], "list"),
        (object, date(2026, 1, 1), "datetime.date"),
        (int, "x", "str"),
        (int, 1.0, "float"),
        (str, 5, "int"),
        (None, 5, "int"),
        (Annotated[int, Field(gt=5)], 3, "int"),
        (Point, Point3(z=3), "Point3"),
        (list[Point], [Point3(z=3)], "list"),
        (Box, Box(content=datetime(2026, 1, 1)), "Box"),
        (Login, Login(name="a", password=SecretStr("hush")), "Login"),
        (SecretStr, SecretStr("hush"), "SecretStr"),
        (Forgetful, Forgetful(dropped=2), "Forgetful"),
        (dict[tuple[int, int], str], {(1, 2): "a"}, "dict"),
        (datetime | str, "2026-01-01T00:00:00", "str"),
        (str | datetime, datetime(2026, 1, 1), "datetime"),
        (Decimal, Decimal("NaN"), "Decimal"),
        (Callable[[], int], len, "builtin_function_or_method"),
    ],
    ids=lambda value: stable(value)[:30],
)
def test_a_value_that_would_come_back_different_is_refused(annotation: Any, value: Any, named: str) -> None:
    """What JSON would quietly turn into something else is refused, with the place, the type and what to do."""
    with pytest.raises(NotSerializable) as caught:
        Codec(annotation).dump(value, "the result of step fetch")

    assert caught.value.where == "the result of step fetch"
    assert named in caught.value.type_name
    assert "the result of step fetch is a " in str(caught.value)
    assert "return" in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (list[Any], [1, {"a": [(1, 2)]}], "its part [1]['a'][0] is a tuple and would come back as a list"),
        (
            dict[str, Any],
            {"price": Decimal("1")},
            "its part ['price'] is a decimal.Decimal and would come back as a str",
        ),
        (dict, {1: 2}, "it would come back different"),
        (
            Login,
            Login(name="a", password=SecretStr("hush")),
            "its part ['password'] would come back different",
        ),
        (object, date(2026, 1, 1), "it would come back as a str"),
    ],
    ids=str,
)
def test_a_refusal_names_the_part_that_would_not_come_back(annotation: Any, value: Any, words: str) -> None:
    """In a large value, the path to the odd part is told, with its type and what it would become."""
    with pytest.raises(NotSerializable) as caught:
        Codec(annotation).dump(value, "it")

    assert words in str(caught.value)


def test_a_secret_is_not_printed_when_it_is_refused() -> None:
    """An error about a value does not tell what a SecretStr hides."""
    with pytest.raises(NotSerializable) as caught:
        Codec(Login).dump(Login(name="a", password=SecretStr("hush")), "it")

    assert "hush" not in str(caught.value)


def test_what_a_model_keeps_for_itself_does_not_count() -> None:
    """A private attribute is no part of a model's data, and no reason to refuse it."""
    model = Cached(size=2)
    model._cache["x"] = 1

    back = Codec(Cached).load(Codec(Cached).dump(model, "it"))

    assert (back.size, back._cache) == (2, {})


def test_a_class_without_an_equality_of_its_own_is_taken_by_its_parts() -> None:
    """A dataclass with eq=False is compared field by field."""
    back = Codec(NoEquality).load(Codec(NoEquality).dump(NoEquality(4), "it"))

    assert back.number == 4


class Unreasonable:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not ask")

    __hash__ = None  # type: ignore[assignment]


def test_a_value_that_cannot_be_compared_is_refused() -> None:
    """An equality that raises, as that of arrays does, is an answer too."""
    annotation = Annotated[Any, Field()]

    with pytest.raises(NotSerializable):
        Codec(list[annotation]).dump([Unreasonable()], "it")


@pytest.mark.parametrize(("size", "fits"), [(VALUE_LIMIT_BYTES - 2, True), (VALUE_LIMIT_BYTES - 1, False)])
def test_the_limit_is_one_mebibyte_of_json(size: int, fits: bool) -> None:
    """A text whose JSON has exactly 1 MiB is taken; one byte more is refused with advice and the facts."""
    value = "x" * size

    if fits:
        assert value == JSON_CODEC.load(JSON_CODEC.dump(value, "it"))
        return
    with pytest.raises(ValueTooLarge) as caught:
        JSON_CODEC.dump(value, "the result of step fetch")

    assert (caught.value.where, caught.value.size, caught.value.limit) == (
        "the result of step fetch",
        VALUE_LIMIT_BYTES + 1,
        VALUE_LIMIT_BYTES,
    )
    assert "return its key" in str(caught.value)


def test_the_limit_counts_bytes_and_not_characters() -> None:
    """Three bytes a character count as three."""
    with pytest.raises(ValueTooLarge):
        JSON_CODEC.dump("€" * (VALUE_LIMIT_BYTES // 3), "it")


def test_a_value_that_holds_itself_is_refused() -> None:
    """A cycle is an error, and no endless loop."""
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(NotSerializable):
        JSON_CODEC.dump(loop, "it")
    with pytest.raises(NotSerializable):
        Codec(list[Any]).dump(loop, "it")


def test_a_very_deep_value_is_refused_or_comes_back() -> None:
    """Depth ends in an answer, never in a crash."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(NotSerializable):
        JSON_CODEC.dump(deep, "it")


def plain(x):  # type: ignore[no-untyped-def]
    return x


async def asynchronous() -> list[Point]:
    return []


def gives_awaitable() -> Awaitable[Point]: ...  # type: ignore[empty-body]


def gives_coroutine() -> Coroutine[Any, Any, Point]: ...  # type: ignore[empty-body]


def typed_for_checkers_only(client: Unknown) -> Point: ...  # type: ignore[empty-body]


def wrong_name() -> Unknown: ...


class Service:
    def method(self, number: int) -> Point: ...  # type: ignore[empty-body]

    @classmethod
    def of_class(cls) -> Point: ...  # type: ignore[empty-body]

    @staticmethod
    def static() -> Point: ...  # type: ignore[empty-body]

    def __call__(self) -> Point: ...  # type: ignore[empty-body]


class AsyncService:
    async def __call__(self) -> Point: ...  # type: ignore[empty-body]


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


@pytest.mark.parametrize(
    ("function", "annotation"),
    [
        (plain, Any),
        (len, Any),
        (lambda: 1, Any),
        (asynchronous, list[Point]),
        (gives_awaitable, Point),
        (gives_coroutine, Point),
        (typed_for_checkers_only, Point),
        (Service().method, Point),
        (Service.of_class, Point),
        (Service.static, Point),
        (Service(), Point),
        (AsyncService(), Point),
        (functools.partial(asynchronous), list[Point]),
        (functools.partial(functools.partial(Service().method, 1)), Point),
        (decorated(asynchronous), list[Point]),
        (functools.partial(decorated(typed_for_checkers_only), 1), Point),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_the_annotation_of_whatever_can_be_called_is_found(
    function: Callable[..., Any], annotation: Any
) -> None:
    """Functions, methods, partials, wrapped and callable objects; only the result's annotation has to be readable."""
    assert annotation == return_annotation(function)


def test_a_class_defined_inside_a_function_is_found_where_the_function_knows_it() -> None:
    """A local class that the function's body uses can be its annotation too."""

    class Local(BaseModel):
        x: int

    def local() -> Local:
        return Local(x=1)

    assert Local is return_annotation(local)
    assert Local(x=2) == result_codec(local).load(result_codec(local).dump(Local(x=2), "it"))


def test_an_annotation_that_cannot_be_read_is_named_when_its_value_is_refused() -> None:
    """The error about a value tells that its annotation is not readable at run time, and what to do about it."""
    with pytest.raises(NotSerializable, match=r"name 'Unknown' is not defined.*top level"):
        result_codec(wrong_name).dump(Point(), "the result of step fetch")

    assert result_codec(wrong_name).load(result_codec(wrong_name).dump({"a": 1}, "it")) == {"a": 1}


def test_an_annotation_that_pydantic_cannot_read_means_plain_json() -> None:
    """The class of another library: its values are refused by name, JSON values pass."""

    def foreign() -> timezone | type[Any] | Exception: ...  # type: ignore[empty-body]

    codec = result_codec(foreign)

    assert codec.load(codec.dump([1], "it")) == [1]
    with pytest.raises(NotSerializable, match=r"builtin|KeyError"):
        codec.dump(KeyError("x"), "it")


def test_codecs_are_kept_by_annotation() -> None:
    """The same annotation gives the same codec; those that cannot be hashed get one each time."""
    unhashable = Annotated[int, Field(json_schema_extra={"a": []})]

    assert codec_for(list[int]) is codec_for(list[int])
    assert codec_for(Any) is JSON_CODEC
    assert codec_for(unhashable).load(codec_for(unhashable).dump(5, "it")) == 5


def test_the_order_of_a_union_is_a_part_of_the_annotation() -> None:
    """Unions of the same members in another order are equal to Python, and still have codecs of their own."""
    first, second = codec_for(datetime | str), codec_for(str | datetime)

    assert first is not second
    assert datetime(2026, 1, 1) == first.load('"2026-01-01T00:00:00"')
    assert second.load('"2026-01-01T00:00:00"') == "2026-01-01T00:00:00"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_every_json_value_comes_back_to_the_last_bit(value: Any) -> None:
    """Plain values survive: every float, every integer, every text, NaN and the infinities."""
    back = JSON_CODEC.load(JSON_CODEC.dump(value, "it"))

    assert repr(value) == repr(back)


@given(
    st.lists(
        st.builds(
            Parcel,
            st.binary(),
            st.floats(),
            st.none() | st.datetimes(timezones=st.just(UTC)) | st.datetimes(),
        ),
        max_size=3,
    )
)
def test_every_dataclass_of_bytes_floats_and_times_comes_back(value: list[Parcel]) -> None:
    """Typed values survive whatever is in them."""
    codec = codec_for(list[Parcel])

    back = codec.load(codec.dump(value, "it"))

    assert [(one.data, repr(one.weight), one.at) for one in value] == [
        (one.data, repr(one.weight), one.at) for one in back
    ]


@given(st.dictionaries(st.integers(), st.decimals(allow_nan=False, allow_infinity=False) | st.none()))
def test_every_decimal_comes_back_exactly(value: dict[int, Decimal | None]) -> None:
    """Decimals keep every digit, and keys that are no texts keep their type."""
    codec = codec_for(dict[int, Decimal | None])

    back = codec.load(codec.dump(value, "it"))

    assert {key: str(one) for key, one in value.items()} == {key: str(one) for key, one in back.items()}
