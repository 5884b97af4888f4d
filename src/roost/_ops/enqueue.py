"""Put jobs into the table."""

from __future__ import annotations

from collections.abc import Iterable

from roost._model.encoding import Batch
from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import DuplicateUniqueJobError, UnknownParentError

_SQL = statements("enqueue")
_INSERT = _SQL["insert_jobs"]
_FIND = _SQL["find_active_by_unique_key"]


def insert_jobs(records: str) -> Op[list[int]]:
    """Insert the jobs of a JSON array (see `roost._model.encoding`); return the new ids, in order.

    A job whose unique key an active job has is left out. An inserter of the same key that has not
    committed yet is waited for.
    """
    [(ids,)] = yield Query(_INSERT, (records,))
    return list(ids or [])


def insert_batch(batch: Batch) -> Op[list[int]]:
    """Insert several jobs without parents; otherwise as `insert_jobs`."""
    if not batch.homogeneous:
        return (yield from insert_jobs(batch.text))
    [(ids, _)] = yield Query(_SQL["insert_homogeneous"], (batch.text,))
    return sorted(ids or [])


def insert_homogeneous(batch: str, *, keys: Iterable[str | None]) -> Op[list[int | None]]:
    """Insert jobs that are alike and return the id of each; ``None`` for one that was left out.

    :param keys: the jobs' unique keys, in order.
    """
    [(ids, kept)] = yield Query(_SQL["insert_homogeneous"], (batch,))
    inserted = list(zip(ids or [], kept or [], strict=True))
    # The order of the ids is the jobs' own; of several with one key the first is kept.
    by_key = {key: job_id for job_id, key in inserted if key is not None}
    others = iter(sorted(job_id for job_id, key in inserted if key is None))
    return [next(others) if key is None else by_key.pop(key, None) for key in keys]


def insert_dependent(records: str) -> Op[list[int]]:
    """Insert jobs of which some have ``depends_on``, and return the new ids, in order.

    The parents are locked until the transaction ends. One that another transaction has inserted and
    not committed yet is waited for; one that is just ending is seen in its new state. A job whose
    parent has failed is inserted as cancelled.

    :raises UnknownParentError: a parent does not exist; nothing was inserted.
    """
    ids = yield from insert_returning_ids(records)
    return [job_id for job_id in ids if job_id is not None]


def insert_returning_ids(records: str) -> Op[list[int | None]]:
    """Do the same and return an id for each job, in order; ``None`` for one that was left out."""
    [(ids, missing)] = yield Query(_SQL["insert_dependent"], (records,))
    if missing:
        raise UnknownParentError(f"depends_on names jobs that don't exist: {missing}")
    return list(ids or [])


def insert_job(
    record: str,
    *,
    unique_key: str | None,
    has_parents: bool = False,
    dispatch: bool = False,
) -> Op[int]:
    """Insert one job and return its id.

    :param has_parents: whether it has ``depends_on``; see `insert_dependent`.
    :param dispatch: give it to a worker that has offered to take it, if there is one (see
        `roost._ops.dispatch`). Only for a statement that commits by itself: the worker's row is
        locked until then. Not with parents.
    :raises DuplicateUniqueJobError: an active job has the key; nothing was inserted and the
        transaction goes on.
    """
    insert = _SQL["insert_or_dispatch" if dispatch else "insert_job"]
    while True:
        if has_parents:
            ids = yield from insert_dependent(record)
        else:
            rows = yield Query(insert, (record,))
            ids = [row[0] for row in rows if row[0] is not None]
        if ids:
            return ids[0]
        assert unique_key is not None, "only a unique key keeps a job out"  # noqa: S101
        [(holder,)] = yield Query(_FIND, (unique_key,))
        if holder is not None:
            raise DuplicateUniqueJobError(unique_key=unique_key, existing_id=holder)
        # The winner ended between the two statements: the key is free again.
