"""Rescue: expired workers are removed, and their jobs are taken back."""

from __future__ import annotations

from property_tests.oracle.tables import FAILED
from property_tests.oracle.workers import Workers


class Rescue(Workers):
    """The verbs."""

    def expire(self) -> set[str]:
        """Remove expired workers; return their names."""
        dead = [
            self.workers[worker_id]
            for worker_id in self.expired_workers()
            if worker_id not in self._held.workers
        ]
        for worker in dead:
            self.forget(worker_id=worker.id)
        return {worker.name for worker in dead}

    def rescue(self, *, limit: int, error_cap: int) -> dict[int, str]:
        """Take back executing jobs whose worker has no row; return their ids and new states."""
        orphans = [row for row in self.orphans() if row.id not in self._held.jobs]
        for row in orphans[:limit]:
            text = (
                f"WorkerCrash: worker {row.worker_id} died, was cut off, or had its event loop "
                "blocked while it ran this job"
            )
            if row.cancel_requested:
                self._record(row, text, "", error_cap, **self._attempt(row))
                self._cancel(row)
            else:
                self._fail(row, text, "", 0, error_cap)
        self._cancel_descendants([row.id for row in orphans[:limit] if row.state in FAILED])
        return {row.id: row.state for row in orphans[:limit]}
