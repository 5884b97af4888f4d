"""Read jobs, queues and workers for users."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from roost._model.codec import decode
from roost._model.error_records import decode_errors
from roost._model.info import JobOutcome, QueueInfo, WorkerInfo
from roost._model.job import Job
from roost._model.states import TERMINAL, JobState
from roost._ops.query import Op, Query, Row
from roost._sql import statements
from roost.exceptions import JobNotFoundError

_SQL = statements("read")


def get_job(job_id: int) -> Op[Job]:
    """Return one job, live or archived.

    :raises JobNotFoundError: no job has that id.
    """
    rows = yield Query(_SQL["get_job"], (job_id,))
    if not rows:
        raise JobNotFoundError(f"no job has the id {job_id}")
    return job_of(rows[0])


def await_outcome(job_id: int) -> Op[JobOutcome | None]:
    """Return how a job ended; ``None``: it has not, and a notification will say when it does.

    :raises JobNotFoundError: no job has that id.
    """
    rows = yield Query(_SQL["await_job"], (job_id,))
    if not rows:
        raise JobNotFoundError(f"no job has the id {job_id}")
    state, result, errors = rows[0]
    if JobState(state) not in TERMINAL:
        return None
    return JobOutcome(
        job_id, state, None if result is None else decode(result), decode_errors(errors)
    )


def list_queues() -> Op[list[QueueInfo]]:
    """Return the queues with waiting, executing or discarded jobs, with a worker, or paused."""
    rows = yield Query(_SQL["list_queues"])
    return [
        QueueInfo(
            name=name,
            paused_at=None if paused_at is None else utc(paused_at),
            available=available,
            scheduled=scheduled,
            retryable=retryable,
            blocked=blocked,
            executing=executing,
            prefetched=prefetched,
            discarded=discarded,
            oldest_due_seconds=oldest_due_seconds,
            capped=capped,
        )
        for (
            name,
            paused_at,
            available,
            scheduled,
            retryable,
            blocked,
            executing,
            prefetched,
            discarded,
            oldest_due_seconds,
            capped,
        ) in rows
    ]


def list_workers() -> Op[list[WorkerInfo]]:
    """Return the registered workers, including expired ones that no rescue has removed yet."""
    rows = yield Query(_SQL["list_workers"])
    return [
        WorkerInfo(
            id=worker_id,
            name=name,
            queues=list(queues),
            concurrency=concurrency,
            started_at=utc(started_at),
            heartbeat_at=utc(heartbeat_at),
            heartbeat_interval=heartbeat_interval,
            expires_at=utc(expires_at),
            executing=executing,
            prefetched=prefetched,
            tasks=list(tasks),
            version=version,
            driver=driver,
            event_loop=event_loop,
            host=host,
            pid=pid,
            running=running,
            waiting=waiting,
            loop_lag=loop_lag,
            slots=None if slots is None else decode(slots),
        )
        for (
            worker_id,
            name,
            queues,
            concurrency,
            started_at,
            heartbeat_at,
            heartbeat_interval,
            expires_at,
            executing,
            prefetched,
            tasks,
            version,
            driver,
            event_loop,
            host,
            pid,
            running,
            waiting,
            loop_lag,
            slots,
        ) in rows
    ]


def count_by_state(queues: Sequence[str]) -> Op[dict[JobState, int]]:
    """Count the jobs of ``queues`` in each state. Reads the whole table."""
    rows = yield Query(_SQL["count_by_state"], (list(queues),))
    return {JobState(state): count for state, count in rows}


def utc(moment: datetime) -> datetime:
    """Return the same instant in UTC; drivers return different time zones."""
    return moment.astimezone(UTC)


_JSON_FIELDS = ("args", "result", "metadata")


def job_of(row: Row) -> Job:
    """Return the job of a row of the fragment ``job_columns``."""
    # Fields of null columns get their defaults.
    columns = zip(Job.model_fields, row, strict=True)
    values = {name: value for name, value in columns if value is not None}
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = utc(value)
        elif name in _JSON_FIELDS:
            values[name] = decode(value)
        elif name == "errors":
            values[name] = decode_errors(value)
    return Job.model_validate(values)
