"""Settle: write verdicts, in batches that form by themselves.

A flush starts at once when none is in flight; what arrives meanwhile is the next batch. A batch
that the database did not take is kept and written again until it is back: the handler has run, and
nothing here may make it run again.
"""

from __future__ import annotations

import math

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._model.verdict import Verdict, without_payload
from roost._ops.family import HELD
from roost._ops.settle import Settled, settle, settle_parents
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.settle")

MAX_BATCH = 1_000
SETTLE_TIMEOUT = 30.0
"""Seconds that one batch may take before it counts as not written."""
BUSY_DELAY = 0.02
"""Seconds before a verdict is tried again whose row somebody had locked."""
FLUSH_TIMEOUT = 1.5
"""Seconds for what is left when the worker stops; a lease that was not settled is rescued later."""


class SettleLane:
    """Writes what `Runtime.settle` was given."""

    name = "settle"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._flushing = anyio.Lock(fast_acquire=True)
        self._timeout = SETTLE_TIMEOUT
        self._in_flight: anyio.CancelScope | None = None
        self._unsure = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write batches until cancelled; a batch in flight is finished first."""
        task_status.started()
        failures = 0
        wait = math.inf
        while True:
            with anyio.move_on_after(wait):
                await self._runtime.settle_wake.wait()
            wait = math.inf
            while self._runtime.settling:
                try:
                    busy = await self.once()
                except DatabaseUnavailableError as error:
                    failures += 1
                    logger.warning(
                        "%(waiting)d verdicts not written yet: %(error)s",
                        waiting=len(self._runtime.settling),
                        error=str(error),
                    )
                    await anyio.sleep(backoff(failures))
                else:
                    if failures:
                        logger.info(
                            "verdicts are written again after %(failures)d failures",
                            failures=failures,
                        )
                    failures = 0
                    if busy == len(self._runtime.settling):
                        wait = BUSY_DELAY
                        break

    async def once(self) -> int:
        """Write one batch and return how many verdicts have to wait, for their rows are locked.

        A cancel is taken before or after, never between: an answer that is lost would be reported
        as a lost lease by the next try.

        :raises DatabaseUnavailableError: it was not written, or nobody knows; it is kept.
        """
        async with self._flushing:
            batch = self._runtime.settling[:MAX_BATCH]
            if not batch:
                return 0
            with anyio.move_on_after(self._timeout, shield=True) as self._in_flight:
                try:
                    return await self._write(batch)
                except DatabaseUnavailableError:
                    raise
                except DatabaseError as error:
                    # One verdict that can't be stored must not keep the others waiting, nor its
                    # own job from ending: the work is done.
                    logger.error(
                        "batch of %(verdicts)d verdicts refused, writing one by one: %(error)s",
                        verdicts=len(batch),
                        error=str(error),
                    )
                    return await self._write_one_by_one(len(batch))
            raise DatabaseUnavailableError("the batch was not answered")

    async def _write(self, batch: list[Verdict]) -> int:
        """Write the verdicts, which stand first in line, and return how many are busy."""
        runtime, error_cap = self._runtime, self._runtime.settings.error_cap
        unsure, self._unsure = self._unsure, True
        settled = await runtime.call(settle(batch, error_cap=error_cap), timeout=self._timeout)
        self._written(len(batch), settled, unsure=unsure)
        busy = len(settled.busy)
        if settled.parents:
            busy += await self._write_parents(settled.parents, unsure=unsure)
        return busy

    async def _write_parents(self, parents: list[Verdict], *, unsure: bool) -> int:
        """Write verdicts of jobs with children, first in line too; return how many are busy."""
        runtime, error_cap = self._runtime, self._runtime.settings.error_cap
        self._unsure = True
        try:
            settled = await runtime.call_in_transaction(
                settle_parents(parents, error_cap=error_cap), timeout=self._timeout
            )
        except DatabaseUnavailableError as error:
            if error.sqlstate != HELD:
                raise
            # Somebody holds a child of one of them, and nothing was written.
            self._unsure = unsure
            if len(parents) > 1:
                return sum([await self._write_parents([one], unsure=unsure) for one in parents])
            settled = Settled(lost=[], parents=[], busy=parents)
        self._written(len(parents), settled, unsure=unsure)
        return len(settled.busy)

    async def _write_one_by_one(self, count: int) -> int:
        """Write the first ``count`` verdicts, what is refused without its result or error text."""
        busy = 0
        for _ in range(count):
            verdict = self._runtime.settling[0]
            try:
                busy += await self._write([verdict])
            except DatabaseUnavailableError:
                raise
            except DatabaseError as error:
                self._runtime.settling[0] = without_payload(verdict, str(error))
                busy += await self._write(self._runtime.settling[:1])
        return busy

    def _written(self, count: int, settled: Settled, *, unsure: bool) -> None:
        """Take the first ``count`` verdicts off the list, and put back what is not written yet."""
        runtime = self._runtime
        self._unsure = False
        for verdict in runtime.settling[:count]:
            if verdict.delay is not None:
                runtime.due_in(verdict.delay)
        if runtime.limited_held:
            ended = {verdict.lease for verdict in runtime.settling[:count]}
            runtime.limited_may_wait |= not ended.isdisjoint(runtime.limited_held)
            runtime.limited_held -= ended
        runtime.settling[:count] = settled.parents
        runtime.settling += settled.busy
        runtime.look.set()
        for verdict in settled.lost:
            if verdict.completed:
                continue  # by its handler, in a transaction of its own
            # After a try that was not answered, a lease that is gone may have been used by it.
            _report_lost(verdict, unsure=unsure)

    async def stop(self) -> None:
        """Write what is left, within `FLUSH_TIMEOUT`."""
        self._hurry()
        with anyio.move_on_after(FLUSH_TIMEOUT):
            while self._runtime.settling:
                try:
                    if await self.once():
                        await anyio.sleep(BUSY_DELAY)
                except DatabaseUnavailableError:
                    await anyio.sleep(backoff(1))
        if self._runtime.settling:
            logger.error(
                "stopped with verdicts unwritten; their jobs will be rescued: %(jobs)s",
                jobs=[verdict.lease.job_id for verdict in self._runtime.settling],
            )

    def _hurry(self) -> None:
        self._timeout = FLUSH_TIMEOUT
        if self._in_flight is not None:
            deadline = anyio.current_time() + FLUSH_TIMEOUT
            self._in_flight.deadline = min(self._in_flight.deadline, deadline)


def _report_lost(verdict: Verdict, *, unsure: bool) -> None:
    """Log that a verdict was not written.

    :param unsure: a try before was not answered, and may have written it.
    """
    lease = verdict.lease
    if unsure:
        logger.info(
            "verdict %(event)s of job %(job_id)d (lease %(lease_no)d) was written before, or the "
            "lease was lost",
            job_id=lease.job_id,
            lease_no=lease.lease_no,
            event=verdict.event.value,
        )
    else:
        logger.warning(
            "lease lost, verdict %(event)s of job %(job_id)d (lease %(lease_no)d) was not written",
            job_id=lease.job_id,
            lease_no=lease.lease_no,
            event=verdict.event.value,
        )
