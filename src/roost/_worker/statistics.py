"""Counts what happens to a worker's jobs, in memory: totals since its start, and for roll-ups.

An attempt is counted when its verdict was written, with the outcome that the database has given it.
It costs about a microsecond. Nothing here waits, so another task or thread of the process may read
the totals at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping

import attrs

from roost._model.states import Event
from roost._model.tally import Outcome, Sample, Series
from roost._model.verdict import Lease, Verdict
from roost._ops.rescue import Rescued
from roost._ops.rollups import Counted
from roost._ops.settle import Settled

MAX_UNFOLDED = 1_000
"""Attempts that are kept until their times are put into histograms, about 100 kB."""
MAX_SERIES = 250
"""Pairs of queue and task that are counted apart. More are counted together, as `OTHER`."""
OTHER = "(other)"
"""Queue and task of the attempts beyond `MAX_SERIES`."""

OUTCOMES: Mapping[Event, Outcome] = {
    Event.COMPLETE: "completed",
    Event.RETRY: "retried",
    Event.DISCARD: "discarded",
    Event.SNOOZE: "snoozed",
    Event.RELEASE: "released",
    Event.CANCEL: "cancelled",
}
"""How an attempt ended, by the event of its verdict."""


@attrs.define(eq=False)
class Statistics:
    """What a worker has counted since its start.

    :ivar rescued: jobs of dead workers that this worker has taken back.
    """

    rescued: int = 0
    _series: dict[tuple[str, str], Series] = attrs.field(factory=dict)
    _unfolded: int = 0
    _moving: threading.Lock = attrs.field(factory=threading.Lock)

    # Counting

    def series_of(self, queue: str, task: str) -> Series:
        """Return what is counted of a task in a queue; made at the first call."""
        series = self._series.get((queue, task))
        return self._new_series(queue, task) if series is None else series

    def _new_series(self, queue: str, task: str) -> Series:
        if len(self._series) >= MAX_SERIES:
            queue = task = OTHER
        return self._series.setdefault((queue, task), Series(queue, task))

    def settled(
        self, settled: Settled, ended: Collection[Verdict], *, unsure: Collection[Lease] = ()
    ) -> None:
        """Count the attempts of verdicts that the database has answered.

        :param ended: the verdicts, those with a lost lease included.
        :param unsure: leases whose verdicts an earlier try without an answer may have written.
            When their lease is lost, that try has most likely written them.
        """
        if not settled.lost and not settled.failed:
            for verdict in ended:
                sample = verdict.sample
                if sample is not None:
                    sample[0].fresh[OUTCOMES[verdict.event]].samples.append(sample)
        else:
            self._sort_out(settled, ended, unsure)
        self._unfolded += len(ended)
        if self._unfolded >= MAX_UNFOLDED:
            self._fold()

    def _sort_out(
        self, settled: Settled, ended: Collection[Verdict], unsure: Collection[Lease]
    ) -> None:
        """Count the attempts of verdicts of which some were not written as they are."""
        lost = {verdict.lease for verdict in settled.lost}
        failed = set(settled.failed)
        for verdict in ended:
            if verdict.sample is None:
                continue
            outcome = OUTCOMES[verdict.event]
            if verdict.lease in lost:
                if verdict.completed:
                    outcome = "completed"  # by its handler, in a transaction of its own
                elif verdict.lease not in unsure:
                    outcome = "lost"
            elif verdict.lease.job_id in failed and verdict.event is not Event.DISCARD:
                outcome = "cancelled"  # a cancel was requested meanwhile
            self.count(verdict.sample, outcome)

    def count(self, sample: Sample, outcome: Outcome) -> None:
        """Count one finished attempt."""
        sample[0].fresh[outcome].samples.append(sample)

    def _fold(self) -> None:
        """Put the times of the attempts into histograms, unless another thread reads them now."""
        if not self._moving.acquire(blocking=False):
            return
        try:
            for series in self:
                for tally in series.fresh.values():
                    tally.fold()
        finally:
            self._moving.release()
        self._unfolded = 0

    def record_rescued(self, jobs: Iterable[Rescued]) -> None:
        """Count the attempts of jobs that were taken back from dead workers."""
        for job in jobs:
            self.rescued += 1
            self.series_of(job.queue, job.task).fresh["crashed"].count += 1

    # Reading

    def __iter__(self) -> Iterator[Series]:
        """Iterate over what was counted, also of attempts that have not finished."""
        return iter(list(self._series.values()))

    def totals(self) -> list[Counted]:
        """Return the attempts that have finished since the worker's start."""
        with self._moving:  # in another thread, a total could be less than it was before
            return [
                Counted(series.queue, series.task, outcome, tally)
                for series in self
                for outcome, tally in series.totals().items()
            ]

    @property
    def started(self) -> int:
        """How many attempts have started since the worker's start."""
        return sum(series.started for series in self)

    @property
    def lost(self) -> int:
        """How many attempts have lost their lease before their verdict was written."""
        return sum(one.tally.count for one in self.totals() if one.outcome == "lost")

    def take_fresh(self) -> list[Counted]:
        """Return the attempts that were counted since the last call."""
        with self._moving:
            return [
                Counted(series.queue, series.task, outcome, tally)
                for series in self
                for outcome, tally in series.take_fresh().items()
            ]
