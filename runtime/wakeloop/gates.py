"""Gates: functions that run only with a person's approval of their exact arguments; all of it but the asking.

A person decides on JSON: `GateArguments` turns a call into it and back, `wakeloop.calls` names it and puts it before
people, `define_gate` checks the options, and `require_approval` is the decorator for use within a run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from inspect import Parameter
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from wakeloop.errors import ConfigurationError, InvalidArguments, NotPossible
from wakeloop.functions import innermost, layers, name_of
from wakeloop.gate_arguments import BY_NAME, GateArguments
from wakeloop.logs import get_logger
from wakeloop.steps import Step, current_run, is_on_its_loop, step

P = ParamSpec("P")
R = TypeVar("R")
Gated = TypeVar("Gated", bound=Callable[..., Any])
log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Approval:
    """What was approved, by whom and how.

    args: the arguments as approved, as JSON values. by: id of the contact whose word decided; approvers: of everybody
    who approved. option: a reason they chose. channel: how they said it, at: when. edited: they changed the arguments.
    """

    args: dict[str, Any]
    by: str
    approvers: tuple[str, ...]
    comment: str = ""
    option: str | None = None
    channel: str
    at: datetime
    request: str
    edited: bool = False


# ---------------------------------------------------------------------- options

_ESCALATION_FORM = (
    'write escalate=[(timedelta(hours=2), "bob")], with how long after the question, to whom, and if you wish by which '
    'channel: (timedelta(hours=2), "bob", "email")'
)


@dataclass(frozen=True, kw_only=True)
class Escalation:
    """`after` it was asked and not decided, `to` is asked too (or those who were asked first), by the channel `via`."""

    after: timedelta
    to: str | None = None
    via: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.after, timedelta) or self.after <= timedelta(0):
            raise ConfigurationError(f"Escalation(after={self.after!r}): it is a timedelta of more than zero")
        for what, value in (("to", self.to), ("via", self.via)):
            if value is not None and not _is_text(value):
                raise ConfigurationError(f"Escalation({what}={value!r}): it is a name; {_ESCALATION_FORM}")
        if self.to is None and self.via is None:
            raise ConfigurationError(
                f"an escalation goes to somebody, or by another channel: {_ESCALATION_FORM}"
            )


def escalations(given: Any) -> tuple[Escalation, ...]:
    """The timetable that was written, earliest first; times count from when it was asked.

    Each is an `Escalation`, a tuple such as `(timedelta(hours=2), "bob")`, `(7200, "bob", "email")` or `("bob", 7200)`,
    or a mapping of `after`, `to` and `via`; numbers are seconds. Raises ConfigurationError with the form to write."""
    if isinstance(given, Escalation | Mapping):
        given = (given,)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigurationError(f"escalate={given!r} says nobody when: {_ESCALATION_FORM}")
    return tuple(sorted(map(_escalation, given), key=lambda one: one.after))


def _escalation(given: Any) -> Escalation:
    if isinstance(given, Escalation):
        return given
    if isinstance(given, Mapping):
        if "after" not in given or not given.keys() <= {"after", "to", "via"}:
            raise ConfigurationError(
                f'an escalation has "after", "to" and "via", not {given!r}; or {_ESCALATION_FORM}'
            )
        after = _span(given["after"], "an escalation's time")
        return Escalation(after=after, to=given.get("to"), via=given.get("via"))
    if isinstance(given, tuple | list):
        times = [part for part in given if _is_number(part) or isinstance(part, timedelta)]
        names = [part for part in given if part is None or isinstance(part, str)]
        if len(times) == 1 and len(names) in (1, 2) and len(given) == 1 + len(names):
            return Escalation(
                after=_span(times[0], "an escalation's time"), to=names[0], via=(*names, None)[1]
            )
    raise ConfigurationError(f"an escalation needs a time and a name, not {given!r}: {_ESCALATION_FORM}")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A function and whose approval it needs. `define_gate` makes it and tells what its options mean.

    action: what people are told that it does. function, step: what runs once it is approved. timeout, remind: seconds.
    """

    action: str
    by: tuple[str, ...]
    reject_options: tuple[str, ...]
    edit: bool
    timeout: float | None
    escalate: tuple[Escalation, ...]
    quorum: int
    when: Callable[..., Any] | None
    remind: float | None
    via: str | None
    urgent: bool
    four_eyes: bool
    function: Callable[..., Any]
    arguments: GateArguments
    step: Step[Any, Any]

    def needs_approval(self, arguments: Mapping[str, Any]) -> bool:
        """Whether this call (arguments as `GateArguments.bind` gave them) is one that needs approval: by `when`, if there
        is one. A condition that raises, or gives something to await, has not said that it needs none."""
        if self.when is None:
            return True
        values = self.arguments.typed(arguments)
        try:
            args, kwargs = _wanted(self.when, values)
            verdict = self.when(*args, **kwargs)
            if inspect.isawaitable(verdict):
                getattr(verdict, "close", lambda: None)()
                raise TypeError("an awaitable is no answer")
            return bool(verdict)
        except Exception as error:
            log.warning(
                "condition of a gate failed, so a person is asked",
                action=self.action,
                error=type(error).__name__,
            )
            log.debug("condition of a gate failed", action=self.action, exc_info=True)
            return True

    def for_call(self, args: tuple[Any, ...]) -> tuple[Gate, tuple[Any, ...]]:
        """The gate of the instance that a method is called on, and the arguments without it; else the same again."""
        if not self.arguments.has_receiver:
            return self, args
        if not args:
            raise InvalidArguments(
                f"{self.action} is a method: call it on its instance or class",
                function=self.arguments.function,
                problems={"self": "is missing"},
            )
        bound: Step[Any, Any] = Step(functools.partial(self.step.function, args[0]), self.step.options)
        return replace(self, function=functools.partial(self.function, args[0]), step=bound), args[1:]


