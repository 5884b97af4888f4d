"""The last write of a process that ends although handlers of its worker still run.

A thread can't be stopped and a coroutine may refuse to be; only the end of the process ends them.
Whoever is about to end it, and nobody else, may say that their attempts don't count.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from roost._model.verdict import Verdict
from roost._ops.query import Op
from roost._ops.settle import settle, try_parents
from roost._ops.workers import forget_worker, release_unheld


@attrs.frozen
class Unfinished:
    """What a worker leaves that could not end in order.

    :param worker_id: its last incarnation, which still has its row.
    :param unwritten: verdicts that may not be in the database yet.
    """

    worker_id: int
    unwritten: Sequence[Verdict]
    error_cap: int


def hand_back(unfinished: Unfinished) -> Op[list[int]]:
    """Write the verdicts, give back every other job with its attempt, and remove the worker.

    The worker's row stays if a verdict can't be written because its job is locked.

    Must run inside a transaction, with nothing but the end of the process after it: from its commit
    on others may run the jobs. Returns the ids of the jobs that were given back.
    """
    error_cap = unfinished.error_cap
    settled = yield from settle(unfinished.unwritten, error_cap=error_cap)
    busy = settled.busy
    if settled.parents:
        busy = busy + (yield from try_parents(settled.parents, error_cap=error_cap))
    # The work of these is done, and must not be done again as long as that can be helped: they keep
    # their leases until the worker's row expires.
    done = [verdict.lease for verdict in busy]
    released = yield from release_unheld(unfinished.worker_id, held=done)
    if not done:
        yield from forget_worker(unfinished.worker_id)
    return released
