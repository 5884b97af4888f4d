"""The verbs of `AsyncRoost` that steer jobs: one by its id, or all jobs of a filter."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, TypeVar, Unpack

from roost._client import steering_calls
from roost._client.calls import DatabaseCall
from roost._client.steps import Steps, run_steps
from roost._model.job_changes import JobChanges
from roost._model.job_filter import JobFilter
from roost._model.registry import HandlerRegistry
from roost._model.unique import Seconds

T = TypeVar("T")


class AsyncSteering:
    """The verbs; the subclass says in ``_run`` how a database call is made."""

    _registry: HandlerRegistry

    async def _run(
        self, call: DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        raise NotImplementedError

    async def _run_steps(self, steps: Steps[T], conn: Any | None) -> T:
        return await run_steps(steps, partial(self._run, conn=conn))

    async def cancel(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Cancel a waiting job, or ask the worker of a running one to interrupt it.

        A running job becomes ``cancelled`` when its handler has unwound, and is not retried. It
        becomes ``completed`` if the handler returned before it could be interrupted. Jobs that
        depend on a cancelled job are cancelled too.

        :param conn: as for `enqueue`, always in a transaction: the job is cancelled if that
            commits, and stays locked until then. After an error the transaction is usable. A cancel
            of the call leaves the whole change in it, or nothing.
        :returns: ``False`` if the job had already ended.
        :raises JobNotFoundError: no job has that id.
        :raises JobLockedError: another transaction has locked the job for 10 s.
        :raises NotInTransactionError: ``conn`` is in no transaction and commits by itself.
        """
        call = steering_calls.cancel(job_id, borrowed=conn is not None)
        return await self._run(call, conn)

    async def retry(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Make an ended job, or one that waits for its next attempt, available now.

        Keeps ``errors``, clears ``result``, and raises ``max_attempts`` to ``attempt + 1`` if
        needed. Jobs that were cancelled together with it stay cancelled; retry them after it, and
        they wait for it again.

        :param conn: as for `cancel`.
        :returns: ``False`` if the job is already available or executing.
        :raises JobNotFoundError: no job has that id.
        :raises DuplicateUniqueJobError: another active job has its unique key.
        :raises InvalidJobError: the job was cancelled, and a job that it depends on was discarded
            or cancelled; retry that one first.
        :raises JobLockedError: as for `cancel`.
        """
        steps = steering_calls.retry(job_id, borrowed=conn is not None)
        return await self._run_steps(steps, conn)

    async def run_now(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Make a job due now that is scheduled, snoozed, or waits for its next attempt.

        For example:

            await client.run_now(job_id)

        Its number of attempts stays.

        :param conn: as for `cancel`.
        :returns: ``False`` if the job is due already, runs, or has ended.
        :raises JobNotFoundError: no job has that id.
        :raises JobBlockedError: it waits for other jobs, which must complete first.
        :raises JobLockedError: as for `cancel`.
        """
        call = steering_calls.run_now(job_id, borrowed=conn is not None)
        return await self._run(call, conn)

    async def reschedule(
        self,
        job_id: int,
        *,
        at: datetime | None = None,
        in_: Seconds | None = None,
        conn: Any | None = None,
    ) -> bool:
        """Set when a waiting job is due. Pass either ``at`` or ``in_``.

        For example:

            await client.reschedule(job_id, in_=3_600)

        A job that depends on others still waits for them.

        :param at: the time (aware).
        :param in_: seconds, or a timedelta, from now by the database's clock, ≥ 0.
        :param conn: as for `cancel`.
        :returns: ``False`` if the job runs or has ended.
        :raises InvalidJobError: the time can't be stored; the database was not used.
        :raises JobNotFoundError: no job has that id.
        :raises JobLockedError: as for `cancel`.
        """
        call = steering_calls.reschedule(job_id, at, in_, borrowed=conn is not None)
        return await self._run(call, conn)

    async def update_job(
        self,
        job_id: int,
        *,
        conn: Any | None = None,
        **changes: Unpack[JobChanges],
    ) -> bool:
        """Change a waiting job. What is not passed stays as it is.

        For example:

            await client.update_job(job_id, queue="bulk", priority=10)

        A worker that claims the job at the same moment runs it with all of the changes or with none
        of them; the return value says which.

        :param conn: as for `cancel`.
        :param changes: ``queue``, ``priority``, ``args``, ``max_attempts``, ``tags``,
            ``timeout_seconds``, ``metadata``, ``scheduled_at``, ``schedule_in``: see `JobChanges`.
        :returns: ``False`` if the job runs or has ended.
        :raises InvalidJobError: a value can't be stored, or none is passed; the database was not
            used.
        :raises JobNotFoundError: no job has that id.
        :raises JobLockedError: as for `cancel`.
        """
        borrowed = conn is not None
        call = steering_calls.update_job(self._registry, job_id, changes, borrowed=borrowed)
        return await self._run(call, conn)

    async def delete(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Delete a job for good, live or archived. A running one stays: cancel it first.

        Jobs that wait for the job are cancelled, and those that wait for them. A client that waits
        for it in `wait_for` gets `JobNotFoundError`.

        :param conn: as for `cancel`.
        :returns: ``False`` if the job runs.
        :raises JobNotFoundError: no job has that id.
        :raises JobLockedError: as for `cancel`.
        """
        call = steering_calls.delete(job_id, borrowed=conn is not None)
        return await self._run(call, conn)

    async def cancel_jobs(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Cancel all jobs of a filter that have not ended.

        For example:

            await client.cancel_jobs(queues=["mail"], states=["available", "retryable"])

        Does for each of them what `cancel` does. Works in batches of 500 jobs in the order of their
        ids, each in a transaction of its own; a cancel of the call, or an error, leaves the batches
        that were committed. A job is changed only if it still fits the filter when it is locked.
        Locked jobs are left for the end and waited for then.

        :param everything: ``True`` means all jobs; required if no filter is passed.
        :param limit: the most jobs; ``None``: all.
        :param conn: as for `enqueue`, always in a transaction: all batches are parts of it, and it
            keeps their rows locked. After an error it has none of the failed batch and is usable; a
            cancel of the call leaves whole batches.
        :param where: ``ids``, ``states``, ``queues``, ``tasks``, ``tags``, ``unique_key``,
            ``worker_id``, ``error_contains``, ``inserted_after``, ``inserted_before``,
            ``finished_after``, ``finished_before``: see `JobFilter`.
        :returns: how many jobs were cancelled, or requested to end. Jobs that only depend on them
            are not counted.
        :raises InvalidJobError: a value is out of its range, or no filter is passed; the database
            was not used.
        :raises FilterTooSlowError: no index helps to find the jobs, and it takes more than 10 s.
        :raises JobLockedError: another transaction has locked one of the jobs for 10 s.
        """
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.cancel_jobs(jobs)
        return await self._run_steps(steps, conn)

    async def retry_jobs(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Make all jobs of a filter available that have ended or wait for their next attempt.

        For example:

            await client.retry_jobs(states=["discarded"], error_contains="connection refused")

        Does for each of them what `retry` does. Leaves out jobs that `retry` would refuse: those
        whose unique key an active job has, and those that depend on a failed job. Of several with
        one key it takes the oldest. Archived jobs are retried, too.

        The parameters and errors are those of `cancel_jobs`.

        :returns: how many jobs were made available.
        """
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.retry_jobs(jobs)
        return await self._run_steps(steps, conn)

    async def run_jobs_now(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Make all waiting jobs of a filter due now.

        For example:

            await client.run_jobs_now(tasks=["sync_crm"], states=["retryable"])

        Does for each of them what `run_now` does. Leaves out jobs that wait for other jobs.

        The parameters and errors are those of `cancel_jobs`.

        :returns: how many jobs were due later and are due now.
        """
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.run_jobs_now(jobs)
        return await self._run_steps(steps, conn)

    async def delete_jobs(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Delete all jobs of a filter for good, live and archived, except running ones.

        For example:

            await client.delete_jobs(states=["cancelled"], queues=["mail"])

        Does for each of them what `delete` does.

        The parameters and errors are those of `cancel_jobs`.

        :returns: how many jobs were deleted.
        """
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.delete_jobs(jobs)
        return await self._run_steps(steps, conn)

    async def reschedule_jobs(
        self,
        *,
        at: datetime | None = None,
        in_: Seconds | None = None,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Set when all waiting jobs of a filter are due.

        For example:

            await client.reschedule_jobs(in_=3_600, queues=["bulk"])

        Does for each of them what `reschedule` does.

        :param at: as for `reschedule`.
        :param in_: as for `reschedule`.

        The other parameters and the errors are those of `cancel_jobs`.

        :returns: how many jobs were changed.
        """
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.reschedule_jobs(jobs, at, in_)
        return await self._run_steps(steps, conn)

    async def update_jobs(
        self,
        changes: JobChanges,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Change all waiting jobs of a filter.

        For example:

            await client.update_jobs({"queue": "bulk", "priority": 10}, tags=["newsletter"])

        Does for each of them what `update_job` does. If a function gives the jobs of a task their
        limit keys (``limit_by``), new ``args`` are passed to it: name the tasks then, or the args
        must suit the functions of all tasks.

        :param changes: the keywords of `update_job` as a dict: see `JobChanges`.

        The other parameters and the errors are those of `cancel_jobs`.

        :returns: how many jobs were changed.
        """
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.update_jobs(self._registry, jobs, changes)
        return await self._run_steps(steps, conn)
