"""The metrics, by OpenTelemetry's conventions for messaging; others are named ``roost.…``."""

from __future__ import annotations

from opentelemetry.metrics import Meter

from roost._model.telemetry import Sent, Started

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The bounds that the conventions advise for durations."""
LONG = (*SECONDS, 30, 60, 300, 1_800, 3_600)
"""Bounds for jobs, which may wait and run for long."""


class Measures:
    """Counters and histograms. Their attributes have few values: queues, tasks and outcomes."""

    def __init__(self, meter: Meter) -> None:
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Jobs that were enqueued"
        )
        self._operation = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Time of the calls that enqueue jobs",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Attempts that were started"
        )
        self._process = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Time of the attempts",
            explicit_bucket_boundaries_advisory=LONG,
        )
        self._wait = meter.create_histogram(
            "roost.wait.duration",
            "s",
            "Time between a job's due time and the start of an attempt",
            explicit_bucket_boundaries_advisory=LONG,
        )

    def sent(self, sent: Sent, seconds: float, error_type: str | None) -> None:
        """Count what a call enqueued, or failed to."""
        attributes = _attributes("send", sent.only_queue, error_type)
        attributes["messaging.operation.type"] = "send"
        self._operation.record(seconds, attributes)
        for queue, jobs in sent.queues.items():
            self._sent.add(jobs, _attributes("send", queue, error_type))

    def started(self, started: Started) -> None:
        """Count an attempt, and the time that its job waited."""
        attributes = _attributes("process", started.queue) | {"roost.task": started.task}
        self._consumed.add(1, attributes)
        self._wait.record(started.wait, attributes)

    def ended(self, started: Started, seconds: float, outcome: str, error_type: str | None) -> None:
        """Record the time of an attempt."""
        attributes = _attributes("process", started.queue, error_type)
        self._process.record(
            seconds, attributes | {"roost.task": started.task, "roost.outcome": outcome}
        )


def _attributes(operation: str, queue: str | None, error_type: str | None = None) -> dict[str, str]:
    attributes = {"messaging.system": "roost", "messaging.operation.name": operation}
    if queue is not None:
        attributes["messaging.destination.name"] = queue
    if error_type is not None:
        attributes["error.type"] = error_type
    return attributes
