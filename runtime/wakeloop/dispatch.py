"""The port between the database, which knows what is due, and the broker, which carries ids to a worker.

The broker is disposable. Whatever is handed to a `Dispatcher` is already recorded, with a time at which it is handed
over again if no worker has taken it up; so a dispatcher may lose messages and may deliver them twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class TurnMessage:
    """Sessions of one agent that need a turn. `names` are the sessions' readable names, such as `standup/default`. causes:
    the traces that led to them (see `wakeloop.tracing`); they are not sent."""

    agent: str
    queue: str | None
    sessions: tuple[int, ...]
    names: tuple[str, ...]
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """A session that was marked as dispatched by the transaction that made it due. causes: the traces that led to that."""

    id: int
    agent: str
    key: str
    causes: tuple[str, ...] = ()


class Dispatcher(Protocol):
    """Carries ids to a worker, at most once per call, without any promise."""

    def turns(self, messages: Sequence[TurnMessage]) -> None:
        """Ask some worker to run these turns. May raise or block for seconds if the broker is away."""
        ...

    def deliveries(self, ids: Sequence[str]) -> None:
        """Ask some worker to make these deliveries, or to amend what they sent. May raise or block for seconds if the
        broker is away."""
        ...


class Host(Protocol):
    """What one worker process can do. Every method is safe to call from any thread."""

    def agents(self) -> Mapping[str, str | None]:
        """The names of the agents that this process knows, each with the queue it asked for."""
        ...

    def run_turns(self, sessions: Sequence[int]) -> None:
        """Run a turn of each of these sessions that still needs one, and return when all are over.

        A session that another worker holds, or that needs nothing, is passed over. Raises RunsFailed if a run of
        theirs failed or got stuck; by then that is recorded."""
        ...

    def run_deliveries(self, ids: Sequence[str]) -> None:
        """Make these deliveries if they are still to be made, amend those that are to be amended, and return when each has
        an outcome on record."""
        ...

    def start(self, dispatcher: Dispatcher) -> None:
        """Start this process's claiming of what is due (a thread). Raises ConfigurationError if the store is unusable."""
        ...

    def stop(self, *, grace: float = 10.0) -> None:
        """Stop claiming, wait up to `grace` seconds for what is running, hand back what is left, close connections."""
        ...


class RunsFailed(Exception):
    """A turn ended with failed or stuck runs. Everything is recorded; this only makes it visible in Flower."""
