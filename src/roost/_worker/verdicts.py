"""The verdicts of a worker that are not in the database yet, and what their writers share.

The queue's methods are synchronous, so a cancel can't leave half of a change.
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
"""Seconds after which a verdict is tried again at the earliest; twice that at the latest."""
MAX_DELAY = 0.5
"""The same for a verdict that was tried many times."""


@attrs.define(eq=False)
class PostponedVerdict:
    """A verdict that could not be written with the others.

    :param tries: how often it was sent.
    :param refusals: how often it failed although the database answered.
    :param unsure: whether a try was not answered: it may be written.
    :param has_children: whether the job is known to have children.
    :param stripped: whether its result and error text were replaced by a note.
    :param due_at: by ``time.monotonic``.
    """

    verdict: Verdict
    tries: int = 0
    refusals: int = 0
    unsure: bool = False
    has_children: bool = False
    stripped: bool = False
    due_at: float = 0.0

    def postpone(self, *, now: float, at_least: float = 0.0) -> None:
        """Let it be tried again later, and later each time: after 20 ms at first, 1 s at most.

        Due times lie on a grid, so that many that wait for one lock are written together.
        """
        delay = max(min(FIRST_DELAY * 2.0 ** min(self.tries, 10), MAX_DELAY), at_least)
        self.tries += 1
        self.due_at = (now // delay + 2) * delay


@attrs.define(eq=False)
class VerdictQueue:
    """Verdicts by the way that they are written.

    :param fresh: not tried yet, or tried without an answer; the oldest first.
    :param unsure: how many of the first in ``fresh`` were tried without an answer.
    :param later: those whose rows were locked.
    :param slow: those that may take long: of jobs with children, and with large results.
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
        """Say whether a verdict of this attempt waits here."""
        if not (self.fresh or self.later or self.slow):
            return False
        return any(verdict.lease == lease for verdict in self)


def due(postponed: Iterable[PostponedVerdict], *, now: float) -> list[PostponedVerdict]:
    """Return those that are to be tried now."""
    return [one for one in postponed if one.due_at <= now]


def next_due_at(postponed: Iterable[PostponedVerdict], *, otherwise: float) -> float:
    """Return when the next of them is to be tried, by ``time.monotonic``."""
    return min((one.due_at for one in postponed), default=otherwise)


SETTLE_TIMEOUT = 30.0
"""Seconds that one batch may take before it counts as not written."""
HEAVY = 256 << 10
"""Characters of a result above which `SlowWriter` writes its verdict."""


class WriteTime:
    """The time that the write in flight has.

    A cancel is taken before or after a write, never within it: an answer that is lost would be
    reported as a lost lease by the next try.
    """

    def __init__(self) -> None:
        self._scope: anyio.CancelScope | None = None
        self._end_by = math.inf

    def seconds(self, most: float) -> float:
        """Return ``most``, or the seconds that are left before the worker's end."""
        return max(0.0, min(most, self._end_by - anyio.current_time()))

    def shield(self, most: float) -> anyio.CancelScope:
        """Return the scope of one write, of ``most`` seconds; a cancel waits until it is left."""
        self._scope = shielded(self.seconds(most))
        return self._scope

    def end_by(self, deadline: float) -> None:
        """Bound this write and all that follow, by the loop's clock."""
        self._end_by = deadline
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, deadline)


def is_heavy(verdict: Verdict) -> bool:
    """Say whether the verdict's result is so large that others should not wait for it."""
    return verdict.result is not None and len(verdict.result) > HEAVY


def report_lost(lost: Iterable[Verdict], *, unsure: Collection[Lease]) -> None:
    """Log which verdicts were not written.

    :param unsure: leases whose verdicts may have been written by a try that was not answered.
    """
    for verdict in lost:
        lease = verdict.lease
        if verdict.completed:
            continue  # by its handler, in a transaction of its own
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
    """Say whether the job's children may run; if not, they may be cancelled with it."""
    return verdict.event is Event.COMPLETE