def define_gate(
    function: Callable[..., Any],
    *,
    by: str | Sequence[str],
    reject_options: Sequence[str] = (),
    edit: bool = False,
    timeout: float | timedelta | None = None,
    escalate: Any = (),
    quorum: int = 1,
    when: Callable[..., object] | None = None,
    remind: float | timedelta | None = None,
    via: str | None = None,
    urgent: bool = False,
    four_eyes: bool = False,
    name: str | None = None,
) -> Gate:
    """A function (or step) with the options of `require_approval`, checked.

    A function that is no step becomes one with `idempotent=False`: an approval covers exactly one execution.
    Raises ConfigurationError for an option, or a parameter, with which no call could ever be approved."""
    if isinstance(function, staticmethod | classmethod):
        kind = type(function).__name__
        raise ConfigurationError(f"write @{kind} above @require_approval, not below it")
    if not callable(function) or isinstance(function, type):
        raise ConfigurationError(f"require_approval needs a function below it, not {function!r}")
    inner = innermost(function)
    title = f"require_approval of {name_of(function)}"
    if any(hasattr(layer, "__gate__") for layer in layers(function)):
        raise ConfigurationError(
            f'{title}: it has one already; name everybody in one: by=["cfo", "cto"], quorum=2'
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigurationError(
            f"{title}: a generator cannot wait for a person before it runs; return a list"
        )
    if name is not None and not _is_text(name):
        raise ConfigurationError(f"{title}: its name must be text, not {name!r}")
    for what, flag in (("edit", edit), ("urgent", urgent), ("four_eyes", four_eyes)):
        if not isinstance(flag, bool):
            raise ConfigurationError(f"{title}: {what} must be True or False, not {flag!r}")
    if not isinstance(quorum, int) or isinstance(quorum, bool) or quorum < 1:
        raise ConfigurationError(f"{title}: quorum must be a whole number from 1, not {quorum!r}")
    if via is not None and not _is_text(via):
        raise ConfigurationError(f'{title}: via must be the name of a channel, such as "sms", not {via!r}')
    people = _texts(
        (by,) if isinstance(by, str) else by, f"{title}: by", 'contacts, such as "cfo" or ["cfo", "cto"]'
    )
    if not people:
        raise ConfigurationError(f'{title}: by names nobody; name at least one contact, such as "cfo"')
    reasons = _texts(
        reject_options, f"{title}: reject_options", 'reasons, such as ["too expensive", "not now"]'
    )
    if len({reason.casefold() for reason in reasons}) < len(reasons):
        raise ConfigurationError(f"{title}: reject_options has a reason twice: {list(reasons)}")
    step_made = function if isinstance(function, Step) else step(function, idempotent=False, name=name)
    while isinstance(function, Step):
        function = function.function
    arguments = GateArguments(function)
    _check_condition(when, arguments, title)
    return Gate(
        action=name or step_made.name,
        by=tuple(dict.fromkeys(people)),
        reject_options=reasons,
        edit=edit,
        timeout=_seconds(timeout, f"{title}: timeout"),
        escalate=escalations(escalate),
        quorum=quorum,
        when=when,
        remind=_seconds(remind, f"{title}: remind"),
        via=via,
        urgent=urgent,
        four_eyes=four_eyes,
        function=function,
        arguments=arguments,
        step=step_made,
    )


def _check_condition(when: Any, arguments: GateArguments, title: str) -> None:
    if when is None:
        return
    if not callable(when):
        raise ConfigurationError(f"{title}: when must be a function of its arguments, not {when!r}")
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    targets = (innermost(when), getattr(when, "__call__", None))  # noqa: B004
    if isinstance(when, Step) or any(kind(target) for kind in kinds for target in targets):
        raise ConfigurationError(
            f"{title}: when must be a plain function that tells from the arguments alone"
        )
    for one in _signature(when):
        required = one.default is Parameter.empty and one.kind in (*BY_NAME, Parameter.POSITIONAL_ONLY)
        if required and one.name not in arguments.names:
            raise ConfigurationError(
                f"{title}: when asks for {one.name!r}, which is no argument of {arguments.function} (it takes: "
                f"{', '.join(arguments.names) or 'none'})"
            )


def _wanted(when: Callable[..., Any], values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Those of the values that a condition takes."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for one in _signature(when):
        if one.kind is Parameter.VAR_KEYWORD:
            kwargs.update((name, value) for name, value in values.items() if name not in kwargs)
        elif one.name not in values:
            continue
        elif one.kind is Parameter.POSITIONAL_ONLY:
            args.append(values[one.name])
        elif one.kind in BY_NAME:
            kwargs[one.name] = values[one.name]
    return args, kwargs


def _signature(when: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(inspect.signature(when).parameters.values())
    except (ValueError, TypeError):  # one of C's, which does not tell
        return [Parameter("arguments", Parameter.VAR_KEYWORD)]


def _texts(given: Any, title: str, what: str) -> tuple[str, ...]:
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{title} must be {what}, not {given!r}")
    texts = tuple(given)
    if odd := [one for one in texts if not _is_text(one)]:
        raise ConfigurationError(f"{title} must be {what}, not {odd[0]!r}")
    return texts


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(value: Any, title: str) -> timedelta:
    try:
        span = timedelta(seconds=value) if _is_number(value) else value
    except (OverflowError, ValueError) as error:
        raise ConfigurationError(f"{title} must be a number of seconds, not {value!r}") from error
    if not isinstance(span, timedelta):
        raise ConfigurationError(f"{title} must be seconds or a timedelta, not {value!r}")
    if span <= timedelta(0):
        raise ConfigurationError(f"{title} must be more than zero seconds, not {value!r}")
    return span


def _seconds(value: Any, title: str) -> float | None:
    return None if value is None else _span(value, title).total_seconds()


# ---------------------------------------------------------------------- the decorator


class ApprovalDecorator(Protocol):
    """What `require_approval(...)` gives: sync or async, the function must be awaited from then on."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


def require_approval(
    by: str | Sequence[str],
    *,
    reject_options: Sequence[str] = (),
    edit: bool = False,
    timeout: float | timedelta | None = None,
    escalate: Any = (),
    quorum: int = 1,
    when: Callable[..., object] | None = None,
    remind: float | timedelta | None = None,
    via: str | None = None,
    urgent: bool = False,
    four_eyes: bool = False,
    name: str | None = None,
) -> ApprovalDecorator:
    """Let a function run only with the recorded approval of exactly its arguments, once for each approval.

    by: the contacts and groups who may decide. reject_options: reasons to choose from for a no. edit: they may change
    the arguments. timeout: seconds (or timedelta) until nobody's word counts any more. escalate: who is asked later, see
    `escalations`. quorum: how many must approve. when: a plain function of those arguments that it names; only if what
    it gives is true is anybody asked. remind: how often to repeat it (seconds or timedelta). via: the only channel to
    use. urgent: in quiet hours too. four_eyes: the person on whose behalf the run acts may not approve. name: what the
    function is called before people; its own name by default.

    The function becomes a coroutine function with the same signature. It may be a step (`@require_approval("cfo")` above
    `@step(retries=3)`), whose options stay; else it is never repeated after a crash in its middle. Of a method, neither
    instance nor class is an argument that is shown; `@staticmethod` and `@classmethod` stand above this decorator.

    A call raises Denied, ApprovalExpired, InvalidArguments (nobody was asked), or NotPossible outside a run.
    Raises ConfigurationError for what could never be approved.
    """
    if callable(by) or isinstance(by, staticmethod | classmethod):
        called = name_of(by)
        raise ConfigurationError(
            f'require_approval does not know whose: write @require_approval("cfo") above {called}'
        )

    def decorate(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        gate = define_gate(
            function, by=by, reject_options=reject_options, edit=edit, timeout=timeout, escalate=escalate,
            quorum=quorum, when=when, remind=remind, via=via, urgent=urgent, four_eyes=four_eyes, name=name,
        )  # fmt: skip

        @functools.wraps(gate.function)
        async def gated(*args: Any, **kwargs: Any) -> Any:
            run = current_run.get()
            if run is None or not is_on_its_loop(run):
                raise NotPossible(
                    f"{gate.action} runs only with the approval of {', '.join(gate.by)}: await it in an agent's handler (not in "
                    "a step or another thread), or ask through wakeloop.Client from any program"
                )
            of_call, rest = gate.for_call(args)
            return await run.run_gated(of_call, rest, kwargs)

        return finish(gated, gate)

    return decorate


def finish(gated: Gated, gate: Gate) -> Gated:
    """Mark a wrapper as a gate's, so that a second one above it is refused."""
    marked: Any = gated
    marked.__gate__ = gate
    if not hasattr(gate.function, "__name__"):  # a partial, or an object that is called
        marked.__name__ = marked.__qualname__ = gate.arguments.function
        marked.__annotations__ = {}
    return gated
