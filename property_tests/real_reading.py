"""The verbs of the model that read, run with Roost's own operations; see `real`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from unittest.mock import patch

from roost._model.job_filter import check_filter
from roost._model.validate import MAX_ID
from roost._ops import explain, list_jobs, read
from roost._ops.query import Op

T = TypeVar("T")


class RealReading:
    """The verbs; the subclass says in ``_run`` how an operation is run."""

    def _run(self, operation: Op[T]) -> T:
        raise NotImplementedError

    def _run_whole(self, operation: Op[T]) -> T:
        raise NotImplementedError

    def look(self, *, job_id: int) -> dict[str, Any]:
        return comparable(self._run(read.get_job(job_id)).model_dump())

    def await_outcome(self, *, job_id: int) -> dict[str, Any] | None:
        outcome = self._run(read.await_outcome(job_id))
        return None if outcome is None else comparable(dataclasses.asdict(outcome))

    def list_queues(self) -> dict[str, dict[str, Any]]:
        listed = [dataclasses.asdict(queue) for queue in self._run(read.list_queues())]
        return {queue.pop("name"): queue for queue in listed}

    def list_jobs(
        self, *, states: Collection[str] | None, queues: Collection[str] | None, below: int
    ) -> list[dict[str, Any]]:
        given = {"states": states, "queues": queues}
        where = check_filter(given, everything=states is None and queues is None)
        # Small steps, so that each of them is taken.
        with patch.object(list_jobs, "WINDOW", 2):
            found = self._run_whole(list_jobs.list_jobs(where, below=below, limit=3))
        return [comparable(job.model_dump()) for job in found]

    def explain_all(self) -> dict[int, list[str]]:
        every = check_filter({}, everything=True)
        found = self._run_whole(list_jobs.list_jobs(every, below=MAX_ID, limit=1_000))
        return {job.id: self._explain(job.id) for job in found}

    def _explain(self, job_id: int) -> list[str]:
        found = self._run_whole(explain.explain_job(job_id))
        # The model does not tell the reasons of a job that a worker could run.
        told = [reason.value for reason in (found.reason, *(each.reason for each in found.also))]
        return [reason for reason in told if reason not in ("slots_taken", "starts_soon")]

    def list_workers(self) -> dict[int, tuple[int, int]]:
        listed = self._run(read.list_workers())
        return {worker.id: (worker.executing, worker.prefetched) for worker in listed}

    def count(self, *, queues: Sequence[str]) -> dict[str, int]:
        counted = self._run(read.count_by_state(queues))
        return {state.value: jobs for state, jobs in counted.items()}


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose error records hold their time as a time."""
    if row.get("errors"):
        records = [
            {
                **record,
                **{
                    name: datetime.fromisoformat(record[name]).astimezone(UTC)
                    for name in ("at", "started_at")
                    if record.get(name)
                },
            }
            for record in row["errors"]
        ]
        return {**row, "errors": records}
    return row
