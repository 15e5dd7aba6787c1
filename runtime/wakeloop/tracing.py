"""The port to a tracer: what the runtime tells of its work, if anybody wants to know. `wakeloop.telemetry` implements it.

A trace goes on in another process where the store says so: rows that lead to more work carry the context of the span
in which they were made (a *carried* context: W3C's traceparent and, behind a space, its tracestate). No message on the
broker does. Nothing here may decide what a run does.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Facts = Mapping[str, Any]
"""Attributes of a span. None stands for one that is left out."""

BEHIND_ANOTHER = "\n"
"""Between two carried contexts in one text."""


class Span(Protocol):
    """One piece of work, from its start until `end`."""

    @property
    def carried(self) -> str:
        """Its context, to be stored where its trace is to go on."""
        ...

    def child(self, name: str, kind: Kind, facts: Facts) -> Span:
        """Begin a span within this one."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """Let it be the current span for what is done within. It is not ended."""
        ...

    def note(self, facts: Facts) -> None:
        """Add attributes."""
        ...

    def rename(self, name: str) -> None:
        """Call it otherwise, once it is known what it was."""
        ...

    def fail(self, error: BaseException | str) -> None:
        """Note that the work failed: with an exception, of which its class and the lines of code are told but not its
        words, since these quote what people wrote; or with the name of one."""
        ...

    def end(self) -> None:
        """The work is over. Said again, it changes nothing."""
        ...


class Tracer(Protocol):
    """Makes spans. Safe to share by threads."""

    def start(
        self, name: str, kind: Kind, facts: Facts, *, parent: str | None = None, links: Sequence[str] = (),
        is_root: bool = False,
    ) -> Span:  # fmt: skip
        """Begin a span: within `parent`, a carried context; else in a trace of its own (`is_root`), else within the
        current span, if there is one. links: carried contexts that it has to do with."""
        ...

    def carried(self) -> str | None:
        """The current span's context, to be stored."""
        ...

    def received(self, headers: Mapping[str, str]) -> str | None:
        """The context that a request brought."""
        ...

    def resumed(self, carried: str) -> AbstractContextManager[None]:
        """Let a carried context be current for what is done within."""
        ...

    def ids(self) -> Mapping[str, str]:
        """`trace_id` and `span_id` of the current span, as log lines have them; nothing without one."""
        ...


tracer: Tracer | None = None
"""This process's tracer; None while nobody wants traces, and nothing is done for them."""


def carried() -> str | None:
    """The current span's context, to be stored with a row that leads to more work."""
    return None if tracer is None else tracer.carried()


def resumed(context: str | None) -> AbstractContextManager[None]:
    """Let a carried context be current for what is done within."""
    return nullcontext() if tracer is None or context is None else tracer.resumed(context)


@contextmanager
def span(
    name: str, kind: Kind, facts: Facts, *, parent: str | None = None, links: Sequence[str | None] = (),
    is_root: bool = False,
) -> Iterator[Span | None]:  # fmt: skip
    """Do what is done within in a span of its own: see `Tracer.start`. An exception that leaves it is noted."""
    if tracer is None:
        yield None
        return
    known = [one for one in links if one is not None]
    found = tracer.start(name, kind, facts, parent=parent, links=known, is_root=is_root)
    try:
        with found.current():
            yield found
    except BaseException as error:
        found.fail(error)
        raise
    finally:
        found.end()


def log_ids() -> Mapping[str, str]:
    """What a log line says of the current span."""
    return {} if tracer is None else tracer.ids()


def error_name(error: BaseException) -> str:
    """An exception's class, as `error.type` has it."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def lines_of_code(error: BaseException) -> str:
    """Where an exception came from, without what it says."""
    return "".join(traceback.format_tb(error.__traceback__))
