"""Unique keys: what an enqueue does if another job has the key."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from property_tests.oracle.enqueue import Enqueue
from property_tests.oracle.rows import HoldRow, JobRow
from property_tests.oracle.tables import SOON, gave_up_key
from property_tests.words import NewJob

from roost.exceptions import DuplicateUniqueJobError


class Refused(Exception):  # noqa: N818  (no error: the call says what follows)
    """The job is not inserted.

    :param job_id: the job that has the key.
    :param why: as in the refusals of the SQL function.
    """

    def __init__(self, job_id: int, why: str) -> None:
        self.job_id = job_id
        self.why = why


class Unique(Enqueue):
    """The verb."""

    def enqueue_unique(self, *, jobs: Sequence[NewJob], on_conflict: str) -> list[int | None]:
        """Insert jobs in the order of their keys; return an id for each, in their order."""
        parents = self._find_parents(jobs)
        before = copy.deepcopy((self.jobs, self.holds, self.dependencies, self.notified))
        self._lock_parents(parents)
        reserved = range(self.last_job + 1, self.last_job + len(jobs) + 1)
        self.last_job += len(jobs)
        ids: list[int | None] = [None] * len(jobs)
        order = sorted(
            range(len(jobs)),
            key=lambda n: (jobs[n].unique_key is None, jobs[n].unique_key or "", n),
        )
        for number in order:
            job = jobs[number]
            try:
                ids[number] = self._insert_or(on_conflict, job, reserved[number])
            except Refused as refused:
                if on_conflict == "skip":
                    continue
                # With parents the whole call is one transaction.
                if parents or len(jobs) > 1:
                    self.jobs, self.holds, self.dependencies, self.notified = before
                raise DuplicateUniqueJobError(
                    refused.why, unique_key=str(job.unique_key), existing_id=refused.job_id
                ) from None
        return ids

    def _insert_or(self, on_conflict: str, job: NewJob, reserved: int) -> int:
        holder = self._take_hold(job)
        if holder is None:
            other = self._other(job)
            if other is None or self._failed_parent(job) is not None:
                return self._insert_new(job, reserved)
            if job.depends_on:
                self.last_job += 1  # the insert was tried
            if job.unique_while == "waiting" and other.lease_no > 0:
                other.unique_waiting = True
                return self._insert_new(job, reserved)
            active: JobRow | None = other
            met = other.id
        else:
            active = self._first(self._users(job.unique_key))
            met = holder if active is None else active.id
        if on_conflict == "return":
            return met
        if active is None:
            raise Refused(
                met,
                f"job {met} with unique_key {job.unique_key!r} has ended, and its unique_for "
                "is not over",
            )
        if on_conflict != "replace":
            raise Refused(met, f"job {met} is active with unique_key {job.unique_key!r}")
        if active.state == "executing" and job.unique_while == "waiting":
            raise Refused(
                met,
                f"job {met} is running with unique_key {job.unique_key!r}, so it can't be "
                "replaced, and its unique_for is not over, so no other one may wait",
            )
        if active.state == "executing":
            raise Refused(
                met,
                f"job {met} is running with unique_key {job.unique_key!r}, so it can't be "
                "replaced; with unique_while='waiting' one may wait while one runs",
            )
        if active.task != job.task:
            raise Refused(
                met,
                f"job {met} with unique_key {job.unique_key!r} is of another task, so it can't "
                "be replaced",
            )
        self._replace(active, job)
        return met

    def _take_hold(self, job: NewJob) -> int | None:
        """Lock the key's record; return the job that has it for a time that is not over."""
        if job.unique_for is None:
            return None
        key = str(job.unique_key)
        hold = self.holds.setdefault(
            key, HoldRow(unique_key=key, holder_id=None, expires_at=self.now)
        )
        return hold.holder_id if hold.expires_at > self.now else None

    def _other(self, job: NewJob) -> JobRow | None:
        """Return the job that keeps this one out: one that can be replaced, if there is one."""
        waiting = job.unique_while == "waiting"
        return self._first(
            row for row in self._users(job.unique_key) if not (waiting and gave_up_key(row))
        )

    def _first(self, rows: Iterable[JobRow]) -> JobRow | None:
        """Return the job that a call meets: one that can be replaced, if there is one."""
        return min(
            rows,
            key=lambda row: (row.state == "executing", row.id if gave_up_key(row) else 0),
            default=None,
        )

    def _insert_new(self, job: NewJob, reserved: int) -> int:
        if job.depends_on:
            self.last_job += 1
        job_id = self.last_job if job.depends_on else reserved
        self._insert(job, job_id)
        if job.unique_for is not None:
            key = str(job.unique_key)
            self.holds[key] = HoldRow(
                unique_key=key, holder_id=job_id, expires_at=self._in(job.unique_for)
            )
        return job_id

    def _replace(self, row: JobRow, job: NewJob) -> None:
        row.args = job.args
        row.queue = job.queue
        row.priority = job.priority
        row.max_attempts = max(job.max_attempts, row.attempt + 1)
        due = self._in(job.due_in or 0)
        row.scheduled_at = min(row.scheduled_at, due) if job.due_in is None else due
        row.tags = job.tags or None
        row.timeout_seconds = job.timeout_seconds
        row.metadata = job.metadata or None
        self._wake(row, within=SOON)
