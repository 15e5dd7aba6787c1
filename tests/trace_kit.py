"""What tests of traces share: a tracer that keeps what was made, for as long as a test lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.servers import poll

from wakeloop import tracing
from wakeloop.telemetry import OtelTracer


class Traces:
    """The spans that have ended, in the order in which they began."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """So many spans of this name. A server's ends when its answer is on its way already."""
        for _ in poll(10):
            if len(self.named(name)) >= count:
                break
        found = self.named(name)
        assert len(found) == count, f"{len(found)} of {[span.name for span in self.spans]}"
        return found

    def one(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} of {[span.name for span in self.spans]}"
        return found[0]

    def tree(self) -> list[str]:
        """Every span's name, indented below its parent's."""
        lines: list[str] = []

        def add(parent: str | None, depth: int) -> None:
            for span in self.spans:
                if parent_of(span) == parent or (parent is None and parent_of(span) not in known):
                    lines.append("  " * depth + span.name)
                    add(id_of(span), depth + 1)

        known = {id_of(span) for span in self.spans}
        add(None, 0)
        return lines

    def everything(self) -> str:
        """All that would be sent."""
        return "\n".join(span.to_json() for span in self.spans)


@contextmanager
def tracing_on() -> Iterator[Traces]:
    """Traces are made in this process, for the length of a `with` block."""
    traces = Traces()
    before, tracing.tracer = tracing.tracer, OtelTracer(traces.provider)
    try:
        yield traces
    finally:
        tracing.tracer = before


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def linked(span: ReadableSpan) -> list[str]:
    """The traces that it has links to."""
    return [f"{link.context.trace_id:032x}" for link in span.links]


def facts(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})
