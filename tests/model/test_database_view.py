"""The numbers of queues that are exported are bounded."""

from __future__ import annotations

from roost import QueueInfo
from roost._model.database_view import (
    MAX_QUEUES,
    OTHER,
    DatabaseNumbers,
    bounded,
    count_workers,
)


def queue(number: int, *, age: float | None = None) -> QueueInfo:
    return QueueInfo(
        name=f"tenant-{number:04}", paused_at=None, available=2, scheduled=1, retryable=0,
        blocked=0, executing=3, prefetched=0, discarded=0, oldest_due_seconds=age, capped=False,
    )  # fmt: skip


def test_few_queues_stay_as_they_are() -> None:
    numbers = DatabaseNumbers(
        queues=[queue(n) for n in range(MAX_QUEUES)], workers_of={}, living=1, dead=0
    )
    assert bounded(numbers) is numbers


def test_the_last_of_many_queues_are_added_up() -> None:
    queues = [queue(n, age=float(n)) for n in range(MAX_QUEUES + 3)]
    workers_of = {each.name: 4 for each in queues[:-1]}
    numbers = DatabaseNumbers(queues=queues[::-1], workers_of=workers_of, living=4, dead=0)
    found = bounded(numbers)
    assert found.queues[:-1] == queues[:MAX_QUEUES]
    together = found.queues[-1]
    assert (together.name, together.available, together.scheduled) == (OTHER, 6, 3)
    assert together.oldest_due_seconds == MAX_QUEUES + 2
    assert found.workers_of[OTHER] == 0


def test_workers_are_counted_by_queue_and_life() -> None:
    workers_of, living, dead = count_workers(
        [(["a", "b"], True), (["a", "a"], True), (["a"], False)]
    )
    assert (workers_of, living, dead) == ({"a": 2, "b": 1}, 2, 1)
