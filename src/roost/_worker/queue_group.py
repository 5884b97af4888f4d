"""The queues that share slots, and what is known of their waiting jobs."""

from __future__ import annotations

import math

import attrs

from roost._worker.prefetch import PrefetchController
from roost._worker.slot_group import SlotGroup


@attrs.define(eq=False)
class QueueGroup:
    """The queues that share slots: all queues of a worker, or one with slots of its own.

    They are claimed together. Times are by ``time.monotonic``.

    :param queues: their names, in the order in which they take turns: claims move the queues that
        they have served to the end.
    :param slots: counts their jobs.
    :param prefetch: how many claimed jobs may wait for a slot.
    :param jobs_may_wait: whether the table may hold due jobs that the last claim did not take.
    :param limited_may_wait: the same for jobs of limited tasks.
    :param limited_waiting: the limited tasks of which jobs waited at the last claim of them;
        ``None``: no such claim has been answered.
    :param due_at: when the next job that this worker knows of is due.
    :param poll_at: when to claim without another reason.
    """

    queues: list[str]
    slots: SlotGroup
    prefetch: PrefetchController
    jobs_may_wait: bool = True
    limited_may_wait: bool = True
    limited_waiting: frozenset[str] | None = None
    due_at: float = math.inf
    poll_at: float = -math.inf

    def look_again(self) -> None:
        """Record that there may be due jobs."""
        self.jobs_may_wait = self.limited_may_wait = True
