"""What `overview` returns: queues, workers, and how many attempts ended lately."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from roost._model.histogram import Histogram, quantile
from roost._model.info import QueueInfo, WorkerInfo

FAILURES = frozenset({"retried", "discarded", "crashed"})
"""The outcomes of attempts that failed."""
WITHOUT_TIMES = frozenset({"released", "crashed", "lost"})
"""The outcomes of attempts that were cut off: percentiles leave them out."""
MAX_SHOWN = 50
"""Queues, and tasks, whose throughput an overview has: those with the most attempts in the day."""


# Dataclasses of the standard library, as in `roost._model.info`.
@dataclass(frozen=True, kw_only=True, slots=True)
class Percentiles:
    """Percentiles of a time, in seconds; ``None``: no attempt has ended.

    They are at most 12 % too high or too low.
    """

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """The attempts that ended in a window of time.

    :param seconds: the length of the window.
    :param attempts: how many ended.
    :param by_outcome: how many ended in each way: ``completed``, ``retried``, ``discarded``,
        ``cancelled``, ``snoozed``, ``released`` (the worker stopped), ``crashed`` (the worker died)
        and ``lost`` (the worker had lost its lease). What is missing did not happen.
    :param failures: how many failed: retried, discarded or crashed.
    :param per_second: ``attempts`` divided by ``seconds``.
    :param wait: of the times from due to started. Without attempts that were released or lost.
    :param run: of the times from started to ended, likewise.
    """

    seconds: float
    attempts: int
    by_outcome: dict[str, int]
    failures: int
    per_second: float
    wait: Percentiles
    run: Percentiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Windows:
    """The throughput of three windows of time.

    Workers write their counts once a minute, and when they stop. So the hour and the day, which end
    at ``Overview.at``, miss what running workers have counted in the last 80 seconds at most.

    :param minute: the 60 seconds before ``Overview.until``: the last minute of which all is known.
    :param hour: 60 minutes before ``Overview.until``, and the time since then.
    :param day: 23 hours, the part of one before that is left of a whole hour, and the time since
        ``Overview.until``: older counts are kept by the hour.
    """

    minute: Throughput
    hour: Throughput
    day: Throughput


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """What the queue does and did lately.

    :param at: when it was read, by the database's clock.
    :param until: the end of the last minute that all workers have written: a whole minute, 20 to 80
        seconds ago.
    :param queues: as ``list_queues`` returns them.
    :param workers: as ``list_workers`` returns them.
    :param total: the attempts of all queues and tasks.
    :param by_queue: the attempts of each of the 50 busiest queues of the day, the busiest first.
    :param by_task: likewise of each task.
    """

    at: datetime
    until: datetime
    queues: list[QueueInfo]
    workers: list[WorkerInfo]
    total: Windows
    by_queue: dict[str, Windows]
    by_task: dict[str, Windows]


class Ended(NamedTuple):
    """Attempts that ended in one window.

    :param wait: histogram of their times from due to started.
    :param run: histogram of their times from started to ended.
    """

    attempts: int
    wait: Histogram
    run: Histogram


class Summed(NamedTuple):
    """The attempts of one task in one queue with one outcome."""

    queue: str
    task: str
    outcome: str
    minute: Ended
    hour: Ended
    day: Ended


def windows(rows: Sequence[Summed], lengths: tuple[float, float, float]) -> Windows:
    """Return the throughput of some rows together.

    :param lengths: the seconds of the minute, the hour and the day.
    """
    minute, hour, day = lengths
    return Windows(
        minute=_throughput(minute, [(row.outcome, row.minute) for row in rows]),
        hour=_throughput(hour, [(row.outcome, row.hour) for row in rows]),
        day=_throughput(day, [(row.outcome, row.day) for row in rows]),
    )


def _throughput(seconds: float, ended: Iterable[tuple[str, Ended]]) -> Throughput:
    by_outcome: dict[str, int] = defaultdict(int)
    wait: dict[int, int] = defaultdict(int)
    run: dict[int, int] = defaultdict(int)
    for outcome, one in ended:
        if one.attempts:
            by_outcome[outcome] += one.attempts
        if outcome not in WITHOUT_TIMES:
            for histogram, total in ((one.wait, wait), (one.run, run)):
                for bucket, count in histogram.items():
                    total[bucket] += count
    attempts = sum(by_outcome.values())
    return Throughput(
        seconds=seconds,
        attempts=attempts,
        by_outcome=dict(by_outcome),
        failures=sum(by_outcome.get(outcome, 0) for outcome in FAILURES),
        per_second=attempts / seconds,
        wait=_percentiles(wait),
        run=_percentiles(run),
    )


def _percentiles(histogram: Histogram) -> Percentiles:
    return Percentiles(
        p50=quantile(histogram, 0.5), p95=quantile(histogram, 0.95), p99=quantile(histogram, 0.99)
    )


def windows_by(
    key: str, rows: Iterable[Summed], lengths: tuple[float, float, float]
) -> dict[str, Windows]:
    """Return the throughput of the `MAX_SHOWN` busiest queues or tasks, the busiest first.

    :param key: ``queue`` or ``task``.
    """
    rows_of: dict[str, list[Summed]] = defaultdict(list)
    for row in rows:
        rows_of[getattr(row, key)].append(row)
    attempts = {name: sum(row.day.attempts for row in those) for name, those in rows_of.items()}
    busiest = sorted(attempts, key=lambda name: (-attempts[name], name))[:MAX_SHOWN]
    return {name: windows(rows_of[name], lengths) for name in busiest}
