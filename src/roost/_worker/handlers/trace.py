"""What the worker tells an instrumentation about an attempt. See `roost._model.telemetry`."""

from __future__ import annotations

from roost._model.failures import handler_decision
from roost._model.states import Event
from roost._model.telemetry import (
    NO_CARRIER,
    TRACEPARENT,
    Attempt,
    Instrumentation,
    Started,
    carrier_of,
    failure_of,
    first_span_of,
)
from roost._model.verdict import Ending, Raised, Verdict
from roost._ops.claim import ClaimedJob
from roost._worker.running_job import RunningJob
from roost._worker.statistics import OUTCOMES
from roost.exceptions import RetryJob


def begin_trace(running: RunningJob, instrumentation: Instrumentation) -> Attempt | None:
    """Begin to record an attempt, in the context of its own task, which ends with it."""
    claimed = running.claimed
    try:
        carrier, first_span = carrier_of(claimed.metadata_text), first_span_of(claimed.errors_text)
    except Exception:  # noqa: BLE001  (such as a RecursionError: the handler may need neither)
        carrier, first_span = NO_CARRIER, None
    started = Started(
        job_id=claimed.lease.job_id,
        queue=claimed.queue,
        task=claimed.task,
        attempt=claimed.attempt,
        max_attempts=claimed.max_attempts,
        worker_id=claimed.lease.worker_id,
        wait=_waited(claimed) + max(running.started_at - running.counted_from, 0.0),
        carrier=carrier,
        first_span=first_span,
    )
    return instrumentation.start(started)


def _waited(claimed: ClaimedJob) -> float:
    """Return the seconds from when the job was due to its claim, by the database's clock."""
    due = max(claimed.scheduled_at, claimed.inserted_at)
    return max(claimed.attempted_at - due, 0) / 1_000_000


def with_traceparent(verdict: Verdict, running: RunningJob) -> Verdict:
    """Return the verdict with the attempt's span in its error record, for later attempts."""
    if verdict.error is None or running.trace is None:
        return verdict
    traceparent = running.trace.traceparent()
    if traceparent is None:
        return verdict
    return verdict._replace(error=verdict.error | {TRACEPARENT: traceparent})


def end_trace(running: RunningJob, outcome: str) -> None:
    """Record how an attempt ended that is not settled."""
    if running.trace is not None:
        running.trace.ended(outcome, None)


def end_settled_trace(running: RunningJob, ending: Ending, verdict: Verdict) -> None:
    """Record how the attempt ended."""
    if running.trace is None:
        return
    failure = None
    if verdict.error is not None and not _is_retry_on_request(ending, verdict):
        failure = failure_of(ending, verdict.error)
    running.trace.ended(OUTCOMES[verdict.event], failure)


def _is_retry_on_request(ending: Ending, verdict: Verdict) -> bool:
    """Return whether the handler asked for the retry, which is then no error."""
    return (
        verdict.event is Event.RETRY
        and isinstance(ending, Raised)
        and isinstance(handler_decision(ending.error), RetryJob)
    )
