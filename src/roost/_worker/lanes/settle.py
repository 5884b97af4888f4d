"""Settle: write verdicts to the database, in batches that form by themselves.

A batch is written at once when none is in flight; what arrives meanwhile is the next batch. One
that the database did not take is kept and written again: the handlers have run, and nothing here
may make them run again. `SlowWriter` writes the verdicts that may take long.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from roost._model.logs import StructuredLogger
from roost._model.verdict import Lease, Verdict, drop_payload
from roost._ops.settle import Settled, settle
from roost._worker.database import Database
from roost._worker.lane import backoff
from roost._worker.slow_writer import SlowWriter
from roost._worker.state import WorkerState
from roost._worker.verdicts import (
    HEAVY,
    REFUSED_DELAY,
    SETTLE_TIMEOUT,
    PostponedVerdict,
    WriteTime,
    due,
    is_heavy,
    next_due_at,
    report_lost,
)
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.settle")

MAX_BATCH = 1_000
MAX_BATCH_BYTES = 8 << 20
"""Characters of results in one batch, or one result if it is longer."""
FLUSH_TIMEOUT = 1.5
"""Seconds at least for the verdicts that are left when the worker stops; the rest of its grace, if
that is more."""


class SettleLane:
    """Writes what `WorkerState.settle` was given."""

    name = "settle"

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._batches = BatchWriter(state, database)
        self._slow = SlowWriter(state, database)
        self._last_write = anyio.move_on_after(math.inf)
        self._grace_ends = math.inf
        self._stopping = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write batches until cancelled; a batch in flight is finished first."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve, self._slow, self._state.slow_settle_wake.wait)
            task_status.started()
            await self._serve(self._batches, self._state.settle_wake.wait)

    async def once(self) -> None:
        """Write one batch, and the slow verdicts that are due.

        :raises DatabaseUnavailableError: not written, or not known; the verdicts are kept.
        """
        await self._batches.once()
        await self._slow.once()

    async def _serve(
        self, writer: BatchWriter | SlowWriter, wake: Callable[[], Awaitable[None]]
    ) -> None:
        failures = 0
        while True:
            with anyio.move_on_after(writer.next_at() - monotonic()):
                await wake()
            while writer.next_at() <= monotonic():
                try:
                    await writer.once()
                except DatabaseUnavailableError as error:
                    failures += 1
                    logger.warning(
                        "%(waiting)d verdicts not written yet: %(error)s",
                        waiting=len(self._state.verdicts),
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

    async def stop(self) -> None:
        """Write what is left until the grace ends, and for `FLUSH_TIMEOUT` at least."""
        self._stopping = True
        self._bound_the_end()
        unwritten = self._state.verdicts
        with self._last_write:
            while len(unwritten):
                try:
                    await self.once()
                except DatabaseUnavailableError:
                    await anyio.sleep(backoff(1))
                else:
                    if not len(unwritten):
                        break
                    next_at = min(self._batches.next_at(), self._slow.next_at())
                    await anyio.sleep(max(0.0, next_at - monotonic()))
        if len(unwritten):
            logger.error(
                "stopped with %(waiting)d verdicts unwritten; when the worker's row has expired "
                "their jobs will be rescued: %(jobs)s",
                waiting=len(unwritten),
                jobs=[verdict.lease.job_id for verdict in unwritten],
            )

    def end_by(self, grace_ends: float) -> None:
        """Say when the grace ends, by the loop's clock; a later time changes nothing."""
        self._grace_ends = min(self._grace_ends, grace_ends)
        if self._stopping:
            self._bound_the_end()

    def _bound_the_end(self) -> None:
        soonest = anyio.current_time() + FLUSH_TIMEOUT
        grace_ends = self._grace_ends if self._grace_ends < math.inf else soonest
        deadline = min(max(grace_ends, soonest), self._last_write.deadline)
        self._last_write.deadline = deadline
        for writer in (self._batches, self._slow):
            writer.time.end_by(deadline)


