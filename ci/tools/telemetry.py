"""Spans that are sent when they start and again when they end, so that a trace shows running steps.
Separate from :mod:`ci.cli.session` because importing the SDK takes time, which a run outside
``dagger run`` need not spend."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter


class LiveSpans(BatchSpanProcessor):
    """Dagger's proxy takes a span twice and updates it (``OTEL_EXPORTER_OTLP_TRACES_LIVE``)."""

    def __init__(self, exporter: SpanExporter) -> None:
        super().__init__(exporter, schedule_delay_millis=100)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.on_end(span)
