"""Drain: claim until no job is available that this call has not run. The lane of `run_once`."""

from __future__ import annotations

import anyio
import attrs

from roost._ops.claim import Claimed, ClaimedJob
from roost._worker.database import Database
from roost._worker.lanes.fetch import FetchLane
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseUnavailableError


class DrainLane(FetchLane):
    """Claims until all available jobs have run and their verdicts are written; then asks to stop.

    A job that snoozes or is retried at once is not run again by the same call.
    """

    def __init__(self, state: WorkerState, database: Database) -> None:
        super().__init__(state, database)
        if state.limited.names:
            # Prefetched jobs that wait for too long are released, and this call would not run
            # them.
            for group in state.groups:
                group.prefetch.fixed = 0
        self._seen: set[int] = set()
        self._seen_again: list[ClaimedJob] = []

    async def _serve(self) -> None:
        state = self._state
        failures = 0
        while True:
            await self.until_started()
            # A job that ends during the claim may enqueue what the claim does not see.
            was_busy = state.is_busy()
            state.look_for_limited()
            try:
                claimed = await self.once(list(state.groups))
            except DatabaseUnavailableError as error:
                failures += 1
                await self.claim_failed(error, failures)
                continue
            failures = 0
            if claimed is None and not state.groups:
                claimed = Claimed([], None, alive=True)  # every queue was stopped
            if claimed is not None and claimed.jobs:
                continue
            if claimed is not None and claimed.alive and not was_busy and not state.is_busy():
                break
            await state.fetch_wake.wait()
        state.stop.request()
        await anyio.sleep_forever()

    def choose(self, claimed: Claimed) -> Claimed:
        """Return the jobs that have not run yet; keep the leases of the others until the end."""
        again = [job for job in claimed.jobs if job.lease.job_id in self._seen]
        if again:
            first = claimed.jobs[: claimed.for_slots]
            claimed = attrs.evolve(
                claimed,
                jobs=[job for job in claimed.jobs if job not in again],
                for_slots=len([job for job in first if job not in again]),
            )
        self._seen_again += again
        self._seen.update(job.lease.job_id for job in claimed.jobs)
        return claimed

    async def stop(self) -> None:
        """Release the jobs that would have run twice."""
        await super().stop()
        self._state.release(self._seen_again)
