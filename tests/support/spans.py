"""The spans and metrics that a test has recorded."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support.job_table import JobTable


class Spans:
    """The spans that have ended, by name."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str, task: str | None = None) -> list[ReadableSpan]:
        """Return the spans of this name, and of this task if given, in the order of their ends."""
        return [
            span
            for span in self.exporter.get_finished_spans()
            if span.name == name and task in (None, attributes(span).get("roost.task"))
        ]

    def one(self, name: str, task: str | None = None) -> ReadableSpan:
        """Return the only span of this name, and of this task if given."""
        [span] = self.named(name, task)
        return span

    def inside(self, name: str) -> AbstractContextManager[trace.Span]:
        """Return a context in which a new span is the current one."""
        return self.provider.get_tracer("application").start_as_current_span(name)


def context_of(span: ReadableSpan) -> trace.SpanContext:
    """Return what names the span."""
    found = span.get_span_context()
    assert found is not None
    return found


def id_of(span: ReadableSpan) -> int:
    """Return the span's id."""
    return context_of(span).span_id


def parent_of(span: ReadableSpan) -> int | None:
    """Return the id of the span's parent."""
    return None if span.parent is None else span.parent.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    """Return the span's attributes."""
    return dict(span.attributes or {})


def carrier(table: JobTable, job_id: int) -> Any:
    """Return what a job's metadata hold of its trace."""
    return table.get(job_id).metadata.get("otel")


def points(reader: Any) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Return the attributes and the point of each series, by the metric's name."""
    data = reader.get_metrics_data()
    return {
        metric.name: [(dict(point.attributes), point) for point in metric.data.data_points]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
