"""Control: admin verbs on jobs and queues."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from property_tests.oracle.rows import JobRow, QueueRow
from property_tests.oracle.tables import ACTIVE, FAILED, WAITING, Tables, gave_up_key

from roost.exceptions import DuplicateUniqueJobError, InvalidJobError


class Control(Tables):
    """The verbs."""

    def cancel(self, *, job_id: int) -> bool:
        """Cancel a waiting job, or ask a running one to stop; ``False``: it had ended."""
        row = self._find(job_id)
        if row.state == "executing":
            row.cancel_requested = True
            self.notified.add(f"cancel {job_id}:{row.lease_no}")
        elif row.state in WAITING:
            row.pending_parents = 0
            row.cancel_requested = True
            self._cancel(row)
            self._cancel_descendants([job_id])
        else:
            return False
        return True

    def cancel_requests(self, *, worker_id: int) -> set[tuple[int, int]]:
        """Return the jobs, with their lease numbers, that a worker should stop."""
        return {
            (row.id, row.lease_no)
            for row in self.jobs.values()
            if row.worker_id == worker_id and row.state == "executing" and row.cancel_requested
        }

    def retry(self, *, job_id: int) -> bool:
        """Make a job that has ended, or waits for a retry, available now."""
        if job_id in self.archive:
            columns = attrs.asdict(self.archive.pop(job_id))
            del columns["archived_at"]
            # The archive does not keep these.
            columns |= {"cancel_requested": False, "has_children": False}
            self.jobs[job_id] = JobRow(**columns)
        row = self._find(job_id)
        holder = self._keeps_from_retry(row)
        if holder is not None:
            raise DuplicateUniqueJobError(unique_key=str(row.unique_key), existing_id=holder)
        for parent in sorted(self._parents(row)):
            if (state := self._state_of(parent)) in FAILED:
                raise InvalidJobError(
                    f"job {job_id} waits for job {parent}, which was {state}: retry it first"
                )
        return self._revive(row)

    def _keeps_from_retry(self, row: JobRow) -> int | None:
        """Return another active job with the row's key; one may wait while one runs."""
        others = [
            other
            for other in self._users(row.unique_key)
            if other.id != row.id
            and not (row.unique_waiting and gave_up_key(other) and other.state == "executing")
        ]
        others.sort(key=lambda other: other.id if gave_up_key(other) else 0)
        return others[0].id if others else None

    def _parents(self, row: JobRow) -> set[int]:
        """Return the parents that a cancelled job must wait for again."""
        return set(row.depends_on or ()) if row.state == "cancelled" else set()

    def _state_of(self, job_id: int) -> str | None:
        row = self.jobs.get(job_id) or self.archive.get(job_id)
        return None if row is None else row.state

    def requeue_discarded(self, *, queue: str | None) -> int:
        """Make discarded jobs available, the oldest of each unique key; return how many."""
        revived = 0
        kept_out = {row.id for row in self.jobs.values() if self._keeps_from_retry(row)}
        asked: set[str | None] = set()
        for _, row in sorted(self.jobs.items()):
            if row.state == "discarded" and queue in (None, row.queue):
                first = row.unique_key is None or row.unique_key not in asked
                asked.add(row.unique_key)
                if first and row.id not in kept_out:
                    revived += self._revive(row)
        return revived

    def _revive(self, row: JobRow) -> bool:
        if row.state not in (*FAILED, "completed", "retryable"):
            return False
        waiting = {parent for parent in self._parents(row) if self._state_of(parent) in ACTIVE}
        for parent in waiting:
            self.jobs[parent].has_children = True
            self.dependencies.add((parent, row.id))
        row.state = "available"
        row.scheduled_at = self.now
        row.completed_at = row.cancelled_at = row.discarded_at = None
        row.cancel_requested = False
        row.pending_parents = len(waiting)
        row.result = None
        row.max_attempts = max(row.max_attempts, row.attempt + 1)
        self._wake(row)
        return True

    def pause(self, *, queue: str) -> None:
        """Stop claims from ``queue`` and notify all workers."""
        self.queues[queue] = QueueRow(name=queue, paused_at=self._paused_at(queue) or self.now)
        self.notified.add(f"pause {queue}")

    def resume(self, *, queue: str) -> None:
        """Undo `pause`."""
        if self._paused_at(queue) is not None:
            self.queues[queue].paused_at = None
            self._notify(queue)
            self.notified.add(f"pause {queue}")

    def paused_queues(self, *, queues: Sequence[str]) -> set[str]:
        """Return which of ``queues`` are paused."""
        return {queue for queue in queues if self._paused_at(queue)}

    def confirm_pauses(self, *, worker_id: int, queues: Sequence[str]) -> bool:
        """Record that a worker starts no job of ``queues``; ``False``: it has no row."""
        worker = self._lock_to_change(worker_id)
        if worker is None:
            return False
        worker.paused = sorted(queues)
        return True

    def unconfirmed_workers(self, *, queue: str) -> set[str]:
        """Return the names of the living workers that may start jobs of a paused queue."""
        if not self._paused_at(queue):
            return set()
        return {worker.name for worker in self._serving(queue) if queue not in worker.paused}
