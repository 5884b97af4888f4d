"""The job that the calling code belongs to."""

from __future__ import annotations

from contextvars import ContextVar

from roost._model.job import Job
from roost._worker.slots import RunningJob
from roost.exceptions import NoCurrentJobError

current: ContextVar[RunningJob | Job] = ContextVar("roost.current_job")
"""The attempt. In a handler's own process it is only the job, since the lease is the worker's."""


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
