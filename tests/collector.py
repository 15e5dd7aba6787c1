"""A collector of traces on loopback: takes OTLP over HTTP, and keeps the spans that came, as far as tests ask for them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from tests.servers import poll

PATH = "/v1/traces"
TYPE = "application/x-protobuf"


@dataclass(frozen=True, kw_only=True)
class Collected:
    """A span. resource: what is said of the process that it came from. raw: all of it, as it came."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str | None
    links: tuple[str, ...]
    facts: Mapping[str, Any]
    failed: bool
    resource: Mapping[str, Any]
    raw: bytes


class Collector:
    """What came, and from where: `url` is what OTEL_EXPORTER_OTLP_ENDPOINT is to be."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.refused: list[str] = []
        self._spans: list[Collected] = []
        self._lock = Lock()

    @property
    def spans(self) -> list[Collected]:
        """All that came so far."""
        with self._lock:
            return list(self._spans)

    def named(self, name: str) -> list[Collected]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, *, count: int = 1, seconds: float = 30) -> list[Collected]:
        """Wait until so many spans of this name came."""
        for _ in poll(seconds):
            if len(found := self.named(name)) >= count:
                return found
        raise AssertionError(f"no {name!r} after {seconds} s, but {sorted(span.name for span in self.spans)}")

    def take(self, body: bytes) -> None:
        """Keep what an exporter sent."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self._spans += [
                _collected(span, _facts(one.resource.attributes))
                for one in request.resource_spans
                for scope in one.scope_spans
                for span in scope.spans
            ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector, for the length of a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path != PATH or self.headers["content-type"] != TYPE:
                collector.refused.append(f"{self.path} {self.headers['content-type']}")
                self.send_error(400)
                return
            collector.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", TYPE)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_port)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert collector.refused == []


def _collected(span: ProtoSpan, resource: Mapping[str, Any]) -> Collected:
    return Collected(
        name=span.name,
        kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex() or None,
        links=tuple(link.trace_id.hex() for link in span.links),
        facts=_facts(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        resource=resource,
        raw=span.SerializeToString(),
    )


def _facts(attributes: Any) -> dict[str, Any]:
    return {one.key: _plain(one.value) for one in attributes}


def _plain(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    return None if which is None else getattr(value, which)
