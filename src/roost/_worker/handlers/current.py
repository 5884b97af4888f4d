"""The job that the calling code belongs to."""

from __future__ import annotations

from contextvars import ContextVar

from roost._model.job import Job
from roost._worker.slots import RunningJob
from roost.exceptions import NoCurrentJobError

current: ContextVar[RunningJob | Job] = ContextVar("roost.current_job")
"""The attempt; in a process of its own only the job."""


def current_attempt() -> RunningJob:
    """Return the attempt that the calling code belongs to.

    :raises NoCurrentJobError: it isn't part of one, or runs in a process of its own.
    """
    attempt = current.get(None)
    if not isinstance(attempt, RunningJob):
        raise NoCurrentJobError("no job is running here; a process of its own has no lease")
    return attempt


def current_job() -> Job:
    """Return the running job, from within its handler or anything that the handler calls.

    It is the job as it was claimed; nothing is asked of the database. Works in coroutines, worker
    threads and worker processes.

    :raises NoCurrentJobError: the caller isn't part of a job.
    """
    try:
        job = current.get()
    except LookupError:
        raise NoCurrentJobError("no job is running here") from None
    return job if isinstance(job, Job) else job.claimed.job()
