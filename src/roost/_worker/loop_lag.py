"""How late the event loop runs what is due: data that `LoopWatch` measures."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class LoopLag:
    """The lag of one event loop, in seconds.

    :param latest: the last one that was measured.
    :param worst: the longest one since the last call of `take_worst`.
    """

    latest: float = 0.0
    worst: float = 0.0

    def record(self, seconds: float) -> None:
        """Record one measured lag."""
        self.latest = max(seconds, 0.0)
        self.worst = max(self.worst, self.latest)

    def take_worst(self) -> float:
        """Return `worst` and begin again."""
        worst, self.worst = self.worst, 0.0
        return worst
