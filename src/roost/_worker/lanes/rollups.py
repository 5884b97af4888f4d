"""Rollups: write once a minute what this worker has counted.

On a connection of the pool and in a lane of its own, so that the heartbeat never waits for it.
"""

from __future__ import annotations

from time import monotonic, time

import anyio
import attrs
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.rollups import encode_rollups, write_rollups
from roost._worker.database import Database
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.rollups")

INTERVAL = 60.0
"""Seconds between two writes."""
AFTER_THE_MINUTE = 0.5
"""Seconds after the beginning of the database's minute at which the minute before is written."""
WRITE_TIMEOUT = 5.0
"""Seconds for one write."""
STOP_TIMEOUT = 1.0
"""Seconds for the last write, when the worker stops."""


@attrs.define(eq=False)
class _Batch:
    """Counts that are to be written. Tried again unchanged until the database has them.

    :param middle: by ``time.monotonic``, the middle of the time that they cover.
    :param unsure: whether a try without an answer may have written them.
    """

    number: int
    worker_id: int
    content: str
    middle: float
    unsure: bool = False
    tried: bool = False


class RollupsLane:
    """Appends to ``roost.rollups``.

    What could not be written is kept: one batch, and the counts since then, which are bounded by
    `MAX_SERIES`. So a time without the database is shown as one minute.
    """

    name = "rollups"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._lock = anyio.Lock()
        self._since = monotonic()
        self._batches = 0
        self._pending: _Batch | None = None
        # By `monotonic`, when a minute of the database began. Until the first write, of this host.
        self._minute = self._since - time() % INTERVAL

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write shortly after the end of each of the database's minutes until cancelled."""
        task_status.started()
        while True:
            await anyio.sleep(self._delay())
            try:
                await self.once()
            except DatabaseError as error:
                logger.warning("roll-ups are not written yet: %(error)s", error=str(error))

    def _delay(self) -> float:
        """Return the seconds to the next write, also when the last one failed or had no counts."""
        return INTERVAL - (monotonic() - self._minute) % INTERVAL + AFTER_THE_MINUTE

    async def once(self, *, timeout: float = WRITE_TIMEOUT) -> None:
        """Write what was counted since the last call.

        :param timeout: in seconds, for each write.
        :raises DatabaseError: not written, or not known; the counts are kept.
        """
        async with self._lock:
            if self._pending is None:
                self._pending = self._take()
            while self._pending is not None:
                was_tried = self._pending.tried
                await self._write(self._pending, timeout)
                self._pending = self._take() if was_tried else None

    def _take(self) -> _Batch | None:
        since, self._since = self._since, monotonic()
        counted = self._state.statistics.take_fresh()
        if not counted:
            return None
        self._batches += 1
        middle = (since + self._since) / 2
        content = encode_rollups(counted)
        return _Batch(self._batches, self._state.worker_id, content, middle)

    async def _write(self, batch: _Batch, timeout: float) -> None:
        unsure, batch.unsure, batch.tried = batch.unsure, True, True
        try:
            second = await self._database.call_for_maintenance(
                write_rollups(
                    batch.worker_id,
                    batch.content,
                    batch=batch.number,
                    age=max(monotonic() - batch.middle, 0.0),
                    unsure=unsure,
                ),
                timeout=timeout,
            )
        except DatabaseError as error:
            batch.unsure = unsure or isinstance(error, DatabaseUnavailableError)
            raise
        self._minute = monotonic() - second

    async def stop(self) -> None:
        """Write what is left. No verdict is written after this, so nothing more is counted."""
        with anyio.move_on_after(STOP_TIMEOUT):
            try:
                await self.once(timeout=STOP_TIMEOUT)
            except DatabaseError as error:
                logger.warning("the last roll-ups are not written: %(error)s", error=str(error))
