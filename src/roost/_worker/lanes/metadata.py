"""Metadata: write what handlers change in their jobs' metadata, in batches that form by themselves.

One write is in flight at a time, on a connection of the maintenance, so that claims and settles
never wait for it. What handlers change meanwhile is the next batch.
"""

from __future__ import annotations

import math
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.metadata import Unwritten, update_metadata
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.metadata import BUSY_DELAY, AttemptMetadata, lease_lost
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseError, DatabaseUnavailableError, InvalidJobError

logger = StructuredLogger("roost.worker.metadata")

WRITE_TIMEOUT = 10.0
"""Seconds that one write may take."""
MAX_BATCH = 200
"""Jobs whose metadata one statement changes at most."""


class MetadataLane:
    """Writes `WorkerState.metadata`."""

    name = "metadata"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write batches until cancelled."""
        queue = self._state.metadata
        task_status.started()
        while True:
            with anyio.move_on_after(queue.next_at() - monotonic()):
                await self._state.metadata_wake.wait()
            while queue.next_at() <= monotonic():
                try:
                    await self.once()
                except DatabaseUnavailableError as error:
                    queue.failures += 1
                    logger.warning(
                        "metadata of %(waiting)d jobs not written yet: %(error)s",
                        waiting=len(queue),
                        error=str(error),
                    )
                    await anyio.sleep(backoff(queue.failures))
                else:
                    queue.failures = 0

    async def once(self) -> None:
        """Write one batch. A cancel keeps the changes for another write.

        :raises DatabaseUnavailableError: not written, or not known; the changes are kept.
        """
        batch = self._state.metadata.take_due(most=MAX_BATCH)
        if not batch:
            return
        try:
            await self._write(batch)
        except DatabaseUnavailableError:
            raise
        except DatabaseError:
            # One that can't be stored must not keep the others from being written.
            for one in batch:
                await self._write_alone(one)

    async def _write_alone(self, one: AttemptMetadata) -> None:
        self._state.metadata.remove(one)
        try:
            await self._write([one])
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            self._state.metadata.remove(one)
            one.drop(InvalidJobError(f"metadata can't be stored: {error}"))

    async def _write(self, batch: list[AttemptMetadata]) -> None:
        through = [one.recorded for one in batch]
        taken = {one.lease: one.take() for one in batch}
        unwritten: Unwritten | None = None
        try:
            unwritten = await self._database.call_for_maintenance(
                update_metadata(taken), timeout=WRITE_TIMEOUT
            )
        finally:
            for one, number in zip(batch, through, strict=True):
                self._sort_out(one, taken[one.lease], number, unwritten)

    def _sort_out(
        self,
        one: AttemptMetadata,
        taken: dict[str, str],
        through: int,
        unwritten: Unwritten | None,
    ) -> None:
        """Record what has become of one attempt's changes; ``None``: the write failed."""
        if unwritten is not None and one.lease in unwritten.lost:
            one.drop(lease_lost(one.lease))
            self._state.metadata.remove(one)
        elif unwritten is None or one.lease in unwritten.busy:
            one.keep(taken, due_at=-math.inf if unwritten is None else monotonic() + BUSY_DELAY)
            if not one.closed:
                self._state.metadata.add(one)
        else:
            one.answer(through)

    async def stop(self) -> None:
        """Nothing to do before the cancel: no job runs any more."""
