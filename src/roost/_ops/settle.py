"""Write verdicts, many at a time, each guarded by its lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from roost._model.codec import encode
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict, describe
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("settle")
_COMPLETE = _SQL["complete"]
_CONCLUDE = _SQL["conclude"]


def settle(verdicts: Iterable[Verdict], *, error_cap: int) -> Op[list[Lease]]:
    """Write ``verdicts`` and return the leases that no longer held; their jobs were not touched.

    At most two statements, each a transaction of its own: completions, and everything else. Doing
    it again after an unknown outcome is safe: what took effect is reported as lost.

    :param error_cap: how many error records a row keeps, ≥ 1; the newest stay.
    """
    completed: list[Verdict] = []
    others: list[Verdict] = []
    for verdict in verdicts:
        (completed if verdict.event is Event.COMPLETE else others).append(verdict)
    lost: list[Lease] = []
    if completed:
        rows = yield Query(
            _COMPLETE,
            (
                [verdict.lease.job_id for verdict in completed],
                [verdict.lease.worker_id for verdict in completed],
                [verdict.lease.lease_no for verdict in completed],
                [verdict.result for verdict in completed],
            ),
        )
        lost += _missing(completed, {job_id for (job_id,) in rows})
    if others:
        records = encode([describe(verdict) for verdict in others])
        rows = yield Query(_CONCLUDE, (records, error_cap))
        lost += _missing(others, {job_id for (job_id,) in rows})
    return lost


def _missing(verdicts: Sequence[Verdict], settled: set[int]) -> list[Lease]:
    return [verdict.lease for verdict in verdicts if verdict.lease.job_id not in settled]
