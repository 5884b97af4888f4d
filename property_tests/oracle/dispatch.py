"""Dispatch: a worker grants a credit, and an enqueue gives it a job directly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from property_tests.oracle.enqueue import Enqueue
from property_tests.oracle.rows import JobRow, WorkerRow
from property_tests.oracle.tables import Waits
from property_tests.words import LIVE_CHANNELS, Dispatched, Grant, Leased, NewJob

from roost._model.verdict import Lease
from roost.exceptions import DuplicateUniqueJobError


class Dispatch(Enqueue):
    """The verbs."""

    def grant_credit(
        self, *, worker_id: int, number: int, channel: str, tasks: Sequence[str]
    ) -> bool:
        """Let an enqueue give this worker a job; ``False``: it must accept one first."""
        if worker_id not in self.workers or self.workers[worker_id].dispatched_job_id is not None:
            return False
        worker = self._lock_to_change(worker_id)
        assert worker is not None
        worker.credit = number
        worker.channel = channel
        worker.tasks = list(tasks)
        return True

    def revoke_credit(self, *, worker_id: int) -> bool:
        """Undo `grant_credit`; ``False``: the worker has no credit and no dispatched job."""
        return self._revoke_credit(worker_id)

    def enqueue_alone(self, *, job: NewJob) -> int:
        """Add a job in a transaction of its own; dispatch it to a worker with credit, if any."""
        if self._started_user(job.unique_key) is None:
            self.last_job += 1
            if job.unique_key in self._held.keys:
                raise Waits
        holder = self._holder(job.unique_key)
        if holder is not None:
            raise DuplicateUniqueJobError(unique_key=str(job.unique_key), existing_id=holder)
        receiver = self._receiver(job)
        if receiver is None:
            self._insert(job, self.last_job)
        else:
            self._dispatch(self._add(job, self.last_job), receiver)
        return self.last_job

    def accept_dispatched(self, *, worker_id: int, next_credit: int | None) -> Leased | None:
        """Accept the job dispatched to a worker and grant the next credit; ``None``: no job."""
        if worker_id not in self.workers or self.workers[worker_id].dispatched_job_id is None:
            return None
        worker = self._lock_to_change(worker_id)
        assert worker is not None
        row = self.jobs.get(worker.dispatched_job_id or 0)
        worker.dispatched_job_id, worker.credit = None, next_credit
        if row is None or not self._is_unaccepted(row, worker_id):
            return None
        return self._leased(row, worker_id)

    def take_unaccepted(
        self, *, worker_id: int, queues: Sequence[str], tasks: Sequence[str], after: int
    ) -> list[Leased]:
        """Take over jobs that living workers have not accepted for ``after`` seconds."""
        if worker_id not in self.workers:
            return []
        given = {
            worker.dispatched_job_id: worker
            for worker in self.workers.values()
            if worker.dispatched_job_id is not None
            and worker.id != worker_id
            and worker.channel in LIVE_CHANNELS
        }
        taken = []
        for job_id, worker in given.items():
            row = self.jobs.get(job_id)
            if (
                row is None
                or not self._is_unaccepted(row, worker.id)
                or row.attempted_at is None
                or row.attempted_at > self.now - timedelta(seconds=after)
                or row.queue not in queues
                or row.task not in tasks
                or self._paused_at(row.queue)
            ):
                continue
            self._lock_to_change(worker.id)
            worker.dispatched_job_id = None
            row.worker_id, row.lease_no, row.attempted_at = worker_id, 2, self.now
            taken.append(row)
        taken.sort(key=lambda row: (row.priority, row.scheduled_at, row.id))
        return [self._leased(row, worker_id) for row in taken]

    def with_credit(self) -> list[WorkerRow]:
        """Return the workers that have a credit."""
        return [worker for worker in self.workers.values() if worker.credit is not None]

    def unaccepted(self) -> list[int]:
        """Return the dispatched jobs that their workers have not accepted."""
        return [
            worker.dispatched_job_id
            for worker in self.workers.values()
            if worker.dispatched_job_id is not None
        ]

    def _receiver(self, job: NewJob) -> WorkerRow | None:
        if (job.due_in or 0) > 0 or job.max_attempts == 1 or self._paused_at(job.queue):
            return None
        ready = [
            worker
            for worker in self._serving(job.queue)
            if worker.credit is not None
            and worker.channel in LIVE_CHANNELS
            and job.task in worker.tasks
        ]
        newest = max(
            ready, key=lambda worker: (worker.wants_notify, worker.heartbeat_at), default=None
        )
        # If another enqueue is consuming this worker's credit, no second worker is tried.
        return newest if newest and newest.id not in self._held.changed_workers else None

    def _dispatch(self, row: JobRow, worker: WorkerRow) -> None:
        assert worker.credit is not None
        self._lock_to_change(worker.id)
        row.state = "executing"
        row.attempt = row.lease_no = 1
        row.worker_id = worker.id
        row.attempted_at = self.now
        self.dispatched.append(Dispatched(str(worker.channel)))
        worker.credit, worker.dispatched_job_id = None, row.id

    def _is_unaccepted(self, row: JobRow, worker_id: int) -> bool:
        return row.state == "executing" and row.worker_id == worker_id and row.lease_no == 1

    def _leased(self, row: JobRow, worker_id: int) -> Leased:
        lease = Lease(row.id, worker_id, row.lease_no)
        return Leased(Grant(lease, row.attempt, row.max_attempts), self._view(row))
