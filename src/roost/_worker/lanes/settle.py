"""Settle: write verdicts, in batches that form by themselves.

A flush starts at once when none is in flight; what arrives meanwhile is the next batch. A batch
that the database did not take is kept and written again until it is back: the handler has run, and
nothing here may make it run again. What may take long is written beside that, see `ApartWriter`.
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
from roost._worker.lane import backoff
from roost._worker.runtime import Runtime
from roost._worker.unwritten import Postponed, due, next_due_at
from roost._worker.writing import (
    HEAVY,
    SETTLE_TIMEOUT,
    Flight,
    account,
    is_heavy,
    report_lost,
)
from roost._worker.writing_apart import ApartWriter
from roost.exceptions import DatabaseError, DatabaseUnavailableError

logger = StructuredLogger("roost.worker.settle")

MAX_BATCH = 1_000
MAX_BATCH_BYTES = 8 << 20
"""Characters of results in one batch, or one result if it is longer."""
FLUSH_TIMEOUT = 1.5
"""Seconds at least for what is left when the worker stops; what is left of its grace, if more."""
REFUSED_DELAY = 30.0
"""Seconds before a verdict is tried again that the database refuses even without its payload."""


class SettleLane:
    """Writes what `Runtime.settle` was given."""

    name = "settle"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._fresh = FreshWriter(runtime)
        self._apart = ApartWriter(runtime)
        self._last_write = anyio.move_on_after(math.inf)
        self._grace_ends = math.inf
        self._stopping = False

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Write batches until cancelled; a batch in flight is finished first."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._serve, self._apart, self._runtime.apart_wake.wait)
            task_status.started()
            await self._serve(self._fresh, self._runtime.settle_wake.wait)

    async def once(self) -> None:
        """Write one batch and what waits apart.

        :raises DatabaseUnavailableError: it was not written, or that is not known; it is kept.
        """
        await self._fresh.once()
        await self._apart.once()

    async def _serve(
        self, writer: FreshWriter | ApartWriter, wake: Callable[[], Awaitable[None]]
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

    async def stop(self) -> None:
        """Write what is left, as long as the grace lasts and for `FLUSH_TIMEOUT` at least."""
        self._stopping = True
        self._bound_the_end()
        unwritten = self._runtime.settling
        with self._last_write:
            while len(unwritten):
                try:
                    await self.once()
                except DatabaseUnavailableError:
                    await anyio.sleep(backoff(1))
                else:
                    if not len(unwritten):
                        break  # then there is no next time
                    next_at = min(self._fresh.next_at(), self._apart.next_at())
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
        for writer in (self._fresh, self._apart):
            writer.flight.end_by(deadline)


class FreshWriter:
    """Writes what was just decided, and again what was locked."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._writing = anyio.Lock(fast_acquire=True)
        self._limit = MAX_BATCH
        self.flight = Flight()

    def next_at(self) -> float:
        """Return when there is something to write, by ``time.monotonic``."""
        unwritten = self._runtime.settling
        return -math.inf if unwritten.fresh else next_due_at(unwritten.later, otherwise=math.inf)

    async def once(self) -> None:
        """Write one batch.

        :raises DatabaseUnavailableError: it was not written, or that is not known; it is kept.
        """
        async with self._writing:
            fresh = self._next_batch()
            unwritten = self._runtime.settling
            most = max(1, self._limit - len(fresh))
            again = due(unwritten.later, now=monotonic())[:most] if unwritten.later else []
            if not fresh and not again:
                return
            try:
                with self.flight.shield(SETTLE_TIMEOUT):
                    await self._write_or_split(fresh, again)
                    self._limit = min(2 * self._limit, MAX_BATCH)
                    return
                raise DatabaseUnavailableError("the batch was not answered")
            except DatabaseUnavailableError:
                # Maybe it is too much for the time that the server gives to a statement.
                self._limit = max(1, (len(fresh) + len(again)) // 2)
                for one in again:
                    one.postpone(now=monotonic())
                if len(fresh) == 1 and unwritten.fresh[:1] == fresh:
                    self._put_off(fresh[0])
                raise

    def _next_batch(self) -> list[Verdict]:
        """Return the first of the line, as many as go together; large ones leave it."""
        unwritten = self._runtime.settling
        batch = unwritten.fresh[: self._limit]
        size = sum([len(verdict.result) for verdict in batch if verdict.result is not None])
        if size <= HEAVY:
            return batch
        heavy = [n for n, verdict in enumerate(unwritten.fresh) if is_heavy(verdict)]
        for n in reversed(heavy):
            unsure = n < unwritten.unsure
            unwritten.unsure -= unsure
            unwritten.apart.append(Postponed(unwritten.fresh.pop(n), unsure=unsure))
        if heavy:
            self._runtime.apart_wake.set()
        size = 0
        batch = unwritten.fresh[: self._limit]
        for n, verdict in enumerate(batch):
            size += len(verdict.result or "")
            if size > MAX_BATCH_BYTES:
                return batch[: max(n, 1)]
        return batch

    async def _write_or_split(self, fresh: list[Verdict], again: list[Postponed]) -> None:
        try:
            await self._write(fresh, again)
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            # One verdict that can't be stored must not keep the others waiting, nor its own job
            # from ending: the work is done.
            logger.error(
                "batch of %(verdicts)d verdicts refused, writing one by one: %(error)s",
                verdicts=len(fresh) + len(again),
                error=str(error),
            )
            for one in again:
                await self._write_alone([], [one])
            for verdict in fresh:
                await self._write_alone([verdict], [])

    async def _write_alone(self, fresh: list[Verdict], again: list[Postponed]) -> None:
        """Write one verdict, and if it is refused, without its result or error text."""
        unwritten = self._runtime.settling
        try:
            await self._write(fresh, again)
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            [one] = again or [self._put_off(fresh[0])]
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
            assert one in unwritten.later  # noqa: S101
            await self._write_alone([], [one])

    async def _write(self, fresh: list[Verdict], again: list[Postponed]) -> None:
        """Write the first in line, which ``fresh`` are, and some that were put off."""
        runtime, unwritten = self._runtime, self._runtime.settling
        batch = fresh + [one.verdict for one in again] if again else fresh
        first_try = max(unwritten.unsure, len(fresh))
        try:
            settled = await runtime.call(
                settle(batch, error_cap=runtime.settings.error_cap),
                timeout=self.flight.seconds(SETTLE_TIMEOUT),
            )
        except (DatabaseUnavailableError, anyio.get_cancelled_exc_class()):
            unwritten.unsure = first_try
            for one in again:
                one.unsure = True
            raise
        unsure = {verdict.lease for verdict in fresh[: unwritten.unsure]}
        unsure.update(one.verdict.lease for one in again if one.unsure)
        del unwritten.fresh[: len(fresh)]
        unwritten.unsure = max(0, unwritten.unsure - len(fresh))
        self._sort_out(settled, again, unsure)
        account(runtime, settled, batch)
        if settled.lost:
            report_lost(settled.lost, unsure=unsure)

    def _sort_out(
        self, settled: Settled, again: list[Postponed], unsure: Collection[Lease]
    ) -> None:
        """Put off what was not written."""
        unwritten = self._runtime.settling
        if not again and not settled.busy and not settled.parents:
            return
        known = {one.verdict.lease: one for one in again}
        if again:
            sent = set(again)
            unwritten.later = [one for one in unwritten.later if one not in sent]
        now = monotonic()

        def put_off(verdict: Verdict) -> Postponed:
            return known.get(verdict.lease) or Postponed(verdict, unsure=verdict.lease in unsure)

        for one in map(put_off, settled.busy):
            one.postpone(now=now)
            unwritten.later.append(one)
        for one in map(put_off, settled.parents):
            one.has_children, one.due_at = True, now
            unwritten.apart.append(one)
            self._runtime.apart_wake.set()

    def _put_off(self, verdict: Verdict) -> Postponed:
        """Take the first in line out of it, so that it does not keep the others waiting."""
        unwritten = self._runtime.settling
        assert unwritten.fresh[0] is verdict  # noqa: S101
        del unwritten.fresh[0]
        one = Postponed(verdict, unsure=unwritten.unsure > 0)
        unwritten.unsure = max(0, unwritten.unsure - 1)
        one.postpone(now=monotonic())
        unwritten.later.append(one)
        return one
