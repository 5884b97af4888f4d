"""Remove what a measurement leaves in the database."""

from __future__ import annotations

from collections.abc import Sequence

from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("bench")

RANGE = 10_000
"""Ids of which one statement deletes the jobs."""


def newest_id() -> Op[int]:
    """Return an id that no job exceeds which was enqueued before."""
    [(newest,)] = yield Query(_SQL["newest_id"])
    return int(newest)


def remove_jobs(queue: str, *, above: int) -> Op[None]:
    """Delete the jobs of a queue whose ids are above a number; each statement commits by itself."""
    newest = yield from newest_id()
    for lowest in range(above + 1, newest + 1, RANGE):
        highest = min(lowest + RANGE - 1, newest)
        yield Query(_SQL["remove_jobs"], (lowest, highest, queue))


def remove_workers(queue: str) -> Op[None]:
    """Delete the rows of workers that serve this queue alone; they must have ended."""
    yield Query(_SQL["remove_workers"], (queue,))


def remove_rollups(queue: str) -> Op[None]:
    """Delete the counts of the attempts in a queue."""
    yield Query(_SQL["remove_rollups"], (queue,))


def remove_tasks(names: Sequence[str]) -> Op[None]:
    """Delete what workers have published about tasks that are gone."""
    yield Query(_SQL["remove_tasks"], (list(names),))
