"""How far ahead to claim: enough to hide the claim's round trip, and no more.

By Little's law (L = λ·W) a worker that ends λ jobs a second needs λ·W of them in its line while a
claim that takes W seconds is under way. λ and W are measured, so the line is long for short jobs
and empty for long ones.
"""

from __future__ import annotations

import math

import attrs

_SMOOTHING = 0.3
"""Weight of the newest measurement."""
_LINE = 0.03
"""Seconds of work that may wait in any case: larger claims cost less for each job."""
_SAMPLE = 0.003
"""Seconds between two measurements of the rate at least: in a moment nothing ends."""
_MARGIN = 2.0
"""Claims vary: room for one that takes twice as long as usual."""


_FAST = 500.0
"""Jobs a second from which on `Pace.starts_soon` may hold."""
_SOON = 0.1
"""Seconds in which the whole line starts, for `Pace.starts_soon`."""
_SUSTAINED = 0.2
"""Seconds for which the rate must have held: a burst of short jobs says little of the next."""


@attrs.define
class Pace:
    """Measures a worker's rate and its claims, and advises the prefetch.

    :param fixed: a prefetch that was set by hand; ``None``: adapt.
    :param most: never advise more.
    """

    fixed: int | None
    most: int
    _rate: float = 0.0
    _round_trip: float = 0.0
    _seen: int = 0
    _seen_at: float | None = None
    _stalled: bool = False
    _fast_since: float = math.inf

    @property
    def prefetch(self) -> int:
        """How many claimed jobs may wait for a slot."""
        if self._stalled:
            return 0
        if self.fixed is not None:
            return self.fixed
        return min(self.most, int(self._rate * max(_MARGIN * self._round_trip, _LINE)))

    @property
    def starts_soon(self) -> bool:
        """Whether what is prefetched now starts within `_SOON` seconds, at the rate of late."""
        if self._seen_at is None or self._seen_at < self._fast_since + _SUSTAINED:
            return False
        return self.prefetch <= self._rate * _SOON

    def claimed(self, *, began: float, ended: float) -> None:
        """Note how long a claim took."""
        self._round_trip += _SMOOTHING * ((ended - began) - self._round_trip)

    def finished(self, count: int, *, now: float) -> None:
        """Note that ``count`` jobs have ended in all."""
        if count > self._seen:
            self._stalled = False
        if self._seen_at is not None:
            if now < self._seen_at + _SAMPLE:
                return
            rate = (count - self._seen) / (now - self._seen_at)
            self._rate += _SMOOTHING * (rate - self._rate)
            self._fast_since = min(self._fast_since, now) if self._rate >= _FAST else math.inf
        self._seen, self._seen_at = count, now

    def stalled(self) -> None:
        """Advise none until a job ends: some have waited in the line for too long."""
        self._rate = 0.0
        self._fast_since = math.inf
        self._stalled = True
