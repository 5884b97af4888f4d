"""Put jobs into the table."""

from __future__ import annotations

from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import DuplicateUniqueJobError

_SQL = statements("enqueue")
_INSERT = _SQL["insert_jobs"]
_FIND = _SQL["find_active_by_unique_key"]


def insert_jobs(records: str) -> Op[list[int]]:
    """Insert the jobs of a JSON array (see `roost._model.record`) and return the new ids, in order.

    A job whose unique key an active job has is left out. An inserter of the same key that has not
    committed yet is waited for.
    """
    rows = yield Query(_INSERT, (records,))
    return [job_id for (job_id,) in rows]


def insert_job(record: str, *, unique_key: str | None) -> Op[int]:
    """Insert one job and return its id.

    :raises DuplicateUniqueJobError: an active job has the key; nothing was inserted and the
        transaction goes on.
    """
    while True:
        ids = yield from insert_jobs(record)
        if ids:
            return ids[0]
        assert unique_key is not None, "only a unique key keeps a job out"  # noqa: S101
        rows = yield Query(_FIND, (unique_key,))
        if rows:
            raise DuplicateUniqueJobError(unique_key, rows[0][0])
        # The winner ended between the two statements: the key is free again.
