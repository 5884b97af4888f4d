"""Enqueue: single jobs, batches and children are added."""

from __future__ import annotations

from collections.abc import Sequence

from property_tests.oracle.rows import JobRow
from property_tests.oracle.tables import ACTIVE, FAILED, SOON, Tables
from property_tests.words import NewJob

from roost.exceptions import DuplicateUniqueJobError, UnknownParentError


class Enqueue(Tables):
    """The verbs."""

    def enqueue(self, *, job: NewJob) -> int:
        """Add a job and return its id."""
        parents = self._find_parents([job])
        if parents or self._started_user(job.unique_key) is None:
            self.last_job += 1  # the sequence moves before the duplicate is found
        holder = self._is_kept_out_by(job)
        if holder is not None:
            raise DuplicateUniqueJobError(unique_key=str(job.unique_key), existing_id=holder)
        self._lock_parents(parents)
        self._insert(job, self.last_job)
        return self.last_job

    def enqueue_in_sql(self, *, job: NewJob) -> int | None:
        """Add a job without parents by the SQL function; ``None``: its key is taken."""
        if self._started_user(job.unique_key) is not None:
            return None
        self.last_job += 1
        if self._holder(job.unique_key) is not None:
            return None
        self._insert(job, self.last_job)
        return self.last_job

    def enqueue_many(self, *, jobs: Sequence[NewJob]) -> list[int]:
        """Add the jobs whose key is free; return their ids."""
        parents = self._find_parents(jobs)
        self._lock_parents(parents)
        added = []
        started = {job.unique_key for job in jobs if self._started_user(job.unique_key) is not None}
        for job in jobs:
            if not parents and job.unique_key in started:
                continue
            self.last_job += 1
            if self._is_kept_out_by(job) is None:
                self._insert(job, self.last_job)
                added.append(self.last_job)
        return added

    def enqueue_and_roll_back(self, *, jobs: Sequence[NewJob]) -> None:
        """Add jobs and roll back: only the sequence has moved."""
        parents = self._find_parents(jobs)
        used = [job for job in jobs if self._started_user(job.unique_key) is not None]
        self.last_job += len(jobs) - (0 if parents else len(used))

    def _find_parents(self, jobs: Sequence[NewJob]) -> list[int]:
        parents = sorted({parent for job in jobs for parent in job.depends_on or []})
        missing = [
            job_id for job_id in parents if job_id not in self.jobs and job_id not in self.archive
        ]
        if missing:
            raise UnknownParentError(f"depends_on names jobs that don't exist: {missing}")
        return parents

    def _lock_parents(self, parents: Sequence[int]) -> None:
        for job_id in parents:
            if job_id in self.jobs:
                self._locks.jobs.add(job_id)
                if self.jobs[job_id].state in ACTIVE:
                    self.jobs[job_id].has_children = True
                self._wake_after_lock(self.jobs[job_id])

    def _is_kept_out_by(self, job: NewJob) -> int | None:
        # The child of a failed parent never becomes active.
        return None if self._failed_parent(job) else self._holder(job.unique_key)

    def _failed_parent(self, job: NewJob) -> JobRow | None:
        parents = [self._find(job_id) for job_id in sorted(job.depends_on or [])]
        return next((row for row in parents if row.state in FAILED), None)

    def _insert(self, job: NewJob, job_id: int) -> None:
        row = self._add(job, job_id)
        failed = self._failed_parent(job)
        if failed is not None:
            self._parent_failed(row, failed)
            return
        for parent in set(job.depends_on or []):
            if parent in self.jobs and self.jobs[parent].state in ACTIVE:
                self.dependencies.add((parent, job_id))
                row.pending_parents += 1
        self._wake(row, within=SOON)

    def _add(self, job: NewJob, job_id: int) -> JobRow:
        self.jobs[job_id] = row = JobRow(
            id=job_id,
            scheduled_at=self._in(job.due_in or 0),
            inserted_at=self.now,
            priority=job.priority,
            max_attempts=job.max_attempts,
            timeout_seconds=job.timeout_seconds,
            queue=job.queue,
            task=job.task,
            unique_key=job.unique_key,
            args=job.args,
            metadata=job.metadata or None,
            tags=job.tags or None,
            depends_on=job.depends_on or None,
            unique_waiting=job.unique_while == "waiting",
        )
        return row
