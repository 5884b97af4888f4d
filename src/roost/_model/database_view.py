"""What one worker has last read of the database for all: numbers of queues and of workers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from roost._model.info import QueueInfo


@attrs.frozen(kw_only=True)
class DatabaseNumbers:
    """Numbers of one reading.

    :param queues: the queues with jobs or a worker, and paused ones.
    :param workers_of: how many living workers serve each of them.
    :param living: workers with a lease.
    :param dead: workers whose lease has expired and whose jobs were not rescued yet.
    """

    queues: list[QueueInfo]
    workers_of: Mapping[str, int]
    living: int
    dead: int


def count_workers(workers: Iterable[tuple[Iterable[str], bool]]) -> tuple[Counter[str], int, int]:
    """Return how many living workers each queue has, and how many workers live and are dead.

    :param workers: the queues of each, and whether it lives.
    """
    workers_of: Counter[str] = Counter()
    living = dead = 0
    for queues, lives in workers:
        if lives:
            living += 1
            workers_of.update(set(queues))
        else:
            dead += 1
    return workers_of, living, dead


@attrs.define(eq=False, kw_only=True)
class DatabaseView:
    """The last reading of a worker, and whether readings are wanted. Times: ``time.monotonic``.

    :param wanted_at: when the metrics were last scraped.
    :param numbers: the last reading; ``None``: there is none, or another worker reads.
    :param read_at: when it began.
    :param failed: whether the last try failed.
    """

    wanted_at: float = -math.inf
    numbers: DatabaseNumbers | None = None
    read_at: float = -math.inf
    failed: bool = False
