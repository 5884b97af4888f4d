"""Claim: due jobs are leased to a worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from property_tests.oracle.rows import JobRow
from property_tests.oracle.tables import WAITING, Tables
from property_tests.words import Claim, Grant

from roost._model.verdict import Lease
from roost._ops.claim import Position

LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Claims(Tables):
    """The verb."""

    def claim(
        self,
        *,
        worker_id: int,
        queues: Sequence[str],
        tasks: Sequence[str],
        limit: int,
        after: Sequence[Position] = (),
        slots: int | None = None,
        prefetch_no: int = 0,
        soon: bool = False,
    ) -> Claim:
        """Lease due jobs to a worker that has a row, in running order."""
        waiting = [row for row in self.jobs.values() if self._could_run(row, queues, after)]
        worker = self.workers.get(worker_id)
        picked = self._pick(waiting, queues, tasks, limit, after) if worker else []
        if picked:
            self._locks.workers.add(worker_id)
        for place, row in enumerate(picked):
            to_wait = slots is not None and place >= slots
            is_last = row.attempt + 1 >= row.max_attempts
            row.prefetch_no = prefetch_no if to_wait and (is_last or not soon) else None
            row.state = "executing"
            row.attempt += 1
            row.lease_no += 1
            row.worker_id = worker_id
            row.attempted_at = self.now
        return Claim(
            grants=[
                Grant(Lease(row.id, worker_id, row.lease_no), row.attempt, row.max_attempts)
                for row in picked
            ],
            jobs=[self._view(row) for row in picked],
            next_due=self._next_due(waiting) if len(picked) < limit else None,
            alive=worker is not None,
            credit=None if worker is None else worker.credit or 0,
        )

    def _pick(
        self,
        waiting: Sequence[JobRow],
        queues: Sequence[str],
        tasks: Sequence[str],
        limit: int,
        after: Sequence[Position],
    ) -> list[JobRow]:
        """Return what is taken: queues that share a priority follow one another."""
        passed = {
            (place.queue, place.priority): (place.scheduled_at, place.job_id) for place in after
        }
        due = [
            row
            for row in waiting
            if row.task in tasks
            and row.scheduled_at <= self.now
            and (row.scheduled_at, row.id) > passed.get((row.queue, row.priority), (LONG_AGO, 0))
            and row.id not in self._held.jobs
        ]

        def turn(row: JobRow) -> int:
            if not passed:
                return queues.index(row.queue)
            return list(passed).index((row.queue, row.priority))

        due.sort(key=lambda row: (row.priority, turn(row), row.scheduled_at, row.id))
        return sorted(due[:limit], key=_running_order)

    def _next_due(self, waiting: Sequence[JobRow]) -> float | None:
        waits = [
            (row.scheduled_at - self.now).total_seconds()
            for row in waiting
            if row.scheduled_at > self.now
        ]
        return min(waits, default=None)

    def _could_run(self, row: JobRow, queues: Sequence[str], after: Sequence[Position]) -> bool:
        heads = {(place.queue, place.priority) for place in after}
        wanted = (row.queue, row.priority) in heads if heads else row.queue in queues
        waits = row.state in WAITING and row.pending_parents == 0
        return waits and wanted and self._paused_at(row.queue) is None


def _running_order(row: JobRow) -> tuple[int, datetime, int]:
    return row.priority, row.scheduled_at, row.id
