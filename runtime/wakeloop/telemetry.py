"""OpenTelemetry behind the port of `wakeloop.tracing`: whether there are traces, where they go, and how spans are made."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, Literal

from wakeloop import tracing
from wakeloop.errors import ConfigurationError
from wakeloop.logs import get_logger
from wakeloop.tracing import Facts, Kind, Span, error_name, lines_of_code

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import TracerProvider as AnyProvider

log = get_logger("wakeloop.telemetry")

Wish = Literal["auto", "on", "off"]

SCOPE = "wakeloop"
EXPORTERS_GROUP = "opentelemetry_traces_exporter"
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_MISSING = 'traces need a library that is not installed ({library}): pip install "wakeloop[otel]"'

_lock = threading.Lock()
_own: TracerProvider | None = None


def begin(wish: Wish, variables: Mapping[str, str] = os.environ) -> None:
    """Have this process make traces from now on, if they are wished for; said again, it changes nothing.

    wish: `on`; `off`; or `auto`, if somebody has set a provider for this process, or if OpenTelemetry's own `variables`
    name an exporter. A provider that was set stays as it is; else one is made and set that those variables configure.

    Raises ConfigurationError if traces are `on` and a library for them is missing."""
    with _lock:
        if wish == "off" or tracing.tracer is not None or _is_disabled(variables):
            return
        try:
            provider = _set_provider() or (
                _make(variables) if wish == "on" or _names_exporter(variables) else None
            )
        except ImportError as error:
            missing = _MISSING.format(library=(error.name or str(error)).rpartition(".")[2])
            if wish == "on":
                raise ConfigurationError(missing) from error
            log.warning("there are no traces", reason=missing)
            return
        if provider is not None:
            tracing.tracer = OtelTracer(provider)


def flush() -> None:
    """Send what was made so far, if this process sends by itself; waits for as long as the exporter takes, ten seconds
    unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise."""
    if _own is not None:
        _own.force_flush()


def carrying(headers: Mapping[str, str]) -> dict[str, str]:
    """These headers of a request that is about to be sent, with the caller's trace in them, if the caller has one: whoever
    has a current span has imported OpenTelemetry."""
    found = dict(headers)
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(found)
    return found


def _is_disabled(variables: Mapping[str, str]) -> bool:
    return variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _names_exporter(variables: Mapping[str, str]) -> bool:
    """Whether the standard variables name somewhere to send traces to."""
    names = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(variables.get(name) for name in names)


def _set_provider() -> AnyProvider | None:
    """The provider that somebody has set for this process, of which nothing is known here before it is imported."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider

    found = get_tracer_provider()
    return None if isinstance(found, ProxyTracerProvider) else found


