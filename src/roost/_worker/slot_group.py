"""The slots that some queues share, and the jobs that were prefetched for them.

A worker has one group for all of its queues, or one for each queue that has slots of its own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from time import monotonic

import attrs

from roost._ops.claim import ClaimedJob

NOTHING_STARTED = (-2_147_483_649, 0, 0)
"""A place, without the number of the claim, before that of each job."""


@attrs.define(eq=False)
class SlotGroup:
    """Counts the jobs of one group: running ones, and prefetched ones, which start in order.

    Times are by ``time.monotonic``.

    :param slots: how many of its jobs may run at once; 0: its queue was stopped.
    :param running: how many of its jobs are in a slot.
    :param finished: how many of its jobs have left a slot.
    :param prefetched: its jobs that wait for a slot, and when each was claimed.
    :param reserved: slots that prefetched jobs leave free, for jobs of limited tasks.
    :param marked: how many of the next prefetched jobs may start, because the worker's row says
        that they may have started.
    :param low_water: ask for the next mark when no more than this number is marked.
    :param mark: the place of the last job that was marked; ``None``: none was.
    """

    slots: int
    running: int = 0
    finished: int = 0
    prefetched: deque[tuple[ClaimedJob, float]] = attrs.field(factory=deque)
    reserved: int = 0
    marked: int = 0
    low_water: int = 0
    mark: tuple[int, int, int, int] | None = None
    _moved_at: float = math.inf

    @property
    def moved_at(self) -> float:
        """When a prefetched job last got a slot; infinity: none waits."""
        return self._moved_at if self.prefetched else math.inf

    @property
    def first_claimed_at(self) -> float:
        """When the first prefetched job was claimed; infinity: none waits."""
        return self.prefetched[0][1] if self.prefetched else math.inf

    def add(self, job: ClaimedJob, since: float) -> None:
        """Add a claimed job behind the prefetched ones."""
        if not self.prefetched:
            self._moved_at = monotonic()
        self.prefetched.append((job, since))

    def add_first(self, job: ClaimedJob, since: float) -> None:
        """Add a job before the prefetched ones."""
        if not self.prefetched:
            self._moved_at = monotonic()
        self.prefetched.appendleft((job, since))

    def take(self, *, now: float) -> tuple[ClaimedJob, float]:
        """Remove and return the next prefetched job, which starts now."""
        self._moved_at = now
        return self.prefetched.popleft()

    def use_mark(self) -> bool:
        """Use one of the marked starts; ``False``: none is left."""
        if not self.marked:
            return False
        self.marked -= 1
        return True

    def to_mark(self, *, idle: int, ahead: int) -> list[ClaimedJob]:
        """Return the prefetched jobs to mark next: those for ``idle`` slots, and ``ahead`` more.

        A job on its last attempt is marked only for a free slot: if the worker died before it
        starts, it would be discarded.
        """
        found: list[ClaimedJob] = []
        place = 0
        for claimed, _ in self.prefetched:
            if claimed.prefetch_no is None:
                idle -= 1
                continue
            place += 1
            if place <= self.marked:
                continue
            is_last = claimed.attempt >= claimed.max_attempts
            if place > idle and (is_last or place > idle + ahead):
                break
            found.append(claimed)
        return found

    def set_mark(self, last: ClaimedJob, *, ahead: bool) -> None:
        """Let the prefetched jobs up to ``last`` start: the row says that they may have.

        :param ahead: whether more were marked than there are free slots.
        """
        self.mark = last.place
        self.marked = 0
        for claimed, _ in self.prefetched:
            if claimed.prefetch_no is not None:
                if claimed.place > last.place:
                    break
                self.marked += 1
        self.low_water = self.marked // 3 if ahead else 0

    def marks(self, mark: tuple[int, int, int, int] | None) -> dict[int, tuple[int, int, int]]:
        """Return how far each claim with waiting jobs may have started, by the claim's number.

        :param mark: the place of the last job that may start.
        """
        found: dict[int, tuple[int, int, int]] = {}
        for claimed, _ in self.prefetched:
            number = claimed.prefetch_no
            if number is None or (mark is not None and number < mark[0]):
                continue
            here = mark is not None and number == mark[0]
            found[number] = mark[1:] if here and mark is not None else NOTHING_STARTED
        return found

    def drain(self, queues: Collection[str] | None = None) -> list[ClaimedJob]:
        """Remove and return the prefetched jobs of these queues, or all of them."""
        drained: list[ClaimedJob] = []
        kept: deque[tuple[ClaimedJob, float]] = deque()
        place = marked = 0
        for claimed, since in self.prefetched:
            place += claimed.prefetch_no is not None
            if queues is None or claimed.queue in queues:
                drained.append(claimed)
            else:
                kept.append((claimed, since))
                marked += claimed.prefetch_no is not None and place <= self.marked
        self.prefetched = kept
        self.marked = marked
        return drained
