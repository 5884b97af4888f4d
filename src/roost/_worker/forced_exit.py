"""The last write of a process that ends although handlers of its worker still run.

A thread can't be stopped, and a coroutine may ignore its cancel. Only the end of the process ends
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from roost._model.verdict import Verdict
from roost._ops.query import Op
from roost._ops.settle import settle, try_parents
from roost._ops.workers import forget_worker, release_unheld


@attrs.frozen
class AbandonedWork:
    """What a worker leaves that could not end in order.

    :param worker_id: its last incarnation, which still has its row.
    :param unwritten: verdicts that may not be in the database yet.
    :param error_cap: error records that a job keeps at most.
    """

    worker_id: int
    unwritten: Sequence[Verdict]
    error_cap: int


def hand_back(work: AbandonedWork) -> Op[list[int]]:
    """Write the verdicts, release every other job with its attempt, and remove the worker's row.

    Call only immediately before ``os._exit()``, in a transaction: after the commit other workers
    may run these jobs.

    The row stays if a verdict can't be written because another transaction has locked its job. Such
    a job keeps its lease until the row expires: its handler has finished.

    :returns: the ids of the released jobs.
    """
    settled = yield from settle(work.unwritten, error_cap=work.error_cap)
    busy = settled.busy
    if settled.parents:
        busy = busy + (yield from try_parents(settled.parents, error_cap=work.error_cap))
    finished = [verdict.lease for verdict in busy]
    released = yield from release_unheld(work.worker_id, held=finished)
    if not finished:
        yield from forget_worker(work.worker_id)
    return released
