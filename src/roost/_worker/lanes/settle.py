"""Settle: write verdicts, in batches that form by themselves.

A flush starts at once when none is in flight; what arrives meanwhile is the next batch. A batch
that the database did not take is kept and written again until it is back: the handler has run, and
nothing here may make it run again.
"""

from __future__ import annotations

import logging

import anyio
from anyio.abc import TaskStatus

from roost._ops.settle import settle
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseUnavailableError

logger = logging.getLogger("roost.worker.settle")

MAX_BATCH = 1_000
SETTLE_TIMEOUT = 30.0
"""Seconds that one batch may take before it counts as not written."""
FLUSH_TIMEOUT = 1.5
"""Seconds for what is left when the worker stops; a lease that was not settled is rescued later."""


class SettleLane:
    """Writes what `Runtime.settle` was given."""

    name = "settle"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flushing = anyio.Lock()
        self._timeout = SETTLE_TIMEOUT
        self._in_flight: anyio.CancelScope | None = None
        self._unsure = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write batches until cancelled; a batch in flight is finished first."""
        task_status.started()
        failures = 0
        while True:
            await self._runtime.settle_wake.wait()
            while self._runtime.settling:
                try:
                    await self.once()
                except DatabaseUnavailableError as error:
                    failures += 1
                    logger.warning(
                        "verdicts not written yet",
                        extra={"error": str(error), "waiting": len(self._runtime.settling)},
                    )
                    await anyio.sleep(backoff(failures))
                else:
                    failures = 0

    async def once(self) -> None:
        """Write one batch.

        A cancel is taken before or after, never between: an answer that is lost would be reported
        as a lost lease by the next try.

        :raises DatabaseUnavailableError: it was not written, or nobody knows; it is kept.
        """
        async with self._flushing:
            batch = self._runtime.settling[:MAX_BATCH]
            if not batch:
                return
            # Until it is answered, nobody knows whether this batch was written.
            unsure, self._unsure = self._unsure, True
            with anyio.move_on_after(self._timeout, shield=True) as self._in_flight:
                lost = await self._runtime.call(
                    settle(batch, error_cap=self._runtime.settings.error_cap),
                    timeout=self._timeout,
                )
                self._unsure = False
                del self._runtime.settling[: len(batch)]
                self._runtime.look.set()
                for lease in lost:
                    logger.log(
                        logging.INFO if unsure else logging.WARNING,
                        "lease lost, or the verdict was written by an earlier try"
                        if unsure
                        else "lease lost: the verdict was not written",
                        extra={"job_id": lease.job_id, "lease_no": lease.lease_no},
                    )

    async def stop(self) -> None:
        """Write what is left, within `FLUSH_TIMEOUT`."""
        self._hurry()
        with anyio.move_on_after(FLUSH_TIMEOUT):
            while self._runtime.settling:
                try:
                    await self.once()
                except DatabaseUnavailableError:
                    await anyio.sleep(backoff(1))
        if self._runtime.settling:
            logger.error(
                "stopped with verdicts unwritten; their jobs will be rescued",
                extra={"jobs": [verdict.lease.job_id for verdict in self._runtime.settling]},
            )

    def _hurry(self) -> None:
        self._timeout = FLUSH_TIMEOUT
        if self._in_flight is not None:
            deadline = anyio.current_time() + FLUSH_TIMEOUT
            self._in_flight.deadline = min(self._in_flight.deadline, deadline)
