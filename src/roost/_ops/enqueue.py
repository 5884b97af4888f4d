"""Insert jobs, alone or in batches."""

from __future__ import annotations

from collections.abc import Iterable

from roost._model.encoding import Batch
from roost._model.unique import BulkOnConflict
from roost._ops.query import Op, Query
from roost._sql import Statement, statements
from roost.exceptions import DuplicateUniqueJobError, UnknownParentError

_SQL = statements("enqueue")
_FIND = _SQL["find_active_by_unique_key"]


def _statement(name: str, *, fills: bool) -> Statement:
    """Return the insert, or its form that fills the options of tasks that the client doesn't know.

    The usual form doesn't look at ``roost.tasks``.
    """
    return _SQL[f"fill_and_{name}" if fills else name]


def insert_jobs(records: str, *, fills: bool = False) -> Op[list[int]]:
    """Insert the jobs of a JSON array (see `roost._model.encoding`); return the new ids, in order.

    A job is left out if an active job has its unique key. The statement waits for another
    transaction that has inserted the same key and not committed yet.

    :param fills: whether the client doesn't know the task of one of the jobs.
    """
    [(ids,)] = yield Query(_statement("insert_jobs", fills=fills), (records,))
    return list(ids or [])


def insert_batch(batch: Batch, *, fills: bool = False) -> Op[list[int]]:
    """Insert a batch of jobs without parents; otherwise as `insert_jobs`."""
    if not batch.homogeneous:
        return (yield from insert_jobs(batch.text, fills=fills))
    [(ids, _)] = yield Query(_statement("insert_homogeneous", fills=fills), (batch.text,))
    return sorted(ids or [])


def insert_homogeneous(
    batch: str, *, keys: Iterable[str | None], fills: bool = False
) -> Op[list[int | None]]:
    """Insert a homogeneous batch and return an id for each job; ``None``: it was left out.

    :param batch: the text of a `roost._model.encoding.Batch`.
    :param keys: the jobs' unique keys, in order.
    :param fills: as for `insert_jobs`.
    """
    [(ids, kept)] = yield Query(_statement("insert_homogeneous", fills=fills), (batch,))
    inserted = list(zip(ids or [], kept or [], strict=True))
    # The ids have the order of the jobs; of several jobs with one key the first is kept.
    by_key = {key: job_id for job_id, key in inserted if key is not None}
    others = iter(sorted(job_id for job_id, key in inserted if key is None))
    return [next(others) if key is None else by_key.pop(key, None) for key in keys]


def insert_dependent(records: str, *, fills: bool = False) -> Op[list[int]]:
    """Insert jobs of which some have ``depends_on``, and return the new ids, in order.

    Must run inside a transaction, which locks the parents until it ends. It waits for parents that
    another transaction is inserting or ending. A job whose parent has failed is inserted as
    cancelled.

    :param fills: as for `insert_jobs`.
    :raises UnknownParentError: a parent does not exist; nothing was inserted.
    """
    ids = yield from insert_returning_ids(records, fills=fills)
    return [job_id for job_id in ids if job_id is not None]


def insert_returning_ids(records: str, *, fills: bool = False) -> Op[list[int | None]]:
    """As `insert_dependent`, with an id for each job, in order; ``None``: it was left out."""
    [(ids, missing)] = yield Query(_statement("insert_dependent", fills=fills), (records,))
    if missing:
        raise UnknownParentError(f"depends_on names jobs that don't exist: {missing}")
    return list(ids or [])


def insert_job(
    record: str,
    *,
    unique_key: str | None,
    has_parents: bool = False,
    dispatch: bool = False,
    fills: bool = False,
    return_holder: bool = False,
) -> Op[int]:
    """Insert one job and return its id.

    :param has_parents: whether it has ``depends_on``; see `insert_dependent`.
    :param dispatch: dispatch it to a worker that has granted a credit, if there is one; see
        `roost._ops.dispatch`. Only for a statement that commits by itself, since it locks the
        worker's row. Not with parents.
    :param fills: as for `insert_jobs`.
    :param return_holder: return the id of the active job that has the key, instead of raising.
    :raises DuplicateUniqueJobError: an active job has the key. Nothing was inserted, and the
        caller's transaction stays usable.
    """
    insert = _statement("insert_or_dispatch" if dispatch else "insert_job", fills=fills)
    while True:
        if has_parents:
            ids = yield from insert_dependent(record, fills=fills)
        else:
            rows = yield Query(insert, (record,))
            ids = [row[0] for row in rows if row[0] is not None]
        if ids:
            return ids[0]
        assert unique_key is not None, "only a unique key keeps a job out"  # noqa: S101
        [(holder,)] = yield Query(_FIND, (unique_key,))
        if holder is not None and return_holder:
            return int(holder)
        if holder is not None:
            raise DuplicateUniqueJobError(unique_key=unique_key, existing_id=holder)
        # The holder ended between the two statements: the key is free again.


_REFUSALS = {
    "active": "job {id} is active with unique_key {key!r}",
    "executing": "job {id} is running with unique_key {key!r}, so it can't be replaced; with "
    "unique_while='waiting' one may wait while one runs",
    "held": "job {id} is running with unique_key {key!r}, so it can't be replaced, and its "
    "unique_for is not over, so no other one may wait",
    "ended": "job {id} with unique_key {key!r} has ended, and its unique_for is not over",
    "task": "job {id} with unique_key {key!r} is of another task, so it can't be replaced",
}


def insert_unique(
    records: str, on_conflict: BulkOnConflict, *, fills: bool = False
) -> Op[list[int | None]]:
    """Insert jobs of which some have options of unique keys; return an id for each, in order.

    The id is that of the new job, or of the one that was returned or replaced. ``None``: the job
    was left out. Waits for other transactions that have inserted the same keys and not committed
    yet. Jobs with ``depends_on`` are as for `insert_dependent`.

    :param records: a JSON array; see `roost._model.encoding`.
    :param fills: as for `insert_jobs`.
    :raises DuplicateUniqueJobError: a job is refused, or can't be replaced. Nothing was changed,
        and the caller's transaction stays usable.
    :raises UnknownParentError: a parent does not exist; nothing was inserted.
    """
    [(ids, missing, key, job_id, refusal)] = yield Query(
        _statement("insert_unique", fills=fills), (records, on_conflict)
    )
    if missing:
        raise UnknownParentError(f"depends_on names jobs that don't exist: {missing}")
    if refusal is not None:
        raise DuplicateUniqueJobError(
            _REFUSALS[refusal].format(id=job_id, key=key), unique_key=key, existing_id=job_id
        )
    return list(ids)