def _make(variables: Mapping[str, str]) -> AnyProvider | None:
    """A provider that sends to each of the exporters that the variables name, set for the process; None if they name
    none of them."""
    global _own
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import set_tracer_provider

    names = [name.strip() for name in (variables.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    classes = [_exporter(name, variables) for name in names if name not in ("", "none")]
    if not classes:
        return None
    resource = Resource.create()
    if resource.attributes.get(SERVICE_NAME, "unknown_service").startswith("unknown_service"):  # type: ignore[union-attr]
        resource = resource.merge(Resource({SERVICE_NAME: SCOPE}))
    provider = TracerProvider(resource=resource)
    for made in classes:
        provider.add_span_processor(BatchSpanProcessor(_per_process(made)))
    set_tracer_provider(provider)
    _own = provider
    return provider


def _exporter(name: str, variables: Mapping[str, str]) -> type[SpanExporter]:
    """The exporter of this name, by OpenTelemetry's entry points. Raises ImportError if nothing installed has it."""
    if name == "otlp":
        protocol = variables.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or variables.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL"
        )
        name = _OTLP.get(protocol or "http/protobuf", f"otlp with the protocol {protocol}")
    for point in entry_points(group=EXPORTERS_GROUP, name=name):
        made: type[SpanExporter] = point.load()
        return made
    raise ImportError(f"an exporter called {name}")


def _per_process(make: type[SpanExporter]) -> SpanExporter:
    """An exporter that each process has anew: those that Celery's prefork pool forks must not share its connections."""
    from opentelemetry.sdk.trace.export import SpanExporter

    class PerProcess(SpanExporter):
        def __init__(self) -> None:
            self._pid, self._exporter = os.getpid(), make()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if self._pid != os.getpid():
                self._pid, self._exporter = os.getpid(), make()
            return self._exporter.export(spans)

        def shutdown(self) -> None:
            self._exporter.shutdown()

    return PerProcess()


class OtelTracer:
    """Makes spans with a provider of OpenTelemetry's: see `wakeloop.tracing.Tracer`."""

    def __init__(self, provider: AnyProvider) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._format = TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer(SCOPE, version("wakeloop"))
        self._kinds = {kind.name.lower(): kind for kind in trace.SpanKind}

    def start(
        self, name: str, kind: Kind, facts: Facts, *, parent: str | None = None, links: Sequence[str] = (),
        is_root: bool = False,
    ) -> Span:  # fmt: skip
        from opentelemetry.context import Context

        context = self._context(parent) if parent is not None else Context() if is_root else None
        to = [
            self._trace.Link(found)
            for one in links
            if (found := self._span_of(one).get_span_context()).is_valid
        ]
        return self._begin(name, kind, facts, context, to)

    def carried(self) -> str | None:
        found = self._trace.get_current_span()
        return self._carried(found) if found.get_span_context().is_valid else None

    @contextmanager
    def resumed(self, carried: str) -> Iterator[None]:
        with self._trace.use_span(self._span_of(carried)):
            yield

    def ids(self) -> Mapping[str, str]:
        found = self._trace.get_current_span().get_span_context()
        if not found.is_valid:
            return {}
        return {
            "trace_id": self._trace.format_trace_id(found.trace_id),
            "span_id": self._trace.format_span_id(found.span_id),
        }

    def received(self, headers: Mapping[str, str]) -> str | None:
        """The context that a request's headers bring, in the form that OTEL_PROPAGATORS names."""
        from opentelemetry import propagate

        found = self._trace.get_current_span(propagate.extract(headers))
        return self._carried(found) if found.get_span_context().is_valid else None

    # ------------------------------------------------------------------ inside

    def _begin(
        self, name: str, kind: Kind, facts: Facts, context: Context | None, links: Sequence[Any] = ()
    ) -> OtelOne:
        made = self._tracer.start_span(
            name, context, kind=self._kinds[kind], attributes=_told(facts), links=links,
            record_exception=False, set_status_on_exception=False,
        )  # fmt: skip
        return OtelOne(self, made)

    def _carried(self, span: OtelSpan) -> str:
        carrier: dict[str, str] = {}
        self._format.inject(carrier, self._trace.set_span_in_context(span))
        state = carrier.get("tracestate")
        return f"{carrier['traceparent']} {state}" if state else carrier["traceparent"]

    def _context(self, carried: str) -> Context:
        from opentelemetry.context import Context

        parent, _, state = carried.partition(" ")
        return self._format.extract({"traceparent": parent, "tracestate": state}, Context())

    def _span_of(self, carried: str) -> OtelSpan:
        return self._trace.get_current_span(self._context(carried))


class OtelOne:
    """A span of OpenTelemetry's: see `wakeloop.tracing.Span`."""

    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._of = tracer
        self._span = span

    @property
    def carried(self) -> str:
        return self._of._carried(self._span)

    def child(self, name: str, kind: Kind, facts: Facts) -> Span:
        context = self._of._trace.set_span_in_context(self._span)
        return self._of._begin(name, kind, facts, context)

    def current(self) -> AbstractContextManager[None]:
        return self._current()

    @contextmanager
    def _current(self) -> Iterator[None]:
        with self._of._trace.use_span(self._span, record_exception=False, set_status_on_exception=False):
            yield

    def note(self, facts: Facts) -> None:
        self._span.set_attributes(_told(facts))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error: BaseException | str) -> None:
        name = error if isinstance(error, str) else error_name(error)
        event = {"exception.type": name}
        if isinstance(error, BaseException) and error.__traceback__ is not None:
            event["exception.stacktrace"] = lines_of_code(error)
        self._span.add_event("exception", event)
        self._span.set_attribute("error.type", name)
        self._span.set_status(self._of._trace.StatusCode.ERROR, name)

    def end(self) -> None:
        if self._span.is_recording():
            self._span.end()


def _told(facts: Facts) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
