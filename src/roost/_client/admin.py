"""The verbs by which people steer jobs, queues and workers; a part of `AsyncRoost`."""

from __future__ import annotations

from typing import TypeVar

import anyio

from roost._client import calls
from roost._client.calls import FIRST_PAUSE_DELAY, MAX_PAUSE_DELAY, PAUSE_TIMEOUT
from roost._model.cron import CronInfo
from roost._model.info import QueueInfo, WorkerInfo
from roost._model.job import Job
from roost._model.states import JobState

T = TypeVar("T")


class AsyncAdmin:
    """Admin verbs over ``_run`` of the facade."""

    async def _run(self, call: calls.DatabaseCall[T]) -> T:
        raise NotImplementedError

    async def get(self, job_id: int) -> Job:
        """Return a job as it stands, live or archived.

        :raises JobNotFoundError: no job has that id.
        """
        return await self._run(calls.get(job_id))

    async def status(self, job_id: int) -> JobState:
        """Return a job's state, live or archived.

        :raises JobNotFoundError: no job has that id.
        """
        return await self._run(calls.status(job_id))

    async def cancel(self, job_id: int) -> bool:
        """Cancel a waiting job, or ask its worker to interrupt a running one.

        Returns ``False`` when it had ended before. A running job is ``cancelled`` when its handler
        has unwound, and completed if that had returned before it could be interrupted; it is not
        retried. Jobs that wait for a cancelled one are cancelled too.

        :raises JobNotFoundError: no job has that id.
        """
        return await self._run(calls.cancel(job_id))

    async def retry(self, job_id: int) -> bool:
        """Make an ended job, or one that waits for its retry, available now.

        Its errors stay, its result goes, and it gets one more attempt at least. Returns ``False``
        when it is available or executing. Children that were cancelled with it stay cancelled;
        retry them after it, and they wait for it again.

        :raises JobNotFoundError: no job has that id.
        :raises DuplicateUniqueJobError: another active job has its unique key.
        :raises InvalidJobError: it was cancelled, and a job that it depends on was discarded or
            cancelled: retry that one first.
        """
        return await self._run(calls.retry(job_id))

    async def requeue_discarded(
        self, *, queue: str | None = None, task: str | None = None, limit: int | None = None
    ) -> int:
        """Make discarded jobs available again and return how many.

        Works in batches that commit one by one. Of several jobs with one unique key the oldest is
        taken, and none if an active job has the key.

        :param queue: only of this queue.
        :param task: only of this task.
        :param limit: at most so many.
        """
        return await self._run(calls.requeue_discarded(queue, task, limit))

    async def pause_queue(self, queue: str, *, timeout: float = PAUSE_TIMEOUT) -> None:
        """Let no worker start a job of ``queue``; what runs goes on, and jobs can be enqueued.

        When this returns, every living worker that serves the queue has confirmed that it starts
        nothing of it. What was claimed and not started is handed back without using an attempt. A
        cancel leaves the queue paused, and so does an error after the first statement.

        :param timeout: seconds to wait for the workers.
        :raises PauseNotConfirmedError: some have not confirmed it by then; the queue is paused.
        """
        await self._run(calls.pause_queue(queue))
        end = anyio.current_time() + timeout
        delay = FIRST_PAUSE_DELAY
        while workers := await self._run(calls.unconfirmed_workers(queue)):
            if anyio.current_time() >= end:
                raise calls.pause_not_confirmed(queue, workers, timeout)
            await anyio.sleep(delay)
            delay = min(2 * delay, MAX_PAUSE_DELAY)

    async def resume_queue(self, queue: str) -> None:
        """Undo `pause_queue` and wake the workers."""
        await self._run(calls.resume_queue(queue))

    async def list_queues(self) -> list[QueueInfo]:
        """Return the queues that have jobs waiting, running or discarded, a worker, or a pause.

        Each number is counted up to 10,000; see `QueueInfo`.
        """
        return await self._run(calls.list_queues())

    async def list_cron(self) -> list[CronInfo]:
        """Return the cron entries that workers have declared, stale ones included."""
        return await self._run(calls.list_cron())

    async def pause_cron(self, name: str) -> None:
        """Let a cron entry fire nothing, on any worker.

        :raises CronNotFoundError: no entry has that name.
        """
        await self._run(calls.pause_cron(name))

    async def resume_cron(self, name: str) -> None:
        """Undo `pause_cron`; what was due meanwhile is not made up for.

        :raises CronNotFoundError: no entry has that name.
        """
        await self._run(calls.resume_cron(name))

    async def run_cron_now(self, name: str) -> int:
        """Enqueue a cron entry's job once, now, and return its id; its time table goes on.

        :raises CronNotFoundError: no entry has that name.
        """
        return await self._run(calls.run_cron_now(name))

    async def list_workers(self) -> list[WorkerInfo]:
        """Return the workers that have not been found dead."""
        return await self._run(calls.list_workers())
