"""Whether a process makes traces, and where they go: by the settings, by OpenTelemetry's variables, by what is installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
from tests.collector import Collector, collecting
from tests.trace_kit import tracing_on

from wakeloop import tracing

BEGIN = """
    import logging, sys
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    from wakeloop import tracing
    from wakeloop.errors import ConfigurationError
    from wakeloop.telemetry import begin, flush
"""
OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


def run(source: str, **variables: str) -> str:
    """What a program prints that has just these variables."""
    code = textwrap.dedent(BEGIN) + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("wish", "variables"), [("auto", OTLP), ("auto", {"OTEL_TRACES_EXPORTER": "console"}), ("on", {})]
)
def test_traces_are_made_where_they_are_wished_for(wish: str, variables: dict[str, str]) -> None:
    """By the setting, or because the standard variables name an exporter."""
    printed = run(
        f"begin({wish!r}); print(tracing.tracer is not None)", OTEL_BSP_EXPORT_TIMEOUT="1", **variables
    )

    assert printed == "True\n"


def test_elsewhere_nothing_is_even_imported() -> None:
    """Not wished for, switched off, or sent nowhere."""
    printed = run(
        f"""
        otlp = {OTLP}
        begin("auto", {{}})
        begin("auto", {{"OTEL_SDK_DISABLED": "true", **otlp}})
        begin("on", {{"OTEL_SDK_DISABLED": "TRUE"}})
        begin("off", otlp)
        print(tracing.tracer, "opentelemetry" in sys.modules)
        begin("auto", {{"OTEL_TRACES_EXPORTER": "none", **otlp}})
        print(tracing.tracer)
        """
    )

    assert printed == "None False\nNone\n"


def test_a_provider_of_somebodys_own_stays_as_it_is() -> None:
    """Nothing is added to it, and no variable is needed."""
    printed = run(
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        kept = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(kept))
        trace.set_tracer_provider(provider)
        begin("auto")
        with tracing.span("work", "internal", {}):
            pass
        assert trace.get_tracer_provider() is provider
        print([span.name for span in kept.get_finished_spans()])
        """
    )

    assert printed == "['work']\n"


def test_a_missing_library_is_named_with_the_extra_that_brings_it() -> None:
    """Where traces are on it is an error; where variables only name an exporter, a warning, and the work goes on."""
    printed = run(
        """
        sys.modules["opentelemetry.sdk"] = None
        begin("auto")
        try:
            begin("on")
        except ConfigurationError as error:
            print("refused:", error)
        """,
        **OTLP,
    )

    assert printed.count('pip install "wakeloop[otel]"') == 2
    assert printed.splitlines()[0].startswith("there are no traces")
    assert printed.splitlines()[1].startswith("refused: traces need a library that is not installed")


def test_an_exporter_that_is_not_installed_is_told() -> None:
    """As is a protocol that its library has to be added for."""
    printed = run('begin("auto")', OTEL_EXPORTER_OTLP_PROTOCOL="grpc", **OTLP)

    assert "otlp_proto_grpc" in printed


@pytest.fixture
def collector() -> Any:
    with collecting() as collector:
        yield collector


def test_spans_go_where_the_variables_say(collector: Collector) -> None:
    """Over OTLP, under the name `wakeloop` unless another is given, and all of them at the program's end."""
    source = """
        begin("auto")
        with tracing.span("work", "internal", {"wakeloop.agent": "standup", "left.out": None}):
            pass
    """
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}

    run(source, **endpoint)
    run(source, OTEL_SERVICE_NAME="mine", **endpoint)

    spans = collector.named("work")
    assert [span.resource["service.name"] for span in spans] == ["wakeloop", "mine"]
    assert spans[0].facts == {"wakeloop.agent": "standup"}


def test_a_forked_process_sends_its_spans_by_itself(collector: Collector) -> None:
    """As those of Celery's prefork pool do: parent and child both, each on connections of its own."""
    run(
        """
        import os
        begin("auto")

        def work(name):
            with tracing.span(name, "internal", {}):
                pass
            flush()

        work("before")
        child = os.fork()
        work("in the child" if child == 0 else "in the parent")
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )

    assert sorted(span.name for span in collector.spans) == ["before", "in the child", "in the parent"]


def test_the_standard_sampler_is_asked(collector: Collector) -> None:
    """A trace that is not sampled is none of anybody's, but what belongs together still does."""
    printed = run(
        """
        begin("auto")
        with tracing.span("work", "internal", {}):
            carried = tracing.carried()
            print(carried[-2:])
        with tracing.span("more", "internal", {}, parent=carried):
            assert tracing.carried().split("-")[1] == carried.split("-")[1]
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_TRACES_SAMPLER="parentbased_always_off",
    )

    assert int(printed, 16) & 1 == 0
    assert collector.spans == []


def test_without_a_tracer_nothing_is_done() -> None:
    """There is no span to speak of, nothing to store, and nothing for the log."""
    with tracing.span("work", "internal", {}) as span, tracing.resumed("anything"):
        assert span is None
        assert tracing.carried() is None
        assert tracing.log_ids() == {}


def test_a_span_that_has_ended_stays_as_it_is() -> None:
    """Ended twice, it is told once."""
    with tracing_on() as traces:
        assert tracing.tracer is not None
        span = tracing.tracer.start("work", "internal", {}, is_root=True)
        span.end()
        span.end()

    assert [one.name for one in traces.spans] == ["work"]
