"""Steer: verbs that change waiting jobs and delete jobs."""

from __future__ import annotations

from typing import Any

from property_tests.oracle.tables import SOON, WAITING, Tables

from roost.exceptions import JobBlockedError


class Steer(Tables):
    """The verbs."""

    def run_now(self, *, job_id: int) -> bool:
        """Make a waiting job due now; ``False``: it is due, runs, or has ended."""
        row = self._find(job_id)
        if row.pending_parents:
            parents = sorted(parent for parent, child in self.dependencies if child == job_id)
            raise JobBlockedError(job_id, parents)
        if row.state not in WAITING or row.scheduled_at <= self.now:
            return False
        row.scheduled_at = self.now
        self._wake(row)
        return True

    def reschedule(self, *, job_id: int, seconds: int) -> bool:
        """Set when a waiting job is due; ``False``: it runs, or has ended."""
        row = self._find(job_id)
        if row.state not in WAITING:
            return False
        row.scheduled_at = self._in(seconds)
        self._wake(row, within=SOON)
        return True

    def update(self, *, job_id: int, changes: dict[str, Any]) -> bool:
        """Change a waiting job; ``False``: it runs, or has ended."""
        row = self._find(job_id)
        if row.state not in WAITING:
            return False
        for name, value in changes.items():
            if name == "schedule_in":
                row.scheduled_at = self._in(value)
            else:
                setattr(row, name, value)
        row.max_attempts = max(row.max_attempts, row.attempt + 1)
        self._wake(row, within=SOON)
        return True

    def delete(self, *, job_id: int) -> bool:
        """Delete a job and cancel the jobs that wait for it; ``False``: it runs."""
        row = self._find(job_id)
        if row.state == "executing":
            return False
        hold = self.holds.get(row.unique_key or "")
        if hold is not None and hold.holder_id == job_id:
            del self.holds[str(row.unique_key)]
        if job_id in self.archive:
            del self.archive[job_id]
            return True
        self.dependencies = {link for link in self.dependencies if link[1] != job_id}
        self._cancel_descendants([job_id])
        self._announce(row)
        del self.jobs[job_id]
        return True
