"""Roll-ups: what workers have counted, one row a minute; merge, delete and read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from roost._model.codec import encode
from roost._model.histogram import decode as decode_histogram
from roost._model.histogram import encode as encode_histogram
from roost._model.overview import Ended, Overview, Summed, windows, windows_by
from roost._model.tally import Outcome, Tally
from roost._ops.query import Op, Query, Row
from roost._ops.read import list_queues, list_workers, utc
from roost._sql import statements

_SQL = statements("rollups")


class Counted(NamedTuple):
    """The finished attempts of one task in one queue with one outcome."""

    queue: str
    task: str
    outcome: Outcome
    tally: Tally


def encode_rollups(counted: Iterable[Counted]) -> str:
    """Return counts as `write_rollups` takes them."""
    return encode(
        [
            {
                "queue": queue,
                "task": task,
                "outcome": outcome,
                "count": tally.count,
                "wait_seconds": tally.wait_seconds,
                "run_seconds": tally.run_seconds,
                "wait": encode_histogram(tally.wait),
                "run": encode_histogram(tally.run),
            }
            for queue, task, outcome, tally in counted
        ]
    )


def write_rollups(
    worker_id: int, rollups: str, *, batch: int, age: float, unsure: bool = False
) -> Op[float]:
    """Add what a worker has counted; return the seconds since the database's minute began.

    :param rollups: see `encode_rollups`.
    :param batch: counts the worker's writes.
    :param age: how many seconds ago the middle of the time was that they cover.
    :param unsure: whether an earlier try of this batch may have written it. Then nothing is written
        a second time.
    """
    rows = yield Query(_SQL["write_rollups"], (worker_id, batch, rollups, age, unsure))
    return float(rows[0][0])


def merge_minutes() -> Op[int]:
    """Merge the rows of one minute, ten minutes to an hour ago, that several workers have written.

    Otherwise an overview would read rows of each worker. Must run inside a transaction. While
    another session merges, nothing is merged.

    :returns: how many rows were merged; 0: there is no such minute.
    """
    rows = yield Query(_SQL["merge_minutes"])
    merged: int = rows[0][0]
    return merged


def merge_hours(*, limit: int) -> Op[int]:
    """Merge up to ``limit`` rows of the oldest hour that ended two hours ago or earlier.

    Must run inside a transaction. While another session does the same, nothing is merged.

    :returns: how many rows were merged.
    """
    rows = yield Query(_SQL["merge_hours"], (limit,))
    merged: int = rows[0][0]
    return merged


def delete_rollups(*, limit: int) -> Op[int]:
    """Delete up to ``limit`` rows that are older than 14 days; return how many."""
    rows = yield Query(_SQL["delete_rollups"], (limit,))
    deleted: int = rows[0][0]
    return deleted


def overview() -> Op[Overview]:
    """Read the queues, the workers and the throughput of the last minute, hour and day."""
    queues = yield from list_queues()
    workers = yield from list_workers()
    [(at, until, *starts)] = yield Query(_SQL["read_bounds"])
    ends = (until, at, at)
    minute, hour, day = (
        (end - start).total_seconds() for end, start in zip(ends, starts, strict=True)
    )
    lengths = (minute, hour, day)
    rows = [_summed(row) for row in (yield Query(_SQL["read_rollups"], (until, *starts)))]
    return Overview(
        at=utc(at),
        until=utc(until),
        queues=queues,
        workers=workers,
        total=windows(rows, lengths),
        by_queue=windows_by("queue", rows, lengths),
        by_task=windows_by("task", rows, lengths),
    )


def _summed(row: Row) -> Summed:
    queue, task, outcome, *ended = row
    minute, hour, day = (
        Ended(ended[n], decode_histogram(ended[n + 1]), decode_histogram(ended[n + 2]))
        for n in (0, 3, 6)
    )
    return Summed(queue, task, outcome, minute, hour, day)
