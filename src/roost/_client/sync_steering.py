"""The verbs of `Roost` that steer jobs: one by its id, or all jobs of a filter."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, TypeVar, Unpack

from roost._client import steering_calls
from roost._client.calls import DatabaseCall
from roost._client.steps import Steps, run_steps_sync
from roost._model.job_changes import JobChanges
from roost._model.job_filter import JobFilter
from roost._model.registry import HandlerRegistry
from roost._model.unique import Seconds

T = TypeVar("T")


class Steering:
    """The verbs; the subclass says in ``_run`` how a database call is made."""

    _registry: HandlerRegistry

    def _run(
        self, call: DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        raise NotImplementedError

    def _run_steps(self, steps: Steps[T], conn: Any | None) -> T:
        return run_steps_sync(steps, partial(self._run, conn=conn))

    def cancel(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Cancel a waiting job, or interrupt a running one; see `AsyncRoost.cancel`."""
        call = steering_calls.cancel(job_id, borrowed=conn is not None)
        return self._run(call, conn)

    def retry(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Make an ended or failed job available now; see `AsyncRoost.retry`."""
        steps = steering_calls.retry(job_id, borrowed=conn is not None)
        return self._run_steps(steps, conn)

    def run_now(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Make a waiting job due now; see `AsyncRoost.run_now`."""
        call = steering_calls.run_now(job_id, borrowed=conn is not None)
        return self._run(call, conn)

    def reschedule(
        self,
        job_id: int,
        *,
        at: datetime | None = None,
        in_: Seconds | None = None,
        conn: Any | None = None,
    ) -> bool:
        """Set when a waiting job is due; see `AsyncRoost.reschedule`."""
        call = steering_calls.reschedule(job_id, at, in_, borrowed=conn is not None)
        return self._run(call, conn)

    def update_job(
        self,
        job_id: int,
        *,
        conn: Any | None = None,
        **changes: Unpack[JobChanges],
    ) -> bool:
        """Change a waiting job; see `AsyncRoost.update_job`."""
        borrowed = conn is not None
        call = steering_calls.update_job(self._registry, job_id, changes, borrowed=borrowed)
        return self._run(call, conn)

    def delete(self, job_id: int, *, conn: Any | None = None) -> bool:
        """Delete a job for good; see `AsyncRoost.delete`."""
        call = steering_calls.delete(job_id, borrowed=conn is not None)
        return self._run(call, conn)

    def cancel_jobs(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Cancel all jobs of a filter; see `AsyncRoost.cancel_jobs`."""
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.cancel_jobs(jobs)
        return self._run_steps(steps, conn)

    def retry_jobs(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Make all ended jobs of a filter available; see `AsyncRoost.retry_jobs`."""
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.retry_jobs(jobs)
        return self._run_steps(steps, conn)

    def run_jobs_now(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Make all waiting jobs of a filter due now; see `AsyncRoost.run_jobs_now`."""
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.run_jobs_now(jobs)
        return self._run_steps(steps, conn)

    def delete_jobs(
        self,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Delete all jobs of a filter for good; see `AsyncRoost.delete_jobs`."""
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.delete_jobs(jobs)
        return self._run_steps(steps, conn)

    def reschedule_jobs(
        self,
        *,
        at: datetime | None = None,
        in_: Seconds | None = None,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Set when all waiting jobs of a filter are due; see `AsyncRoost.reschedule_jobs`."""
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.reschedule_jobs(jobs, at, in_)
        return self._run_steps(steps, conn)

    def update_jobs(
        self,
        changes: JobChanges,
        *,
        everything: bool = False,
        limit: int | None = None,
        conn: Any | None = None,
        **where: Unpack[JobFilter],
    ) -> int:
        """Change all waiting jobs of a filter; see `AsyncRoost.update_jobs`."""
        jobs = steering_calls.select(
            where, everything=everything, limit=limit, borrowed=conn is not None
        )
        steps = steering_calls.update_jobs(self._registry, jobs, changes)
        return self._run_steps(steps, conn)
