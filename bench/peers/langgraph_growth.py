"""A conversation that grows, a message to an invocation, with LangGraph's checkpointers: bytes stored, and the time of a further
invocation."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from typing import Any

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from bench.bytes_stored import bytes_stored, dsn
from bench.side import Stopwatch, answer
from bench.texts import message

THREAD: Any = {"configurable": {"thread_id": "talk"}}


def listener(state: MessagesState) -> dict[str, Any]:
    """What was told is in the state already."""
    return {}


@contextlib.contextmanager
def saver(url: str) -> Iterator[Any]:
    """The checkpointer, with its tables."""
    if url.startswith("sqlite"):
        with SqliteSaver.from_conn_string(url.removeprefix("sqlite:///")) as found:
            found.setup()
            yield found
        return
    with PostgresSaver.from_conn_string(dsn(url)) as found:
        found.setup()
        yield found


def work(url: str, lengths: list[int], further: int, durability: str) -> dict[str, float]:
    """See bench.sides.growth. durability: LangGraph's word for when it saves."""
    builder = StateGraph(MessagesState)
    builder.add_node("listener", listener)
    builder.add_edge(START, "listener")
    builder.add_edge("listener", END)
    figures: dict[str, float] = {}
    with saver(url) as checkpointer:
        graph = builder.compile(checkpointer=checkpointer)
        empty = bytes_stored(url)
        told = 0

        def tell() -> float:
            nonlocal told
            watch = Stopwatch()
            graph.invoke({"messages": [("user", message(told))]}, THREAD, durability=durability)  # type: ignore[call-overload]
            told += 1
            return watch.seconds

        for length in lengths:
            while told < length:
                tell()
            for name, now, then in zip(("bytes", "disk"), bytes_stored(url), empty, strict=True):
                figures[f"{name}-{length}"] = now - then
            figures[f"wake-{length}"] = statistics.median(tell() for _ in range(further)) * 1000
    return figures


if __name__ == "__main__":
    answer(work)
