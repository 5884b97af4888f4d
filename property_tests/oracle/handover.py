"""Hand-over: a worker offers to run a job, and an enqueue gives it one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from property_tests.oracle.enqueue import Enqueue
from property_tests.oracle.rows import JobRow, WorkerRow
from property_tests.oracle.tables import Waits
from property_tests.words import LIVE_CHANNELS, Grant, Handed, Leased, NewJob

from roost._model.verdict import Lease
from roost.exceptions import DuplicateUniqueJobError

NOTIFICATION = 8_000
"""Bytes; the args that are drawn are far shorter, or as long by themselves."""


class HandOver(Enqueue):
    """The verbs."""

    def make_offer(
        self, *, worker_id: int, number: int, channel: str, tasks: Sequence[str]
    ) -> None:
        """Let whoever enqueues give this worker a job."""
        worker = self._to_change(worker_id)
        if worker is not None:
            worker.offer = number
            worker.channel = channel
            worker.tasks = list(tasks)

    def withdraw_offer(self, *, worker_id: int) -> bool:
        """Undo `make_offer`; ``False``: no offer is out."""
        return self._withdraw(worker_id)

    def enqueue_alone(self, *, job: NewJob) -> int:
        """Add a job in a transaction of its own, given to a worker if one offers to run it."""
        self.last_job += 1
        if job.unique_key in self._held.keys:
            raise Waits
        holder = self._holder(job.unique_key)
        if holder is not None:
            raise DuplicateUniqueJobError(str(job.unique_key), holder)
        receiver = self._receiver(job)
        if receiver is None:
            self._insert(job, self.last_job)
        else:
            self._hand_over(self._add(job, self.last_job), receiver)
        return self.last_job

    def find_handed(self, *, worker_id: int, held: Collection[Lease]) -> list[Leased]:
        """Return what was given to a worker that does not know of it, in the order of the ids."""
        found = [
            self._leased(row, worker_id)
            for _, row in sorted(self.jobs.items())
            if row.state == "executing"
            and row.worker_id == worker_id
            and row.lease_no == 1
            and row.attempted_at == row.inserted_at
            and Lease(row.id, worker_id, row.lease_no) not in held
        ]
        # A job that was claimed in the instant of its enqueue looks the same, but for these.
        new: dict[str, Any] = {"errors": [], "depends_on": []}
        return [Leased(leased.grant, leased.job | new) for leased in found]

    def offering(self) -> list[WorkerRow]:
        """Return the workers that may be given a job."""
        return [worker for worker in self.workers.values() if worker.offer is not None]

    def _receiver(self, job: NewJob) -> WorkerRow | None:
        if (job.due_in or 0) > 0 or job.max_attempts == 1 or self._paused_at(job.queue):
            return None
        ready = [
            worker
            for worker in self._serving(job.queue)
            if worker.offer is not None
            and worker.channel in LIVE_CHANNELS
            and job.task in worker.tasks
        ]
        newest = max(ready, key=lambda worker: (worker.asleep, worker.heartbeat_at), default=None)
        # Nobody looks for a second one when somebody else is taking that one's offer.
        return newest if newest and newest.id not in self._held.changed_workers else None

    def _hand_over(self, row: JobRow, worker: WorkerRow) -> None:
        assert worker.offer is not None
        self._to_change(worker.id)
        row.state = "executing"
        row.attempt = row.lease_no = 1
        row.worker_id = worker.id
        row.attempted_at = self.now
        leased = self._leased(row, worker.id) if len(str(row.args)) < NOTIFICATION else None
        self.handed.append(Handed(str(worker.channel), worker.id, worker.offer, leased))
        worker.offer = None

    def _leased(self, row: JobRow, worker_id: int) -> Leased:
        lease = Lease(row.id, worker_id, row.lease_no)
        return Leased(Grant(lease, row.attempt, row.max_attempts), self._view(row))
