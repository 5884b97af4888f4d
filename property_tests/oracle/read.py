"""Read: the views that users get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from property_tests.oracle.rows import JobRow
from property_tests.oracle.tables import ACTIVE, KINDS, OUTCOME, WAITING, Tables, place_of


class Read(Tables):
    """The verbs."""

    def look(self, *, job_id: int) -> dict[str, Any]:
        """Return a job as a `roost.Job` shows it."""
        return self._view(self._find(job_id))

    def await_outcome(self, *, job_id: int) -> dict[str, Any] | None:
        """Return how a job ended; ``None``: it has not ended, and its end will be announced."""
        row = self._find(job_id)
        if not row.awaited and row.state in ACTIVE:
            row.awaited = True
            self._wake_after_lock(row)
        if row.state in ACTIVE:
            return None
        return {name: value for name, value in self._view(row).items() if name in OUTCOME}

    def list_queues(self) -> dict[str, dict[str, Any]]:
        """Return the known queues, with the counts of jobs by kind."""
        counted = [row for row in self.jobs.values() if row.state in (*ACTIVE, "discarded")]
        serving = {queue for worker in self.workers.values() for queue in worker.queues}
        paused = {queue for queue in self.queues if self._paused_at(queue) is not None}
        names = {row.queue for row in counted} | paused | serving
        return {
            name: {
                "paused_at": self._paused_at(name),
                **dict.fromkeys(KINDS, 0),
                **Counter(self._kind(row) for row in counted if row.queue == name),
                "oldest_due_seconds": max(
                    (
                        (self.now - row.scheduled_at).total_seconds()
                        for row in counted
                        if row.queue == name and self._is_due(row)
                    ),
                    default=None,
                ),
                "capped": False,
            }
            for name in names
        }

    def _is_due(self, row: JobRow) -> bool:
        return row.state in WAITING and not row.pending_parents and row.scheduled_at <= self.now

    def _kind(self, row: JobRow) -> str:
        if row.pending_parents:
            return "blocked"
        if row.state == "executing" and self._is_unstarted(row):
            return "prefetched"
        later = row.state == "available" and row.scheduled_at > self.now
        return "scheduled" if later else row.state

    def _is_unstarted(self, row: JobRow) -> bool:
        worker = self.workers.get(row.worker_id or 0)
        if worker is None or row.prefetch_no is None:
            return False
        return worker.prefetch_started is None or place_of(row) > worker.prefetch_started

    def list_workers(self) -> dict[int, tuple[int, int]]:
        """Return how many jobs each worker that has a row runs, and how many wait for a slot."""
        held = [row for row in self.jobs.values() if row.state == "executing"]
        waiting = Counter(row.worker_id for row in held if self._is_unstarted(row))
        running = Counter(row.worker_id for row in held if not self._is_unstarted(row))
        return {worker_id: (running[worker_id], waiting[worker_id]) for worker_id in self.workers}

    def list_jobs(
        self, *, states: Collection[str] | None, queues: Collection[str] | None, below: int
    ) -> list[dict[str, Any]]:
        """Return the newest three jobs below an id, in these states and queues; ``None``: any."""
        rows = [*self.jobs.values(), *self.archive.values()]
        fitting = [
            row
            for row in rows
            if row.id < below
            and (states is None or row.state in states)
            and (queues is None or row.queue in queues)
        ]
        return [self._view(row) for row in sorted(fitting, key=lambda row: -row.id)[:3]]

    def explain_all(self) -> dict[int, list[str]]:
        """Return what keeps each job from running: the first reason, then the others."""
        return {row.id: self._explain(row) for row in (*self.jobs.values(), *self.archive.values())}

    def _explain(self, row: JobRow) -> list[str]:
        if row.state not in ACTIVE:
            return ["ended"]
        if row.state == "executing":
            return self._explain_executing(row)
        living = [worker for worker in self.workers.values() if worker.expires_at > self.now]
        serving = [worker for worker in living if row.queue in worker.queues]
        reasons = {
            "blocked": row.pending_parents > 0,
            "scheduled": row.state == "available" and row.scheduled_at > self.now,
            "retry_scheduled": row.state == "retryable" and row.scheduled_at > self.now,
            "queue_paused": self._paused_at(row.queue) is not None,
            "no_worker": not serving,
            "unknown_task": serving
            and not any(row.task in worker.known_tasks for worker in serving),
        }
        return [reason for reason, holds in reasons.items() if holds]

    def _explain_executing(self, row: JobRow) -> list[str]:
        worker = self.workers.get(row.worker_id or 0)
        if worker is None or worker.expires_at <= self.now:
            first = "worker_dead"
        elif self.now - worker.heartbeat_at > (worker.expires_at - worker.heartbeat_at) / 2:
            first = "worker_silent"
        else:
            first = ""
        reasons = {
            first: bool(first),
            "cancel_requested": row.cancel_requested,
            "prefetched": self._is_unstarted(row),
        }
        return [reason for reason, holds in reasons.items() if holds] or ["running"]

    def count(self, *, queues: Sequence[str]) -> dict[str, int]:
        """Count the jobs of ``queues`` by state."""
        states = [row.state for row in self.jobs.values() if row.queue in queues]
        return {state: states.count(state) for state in set(states)}
