"""Archive: old jobs are moved, and old results are dropped."""

from __future__ import annotations

import attrs
from property_tests.oracle.rows import ArchivedRow, JobRow
from property_tests.oracle.tables import Tables


class Archive(Tables):
    """The verbs."""

    def archive_jobs(self, *, after: int) -> int:
        """Move the jobs that ended more than ``after`` seconds ago; return how many."""
        old = [row for row in self.jobs.values() if self._ended_before(row, after)]
        for row in old:
            del self.jobs[row.id]
            row.awaited = False
            row.prefetch_no = None
            self.archive[row.id] = ArchivedRow(**attrs.asdict(row), archived_at=self.now)
        return len(old)

    def forget_results(self, *, after: int) -> int:
        """Drop the results of jobs that completed more than ``after`` seconds ago.

        Returns the larger number: of live jobs, or of archived ones.
        """
        counts = []
        for table in (self.jobs, self.archive):
            rows = [row for row in table.values() if row.result is not None]
            old = [row for row in rows if self._ended_before(row, after)]
            for row in old:
                row.result = None
            counts.append(len(old))
        return max(counts)

    def _ended_before(self, row: JobRow, after: int) -> bool:
        ended_at = row.completed_at or row.cancelled_at or row.discarded_at
        return ended_at is not None and ended_at < self._in(-after)
