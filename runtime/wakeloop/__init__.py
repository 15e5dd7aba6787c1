"""wakeloop: a durable runtime for outer-loop agents."""

from typing import TYPE_CHECKING, Any

from wakeloop.agent import Agent, agent
from wakeloop.answers import Answer
from wakeloop.engine.context import Child, Context
from wakeloop.entries import Entry
from wakeloop.errors import (
    ApprovalExpired,
    ChildFailed,
    ConfigurationError,
    Denied,
    InvalidArguments,
    NoAnswer,
    NonDeterminismError,
    RequestCancelled,
    Undeliverable,
    WakeloopError,
)
from wakeloop.events import Attachment, Call, Message, Signal, Tick
from wakeloop.gates import Approval, Escalation, require_approval
from wakeloop.steps import Retry, Step, step
from wakeloop.triggers import at, cron, every, on_message, on_signal

if TYPE_CHECKING:
    from wakeloop.client import AsyncClient, Client

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Answer",
    "Approval",
    "ApprovalExpired",
    "AsyncClient",
    "Attachment",
    "Call",
    "Child",
    "ChildFailed",
    "Client",
    "ConfigurationError",
    "Context",
    "Denied",
    "Entry",
    "Escalation",
    "InvalidArguments",
    "Message",
    "NoAnswer",
    "NonDeterminismError",
    "RequestCancelled",
    "Retry",
    "Signal",
    "Step",
    "Tick",
    "Undeliverable",
    "WakeloopError",
    "agent",
    "at",
    "cron",
    "every",
    "on_message",
    "on_signal",
    "require_approval",
    "step",
]


def __getattr__(name: str) -> Any:
    """The clients, on first use: agents need no HTTP library."""
    if name in ("AsyncClient", "Client"):
        from wakeloop import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
