"""Traces and metrics by OpenTelemetry: enqueue, wait and run of a job as one trace.

Needs the extra ``otel``, which is OpenTelemetry's API. Where spans and metrics go is decided by the
SDK that the application configures; without one nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

if find_spec("opentelemetry") is None:
    raise ModuleNotFoundError(
        "roost.contrib.otel needs OpenTelemetry's API: pip install 'anyroost[otel]'",
        name="opentelemetry",
    )

from opentelemetry import context, metrics, propagate, trace

from roost._model import telemetry
from roost._model.version import roost_version
from roost.contrib.otel.guard import guard
from roost.contrib.otel.measuring import Measures
from roost.contrib.otel.tracing import Tracing

__all__ = ["instrument", "uninstrument"]


def instrument(
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Trace and measure what this process enqueues and runs, by all of its clients and workers.

    For example:

        from roost.contrib import otel

        otel.instrument()

    Call it once, when the process starts; a later call replaces the providers. It may come before
    the SDK is configured. ``roost run --otel`` calls it.

    A job is never affected: an error in OpenTelemetry or in an exporter is logged. An exporter that
    blocks does block the event loop, so use a ``BatchSpanProcessor``.

    :param tracer_provider: where spans go; default: OpenTelemetry's global provider.
    :param meter_provider: where metrics go; default: OpenTelemetry's global provider.
    """
    version = roost_version()
    telemetry.install(
        Tracing(
            trace.get_tracer("roost", version, tracer_provider),
            Measures(metrics.get_meter("roost", version, meter_provider)),
        )
    )


def uninstrument() -> None:
    """Stop tracing and measuring. What runs is recorded to its end."""
    telemetry.install(None)


def continue_trace(carrier: Mapping[str, str]) -> None:
    """Continue the trace of an attempt, in the process that runs its handler."""
    if telemetry.active is None:
        instrument()
    with guard:
        context.attach(propagate.extract(carrier, context=context.Context()))
