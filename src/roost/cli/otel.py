"""The option ``--otel``: trace and measure by OpenTelemetry."""

from __future__ import annotations

from importlib.util import find_spec

from roost._model.logs import StructuredLogger
from roost.exceptions import InvalidSettingError

logger = StructuredLogger("roost.cli")

_API = ("opentelemetry.trace", "opentelemetry.metrics")
"""Where the classes are that stand for the providers of an SDK; one of them is private."""


def instrument() -> None:
    """Trace and measure this process.

    :raises InvalidSettingError: OpenTelemetry's API is not installed.
    """
    if find_spec("opentelemetry") is None:
        raise InvalidSettingError(
            "--otel needs OpenTelemetry's API, which is not installed: pip install 'anyroost[otel]'"
        )
    from roost.contrib import otel

    otel.instrument()


def warn_without_sdk() -> None:
    """Log a warning if the user's modules have configured no SDK: nothing would be recorded."""
    from opentelemetry import metrics, trace

    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    if all(type(provider).__module__.startswith(_API) for provider in providers):
        logger.warning(
            "--otel records nothing: no OpenTelemetry SDK is configured; do so in the module of "
            "-m, or start the command by opentelemetry-instrument"
        )
