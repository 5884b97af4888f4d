"""The calls of the verbs that read jobs, queues, workers, limits and cron entries."""

from __future__ import annotations

from roost._client.calls import DatabaseCall, checked_id
from roost._model.cron import CronInfo
from roost._model.explanation import Explanation
from roost._model.info import LimitInfo, QueueInfo, TaskInfo, WorkerInfo
from roost._model.job import Job
from roost._model.job_filter import JobFilter, check_filter
from roost._model.overview import Overview
from roost._model.states import JobState
from roost._model.validate import MAX_ID, check_int
from roost._ops import control, cron, limits, read, rollups, tasks
from roost._ops import list_jobs as job_pages
from roost._ops.explain import explain_job
from roost._worker.cron_declarer import STALE_AFTER

MAX_PAGE = 1_000
"""Most jobs that one call of `list_jobs` returns."""


def get(job_id: int) -> DatabaseCall[Job]:
    """Read one job."""
    return DatabaseCall(read.get_job(checked_id(job_id)))


def status(job_id: int) -> DatabaseCall[JobState]:
    """Read one job's state."""
    return DatabaseCall(control.state_of(checked_id(job_id)))


def list_jobs(given: JobFilter, *, limit: int, after: int | None) -> DatabaseCall[list[Job]]:
    """Read a page of the jobs of a filter.

    :param limit: the most jobs.
    :param after: the last job of the page before.
    """
    check_int("limit", limit, minimum=1, maximum=MAX_PAGE)
    if after is not None:
        check_int("after", after, minimum=1, maximum=MAX_ID)
    everything = all(value is None for value in given.values())
    where = check_filter(given, everything=everything).among(list(JobState))
    return DatabaseCall(
        job_pages.list_jobs(where, below=after or MAX_ID, limit=limit), in_transaction=True
    )


def explain(job_id: int) -> DatabaseCall[Explanation]:
    """Say why one job does not run."""
    return DatabaseCall(explain_job(checked_id(job_id)), in_transaction=True)


def list_queues() -> DatabaseCall[list[QueueInfo]]:
    """Read the queues."""
    return DatabaseCall(read.list_queues())


def list_limits() -> DatabaseCall[list[LimitInfo]]:
    """Read the limits."""
    return DatabaseCall(limits.list_limits())


def list_workers() -> DatabaseCall[list[WorkerInfo]]:
    """Read the workers."""
    return DatabaseCall(read.list_workers())


def list_cron() -> DatabaseCall[list[CronInfo]]:
    """Read the cron entries."""
    return DatabaseCall(cron.list_entries(stale_after=STALE_AFTER))


def list_tasks() -> DatabaseCall[list[TaskInfo]]:
    """Read the tasks."""
    return DatabaseCall(tasks.list_tasks())


def overview() -> DatabaseCall[Overview]:
    """Read the queues, the workers and the throughput."""
    return DatabaseCall(rollups.overview())
