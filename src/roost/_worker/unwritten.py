"""The verdicts of a worker that are not in the database yet.

All of it is synchronous, so no cancel can leave half a change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import attrs

from roost._model.verdict import Verdict

FIRST_DELAY = 0.01
"""Seconds after which a verdict is tried again at the earliest; twice that at the latest."""
MAX_DELAY = 0.5
"""The same for a verdict that was tried many times."""


@attrs.define(eq=False)
class Postponed:
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
class Unwritten:
    """Verdicts by the way that they are written.

    :param fresh: not tried yet, or tried without an answer; the oldest first.
    :param unsure: how many of the first in ``fresh`` were tried without an answer.
    :param later: those whose rows were locked.
    :param apart: those that may take long: of jobs with children, and with large results.
    """

    fresh: list[Verdict] = attrs.field(factory=list)
    unsure: int = 0
    later: list[Postponed] = attrs.field(factory=list)
    apart: list[Postponed] = attrs.field(factory=list)

    def __len__(self) -> int:
        return len(self.fresh) + len(self.later) + len(self.apart)

    def __iter__(self) -> Iterator[Verdict]:
        return chain(
            self.fresh,
            (postponed.verdict for postponed in self.later),
            (postponed.verdict for postponed in self.apart),
        )

    def append(self, verdict: Verdict) -> None:
        """Add a verdict that was just decided."""
        self.fresh.append(verdict)


def due(postponed: Iterable[Postponed], *, now: float) -> list[Postponed]:
    """Return those that are to be tried now."""
    return [one for one in postponed if one.due_at <= now]


def next_due_at(postponed: Iterable[Postponed], *, otherwise: float) -> float:
    """Return when the next of them is to be tried, by ``time.monotonic``."""
    return min((one.due_at for one in postponed), default=otherwise)
