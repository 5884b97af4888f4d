"""How late the event loop runs what is due: data that `LoopWatch` measures."""

from __future__ import annotations

import attrs

WINDOW = 600
"""Measurements in a minute."""


@attrs.define(eq=False)
class LoopLag:
    """The lag of one event loop, in seconds.

    :param latest: the last one that was measured.
    :param worst: the longest one since the last call of `take_worst`.
    """

    latest: float = 0.0
    worst: float = 0.0
    _measured: int = 0
    _current: float = 0.0
    _previous: float = 0.0

    def record(self, seconds: float) -> None:
        """Record one measured lag."""
        self.latest = max(seconds, 0.0)
        self.worst = max(self.worst, self.latest)
        self._measured += 1
        if self._measured % WINDOW == 0:
            self._previous, self._current = self._current, 0.0
        self._current = max(self._current, self.latest)

    @property
    def recent(self) -> float:
        """The longest one of the last minute or two."""
        return max(self._previous, self._current)

    def take_worst(self) -> float:
        """Return `worst` and begin again."""
        worst, self.worst = self.worst, 0.0
        return worst
