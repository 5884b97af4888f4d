"""The spans: ``send`` for a call that enqueues, ``wait`` and ``process`` for each attempt.

They follow OpenTelemetry's conventions for messaging; what these lack is named ``roost.…``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from roost._model.telemetry import (
    Attempt,
    Failure,
    Send,
    Sent,
    Started,
    failure_from,
    headers_in,
)
from roost.contrib.otel.guard import guard
from roost.contrib.otel.measuring import Measures

MAX_LINKS: Final = 128
"""Links of one span at most, as the SDK keeps them by default."""
MAX_CARRIER: Final = 4_096
"""Characters of a trace's headers at most; longer ones, such as a baggage, are left out."""
FAILED: Final = {"retried", "discarded"}
LOST: Final = {"lost", "abandoned"}
"""Outcomes that are errors of the worker, not of the handler."""


class Tracing:
    """Records spans and metrics; see `roost._model.telemetry.Instrumentation`."""

    def __init__(self, tracer: Tracer, measures: Measures) -> None:
        self._tracer = tracer
        self._measures = measures

    def send(self, sent: Sent) -> Send:
        """Begin the span of a call that enqueues jobs."""
        return _Send(self._tracer, self._measures, sent)

    def start(self, started: Started) -> Attempt | None:
        """Begin the span of an attempt, and make it the current one."""
        with guard:
            return _Attempt(self._tracer, self._measures, started)
        return None

    def names_span(self, carrier: object) -> bool:
        """Return whether this is a carrier from which a span can be read."""
        with guard:
            return _span_in(headers_in(carrier)) is not None
        return False


class _Send:
    """A call of a client that enqueues jobs. Its span is the parent of the jobs' spans."""

    def __init__(self, tracer: Tracer, measures: Measures, sent: Sent) -> None:
        self.carrier: Mapping[str, str] = {}
        self.ids: Sequence[int | None] = ()
        self._measures = measures
        self._sent = sent
        self._began = time.perf_counter()
        self._span: Span | None = None
        with guard:
            queue, task = sent.only_queue, sent.only_task
            attributes: dict[str, str | int] = _common("send", queue)
            if task is not None:
                attributes["roost.task"] = task
            if sent.is_bulk:
                attributes["messaging.batch.message_count"] = sent.jobs
            self._span = tracer.start_span(
                "send" if queue is None else f"send {queue}",
                kind=SpanKind.PRODUCER,
                attributes=attributes,
                links=[Link(one) for one in map(_span_in, sent.carriers[:MAX_LINKS]) if one],
            )
            carrier: dict[str, str] = {}
            propagate.inject(carrier, context=_with_span(self._span, context.get_current()))
            self.carrier = _storable(carrier)

    def __enter__(self) -> Self:
        self._token = None
        if self._span is not None:
            with guard:
                self._token = context.attach(_with_span(self._span, context.get_current()))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        failure = None if exc_val is None else failure_from(exc_val)
        with guard:
            if self._token is not None:
                context.detach(self._token)
            if self._span is not None:
                if len(self.ids) == 1:
                    self._span.set_attribute("messaging.message.id", str(self.ids[0]))
                if failure is not None:
                    _record_failure(self._span, failure)
                self._span.end()
        with guard:
            seconds = time.perf_counter() - self._began
            kind = None if failure is None else failure.kind
            self._measures.sent(self._sent, seconds, kind)


