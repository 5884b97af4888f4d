"""Workers: they register, renew their rows, say what they started, and end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from property_tests.oracle.rows import WorkerRow
from property_tests.oracle.tables import FAILED, Tables, Waits, place_of

from roost._model.verdict import Lease


class Workers(Tables):
    """The verbs of workers about their own rows."""

    def register(self, *, name: str, queues: Sequence[str], stale_after: int) -> int:
        """Add a worker and return its id, which was never used before."""
        self.last_worker += 1
        self.workers[self.last_worker] = WorkerRow(
            id=self.last_worker,
            name=name,
            queues=list(queues),
            concurrency=4,
            started_at=self.now,
            heartbeat_at=self.now,
            expires_at=self._in(stale_after),
        )
        return self.last_worker

    def renew(self, *, worker_id: int, stale_after: int) -> bool:
        """Renew a worker's row; ``False``: it has none."""
        worker = self._lock_to_change(worker_id)
        if worker is None:
            return False
        worker.heartbeat_at = self.now
        worker.expires_at = self._in(stale_after)
        return True

    def set_wants_notify(self, *, worker_id: int, wants_notify: bool) -> None:
        """Set a worker's notify mode."""
        worker = self._lock_to_change(worker_id)
        if worker is not None:
            worker.wants_notify = wants_notify

    def forget(self, *, worker_id: int) -> None:
        """Remove the row of a worker that ends."""
        if worker_id in self._held.workers:
            raise Waits
        worker = self._lock_to_change(worker_id)
        if worker is not None:
            del self.workers[worker_id]
            self._release_unstarted(worker)

    def mark_started(self, *, worker_id: int, through: Sequence[int]) -> bool:
        """Record how far a worker's prefetched jobs may have started; ``False``: it has no row."""
        worker = self._lock_to_change(worker_id)
        if worker is None:
            return False
        worker.prefetch_started = list(through)
        return True

    def release_unheld(self, *, worker_id: int, held: Collection[Lease]) -> list[int]:
        """Revoke a worker's credit and release its jobs that are not ``held``; return the ids."""
        self._revoke_credit(worker_id)
        unheld = [
            row
            for row in sorted(self.jobs.values(), key=lambda row: row.id)
            if row.state == "executing"
            and row.worker_id == worker_id
            and Lease(row.id, worker_id, row.lease_no) not in held
        ]
        for row in unheld:
            self._release(row)
            self._notify(row.queue)  # also after a cancel: it is rare, and waking does no harm
        self._cancel_descendants([row.id for row in unheld if row.state in FAILED])
        return [row.id for row in unheld]

    def _release_unstarted(self, worker: WorkerRow) -> None:
        for row in self.jobs.values():
            prefetched = row.prefetch_no is not None and (
                worker.prefetch_started is None or place_of(row) > worker.prefetch_started
            )
            if (
                row.state == "executing"
                and row.worker_id == worker.id
                and not row.cancel_requested
                and (prefetched or row.id == worker.dispatched_job_id)
                and row.id not in self._held.jobs
            ):
                self._release(row)
