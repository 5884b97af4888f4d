"""The job that the calling code belongs to."""

from __future__ import annotations

from contextvars import ContextVar

from roost._model.job import Job
from roost._ops.claim import ClaimedJob
from roost.exceptions import NoCurrentJobError

current: ContextVar[ClaimedJob | Job] = ContextVar("roost.current_job")


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
    return job if isinstance(job, Job) else job.job()
