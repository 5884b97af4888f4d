"""Writes the verdicts that may take long, so that they do not delay the others.

These are the verdicts of jobs with children, of which one may change a million rows, and results
that may be too large for the database to store in time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import monotonic

import anyio

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._model.verdict import drop_payload
from roost._ops.dependencies import LOCK_NOT_AVAILABLE
from roost._ops.settle import Settled, settle, settle_parents
from roost._ops.workers import oldest_transaction
from roost._worker.database import Database
from roost._worker.state import WorkerState
from roost._worker.verdicts import (
    REFUSED_DELAY,
    SETTLE_TIMEOUT,
    PostponedVerdict,
    WriteTime,
    completes,
    due,
    is_heavy,
    next_due_at,
    report_lost,
)
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.settle")

PARENTS_TIMEOUT = 300.0
"""Seconds that a write of jobs with children may take. A chain of 5,000 takes 1 s, and a million
children about a minute (November 2026). The heartbeat keeps the leases meanwhile."""
MAX_PARENTS = 1_000
"""Jobs with children that are settled in one transaction at most."""
MAX_REFUSALS = 3
"""Failed tries of a result, while the database answers other statements, before a note replaces the
result."""
CHECK_TIMEOUT = 5.0
"""Seconds for the statement that checks whether the database answers."""
MAX_UNANSWERED_DELAY = 5.0
"""Seconds between two tries of an unanswered verdict at most."""


class SlowWriter:
    """Writes `VerdictQueue.slow`."""

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._writing = anyio.Lock(fast_acquire=True)
        self.time = WriteTime()

    def next_at(self) -> float:
        """Return when the next verdict is due, by ``time.monotonic``; infinity: none waits."""
        return next_due_at(self._state.verdicts.slow, otherwise=math.inf)

    async def once(self) -> None:
        """Write the due verdicts: completed parents, then other parents, then one large result.

        A cancel takes effect between two writes.

        :raises DatabaseUnavailableError: the database does not answer.
        """
        async with self._writing:
            now = monotonic()
            ready = due(self._state.verdicts.slow, now=now)
            light = [one for one in ready if one.has_children and not is_heavy(one.verdict)]
            completed = [one for one in light if completes(one.verdict)]
            failed = [one for one in light if not completes(one.verdict)]
            for batch in (completed[:MAX_PARENTS], failed[:MAX_PARENTS]):
                if batch:
                    await self._write(batch)
            # Includes verdicts whose large result a note has replaced.
            for one in [one for one in ready if one not in light][:1]:
                await self._write([one])

    async def _write(self, batch: Sequence[PostponedVerdict]) -> None:
        """Write a batch in one transaction. If that fails, write each verdict in its own."""
        with_children = batch[0].has_children
        timeout = PARENTS_TIMEOUT if with_children else SETTLE_TIMEOUT
        try:
            with self.time.shield(timeout):
                settled = await self._send(batch, timeout=timeout)
                self._written(batch, settled)
                return
            raise DatabaseUnavailableError("the verdicts were not answered")
        except DatabaseError as error:
            if isinstance(error, DatabaseUnavailableError) and error.sqlstate != LOCK_NOT_AVAILABLE:
                for one in batch:
                    one.unsure = True
                if not await self._answers():
                    for one in batch:
                        one.postpone(now=monotonic())
                    raise
            if len(batch) == 1:
                self._failed(batch[0], error)
                return
        # A child of one of them is locked, or one of them can't be written.
        for one in batch:
            await self._write([one])

    async def _send(self, batch: Sequence[PostponedVerdict], *, timeout: float) -> Settled:
        settings = self._state.settings
        in_transaction = batch[0].has_children
        write = (settle_parents if in_transaction else settle)(
            [one.verdict for one in batch],
            error_cap=settings.error_cap,
            keep_completed=settings.keeps_completed,
        )
        timeout = self.time.seconds(timeout)
        if in_transaction:
            return await self._database.call_in_transaction(write, timeout=timeout)
        return await self._database.call(write, timeout=timeout)

    def _written(self, batch: Sequence[PostponedVerdict], settled: Settled) -> None:
        queue = self._state.verdicts
        now = monotonic()
        parents = {verdict.lease for verdict in settled.parents}
        busy = {verdict.lease for verdict in settled.busy}
        done = set()
        for one in batch:
            if one.verdict.lease in parents:
                one.has_children = True
            elif one.verdict.lease in busy:
                one.postpone(now=now)
            else:
                done.add(one)
        queue.slow = [one for one in queue.slow if one not in done]
        unsure = {one.verdict.lease for one in batch if one.unsure}
        self._state.record_written(settled, [one.verdict for one in batch], unsure=unsure)
        report_lost(settled.lost, unsure=unsure)

    def _failed(self, one: PostponedVerdict, error: DatabaseError) -> None:
        """Postpone a verdict that was not written although the database answers.

        After `MAX_REFUSALS` such failures a note replaces its payload.
        """
        job_id = one.verdict.lease.job_id
        if error.sqlstate == LOCK_NOT_AVAILABLE:
            one.postpone(now=monotonic())
            return
        refused = not isinstance(error, DatabaseUnavailableError)
        one.refusals += 1
        logger.warning(
            "verdict of job %(job_id)d not written yet: %(error)s", job_id=job_id, error=str(error)
        )
        has_payload = one.verdict.result is not None or one.verdict.error is not None
        if has_payload and not one.stripped and (refused or one.refusals >= MAX_REFUSALS):
            logger.error(
                "result or error of job %(job_id)d can't be stored, a note replaces it: %(error)s",
                job_id=job_id,
                error=str(error),
            )
            one.verdict = drop_payload(one.verdict, str(error))
            one.stripped = True
            one.tries = 0
        delay = REFUSED_DELAY if refused and one.stripped and one.tries else 0.0
        one.postpone(now=monotonic(), at_least=delay)

    async def _answers(self) -> bool:
        """Say whether the database answers another statement."""
        with shielded(self.time.seconds(CHECK_TIMEOUT)):
            try:
                await self._database.call(oldest_transaction(), timeout=CHECK_TIMEOUT)
            except DatabaseError:
                return False
            return True
        return False
