"""Insert jobs, alone or in batches."""

from __future__ import annotations

from collections.abc import Iterable

from roost._model.encoding import Batch
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
) -> Op[int]:
    """Insert one job and return its id.

    :param has_parents: whether it has ``depends_on``; see `insert_dependent`.
    :param dispatch: dispatch it to a worker that has granted a credit, if there is one; see
        `roost._ops.dispatch`. Only for a statement that commits by itself, since it locks the
        worker's row. Not with parents.
    :param fills: as for `insert_jobs`.
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
        if holder is not None:
            raise DuplicateUniqueJobError(unique_key=unique_key, existing_id=holder)
        # The holder ended between the two statements: the key is free again.
