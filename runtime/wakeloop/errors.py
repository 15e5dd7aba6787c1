"""Every exception that wakeloop raises on purpose, in one tree.

::

    WakeloopError                    something about one agent, run, request or message went wrong
    ├── NonDeterminismError          the code of a sleeping run no longer asks for what its journal holds
    ├── OutsideStep                  real I/O or a blocking call in a handler, outside a step (also a RuntimeError)
    ├── NotSerializable              a value cannot be journaled (also a TypeError)
    ├── ValueTooLarge                a value is over the journal's limit (also a ValueError)
    ├── StepFailed                   a step raised an exception whose class cannot be found again
    ├── NoAnswer                     nobody answered in time (also a TimeoutError)
    ├── Denied                       a person said no to a call
    ├── ApprovalExpired              nobody decided about a call in time (also a TimeoutError); this is no denial
    ├── RequestCancelled             a question or approval was withdrawn from outside
    ├── InvalidArguments             a gated call's arguments do not fit, or cannot be shown (also a ValueError)
    ├── Undeliverable                a message could be delivered through no channel
    ├── ChildFailed                  a spawned run did not complete
    ├── NotFound                     there is no such agent, run, session or contact (also a LookupError)
    ├── NotPossible                  the run, request or session is not in a state that allows this
    ├── ApiError                     a wakeloop server refused a program's call
    │   └── NotAllowed               the token is wrong, or not good for this (also a PermissionError)
    ├── Unreachable                  a wakeloop server was away for longer than a program waits (also a ConnectionError)
    └── ChannelError                 a provider said no, or could not be reached
        ├── TemporaryChannelError    trying again later may help
        ├── PermanentChannelError    trying again will not help
        └── InvalidWebhook           an inbound request is forged, stale or malformed

    ConfigurationError               the definition or the settings are wrong; outside the tree, so that no handler
    └── SchemaMismatch               that catches WakeloopError swallows it

A message says what happened, to which id, and what to do next; the facts are attributes too.
"""

from __future__ import annotations

from typing import Any


class WakeloopError(Exception):
    """Base of what goes wrong while agents run."""

    def __init__(self, message: str, /, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(cls: type[WakeloopError], args: tuple[Any, ...], facts: dict[str, Any]) -> WakeloopError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class NonDeterminismError(WakeloopError):
    """The handler did not issue the operation that its journal holds. Facts: `recorded`, `issued`."""

    recorded: str
    issued: str


class OutsideStep(WakeloopError, RuntimeError):
    """The handler did real I/O, or blocked, outside a step."""


class NotSerializable(WakeloopError, TypeError):
    """A value cannot be written to the journal, or does not come back equal. Facts: `where`, `type_name`."""

    where: str
    type_name: str


class ValueTooLarge(WakeloopError, ValueError):
    """A value is larger than the journal takes. Facts: `where`, `size`, `limit` (bytes)."""

    where: str
    size: int
    limit: int


class StepFailed(WakeloopError):
    """A step raised an exception whose class cannot be found again. Facts: `step`, `error_type`."""

    step: str
    error_type: str


class NoAnswer(WakeloopError, TimeoutError):
    """Nobody answered before the question's timeout. Facts: `request`, `to`."""

    request: str
    to: str


class Denied(WakeloopError):
    """A person said no to a call. Facts: `comment` (their words), `option` (the reason they chose), `by`, `request`."""

    comment: str = ""
    option: str | None = None
    by: str
    request: str


class ApprovalExpired(WakeloopError, TimeoutError):
    """Nobody decided in time, which is not a no. Facts: `request`, `action`."""

    request: str
    action: str


class RequestCancelled(WakeloopError):
    """A question or approval was withdrawn before anybody decided. Facts: `request`, `to`, `reason`."""

    request: str
    to: str
    reason: str


class InvalidArguments(WakeloopError, ValueError):
    """A call's arguments do not fit the function, or cannot be shown to a person. Facts: `function`, `problems` (by the
    argument's name, or its path such as `order.lines.0`, what is wrong with it)."""

    function: str
    problems: dict[str, str]


class Undeliverable(WakeloopError):
    """A message could be delivered through none of its recipient's channels. Facts: `message`, `to`, `reason`."""

    message: str
    to: str
    reason: str


class ChildFailed(WakeloopError):
    """A spawned run ended without completing. Facts: `run`, `status`, `reason`."""

    run: str
    status: str
    reason: str


class NotFound(WakeloopError, LookupError):
    """There is no such agent, run, session, request or contact."""


class NotPossible(WakeloopError):
    """The run, request or session is not in a state that allows what was asked."""


class ApiError(WakeloopError):
    """A wakeloop server refused a program's call. Facts: `status` (of HTTP), `problem` (what it said, by RFC 9457)."""

    status: int
    problem: dict[str, Any]


class NotAllowed(ApiError, PermissionError):
    """The token is missing, wrong or over, or not good for this. Facts: `scope` (which a token needs for it)."""

    scope: str


class Unreachable(WakeloopError, ConnectionError):
    """A wakeloop server was away for longer than the program waits. Facts: `url`, `reason`."""

    url: str
    reason: str


class ChannelError(WakeloopError):
    """A provider refused, or could not be reached. Facts: `code` (the provider's own, or None)."""

    code: str | None = None


class TemporaryChannelError(ChannelError):
    """Trying again later may help. Facts: `retry_after` (seconds, or None)."""

    retry_after: float | None = None


class PermanentChannelError(ChannelError):
    """Trying again will not help: the next channel is used."""


class InvalidWebhook(ChannelError):
    """An inbound request is forged, stale or malformed; it is answered with `status` and nothing is recorded."""

    status: int = 403


class ConfigurationError(Exception):
    """A definition or a setting is wrong. Stands outside WakeloopError: no handler should swallow it."""


class SchemaMismatch(ConfigurationError):
    """The database's schema is not the one that this version of the code works with."""
