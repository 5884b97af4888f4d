"""The verbs of `Roost` that read jobs, queues, workers, limits and cron entries."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack

from roost._client import reading_calls
from roost._client.calls import DatabaseCall
from roost._model.cron import CronInfo
from roost._model.explanation import Explanation
from roost._model.info import LimitInfo, QueueInfo, TaskInfo, WorkerInfo
from roost._model.job import Job
from roost._model.job_filter import JobFilter
from roost._model.overview import Overview
from roost._model.states import JobState

T = TypeVar("T")


class Reading:
    """The verbs; the subclass says in ``_run`` how a database call is made."""

    def _run(
        self, call: DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        raise NotImplementedError

    def get(self, job_id: int) -> Job:
        """Return a job, live or archived; see `AsyncRoost.get`."""
        return self._run(reading_calls.get(job_id))

    def status(self, job_id: int) -> JobState:
        """Return a job's state; see `AsyncRoost.status`."""
        return self._run(reading_calls.status(job_id))

    def explain(self, job_id: int) -> Explanation:
        """Return why a job does not run; see `AsyncRoost.explain`."""
        return self._run(reading_calls.explain(job_id))

    def list_jobs(
        self, *, limit: int = 50, after: int | None = None, **where: Unpack[JobFilter]
    ) -> list[Job]:
        """Return a page of the jobs of a filter, the newest first; see `AsyncRoost.list_jobs`."""
        return self._run(reading_calls.list_jobs(where, limit=limit, after=after))

    def list_queues(self) -> list[QueueInfo]:
        """Return the queues and what waits and runs in them; see `AsyncRoost.list_queues`."""
        return self._run(reading_calls.list_queues())

    def list_limits(self) -> list[LimitInfo]:
        """Return the limits that apply; see `AsyncRoost.list_limits`."""
        return self._run(reading_calls.list_limits())

    def list_cron(self) -> list[CronInfo]:
        """Return the cron entries; see `AsyncRoost.list_cron`."""
        return self._run(reading_calls.list_cron())

    def list_workers(self) -> list[WorkerInfo]:
        """Return the registered workers; see `AsyncRoost.list_workers`."""
        return self._run(reading_calls.list_workers())

    def list_tasks(self) -> list[TaskInfo]:
        """Return the tasks that workers know or knew; see `AsyncRoost.list_tasks`."""
        return self._run(reading_calls.list_tasks())

    def overview(self) -> Overview:
        """Return queues, workers and throughput; see `AsyncRoost.overview`."""
        return self._run(reading_calls.overview())
