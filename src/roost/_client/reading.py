"""The verbs of `AsyncRoost` that read jobs, queues, workers, limits and cron entries."""

from __future__ import annotations

from typing import Any, TypeVar

from roost._client import reading_calls
from roost._client.calls import DatabaseCall
from roost._model.cron import CronInfo
from roost._model.info import LimitInfo, QueueInfo, WorkerInfo
from roost._model.job import Job
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
