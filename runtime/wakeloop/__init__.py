"""wakeloop: a durable runtime for outer-loop agents."""

from wakeloop.agent import Agent, agent
from wakeloop.answers import Answer
from wakeloop.engine.context import Child, Context
from wakeloop.errors import (
    ChildFailed,
    ConfigurationError,
    NoAnswer,
    NonDeterminismError,
    Undeliverable,
    WakeloopError,
)
from wakeloop.events import Attachment, Call, Message, Signal, Tick
from wakeloop.steps import Retry, Step, step
from wakeloop.triggers import at, cron, every, on_message, on_signal

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Answer",
    "Attachment",
    "Call",
    "Child",
    "ChildFailed",
    "ConfigurationError",
    "Context",
    "Message",
    "NoAnswer",
    "NonDeterminismError",
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
    "step",
]
