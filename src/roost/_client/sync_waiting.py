"""Wait for jobs to end: any number of threads share one listening connection.

The blocking form of `roost._client.waiting`: one of the waiting threads listens for all. As in the
pool of the blocking driver there is no lock, since a signal handler may raise an exception between
any two steps, and the process may be forked at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic

import attrs

from roost._drivers.base import SyncDriver, SyncListener
from roost._drivers.process import PerProcess
from roost._model.info import JobOutcome
from roost._model.logs import StructuredLogger
from roost.exceptions import DatabaseUnavailableError

logger = StructuredLogger("roost.client.waiting")

CHANNEL = "roost_finished"

MAX_TURN = 0.5
"""Seconds that a thread listens before it passes the turn to another."""

HOLDER_CHECK_INTERVAL = 1.0
"""Seconds between two checks whether the listening thread has left without passing its turn."""

FIRST_QUERY_TIMEOUT = 1.0
"""Seconds that the first query may take even if the caller's timeout is shorter."""


class SyncWaiting:
    """The waiting threads of one client."""

    def __init__(self, driver: SyncDriver) -> None:
        self._driver = driver
        self._states = PerProcess(_State)

    def wait(
        self,
        job_id: int,
        query: Callable[[float], JobOutcome | None],
        *,
        deadline: float,
        poll_interval: float,
    ) -> JobOutcome | None:
        """Return the job's outcome; ``None`` at the deadline.

        :param query: returns the outcome, or ``None`` if the job has not ended; it gets the seconds
            that it may take.
        :param deadline: by ``time.monotonic``.
        :param poll_interval: seconds between two queries without a notification.
        :raises DatabaseUnavailableError: no query succeeded before the deadline.
        """
        state = self._states.get()
        waiter = _Waiter(job_id)
        answered, failure = False, None
        shortest = FIRST_QUERY_TIMEOUT
        try:
            state.waiters[waiter] = None
            while True:
                waiter.needs_query = False
                try:
                    outcome = query(max(deadline - monotonic(), shortest))
                    answered = True
                except DatabaseUnavailableError as error:
                    if monotonic() < deadline:  # else the wait's own end cut the query short
                        logger.warning(
                            "can't query job %(job_id)d now: %(error)s",
                            job_id=job_id,
                            error=str(error),
                        )
                    outcome, failure = None, error
                if outcome is not None:
                    return outcome
                if monotonic() >= deadline:
                    if failure is not None and not answered:
                        raise failure
                    return None
                self._wait_for_wakeup(
                    state, waiter, until=min(monotonic() + poll_interval, deadline)
                )
                shortest = 0.05
        finally:
            waiter.has_left = True
            state.waiters.pop(waiter, None)
            self._leave(state, waiter)

    def _wait_for_wakeup(self, state: _State, waiter: _Waiter, *, until: float) -> None:
        """Return when it is time to query, at ``until`` at the latest; listen if no thread does."""
        can_listen = True
        while not waiter.needs_query and (left := until - monotonic()) > 0:
            turn = state.turn
            holder = turn.take(waiter) if can_listen else None
            if holder is waiter:
                can_listen = self._listen(state, turn, waiter, left)
            elif holder is not None and holder.has_left:
                state.turn = turn.next_turn()
            else:
                try:
                    waiter.wakeups.get(timeout=min(left, HOLDER_CHECK_INTERVAL))
                except Empty:
                    continue

    def _listen(self, state: _State, turn: _Turn, waiter: _Waiter, left: float) -> bool:
        """Listen for all for a while, then pass the turn; ``False``: can't listen now."""
        listener = turn.listener
        kept: SyncListener | None = None
        try:
            if listener is None:
                listener = self._driver.listener(
                    [CHANNEL], application_name="roost wait", timeout=left
                )
                # It was not notified of jobs that ended before this moment.
                state.mark_ended(None)
            else:
                received = listener.receive(timeout=min(left, MAX_TURN))
                state.mark_ended({notification.payload for notification in received})
            kept = listener
        except DatabaseUnavailableError as error:
            logger.warning(
                "no listening connection, polling instead: %(error)s",
                error=str(error),
            )
        finally:
            following = turn.next_turn()
            following.listener = kept
            state.turn = following
            state.wake_another(waiter)
            if kept is None and listener is not None:
                listener.close()
        return kept is not None

    def _leave(self, state: _State, waiter: _Waiter) -> None:
        """Wake another thread to listen; close the listening connection if there is none."""
        if state.waiters:
            state.wake_another(waiter)
            return
        turn = state.turn
        if turn.listener is not None and turn.take(waiter) is waiter:
            state.turn = turn.next_turn()
            turn.listener.close()


@attrs.define(eq=False)
class _Waiter:
    """One call that waits.

    :ivar needs_query: a notification says that the job has ended, or that it may have.
    :ivar has_left: the call has ended.
    :ivar wakeups: an item wakes the thread.
    """

    job_id: int
    needs_query: bool = False
    has_left: bool = False
    wakeups: SimpleQueue[None] = attrs.field(factory=SimpleQueue)


class _Turn:
    """The right to listen. The first thread that takes it holds it; it passes on the next turn."""

    listener: SyncListener | None = None

    def take(self, waiter: _Waiter) -> _Waiter:
        """Return the holder: ``waiter``, unless another thread was first."""
        holder: _Waiter = self.__dict__.setdefault("holder", waiter)
        return holder

    def next_turn(self) -> _Turn:
        """Return the turn after this one, the same to every caller."""
        following: _Turn = self.__dict__.setdefault("next", _Turn())
        return following


@attrs.define(eq=False)
class _State:
    """The waiters of one process."""

    waiters: dict[_Waiter, None] = attrs.field(factory=dict)
    turn: _Turn = attrs.field(factory=_Turn)

    def mark_ended(self, ended: set[str] | None) -> None:
        """Wake the waiters of these jobs; ``None``: all waiters."""
        for waiter in list(self.waiters):
            if ended is None or str(waiter.job_id) in ended:
                waiter.needs_query = True
                waiter.wakeups.put(None)

    def wake_another(self, leaving: _Waiter) -> None:
        """Wake one waiter, which continues listening."""
        for waiter in list(self.waiters):
            if waiter is not leaving and not waiter.needs_query:
                waiter.wakeups.put(None)
                return
