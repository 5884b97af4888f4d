"""The states of a job, and the one table of moves between them.

Every change of a state, in SQL too, is a row of `MOVES`; the diagram in the documentation is drawn
from it. Scheduled, snoozed and blocked jobs are ``available``; they differ in ``scheduled_at``
and the count of unfinished parents.
"""

from enum import Enum, StrEnum

import attrs


class JobState(str, Enum):  # noqa: UP042  (as on the API page; see decision 11)
    """A job's state. It is a ``str`` that equals the column's text.

    ``str()`` and formatting return ``JobState.AVAILABLE``; the text alone is ``state.value``.
    """

    AVAILABLE = "available"
    EXECUTING = "executing"
    RETRYABLE = "retryable"
    COMPLETED = "completed"
    DISCARDED = "discarded"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED})
ACTIVE = frozenset(JobState) - TERMINAL


class Event(StrEnum):
    """An event that changes a job's state."""

    ENQUEUE = "enqueue"
    CLAIM = "claim"
    DISPATCH = "dispatch"
    COMPLETE = "complete"
    RETRY = "retry"
    DISCARD = "discard"
    SNOOZE = "snooze"
    RELEASE = "release"
    CANCEL = "cancel"
    RESCUE_RETRY = "rescue: retry"
    RESCUE_DISCARD = "rescue: discard"
    RESCUE_CANCEL = "rescue: cancel"
    RELEASE_CANCEL = "release: cancel"
    PARENT_FAILED = "parent failed"
    REVIVE = "admin retry"


@attrs.frozen
class Move:
    """One allowed change: in state ``source``, ``event`` leads to ``target``.

    :param source: ``None``: the job does not exist yet.
    :param attempt: change of the job's ``attempt``.
    """

    source: JobState | None
    event: Event
    target: JobState
    attempt: int = 0


_S, _E = JobState, Event

MOVES: tuple[Move, ...] = (
    Move(None, _E.ENQUEUE, _S.AVAILABLE),
    # The enqueue has claimed the job for a waiting worker.
    Move(None, _E.DISPATCH, _S.EXECUTING, +1),
    Move(_S.AVAILABLE, _E.CLAIM, _S.EXECUTING, +1),
    Move(_S.RETRYABLE, _E.CLAIM, _S.EXECUTING, +1),
    Move(_S.EXECUTING, _E.COMPLETE, _S.COMPLETED),
    Move(_S.EXECUTING, _E.RETRY, _S.RETRYABLE),
    Move(_S.EXECUTING, _E.DISCARD, _S.DISCARDED),
    Move(_S.EXECUTING, _E.SNOOZE, _S.AVAILABLE, -1),
    Move(_S.EXECUTING, _E.RELEASE, _S.AVAILABLE, -1),
    Move(_S.EXECUTING, _E.CANCEL, _S.CANCELLED),
    Move(_S.EXECUTING, _E.RESCUE_RETRY, _S.RETRYABLE),
    Move(_S.EXECUTING, _E.RESCUE_DISCARD, _S.DISCARDED),
    Move(_S.EXECUTING, _E.RESCUE_CANCEL, _S.CANCELLED),
    # It was snoozed or released after a cancel was requested.
    Move(_S.EXECUTING, _E.RELEASE_CANCEL, _S.CANCELLED, -1),
    Move(_S.AVAILABLE, _E.CANCEL, _S.CANCELLED),
    Move(_S.RETRYABLE, _E.CANCEL, _S.CANCELLED),
    # A child whose parent fails after its enqueue, or has failed before.
    Move(_S.AVAILABLE, _E.PARENT_FAILED, _S.CANCELLED),
    Move(None, _E.PARENT_FAILED, _S.CANCELLED),
    # Only an admin's retry leaves a terminal state.
    Move(_S.COMPLETED, _E.REVIVE, _S.AVAILABLE),
    Move(_S.DISCARDED, _E.REVIVE, _S.AVAILABLE),
    Move(_S.CANCELLED, _E.REVIVE, _S.AVAILABLE),
    Move(_S.RETRYABLE, _E.REVIVE, _S.AVAILABLE),
)

_BY_EVENT = {(move.source, move.event): move for move in MOVES}


def move(source: JobState | None, event: Event) -> Move:
    """Return the move that ``event`` makes in ``source``.

    :raises LookupError: the table has no such move.
    """
    try:
        return _BY_EVENT[source, event]
    except KeyError:
        raise LookupError(f"no move for {event} in state {source}") from None
