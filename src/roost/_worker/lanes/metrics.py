"""Metrics: read the database's numbers for Prometheus, while this worker is scraped.

Several workers may be scraped; the oldest of them reads. A scrape itself waits for no database.
"""

from __future__ import annotations

from time import monotonic

from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._ops.metrics import read_numbers
from roost._worker.database import Database
from roost._worker.lane import every
from roost._worker.state import WorkerState
from roost.exceptions import DatabaseError

logger = StructuredLogger("roost.worker.metrics")

INTERVAL = 15.0
"""Seconds between two readings."""
WANTED_FOR = 150.0
"""Seconds after a scrape for which its worker reads: some intervals of usual scrapes."""
TAKE_OVER_AFTER = 60.0
"""Seconds without a word from the worker that reads after which the next one does."""
TIMEOUT = 10.0


class MetricsLane:
    """Reads the numbers that `RoostCollector` exports of the database."""

    name = "metrics"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Read every `INTERVAL` seconds while the worker is scraped, until cancelled."""
        task_status.started()
        await every(INTERVAL, self.once, logger=logger)

    async def once(self) -> None:
        """Read the numbers, if this worker was scraped lately and no older one is.

        :raises DatabaseError: they could not be read. The last numbers are forgotten.
        """
        state, view = self._state, self._state.database_view
        began = monotonic()
        if began > view.wanted_at + WANTED_FOR:
            view.numbers = None
            return
        try:
            view.numbers = await self._database.call_for_maintenance(
                read_numbers(state.worker_id, scraped_within=TAKE_OVER_AFTER), timeout=TIMEOUT
            )
        except DatabaseError:
            view.numbers, view.failed = None, True
            raise
        view.read_at, view.failed = began, False

    async def stop(self) -> None:
        """Nothing to do before the cancel."""