class _Attempt:
    """An attempt. Its span is current in the attempt's task, and ends with the verdict."""

    def __init__(self, tracer: Tracer, measures: Measures, started: Started) -> None:
        self._measures = measures
        self._started = started
        self._began = time.perf_counter()
        now = time.time_ns()
        parent = _context_in(started.carrier)
        first = _span_in({"traceparent": started.first_span}) if started.first_span else None
        is_sent = trace.get_current_span(parent).get_span_context().is_valid
        if first is not None and not is_sent:
            # Nothing traced the enqueue: all attempts are in the trace of the first one.
            parent = trace.set_span_in_context(NonRecordingSpan(first), parent)
        attributes: dict[str, str | int | float] = {
            "messaging.system": "roost",
            "messaging.destination.name": started.queue,
            "messaging.message.id": str(started.job_id),
            "roost.task": started.task,
            "roost.attempt": started.attempt,
            "roost.max_attempts": started.max_attempts,
            "roost.worker.id": started.worker_id,
        }
        if is_sent:
            # The times are those of this machine, and their difference is by the database's clock.
            waiting = tracer.start_span(
                f"wait {started.queue}",
                context=parent,
                attributes=attributes,
                start_time=now - int(started.wait * 1e9),
            )
            waiting.end(now)
        self._span = tracer.start_span(
            f"process {started.queue}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=_common("process", started.queue)
            | attributes
            | {"roost.wait.duration": started.wait},
            links=[Link(first, {"roost.link": "first attempt"})] if first else (),
            start_time=now,
        )
        self._context = _with_span(self._span, parent)
        context.attach(self._context)  # the attempt's task ends, and its context with it
        with guard:
            measures.started(started)

    def traceparent(self) -> str | None:
        """Return what names the span."""
        with guard:
            one = self._span.get_span_context()
            if one.is_valid:
                return f"00-{one.trace_id:032x}-{one.span_id:016x}-{one.trace_flags:02x}"
        return None

    def in_process(self) -> Callable[[], object] | None:
        """Return a function that makes the span current in the handler's own process."""
        from roost.contrib.otel import continue_trace

        carrier: dict[str, str] = {}
        with guard:
            propagate.inject(carrier, context=self._context)
        return partial(continue_trace, carrier)

    def ended(self, outcome: str, failure: Failure | None) -> None:
        """End the span."""
        kind = None
        with guard:
            self._span.set_attribute("roost.outcome", outcome)
            if outcome in LOST:
                kind = outcome
                _set_error(self._span, kind, outcome)
            elif outcome in FAILED and failure is not None:
                kind = failure.kind
                _record_failure(self._span, failure)
            self._span.end()
        with guard:
            seconds = time.perf_counter() - self._began
            self._measures.ended(self._started, seconds, outcome, kind)


def _with_span(span: Span, base: Context) -> Context:
    """Return the context in which ``span`` is the current one.

    Without an SDK older versions of the API return a span of no trace: ``base`` is passed on then.
    """
    return trace.set_span_in_context(span, base) if span.get_span_context().is_valid else base


def _common(operation: str, queue: str | None) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "messaging.system": "roost",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    if queue is not None:
        attributes["messaging.destination.name"] = queue
    return attributes


def _record_failure(span: Span, failure: Failure) -> None:
    """Record an error. Its text is bounded; the exception's own code may raise, or block."""
    span.add_event(
        "exception",
        {
            "exception.type": failure.kind,
            "exception.message": failure.message,
            "exception.stacktrace": failure.trace,
        },
    )
    _set_error(span, failure.kind, failure.error)


def _set_error(span: Span, kind: str, description: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, description))


def _span_in(carrier: Mapping[str, str]) -> SpanContext | None:
    """Return the span that the headers name; ``None``: none."""
    found = trace.get_current_span(_context_in(carrier)).get_span_context()
    return found if found.is_valid else None


def _context_in(carrier: Mapping[str, str]) -> Context:
    """Return the context that the headers name, by the application's propagator.

    If that finds no span, by ``traceparent`` of the W3C, which other programs pass.
    """
    found = Context()
    with guard:  # it reads what any program may have stored
        found = propagate.extract(carrier, context=found)
    if trace.get_current_span(found).get_span_context().is_valid:
        return found
    return TraceContextTextMapPropagator().extract(carrier, context=found)


def _storable(carrier: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers that can be stored. The shortest come first: they name the span."""
    found, left = {}, MAX_CARRIER
    for name, value in sorted(carrier.items(), key=lambda item: len(item[1])):
        left -= len(name) + len(value)
        if left >= 0 and f"{name}{value}".isascii() and f"{name}{value}".isprintable():
            found[name] = value
    return found
