"""Enqueue jobs in each way that the database offers."""

from __future__ import annotations

from typing import Final

from roost import JobInsert
from roost._model.encoding import encode_batch, encode_jobs
from roost._ops import enqueue
from roost._ops.query import Op, Query
from roost._sql import Statement

WAYS: Final = ("one", "homogeneous", "several", "dependent", "sql")


def insert(job: JobInsert, way: str) -> Op[list[int]]:
    """Return the operation that inserts a job, and returns the ids.

    :param way: one of `WAYS`.
    """
    record = encode_jobs([job])
    match way:
        case "one":
            return _as_list(enqueue.insert_job(record, unique_key=None))
        case "homogeneous":
            return enqueue.insert_batch(encode_batch([job, job]))
        case "several":
            return enqueue.insert_jobs(record)
        case "dependent":
            return enqueue.insert_dependent(record)
        case _:
            return _enqueue_in_sql(job.task)


def _as_list(operation: Op[int]) -> Op[list[int]]:
    return [(yield from operation)]


def _enqueue_in_sql(task: str) -> Op[list[int]]:
    text = "select roost.enqueue(task => $1::text)"
    [[job_id]] = yield Query(Statement("simulation", text), (task,))
    return [job_id]
