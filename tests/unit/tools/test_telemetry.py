"""A span is sent as it starts and again as it ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ci.tools.telemetry import LiveSpans


class Remembers(SpanExporter):
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.first = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.seen += [span.name for span in spans]
        self.first.set()
        return SpanExportResult.SUCCESS


def test_what_is_under_way_is_sent_before_it_ends() -> None:
    exporter = Remembers()
    provider = TracerProvider()
    provider.add_span_processor(LiveSpans(exporter))
    with provider.get_tracer("test").start_as_current_span("build the image"):
        assert exporter.first.wait(10), "nothing was sent while it ran"
        assert exporter.seen == ["build the image"]
    provider.shutdown()
    assert exporter.seen == ["build the image"] * 2
