"""Archive: old jobs are moved or deleted, and old results are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from property_tests.oracle.rows import ArchivedRow, JobRow
from property_tests.oracle.tables import Tables

from roost._model.states import JobState


class Archive(Tables):
    """The verbs."""

    def archive_jobs(self, *, states: Sequence[JobState], after: int) -> int:
        """Move the jobs that ended more than ``after`` seconds ago; return how many."""
        rows = [row for row in self.jobs.values() if row.state in states]
        old = [row for row in rows if self._ended_before(row, after)]
        for row in old:
            del self.jobs[row.id]
            row.awaited = False
            row.prefetch_no = None
            self.archive[row.id] = ArchivedRow(**attrs.asdict(row), archived_at=self.now)
        return len(old)

    def delete_ended(self, *, states: Sequence[JobState], after: int) -> int:
        """Delete the jobs that ended more than ``after`` seconds ago; return how many.

        A live one that a client waits for stays for a minute.
        """
        deleted = 0
        for table in (self.jobs, self.archive):
            for row in list(table.values()):
                kept = after if not row.awaited else max(after, 60)
                if row.state in states and self._ended_before(row, kept):
                    del table[row.id]
                    deleted += 1
        return deleted

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

    def forget_unique_holds(self) -> int:
        """Drop the expired records of keys."""
        old = [key for key, row in self.holds.items() if row.expires_at < self.now]
        for key in old:
            del self.holds[key]
        return len(old)

    def _ended_before(self, row: JobRow, after: int) -> bool:
        ended_at = row.completed_at or row.cancelled_at or row.discarded_at
        return ended_at is not None and ended_at < self._in(-after)
