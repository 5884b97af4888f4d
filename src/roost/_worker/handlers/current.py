"""The job that the calling code belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TypeVar

from roost._model.job import Job
from roost._model.lifespan import State, wrong_state
from roost._model.logs import JobFields
from roost._worker.running_job import RunningJob
from roost.exceptions import NoCurrentJobError

current: ContextVar[RunningJob | Job] = ContextVar("roost.current_job")
"""The attempt. In a handler's own process it is only the job, since the lease is the worker's."""

handler_state: ContextVar[State] = ContextVar("roost.current_state")
"""What the worker's lifespan made for its handlers. A handler's own process has none."""

S = TypeVar("S", bound=State)


def current_attempt() -> RunningJob:
    """Return the attempt that the calling code belongs to.

    :raises NoCurrentJobError: no attempt runs here, or the handler runs in its own process.
    """
    attempt = current.get(None)
    if not isinstance(attempt, RunningJob):
        raise NoCurrentJobError("no job is running here; a process of its own has no lease")
    return attempt


def current_job() -> Job:
    """Return the running job, in its handler and in all functions that the handler calls.

    The job is as it was claimed: the database is not read. Works in coroutines, worker threads and
    worker processes. With `Job.progress` and `Job.update_metadata` it writes into its row.

    :raises NoCurrentJobError: the caller isn't part of a job.
    """
    try:
        job = current.get()
    except LookupError:
        raise NoCurrentJobError("no job is running here") from None
    return job if isinstance(job, Job) else job.claimed.job()


def log_fields(job: RunningJob | Job) -> JobFields:
    """Return the fields that every log record about this job has."""
    if isinstance(job, RunningJob):
        return job.claimed.log_fields()
    return JobFields(job_id=job.id, task=job.task, queue=job.queue, attempt=job.attempt)


def current_state(kind: type[S] = State) -> S:  # type: ignore[assignment]  # mypy #3737
    """Return the worker's state, in a handler and in all functions that the handler calls.

    Works in coroutines and worker threads.

    :param kind: the class that the lifespan yields an instance of, for its typed attributes.
    :raises NoCurrentJobError: the caller isn't part of a job, or its handler runs in a process.
    :raises InvalidSettingError: the worker's state is not a ``kind``.
    """
    try:
        state = handler_state.get()
    except LookupError:
        raise NoCurrentJobError(
            "no job is running here; a handler in a process of its own has no state"
        ) from None
    if not isinstance(state, kind):
        raise wrong_state(state, kind)
    return state
