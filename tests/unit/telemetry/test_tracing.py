"""Traces of slow and failed requests, with the official SDK."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from xksproxy.config.model import Tracing
from xksproxy.request_stats import EndedRequest, HsmCall
from xksproxy.telemetry.tracer import build_tracer
from xksproxy.telemetry.tracing import RequestTracer

Trace = Callable[..., str | None]

OFF = """
import sys
from xksproxy.config.model import Tracing
import xksproxy.server.worker
from xksproxy.telemetry.tracer import build_tracer
assert build_tracer(Tracing()) is None
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def trace(
    tracer: RequestTracer,
    seconds: float = 0.5,
    *,
    error: str | None = None,
    began_at: float | None = None,
    **attributes: Any,
) -> str | None:
    began = time.monotonic() - seconds if began_at is None else began_at
    calls = [HsmCall("one", began + 0.1, began + 0.2, began + 0.4)]
    return tracer.trace(EndedRequest("Encrypt", began, seconds, attributes, calls, error))


def exported(settings: Tracing, ask: Callable[[RequestTracer], object]) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    tracer = RequestTracer(settings, exporter)
    ask(tracer)
    tracer.close()
    return exporter.get_finished_spans()


def test_a_slow_request_is_a_span_with_children_for_queue_and_hsm_call() -> None:
    before = time.time_ns()
    queue, call, root = exported(Tracing(), lambda tracer: trace(tracer, kmsRequestId="r-1", status=200, absent=None))

    assert (root.name, root.kind, root.parent, root.status.status_code) == (
        "Encrypt",
        SpanKind.SERVER,
        None,
        StatusCode.UNSET,
    )
    assert dict(root.attributes or {}) == {"kmsRequestId": "r-1", "status": 200}
    assert root.start_time is not None
    assert root.end_time is not None
    assert abs(root.end_time - root.start_time - 500_000_000) < 1000
    assert abs(root.end_time - before) < 60_000_000_000
    for span, name, begins, ends in ((queue, "queue", 0.1, 0.2), (call, "HSM call", 0.2, 0.4)):
        assert (span.name, dict(span.attributes or {})) == (name, {"xksproxy.hsm": "one"})
        assert span.parent is not None
        assert root.context is not None
        assert span.parent.span_id == root.context.span_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert abs(span.start_time - root.start_time - begins * 1e9) < 1000
        assert abs(span.end_time - root.start_time - ends * 1e9) < 1000


def test_the_trace_id_is_that_of_the_span() -> None:
    ids: list[str | None] = []
    *_, root = exported(Tracing(), lambda tracer: ids.append(trace(tracer)))

    assert root.context is not None
    assert ids == [f"{root.context.trace_id:032x}"]


def test_a_failed_request_is_traced_however_fast_and_a_fast_one_is_not() -> None:
    spans = exported(Tracing(), lambda tracer: [trace(tracer, 0.001), trace(tracer, 0.001, error="InternalException")])

    roots = [span for span in spans if span.parent is None]
    assert [(root.status.status_code, root.status.description) for root in roots] == [
        (StatusCode.ERROR, "InternalException")
    ]


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (1, 40)])
def test_the_rest_is_traced_by_ratio(ratio: float, count: int) -> None:
    now = time.monotonic()

    def ask(tracer: RequestTracer) -> None:
        for _ in range(40):
            trace(tracer, 0.001, began_at=now)

    assert len([span for span in exported(Tracing(ratio=ratio), ask) if span.parent is None]) == count


def test_a_second_has_fifty_traces_at_most() -> None:
    ids: list[str | None] = []

    def ask(tracer: RequestTracer) -> None:
        times = [*(1000.0 + number / 200 for number in range(200)), 1001.0]
        ids.extend(trace(tracer, 0.0, began_at=at, error="InternalException") for at in times)

    assert len([span for span in exported(Tracing(), ask) if span.parent is None]) == 51
    assert [index for index, found in enumerate(ids) if found] == [*range(50), 200]


def test_attributes_are_cut_and_escaped() -> None:
    *_, root = exported(Tracing(), lambda tracer: trace(tracer, key="k" * 1000, text="a\n\u202e"))

    assert dict(root.attributes or {}) == {"key": "k" * 128, "text": "a\\u000a\\u202e"}


class Failing(SpanExporter):
    """A collector that is down."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._error:
            raise self._error
        return SpanExportResult.FAILURE


@pytest.mark.parametrize("error", [None, ConnectionError("down")])
def test_a_collector_that_is_down_is_one_line_a_minute(
    caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    caplog.set_level(logging.INFO)
    tracer = RequestTracer(Tracing(), Failing(error))
    for _ in range(3):
        assert trace(tracer)
        tracer._provider.force_flush()
    tracer.close()

    assert [record.getMessage() for record in caplog.records] == ["traces cannot be sent"]


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_with_an_endpoint_the_official_sdk_is_used() -> None:
    tracer = build_tracer(Tracing(endpoint="http://127.0.0.1:9/v1/traces"))

    assert isinstance(tracer, RequestTracer)
    tracer.close()
