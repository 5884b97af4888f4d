"""Write verdicts in batches. Each is written only while its lease holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter, itemgetter

import attrs

from roost._model.codec import encode
from roost._model.states import Event, JobState
from roost._model.verdict import Lease, Verdict, settle_record
from roost._ops.dependencies import (
    LOCK_NOT_AVAILABLE,
    bound_lock_waits,
    cancel_descendants,
    release_children,
)
from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import DatabaseUnavailableError, LeaseLostError

_SQL = statements("settle")

CHILD_WAIT = 20
"""Milliseconds to wait for the lock of a child. Short, since other verdicts wait meanwhile, and the
write is tried again at once."""


@attrs.frozen
class Settled:
    """The verdicts of a batch that were not written.

    :param lost: the lease does not hold any more; the job was not changed.
    :param parents: the job has children and is still to be settled, by `settle_parents`.
    :param busy: the row was locked, for example by an enqueue of a child; try again.
    :param failed: ids of jobs that were discarded or cancelled, perhaps instead of being retried.
    """

    lost: list[Verdict]
    parents: list[Verdict]
    busy: list[Verdict]
    failed: Collection[int] = ()


def settle(
    verdicts: Iterable[Verdict], *, error_cap: int, keep_completed: bool = True
) -> Op[Settled]:
    """Write the verdicts of jobs without children.

    At most two statements, each a transaction of its own: one for completions, one for all others.
    A third asks for the leases of those that were not written. To repeat the call after an unknown
    outcome is safe: verdicts that had been written are reported as lost.

    :param error_cap: the most error records that a row keeps, ≥ 1; the oldest are dropped.
    :param keep_completed: ``False``: delete completed jobs for good. One that a client waits for is
        kept all the same, by a statement more, so that the client can read its result.
    """
    left, _, failed = yield from _write(
        verdicts, error_cap=error_cap, keep_completed=keep_completed, with_children=False
    )
    if not left:
        return Settled([], [], [], failed)
    rows = yield Query(_SQL["still_held"], _leases(left))
    has_children: dict[tuple[int, int], bool] = {
        (job_id, lease_no): children for job_id, lease_no, children in rows
    }
    settled = Settled([], [], [], failed)
    for verdict in left:
        children = has_children.get((verdict.lease.job_id, verdict.lease.lease_no))
        if children is None:
            settled.lost.append(verdict)
        else:
            (settled.parents if children else settled.busy).append(verdict)
    return settled


def settle_parents(
    verdicts: Iterable[Verdict], *, error_cap: int, keep_completed: bool = True
) -> Op[Settled]:
    """Write the verdicts of jobs with children, and release or cancel the children.

    Must run inside a transaction, which makes the end of a parent and its effects visible together:
    a completed parent releases its children, a discarded or cancelled one cancels all descendants.

    :param keep_completed: as for `settle`.
    :raises DatabaseUnavailableError: with the sqlstate `LOCK_NOT_AVAILABLE`: a child is locked, for
        example by an enqueue of its own child, maybe for long. Nothing was written.
    """
    yield from bound_lock_waits(CHILD_WAIT)
    left, completed, failed = yield from _write(
        verdicts, error_cap=error_cap, keep_completed=keep_completed, with_children=True
    )
    yield from release_children(completed)
    yield from cancel_descendants(failed)
    if not left:
        return Settled([], [], [], failed)
    rows = yield Query(_SQL["still_held"], _leases(left))
    held = {(job_id, lease_no) for job_id, lease_no, _ in rows}
    settled = Settled([], [], [], failed)
    for verdict in left:
        is_held = (verdict.lease.job_id, verdict.lease.lease_no) in held
        (settled.busy if is_held else settled.lost).append(verdict)
    return settled


def try_parents(verdicts: Sequence[Verdict], *, error_cap: int) -> Op[list[Verdict]]:
    """Write the verdicts of jobs with children, and return those that a lock prevented.

    Must run inside a transaction, which stays usable: a savepoint undoes what a lock interrupts.
    """
    yield Query(_SQL["begin_parents"])
    try:
        return (yield from settle_parents(verdicts, error_cap=error_cap)).busy
    except DatabaseUnavailableError as error:
        if error.sqlstate != LOCK_NOT_AVAILABLE:
            raise
    yield Query(_SQL["undo_parents"])
    return list(verdicts)


def complete_now(lease: Lease, result: str) -> Op[None]:
    """Complete one job in the caller's transaction, and release its children. The job is kept.

    :raises LeaseLostError: the lease does not hold.
    """
    held = yield Query(_SQL["hold_lease"], (lease.job_id, lease.worker_id, lease.lease_no))
    if not held:
        raise LeaseLostError(f"this worker no longer holds the lease of job {lease.job_id}")
    verdict = Verdict(lease, Event.COMPLETE, result=result)
    for with_children in (False, True):
        _, completed, _ = yield from _write(
            [verdict], error_cap=1, keep_completed=True, with_children=with_children
        )
        if completed:
            yield from release_children(completed)
            return
    raise LeaseLostError(f"this worker no longer holds the lease of job {lease.job_id}")


def _write(
    verdicts: Iterable[Verdict], *, error_cap: int, keep_completed: bool, with_children: bool
) -> Op[tuple[list[Verdict], list[int], list[int]]]:
    """Write the verdicts; return those not written, the completed ids and the failed ids."""
    to_complete: list[Verdict] = []
    unsuccessful: list[Verdict] = []
    for verdict in verdicts:
        (to_complete if verdict.event is Event.COMPLETE else unsuccessful).append(verdict)
    completed: list[int] = []
    ended: dict[int, str] = {}
    if to_complete:
        completed = yield from _complete(
            to_complete, keep_completed=keep_completed, with_children=with_children
        )
    if unsuccessful:
        records = encode([settle_record(verdict) for verdict in unsuccessful])
        ended = dict(
            (yield Query(_SQL["finish_unsuccessful"], (records, error_cap, with_children)))
        )
    written = ended.keys() | set(completed)
    sent = to_complete + unsuccessful
    if len(written) == len(sent) and not ended:
        return [], completed, []
    left = [verdict for verdict in sent if verdict.lease.job_id not in written]
    if len(written) + len(left) < len(sent):
        left += _older_leases(sent, of=written)
    failed = [
        job_id
        for job_id, state in ended.items()
        if state in (JobState.DISCARDED, JobState.CANCELLED)
    ]
    return left, completed, failed


def _complete(
    verdicts: Sequence[Verdict], *, keep_completed: bool, with_children: bool
) -> Op[list[int]]:
    """Write completions; return the ids of those that were written."""
    deleted: list[int] = []
    if not keep_completed:
        rows = yield Query(_SQL["delete_completed"], (*_leases(verdicts), with_children))
        deleted = list(map(itemgetter(0), rows))
        if len(deleted) == len(verdicts):
            return deleted
        gone = set(deleted)
        # Clients wait for them, or their rows were locked, or their leases are lost.
        verdicts = [verdict for verdict in verdicts if verdict.lease.job_id not in gone]
        if not verdicts:
            return deleted
    parameters = (*_leases(verdicts), _results(verdicts), with_children)
    rows = yield Query(_SQL["complete"], parameters)
    return deleted + list(map(itemgetter(0), rows))


def _older_leases(verdicts: Iterable[Verdict], *, of: Collection[int]) -> list[Verdict]:
    """Return, for the jobs ``of``, the verdicts on other leases than the newest."""
    newest: dict[int, int] = {}
    for verdict in verdicts:
        lease = verdict.lease
        newest[lease.job_id] = max(newest.get(lease.job_id, 0), lease.lease_no)
    return [
        verdict
        for verdict in verdicts
        if verdict.lease.job_id in of and verdict.lease.lease_no < newest[verdict.lease.job_id]
    ]


def _results(verdicts: Iterable[Verdict]) -> str | None:
    """Return one JSON object of the results by lease; ``None``: no verdict has a result."""
    entries = []
    for verdict in verdicts:
        if verdict.result is not None:
            job_id, worker_id, lease_no = verdict.lease
            entries.append(f'"{job_id}:{worker_id}:{lease_no}":{verdict.result}')
    return f"{{{','.join(entries)}}}" if entries else None


def _leases(verdicts: Sequence[Verdict]) -> tuple[list[int], list[int], list[int]]:
    return lease_columns(list(map(attrgetter("lease"), verdicts)))


def lease_columns(leases: Sequence[Lease]) -> tuple[list[int], list[int], list[int]]:
    """Return the ids, the worker ids and the lease numbers."""
    job_ids, worker_ids, lease_nos = map(list, zip(*leases, strict=True))
    return job_ids, worker_ids, lease_nos
