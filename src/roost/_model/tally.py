"""Counts of finished attempts, with the sums and histograms of their times."""

from __future__ import annotations

from collections import defaultdict
from typing import Literal, TypeAlias

import attrs

from roost._model.histogram import count_buckets

Outcome = Literal[
    "completed", "retried", "discarded", "cancelled", "snoozed", "released", "crashed", "lost"
]
"""How an attempt ended.

``retried`` and ``discarded``: it failed, and the job has another attempt or has not. ``released``:
the worker interrupted it, and it is not counted. ``crashed``: its worker died, and another worker
has rescued the job. ``lost``: its verdict was not written, because the worker had lost the lease.
"""


@attrs.define(eq=False)
class Tally:
    """The attempts of one task in one queue that ended in one way.

    Crashed attempts have no times: their worker is dead.

    :param count: how many.
    :param wait_seconds: the sum of their times from due to started.
    :param run_seconds: the sum of their times from started to ended.
    :param wait: histogram of the times from due to started.
    :param run: histogram of the times from started to ended.
    :param samples: attempts that are counted at the next `fold`. To put their times into buckets
        together takes a third of the time.
    """

    count: int = 0
    wait_seconds: float = 0.0
    run_seconds: float = 0.0
    wait: dict[int, int] = attrs.field(factory=lambda: defaultdict(int))
    run: dict[int, int] = attrs.field(factory=lambda: defaultdict(int))
    samples: list[Sample] = attrs.field(factory=list)

    def fold(self) -> None:
        """Make the counts, sums and histograms those of all attempts."""
        if not self.samples:
            return
        samples, self.samples = self.samples, []
        waits = [wait for _, wait, _ in samples]
        runs = [run for _, _, run in samples]
        self.count += len(runs)
        self.wait_seconds += sum(waits)
        self.run_seconds += sum(runs)
        for durations, histogram in ((waits, self.wait), (runs, self.run)):
            for bucket, number in count_buckets(durations).items():
                histogram[bucket] += number

    def merge(self, other: Tally) -> None:
        """Add the attempts of ``other`` to these."""
        other.fold()
        self.count += other.count
        self.wait_seconds += other.wait_seconds
        self.run_seconds += other.run_seconds
        # Copies, as another thread may be counting.
        for bucket, count in other.wait.copy().items():
            self.wait[bucket] += count
        for bucket, count in other.run.copy().items():
            self.run[bucket] += count


@attrs.define(eq=False)
class Series:
    """The attempts of one task in one queue, since the worker's start.

    :param started: attempts whose handler was to be called.
    :param written: the finished ones that were taken to be written, by outcome.
    :param fresh: the finished ones that were not taken yet.
    """

    queue: str
    task: str
    started: int = 0
    written: dict[Outcome, Tally] = attrs.field(factory=lambda: defaultdict(Tally))
    fresh: dict[Outcome, Tally] = attrs.field(factory=lambda: defaultdict(Tally))

    def take_fresh(self) -> dict[Outcome, Tally]:
        """Return `fresh`, and add it to `written`."""
        taken, self.fresh = self.fresh, defaultdict(Tally)
        for outcome, tally in taken.items():
            self.written[outcome].merge(tally)
        return taken

    def totals(self) -> dict[Outcome, Tally]:
        """Return the finished attempts since the worker's start, by outcome."""
        totals: dict[Outcome, Tally] = defaultdict(Tally)
        for part in (self.written, self.fresh):
            for outcome, tally in list(part.items()):
                totals[outcome].merge(tally)
        return dict(totals)


Sample: TypeAlias = tuple[Series, float, float]
"""What is to be counted of an attempt when its verdict is written.

Its series, the seconds from due to started, and the seconds from started to ended; neither is
negative. A plain tuple: a named one takes four times as long to make.
"""
