"""The queue of a worker's unwritten verdicts, and functions that both of its writers use.

The queue's methods are synchronous, so a cancel can't leave a change half done.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from itertools import chain

import anyio
import attrs

from roost._drivers.shield import shielded
from roost._model.logs import StructuredLogger
from roost._model.states import Event
from roost._model.verdict import Lease, Verdict

logger = StructuredLogger("roost.worker.settle")

FIRST_DELAY = 0.01
"""Seconds before the second try of a verdict at least; twice that at most."""
MAX_DELAY = 0.5
"""Seconds between two later tries at least; twice that at most."""
REFUSED_DELAY = 30.0
"""Seconds before a verdict is tried again that the database refuses even without its payload."""


@attrs.define(eq=False)
class PostponedVerdict:
    """A verdict that could not be written with the others.

    :param tries: how often it was sent.
    :param refusals: how often it failed although the database answered.
    :param unsure: whether a try was not answered, so that it may be written already.
    :param has_children: whether the job is known to have children.
    :param stripped: whether its result and error text were replaced by a note.
    :param due_at: when to try again, by ``time.monotonic``.
    """

    verdict: Verdict
    tries: int = 0
    refusals: int = 0
    unsure: bool = False
    has_children: bool = False
    stripped: bool = False
    due_at: float = 0.0

    def postpone(self, *, now: float, at_least: float = 0.0) -> None:
        """Set `due_at`, with a longer delay each time: 20 ms at first, 1 s at most.

        Due times are multiples of the delay, so that many verdicts that wait for one lock are
        written together.

        :param at_least: seconds of the delay at least.
        """
        delay = max(min(FIRST_DELAY * 2.0 ** min(self.tries, 10), MAX_DELAY), at_least)
        self.tries += 1
        self.due_at = (now // delay + 2) * delay


@attrs.define(eq=False)
class VerdictQueue:
    """Unwritten verdicts, by the way in which they are written.

    :param fresh: verdicts not tried yet, or tried without an answer; the oldest first.
    :param unsure: how many at the start of ``fresh`` were tried without an answer.
    :param later: verdicts whose rows were locked.
    :param slow: verdicts that may take long: of jobs with children, and with large results.
    """

    fresh: list[Verdict] = attrs.field(factory=list)
    unsure: int = 0
    later: list[PostponedVerdict] = attrs.field(factory=list)
    slow: list[PostponedVerdict] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self.fresh) + len(self.later) + len(self.slow)

    def __iter__(self) -> Iterator[Verdict]:
        return chain(
            self.fresh,
            (postponed.verdict for postponed in self.later),
            (postponed.verdict for postponed in self.slow),
        )

    def __contains__(self, lease: Lease) -> bool:
        """Say whether a verdict of this attempt is unwritten."""
        if not (self.fresh or self.later or self.slow):
            return False
        return any(verdict.lease == lease for verdict in self)


def due(postponed: Iterable[PostponedVerdict], *, now: float) -> list[PostponedVerdict]:
    """Return the verdicts to try now."""
    return [one for one in postponed if one.due_at <= now]


def next_due_at(postponed: Iterable[PostponedVerdict], *, otherwise: float) -> float:
    """Return the earliest due time, by ``time.monotonic``, or ``otherwise`` if none waits."""
    return min((one.due_at for one in postponed), default=otherwise)


SETTLE_TIMEOUT = 30.0
"""Seconds that one batch may take before it counts as not written."""
HEAVY = 256 << 10
"""Characters of a result above which `SlowWriter` writes its verdict."""


class WriteTime:
    """Bounds the duration of writes.

    A cancel takes effect before or after a write, never during it. Otherwise its answer would be
    lost, and the next try would report a lost lease.
    """

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._end_by = math.inf

    def seconds(self, most: float) -> float:
        """Return ``most`` seconds, or those left before the deadline of `end_by` if fewer."""
        return max(0.0, min(most, self._end_by - anyio.current_time()))

    def shield(self, most: float) -> anyio.CancelScope:
        """Return a shielded scope for one write, of ``most`` seconds at most."""
        self._scope = shielded(self.seconds(most))
        return self._scope

    def end_by(self, deadline: float) -> None:
        """Bound the present and all later writes by ``deadline``, in the event loop's time."""
        self._end_by = deadline
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, deadline)


def is_heavy(verdict: Verdict) -> bool:
    """Say whether the verdict's result is large enough to delay other verdicts."""
    return verdict.result is not None and len(verdict.result) > HEAVY


def report_lost(lost: Iterable[Verdict], *, unsure: Collection[Lease]) -> None:
    """Log the verdicts that were not written because their lease was lost.

    :param unsure: leases whose verdicts an unanswered try may have written.
    """
    for verdict in lost:
        lease = verdict.lease
        if verdict.completed:
            continue  # its handler completed the job in a transaction of its own
        if lease in unsure:
            logger.info(
                "verdict %(event)s of job %(job_id)d (lease %(lease_no)d) was written before, or "
                "the lease was lost",
                job_id=lease.job_id,
                lease_no=lease.lease_no,
                event=verdict.event.value,
            )
        else:
            logger.warning(
                "lease lost, verdict %(event)s of job %(job_id)d (lease %(lease_no)d) was not "
                "written",
                job_id=lease.job_id,
                lease_no=lease.lease_no,
                event=verdict.event.value,
            )


def completes(verdict: Verdict) -> bool:
    """Say whether the verdict completes the job, so that its children may run."""
    return verdict.event is Event.COMPLETE
