"""Failures: an exception goes to the journal as plain data and comes back so that `except` finds it."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from wakeloop.engine.failures import Failure, describe, rebuild
from wakeloop.engine.values import VALUE_LIMIT_BYTES
from wakeloop.errors import NotFound, StepFailed, TemporaryChannelError


class Demanding(Exception):
    """Its __init__ takes other arguments than those that it passes on."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.connection = object()


class SaysItsOwn(LookupError):
    def __init__(self, thing: object) -> None:
        super().__init__(thing)
        self.thing = thing

    def __str__(self) -> str:
        return f"no {self.thing!r}"


class StrictNew(ConnectionError):
    def __new__(cls, first: str, second: str) -> StrictNew:
        return super().__new__(cls, first)

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class Mute(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("not a word")


class Outer:
    class Inner(KeyError):
        pass


class Model(BaseModel):
    number: int


def through_the_journal(error: BaseException) -> Exception:
    """Raise it, write it down, and make it again, as a step's failure."""
    try:
        raise error
    except BaseException as caught:
        text = describe(caught).model_dump_json()
    return rebuild(Failure.model_validate_json(text), "fetch")


def caught_by(action: Any) -> BaseException:
    try:
        action()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a"),
        ValueError(),
        ValueError("a", 1, None, {"b": [2]}),
        KeyError("a"),
        Outer.Inner("a"),
        Demanding(5, detail="why"),
        SaysItsOwn("cat"),
        SaysItsOwn(object),
        NotFound("nobody", contact="bob"),
        TemporaryChannelError("busy", retry_after=2.5),
        FileNotFoundError(2, "No such file", "notes.txt"),
        PermissionError(13, "Denied"),
        OSError("only words"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "bad letter"),
        caught_by(lambda: json.loads("{")),
        StopAsyncIteration(3),
        TimeoutError(),
        RecursionError("deep"),
        AssertionError("no"),
        SyntaxError("bad", ("file.py", 1, 2, "text")),
        ValueError(b"\xff"),
        ValueError(math.nan),
        ValueError("naïve \x00 ☃"),
    ],
    ids=lambda error: f"{type(error).__name__} {error.args}"[:40],
)
def test_an_exception_comes_back_of_its_own_class_with_its_words(error: Exception) -> None:
    """`except` finds it by its class, and it says what it said."""
    back = through_the_journal(error)

    assert isinstance(back, type(error))
    assert type(error).__name__ == type(back).__name__
    assert str(error) == str(back)


def test_plain_attributes_come_back_and_others_are_left_out() -> None:
    """Facts that are JSON survive; a connection object does not."""
    back = through_the_journal(Demanding(5, detail="why"))

    assert isinstance(back, Demanding)
    assert (back.code, back.detail, back.args) == (5, "why", ("5: why",))
    assert not hasattr(back, "connection")


def test_the_facts_of_an_os_error_come_back() -> None:
    """Number, words and file name are where they were."""
    back = through_the_journal(FileNotFoundError(2, "No such file", "notes.txt"))

    assert isinstance(back, FileNotFoundError)
    assert (back.errno, back.strerror, back.filename) == (2, "No such file", "notes.txt")


@pytest.mark.parametrize(
    "text", ["\ud800", "fi\udcffle", "x" * (2 * VALUE_LIMIT_BYTES)], ids=["surrogate", "file", "long"]
)
def test_words_that_no_journal_takes_are_made_to_fit(text: str) -> None:
    """Half characters, as in odd file names, and texts of megabytes do not get in the way of a failure."""
    back = through_the_journal(OSError(2, "No such file", text))
    other = through_the_journal(ValueError(text))

    assert isinstance(back, FileNotFoundError)
    assert isinstance(other, ValueError)
    assert len(describe(ValueError(text)).model_dump_json()) < VALUE_LIMIT_BYTES


def test_an_exception_that_cannot_even_say_its_words_is_described() -> None:
    """A __str__ that raises is no way to take a worker down."""
    failure = describe(Mute("x"))
    back = rebuild(failure, "fetch")

    assert "RuntimeError" in failure.text
    assert isinstance(back, ValueError)


def test_a_class_that_cannot_be_made_again_keeps_the_nearest_class_of_python_itself() -> None:
    """A pydantic ValidationError, or a class with a strict __new__, is a StepFailed that `except ValueError` finds."""
    invalid = through_the_journal(caught_by(lambda: Model.model_validate({"number": "x"})))
    strict = through_the_journal(StrictNew("a", "b"))

    assert isinstance(invalid, StepFailed)
    assert isinstance(invalid, ValueError)
    assert not isinstance(invalid, ValidationError)
    assert "1 validation error for Model" in str(invalid)
    assert isinstance(strict, StepFailed)
    assert isinstance(strict, ConnectionError)
    assert ("fetch", f"{__name__}.StrictNew") == (strict.step, strict.error_type)


