"""What the two writers of the settle lane share."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import anyio

from roost._model.logs import StructuredLogger
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict
from roost._ops.settle import Settled
from roost._worker.runtime import Runtime

logger = StructuredLogger("roost.worker.settle")

SETTLE_TIMEOUT = 30.0
"""Seconds that one batch may take before it counts as not written."""
HEAVY = 256 << 10
"""Characters of a result from which on its verdict is written apart from the others."""


class Flight:
    """The time that the write in flight has.

    A cancel is taken before or after a write, never within it: an answer that is lost would be
    reported as a lost lease by the next try.
    """

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._end_by = math.inf

    def seconds(self, most: float) -> float:
        """Return ``most``, or the seconds that are left before the worker's end."""
        return max(0.0, min(most, self._end_by - anyio.current_time()))

    def shield(self, most: float) -> anyio.CancelScope:
        """Return the scope of one write, of ``most`` seconds; a cancel waits until it is left."""
        self._scope = anyio.move_on_after(self.seconds(most), shield=True)
        return self._scope

    def end_by(self, deadline: float) -> None:
        """Bound this write and all that follow, by the loop's clock."""
        self._end_by = deadline
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, deadline)


def is_heavy(verdict: Verdict) -> bool:
    """Say whether the verdict's result is so large that others should not wait for it."""
    return verdict.result is not None and len(verdict.result) > HEAVY


def account(runtime: Runtime, settled: Settled, sent: Iterable[Verdict]) -> None:
    """Let the other lanes know what was written of the verdicts that were sent."""
    kept = {verdict.lease for verdict in (*settled.parents, *settled.busy)}
    ended = [verdict for verdict in sent if verdict.lease not in kept] if kept else sent
    for verdict in ended:
        if verdict.delay is not None:
            runtime.due_in(verdict.delay)
    if runtime.limited_held:
        leases = {verdict.lease for verdict in ended}
        runtime.limited_may_wait |= not leases.isdisjoint(runtime.limited_held)
        runtime.limited_held -= leases
    runtime.look.set()


def report_lost(lost: Iterable[Verdict], *, unsure: Collection[Lease]) -> None:
    """Log which verdicts were not written.

    :param unsure: leases whose verdicts may have been written by a try that was not answered.
    """
    for verdict in lost:
        lease = verdict.lease
        if verdict.completed:
            continue  # by its handler, in a transaction of its own
        if lease in unsure:
            logger.info(
                "verdict %(event)s of job %(job_id)d (lease %(lease_no)d) was written before, or "
                "the lease was lost",
                job_id=lease.job_id,
                lease_no=lease.lease_no,
                event=verdict.event.value,
            )
        else:
            logger.warning(
                "lease lost, verdict %(event)s of job %(job_id)d (lease %(lease_no)d) was not "
                "written",
                job_id=lease.job_id,
                lease_no=lease.lease_no,
                event=verdict.event.value,
            )


def completes(verdict: Verdict) -> bool:
    """Say whether the job's children may run; if not, they may be cancelled with it."""
    return verdict.event is Event.COMPLETE
