"""What one worker has last read of the database for all: numbers of queues and of workers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import attrs

from roost._model.info import QueueInfo

MAX_QUEUES = 250
"""Queues whose numbers are exported apart."""
OTHER = "(other)"
QUEUE_STATES = (
    "available",
    "scheduled",
    "retryable",
    "blocked",
    "executing",
    "prefetched",
    "discarded",
)


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


def bounded(numbers: DatabaseNumbers) -> DatabaseNumbers:
    """Return the numbers with `MAX_QUEUES` queues at most, and the others together as `OTHER`.

    The first ones by name are kept, so that they stay the same. The others have as many workers as
    the one with the fewest, and the age of the oldest job.
    """
    ordered = sorted(numbers.queues, key=lambda queue: queue.name)
    kept, others = ordered[:MAX_QUEUES], ordered[MAX_QUEUES:]
    if not others:
        return numbers
    sums = {state: sum(getattr(queue, state) for queue in others) for state in QUEUE_STATES}
    ages = [age for queue in others if (age := queue.oldest_due_seconds) is not None]
    together = replace(
        others[0], name=OTHER, paused_at=None, oldest_due_seconds=max(ages, default=None), **sums
    )
    fewest = min(numbers.workers_of.get(queue.name, 0) for queue in others)
    workers_of = {**numbers.workers_of, OTHER: fewest}
    return attrs.evolve(numbers, queues=[*kept, together], workers_of=workers_of)


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