def test_a_class_that_cannot_be_imported_is_a_step_failed_of_its_nearest_kind() -> None:
    """A class defined inside a function is told by its name, and by what Python has above it."""

    class Local(ZeroDivisionError):
        pass

    back = through_the_journal(Local("by zero"))

    assert isinstance(back, StepFailed)
    assert isinstance(back, ZeroDivisionError)
    assert "Local: by zero" in str(back)
    assert "step fetch raised" in str(back)


def test_a_class_whose_module_is_gone_is_a_step_failed() -> None:
    """After a deploy without that library, the failure is still there to be told."""
    failure = Failure(module="gone.library", name="Broken", text="x", args=["x"], base="OSError")

    back = rebuild(failure, "fetch")

    assert isinstance(back, StepFailed)
    assert isinstance(back, OSError)
    assert str(back) == "step fetch raised gone.library.Broken: x"


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("x"), GeneratorExit(), StopIteration(5)],
    ids=lambda error: type(error).__name__,
)
def test_what_would_take_the_run_down_comes_as_a_step_failed(error: BaseException) -> None:
    """A step that exits, is cancelled from inside, or raises StopIteration has failed, and nothing more."""
    back = through_the_journal(error)

    assert isinstance(back, StepFailed)
    assert type(error).__name__ in str(back)


def test_an_exception_group_comes_back_with_its_members() -> None:
    """`except*` finds the members of a group that a step raised, nested groups too."""
    inner = ExceptionGroup("inner", [KeyError("k"), FileNotFoundError(2, "no", "f")])
    group = ExceptionGroup("outer", [ValueError("v"), inner])

    back = through_the_journal(group)

    assert isinstance(back, ExceptionGroup)
    assert back.message == "outer"
    matched, rest = back.split(KeyError)
    assert matched is not None
    assert rest is not None
    assert str(matched.exceptions[0].exceptions[0]) == "'k'"  # type: ignore[attr-defined]
    assert [ValueError, ExceptionGroup] == [type(one) for one in back.exceptions]


def test_a_group_of_what_is_no_exception_is_a_step_failed() -> None:
    """A BaseExceptionGroup would end the run like its members; it is told instead."""
    back = through_the_journal(BaseExceptionGroup("g", [KeyboardInterrupt()]))

    assert isinstance(back, StepFailed)


def test_the_traceback_is_kept_and_bounded() -> None:
    """The journal holds where it was raised; an endless traceback keeps its end."""

    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise ValueError("at the bottom")

    short = describe(caught_by(lambda: deep(0)))
    long = describe(caught_by(lambda: deep(900)))

    assert "in deep" in short.trace
    assert short.trace.endswith("ValueError: at the bottom\n")
    assert len(long.trace) <= 20_000
    assert long.trace.endswith("ValueError: at the bottom\n")


def test_a_rebuilt_exception_says_where_it_came_from_in_a_note() -> None:
    """Whoever reads the handler's traceback learns which step raised."""
    back = through_the_journal(ValueError("x"))

    assert back.__notes__ == ["(raised by step fetch; its own traceback is in the journal)"]


def test_describing_what_was_rebuilt_gives_the_same_description() -> None:
    """A failure that passes through two runs, child and parent, stays what it was."""
    for error in (Demanding(5, detail="why"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")):
        first = describe(error)
        second = describe(rebuild(first, "fetch"))

        assert (first.module, first.name, first.text, first.facts) == (
            second.module, second.name, second.text, second.facts,
        )  # fmt: skip


def test_our_own_exceptions_survive_pickling() -> None:
    """What crosses processes keeps its class, words and facts."""
    back = pickle.loads(pickle.dumps(NotFound("nobody", contact="bob")))

    assert isinstance(back, NotFound)
    assert (str(back), back.contact) == ("nobody", "bob")  # type: ignore[attr-defined]


@given(
    st.sampled_from([ValueError, KeyError, OSError, TimeoutError, NotFound, Outer.Inner]),
    st.lists(st.none() | st.integers() | st.text() | st.floats() | st.binary(), min_size=1, max_size=4),
)
def test_every_exception_of_plain_arguments_survives(kind: type[Exception], args: list[Any]) -> None:
    """Whatever is said, in whatever characters, a failure is recorded and raised again with the same words."""
    try:
        error = kind(*args) if kind is not NotFound else NotFound(str(args[0]))
    except Exception:
        return
    words = str(error).encode("utf-8", "backslashreplace").decode()

    back = through_the_journal(error)

    assert isinstance(back, kind)
    assert words == str(back).encode("utf-8", "backslashreplace").decode()