class BatchWriter:
    """Writes `VerdictQueue.fresh`, and again the verdicts whose rows were locked."""

    def __init__(self, state: WorkerState, database: Database) -> None:
        self._state = state
        self._database = database
        self._writing = anyio.Lock(fast_acquire=True)
        self._limit = MAX_BATCH
        self.time = WriteTime()

    def next_at(self) -> float:
        """Return when there is something to write, by ``time.monotonic``."""
        queue = self._state.verdicts
        if queue.fresh:
            return -math.inf
        return next_due_at(queue.later, otherwise=math.inf) if queue.later else math.inf

    async def once(self) -> None:
        """Write one batch.

        :raises DatabaseUnavailableError: not written, or not known; the verdicts are kept.
        """
        async with self._writing:
            fresh = self._next_batch()
            queue = self._state.verdicts
            most = max(1, self._limit - len(fresh))
            again = due(queue.later, now=monotonic())[:most] if queue.later else []
            if not fresh and not again:
                return
            try:
                with self.time.shield(SETTLE_TIMEOUT):
                    await self._write_or_split(fresh, again)
                    self._limit = min(2 * self._limit, MAX_BATCH)
                    return
                raise DatabaseUnavailableError("the batch was not answered")
            except DatabaseUnavailableError:
                # It may be too much for the server's statement_timeout.
                self._limit = max(1, (len(fresh) + len(again)) // 2)
                for one in again:
                    one.postpone(now=monotonic())
                if len(fresh) == 1 and queue.fresh[:1] == fresh:
                    self._postpone_first(fresh[0])
                raise

    def _next_batch(self) -> list[Verdict]:
        """Return the first of ``fresh`` that fit into a batch, and move large ones to ``slow``."""
        queue = self._state.verdicts
        batch = queue.fresh[: self._limit]
        size = 0
        for verdict in batch:
            if verdict.result is not None:
                size += len(verdict.result)
        if size <= HEAVY:
            return batch
        heavy = [n for n, verdict in enumerate(queue.fresh) if is_heavy(verdict)]
        for n in reversed(heavy):
            unsure = n < queue.unsure
            queue.unsure -= unsure
            queue.slow.append(PostponedVerdict(queue.fresh.pop(n), unsure=unsure))
        if heavy:
            self._state.slow_settle_wake.set()
        size = 0
        batch = queue.fresh[: self._limit]
        for n, verdict in enumerate(batch):
            size += len(verdict.result or "")
            if size > MAX_BATCH_BYTES:
                return batch[: max(n, 1)]
        return batch

    async def _write_or_split(self, fresh: list[Verdict], again: list[PostponedVerdict]) -> None:
        try:
            await self._write(fresh, again)
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            # A verdict that can't be stored must not delay the others, and its own job must end.
            logger.error(
                "batch of %(verdicts)d verdicts refused, writing one by one: %(error)s",
                verdicts=len(fresh) + len(again),
                error=str(error),
            )
            for one in again:
                await self._write_alone([], [one])
            for verdict in fresh:
                await self._write_alone([verdict], [])

    async def _write_alone(self, fresh: list[Verdict], again: list[PostponedVerdict]) -> None:
        """Write one verdict, and if it is refused, without its result or error text."""
        queue = self._state.verdicts
        try:
            await self._write(fresh, again)
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            [one] = again or [self._postpone_first(fresh[0])]
            if one.stripped:
                logger.error(
                    "verdict of job %(job_id)d refused, trying again in %(seconds)g s: %(error)s",
                    job_id=one.verdict.lease.job_id,
                    seconds=REFUSED_DELAY,
                    error=str(error),
                )
                one.postpone(now=monotonic(), at_least=REFUSED_DELAY)
                return
            one.verdict = drop_payload(one.verdict, str(error))
            one.stripped = True
            assert one in queue.later  # noqa: S101
            await self._write_alone([], [one])

    async def _write(self, fresh: list[Verdict], again: list[PostponedVerdict]) -> None:
        """Write ``fresh``, which are the first of the queue, and postponed verdicts."""
        state, queue = self._state, self._state.verdicts
        batch = fresh + [one.verdict for one in again] if again else fresh
        first_try = max(queue.unsure, len(fresh))
        try:
            settled = await self._database.call(
                settle(
                    batch,
                    error_cap=state.settings.error_cap,
                    keep_completed=state.settings.keeps_completed,
                ),
                timeout=self.time.seconds(SETTLE_TIMEOUT),
            )
        except (DatabaseUnavailableError, anyio.get_cancelled_exc_class()):
            queue.unsure = first_try
            for one in again:
                one.unsure = True
            raise
        unsure: set[Lease] = set()
        if queue.unsure or again:
            unsure.update(verdict.lease for verdict in fresh[: queue.unsure])
            unsure.update(one.verdict.lease for one in again if one.unsure)
        del queue.fresh[: len(fresh)]
        queue.unsure = max(0, queue.unsure - len(fresh))
        if again or settled.busy or settled.parents:
            self._sort_out(settled, again, unsure)
        state.record_written(settled, batch, unsure=unsure)
        if settled.lost:
            report_lost(settled.lost, unsure=unsure)

    def _sort_out(
        self, settled: Settled, again: list[PostponedVerdict], unsure: Collection[Lease]
    ) -> None:
        """Postpone what was not written."""
        queue = self._state.verdicts
        known = {one.verdict.lease: one for one in again}
        if again:
            sent = set(again)
            queue.later = [one for one in queue.later if one not in sent]
        now = monotonic()

        def postponed(verdict: Verdict) -> PostponedVerdict:
            return known.get(verdict.lease) or PostponedVerdict(
                verdict, unsure=verdict.lease in unsure
            )

        for one in map(postponed, settled.busy):
            one.postpone(now=now)
            queue.later.append(one)
        for one in map(postponed, settled.parents):
            one.has_children, one.due_at = True, now
            queue.slow.append(one)
            self._state.slow_settle_wake.set()

    def _postpone_first(self, verdict: Verdict) -> PostponedVerdict:
        """Move the first of ``fresh`` to the postponed verdicts: it must not delay the others."""
        queue = self._state.verdicts
        assert queue.fresh[0] is verdict  # noqa: S101
        del queue.fresh[0]
        one = PostponedVerdict(verdict, unsure=queue.unsure > 0)
        queue.unsure = max(0, queue.unsure - 1)
        one.postpone(now=monotonic())
        queue.later.append(one)
        return one
