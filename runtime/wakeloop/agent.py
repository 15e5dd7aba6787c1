"""Agents: definitions made of triggers, a handler, a state model and policies."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from wakeloop.errors import ConfigurationError
from wakeloop.events import Signal
from wakeloop.functions import annotated, resolved
from wakeloop.triggers import At, Cron, Every, OnMessage, OnSignal, Schedule, Trigger

if TYPE_CHECKING:
    from wakeloop.engine.context import Context

S = TypeVar("S", bound=BaseModel | None)
Handler = Callable[["Context[Any]"], Coroutine[Any, Any, Any]]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")


class WhileBusy(StrEnum):
    """What a message or signal does that no run waits for, while another run of its session is open."""

    START = "start"
    ENQUEUE = "enqueue"
    INTERRUPT = "interrupt"
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True, eq=False)
class Agent:
    """A definition. Made by the `agent` decorator; the sessions and runs of it live in the store."""

    name: str
    handler: Handler
    triggers: tuple[Trigger, ...]
    state: type[BaseModel] | None
    queue: str | None
    while_busy: WhileBusy

    def __post_init__(self) -> None:
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(self.handler, attribute):
                object.__setattr__(self, attribute, getattr(self.handler, attribute))

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, Cron | Every | At))

    @property
    def message_triggers(self) -> tuple[OnMessage, ...]:
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, OnMessage))

    @property
    def signal_triggers(self) -> tuple[OnSignal, ...]:
        return tuple(trigger for trigger in self.triggers if isinstance(trigger, OnSignal))

    def has_trigger_for(self, signal: Signal) -> bool:
        """Whether a trigger names signals of this type, and so says which of them are for which session."""
        return any(trigger.names(signal) for trigger in self.signal_triggers)

    def __call__(self, ctx: Context[Any]) -> Coroutine[Any, Any, Any]:
        """Run the handler on a context of your own, as in a unit test of the handler alone."""
        return self.handler(ctx)

    def __repr__(self) -> str:
        return f"<agent {self.name}>"


def agent(
    *triggers: Trigger,
    name: str | None = None,
    state: type[BaseModel] | None = None,
    queue: str | None = None,
    while_busy: str = "start",
) -> Callable[[Handler], Agent]:
    """Make an `async def handler(ctx)` an agent.

    triggers: what wakes it, such as `cron("0 9 * * MON-FRI", tz="Europe/Paris")` or `on_message()`; every agent can
    also be started by hand, through the API, or by another agent. name: the function's by default; letters, digits,
    `_`, `-` and `.`, at most 100. state: a pydantic model all of whose fields have defaults; one instance per session
    is `ctx.state` and is saved at every turn's end. queue: the Celery queue of its turns. while_busy: what a message
    or signal does that no run is waiting for while another run of its session is open: `"start"` another run beside
    it, `"enqueue"` (run when the open ones are over), `"interrupt"` (the open runs are cancelled at their wait) or
    `"reject"` (recorded, and dropped).

    Raises ConfigurationError if any of these is wrong.
    """

    def define(handler: Handler) -> Agent:
        chosen = str(name or getattr(handler, "__name__", ""))
        if not _NAME.match(chosen):
            raise ConfigurationError(
                f"agent name {chosen!r}: use letters, digits, '_', '-' and '.', at most 100, starting with a letter or digit"
            )
        if not inspect.iscoroutinefunction(inspect.unwrap(handler)):
            raise ConfigurationError(
                f"agent {chosen}: the handler must be an `async def` that takes one context"
            )
        try:
            inspect.signature(handler).bind(object())
        except TypeError as error:
            raise ConfigurationError(
                f"agent {chosen}: the handler must take one argument, the context: {error}"
            ) from None
        for trigger in triggers:
            if not isinstance(trigger, Cron | Every | At | OnMessage | OnSignal):
                raise ConfigurationError(
                    f"agent {chosen}: {trigger!r} is no trigger; use cron(...), every(...), at(...), on_message(...) "
                    "or on_signal(...)"
                )
        if state is not None:
            _check_state(chosen, state)
        wanted = _state_of(handler)
        if wanted is not None and (state is None or not issubclass(state, wanted)):
            raise ConfigurationError(
                f"agent {chosen}: its context is annotated Context[{wanted.__name__}], and its state is "
                f"{'none' if state is None else state.__name__}: write @agent(…, state={wanted.__name__})"
            )
        if queue is not None and not (isinstance(queue, str) and queue.strip()):
            raise ConfigurationError(
                f"agent {chosen}: queue must be the name of a Celery queue, not {queue!r}"
            )
        try:
            busy = WhileBusy(while_busy)
        except ValueError:
            allowed = ", ".join(repr(str(choice)) for choice in WhileBusy)
            raise ConfigurationError(
                f"agent {chosen}: while_busy={while_busy!r}; choose one of {allowed}"
            ) from None
        return Agent(
            name=chosen, handler=handler, triggers=tuple(triggers), state=state, queue=queue, while_busy=busy
        )

    if len(triggers) == 1 and inspect.isfunction(triggers[0]):
        raise ConfigurationError("write @agent() with parentheses; triggers go between them")
    return define


def _state_of(handler: Handler) -> type[BaseModel] | None:
    """The model that the handler's context is annotated with, if that can be told while it is defined."""
    target = annotated(handler)
    try:
        context = next(iter(inspect.signature(target).parameters.values()))
        (model,) = get_args(resolved(target, context.name, context.annotation))
    except Exception:  # whatever an annotation raises: type checkers may know more
        return None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _check_state(name: str, state: object) -> None:
    if not (isinstance(state, type) and issubclass(state, BaseModel)):
        raise ConfigurationError(f"agent {name}: state must be a pydantic model class, not {state!r}")
    try:
        state()
    except ValidationError as error:
        missing = ", ".join(".".join(str(part) for part in problem["loc"]) for problem in error.errors())
        raise ConfigurationError(
            f"agent {name}: a new session starts with {state.__name__}(), so every field needs a default; missing: {missing}"
        ) from None
