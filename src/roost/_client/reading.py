"""The verbs of `AsyncRoost` that read jobs, queues, workers, limits and cron entries."""

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


class AsyncReading:
    """The verbs; the subclass says in ``_run`` how a database call is made."""

    async def _run(
        self, call: DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        raise NotImplementedError

    async def get(self, job_id: int) -> Job:
        """Return a job, live or archived.

        :raises JobNotFoundError: no job has that id.
        """
        return await self._run(reading_calls.get(job_id))

    async def status(self, job_id: int) -> JobState:
        """Return a job's state, live or archived.

        :raises JobNotFoundError: no job has that id.
        """
        return await self._run(reading_calls.status(job_id))

    async def explain(self, job_id: int) -> Explanation:
        """Return why a job does not run, or that it runs or has ended.

        For example:

            found = await client.explain(job_id)
            print(found.reason, found.message)

        All of it is read at one moment. A job may have several reasons, such as a paused queue that
        no worker serves: the first one is returned, and the others are in ``also``. A cancel leaves
        nothing behind.

        :returns: an `Explanation`, with one of the reasons of `ExplanationReason`.
        :raises JobNotFoundError: no job has that id.
        """
        return await self._run(reading_calls.explain(job_id))

    async def list_jobs(
        self, *, limit: int = 50, after: int | None = None, **where: Unpack[JobFilter]
    ) -> list[Job]:
        """Return a page of the jobs of a filter, live and archived, the newest first.

        For example:

            page = await client.list_jobs(states=["discarded"], queues=["mail"])
            while page:
                print([job.id for job in page])
                page = await client.list_jobs(
                    states=["discarded"], queues=["mail"], after=page[-1].id
                )

        The order is that of the ids, which is the order of the enqueues. All jobs of a page are
        read at one moment. Over several pages, each job that fits the filter all the time is found
        once. A cancel leaves nothing behind.

        :param limit: the most jobs of the page, 1 to 1,000.
        :param after: the id of the last job of the page before; default: the first page.
        :param where: ``ids``, ``states``, ``queues``, ``tasks``, ``tags``, ``unique_key``,
            ``worker_id``, ``error_contains``, ``inserted_after``, ``inserted_before``,
            ``finished_after``, ``finished_before``: see `JobFilter`. Default: all jobs.
        :raises InvalidJobError: a value is out of its range; the database was not used.
        :raises FilterTooSlowError: no index helps to find the jobs, and it takes more than 10 s.
        """
        return await self._run(reading_calls.list_jobs(where, limit=limit, after=after))

    async def list_queues(self) -> list[QueueInfo]:
        """Return the queues that have a waiting, running or discarded job, a worker, or a pause.

        Each number is counted up to 10,000; see `QueueInfo`.
        """
        return await self._run(reading_calls.list_queues())

    async def list_limits(self) -> list[LimitInfo]:
        """Return the limits that apply, declared or set, and how much of each is in use."""
        return await self._run(reading_calls.list_limits())

    async def list_cron(self) -> list[CronInfo]:
        """Return the cron entries of the code and of `add_cron`, stale ones included."""
        return await self._run(reading_calls.list_cron())

    async def list_workers(self) -> list[WorkerInfo]:
        """Return the registered workers.

        These include workers whose lease has expired and that no rescue has removed yet.
        """
        return await self._run(reading_calls.list_workers())

    async def list_tasks(self) -> list[TaskInfo]:
        """Return the tasks that a worker has, or had, a handler for, by name.

        A worker publishes its tasks when it starts: their options, limits and the JSON Schema of
        their args.
        """
        return await self._run(reading_calls.list_tasks())

    async def overview(self) -> Overview:
        """Return the queues, the workers, and the throughput of the last minute, hour and day.

        It takes milliseconds, also with many jobs in the table: throughput and percentiles come
        from the counts that each worker writes once a minute. So they are up to 80 seconds old.
        """
        return await self._run(reading_calls.overview())
