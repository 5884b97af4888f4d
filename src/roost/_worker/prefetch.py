"""How many jobs to prefetch: enough to hide a claim's round trip, and no more.

By Little's law (L = λ·W) a worker that ends λ jobs a second needs λ·W prefetched jobs while a claim
that takes W seconds is under way. λ and W are measured, so many jobs are prefetched when they are
short, and none when they are long.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from roost._worker.slot_group import SlotGroup

MAX_PREFETCH_WAIT = 1.0
"""Seconds after which prefetched jobs are released to other workers. With a fixed ``prefetch``:
seconds in which none of them started."""

_SMOOTHING = 0.3
"""Weight of the newest measurement."""
_MIN_WORK = 0.03
"""Seconds of work to prefetch in any case: larger claims cost less for each job."""
_MIN_SAMPLE = 0.003
"""Seconds between two measurements of the rate at least; in less no job may end."""
_MAX_SHARED_WORK = 0.1
"""Seconds of work that a fixed ``prefetch`` may hold if several queues share it. With 100, 4 slots
and jobs of 50 ms, a new job of another queue waited up to 2 s (November 2026)."""
_MARGIN = 2.0
"""Room for a claim that takes twice as long as usual."""
_FAST = 500.0
"""Jobs a second from which on `PrefetchController.starts_soon` may hold."""
_SOON = 0.1
"""Seconds in which all prefetched jobs start, for `PrefetchController.starts_soon`."""
_SUSTAINED = 0.2
"""Seconds for which the rate must have held: after a burst of short jobs long ones may follow."""


@attrs.define
class PrefetchController:
    """Measures a worker's rate and its claims, and says how many jobs to prefetch.

    Times are by ``time.monotonic``.

    :param fixed: the ``prefetch`` setting; ``None``: adapt.
    :param most: never prefetch more.
    :param shared: whether several queues share the slots: a new job of one waits behind the
        prefetched jobs of the others.
    """

    fixed: int | None
    most: int
    shared: bool = False
    _rate: float = 0.0
    _round_trip: float = 0.0
    _seen: int = 0
    _seen_of_all: int = 0
    _seen_at: float | None = None
    _stalled: bool = False
    _fast_since: float = math.inf

    @property
    def size(self) -> int:
        """How many claimed jobs may wait for a slot."""
        if self._stalled:
            return 0
        if self.fixed is not None:
            if self.shared:
                return min(self.fixed, int(self._rate * _MAX_SHARED_WORK))
            return self.fixed
        return min(self.most, int(self._rate * max(_MARGIN * self._round_trip, _MIN_WORK)))

    @property
    def starts_soon(self) -> bool:
        """Whether all that is prefetched now starts within `_SOON` seconds, at the recent rate."""
        if self._seen_at is None or self._seen_at < self._fast_since + _SUSTAINED:
            return False
        return self.size <= self._rate * _SOON

    def expires_at(self, slots: SlotGroup) -> float:
        """Return when the prefetched jobs have waited for too long, by ``time.monotonic``."""
        since = slots.first_claimed_at if self.fixed is None else slots.moved_at
        return since + MAX_PREFETCH_WAIT

    def record_claim(self, *, began: float, ended: float) -> None:
        """Record how long a claim took."""
        self._round_trip += _SMOOTHING * ((ended - began) - self._round_trip)

    @property
    def stalled(self) -> bool:
        """Whether nothing is prefetched until a job ends."""
        return self._stalled

    def record_finished(self, count: int, *, now: float, of_all: int | None = None) -> None:
        """Record that ``count`` jobs have ended since the start.

        :param of_all: the jobs that have ended in all the slots that these jobs may get; default:
            ``count``.
        """
        ended = count if of_all is None else of_all
        if ended > self._seen_of_all:
            self._stalled = False
        if self._seen_at is not None:
            if now < self._seen_at + _MIN_SAMPLE:
                return
            rate = (count - self._seen) / (now - self._seen_at)
            self._rate += _SMOOTHING * (rate - self._rate)
            self._fast_since = min(self._fast_since, now) if self._rate >= _FAST else math.inf
        self._seen, self._seen_of_all, self._seen_at = count, ended, now

    def stall(self) -> None:
        """Prefetch nothing until a job ends: some have waited for a slot for too long."""
        self._rate = 0.0
        self._fast_since = math.inf
        self._stalled = True
