"""Find due jobs that no living worker has a handler for."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("unknown_tasks")

MAX_COUNTED = 1_000
"""Jobs of a (queue, priority) that are counted; the statement has the same number."""


@attrs.frozen
class UnknownTask:
    """Due jobs of one queue and task that no living worker of the queue can run.

    :param jobs: their number; of each priority only the first 1,000 are counted.
    :param oldest_seconds: seconds since the oldest was due.
    """

    queue: str
    task: str
    jobs: int
    oldest_seconds: float


def find_unknown_tasks(worker_id: int, *, queues: Sequence[str]) -> Op[list[UnknownTask]]:
    """Find them in those of ``queues`` whose oldest living worker this one is."""
    rows = yield Query(_SQL["unknown_tasks"], (worker_id, list(queues)))
    return [UnknownTask(*row) for row in rows]
