"""Wait for jobs to end, any number of threads on one listening connection.

The blocking form of `roost._client.waiting`: one of the waiting threads listens for all. As in the
pool of the blocking driver there is no lock: a signal handler may raise an exception between any
two steps, and a process may be forked at any time.
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

TURN = 0.5
"""Seconds that a thread listens before it lets another one have its turn."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks whether the listening thread has gone without saying so."""

LOOK_TIMEOUT = 1.0
"""Seconds that the first look at the job may take at least, however short the caller's timeout."""


class SyncWaiting:
    """The waiting threads of one client."""

    def __init__(self, driver: SyncDriver) -> None:
        self._driver = driver
        self._states = PerProcess(_State)

    def wait(
        self,
        job_id: int,
        look: Callable[[float], JobOutcome | None],
        *,
        deadline: float,
        poll_interval: float,
    ) -> JobOutcome | None:
        """Return the outcome when there is one; ``None`` at the deadline.

        :param look: asks the database, within the seconds that it is given.
        :param deadline: by ``time.monotonic``.
        :raises DatabaseUnavailableError: no look had an answer before the deadline.
        """
        state = self._states.get()
        waiter = _Waiter(job_id)
        looked, failure = False, None
        least = LOOK_TIMEOUT
        try:
            state.waiters[waiter] = None
            while True:
                waiter.told = False
                try:
                    outcome = look(max(deadline - monotonic(), least))
                    looked = True
                except DatabaseUnavailableError as error:
                    logger.warning(
                        "can't look for job %(job_id)d now: %(error)s",
                        job_id=job_id,
                        error=str(error),
                    )
                    outcome, failure = None, error
                if outcome is not None:
                    return outcome
                if monotonic() >= deadline:
                    if failure is not None and not looked:
                        raise failure
                    return None
                self._hear(state, waiter, until=min(monotonic() + poll_interval, deadline))
                least = 0.05
        finally:
            waiter.left = True
            state.waiters.pop(waiter, None)
            self._leave(state, waiter)

    def _hear(self, state: _State, waiter: _Waiter, *, until: float) -> None:
        """Return when it is time to look: at ``until``, or before; listen if no other thread is."""
        can_listen = True
        while not waiter.told and (left := until - monotonic()) > 0:
            turn = state.turn
            holder = turn.take(waiter) if can_listen else None
            if holder is waiter:
                can_listen = self._listen(state, turn, waiter, left)
            elif holder is not None and holder.left:
                state.turn = turn.following()
            else:
                try:
                    waiter.bell.get(timeout=min(left, LOOK_INTERVAL))
                except Empty:
                    continue

    def _listen(self, state: _State, turn: _Turn, waiter: _Waiter, left: float) -> bool:
        """Listen for all, for a while, and pass the turn on; ``False``: it is impossible now."""
        listener = turn.listener
        kept: SyncListener | None = None
        try:
            if listener is None:
                listener = self._driver.listener(
                    [CHANNEL], application_name="roost wait", timeout=left
                )
                # What ended before this moment was not announced to it.
                state.tell(None)
            else:
                heard = listener.receive(timeout=min(left, TURN))
                state.tell({notification.payload for notification in heard})
            kept = listener
        except DatabaseUnavailableError as error:
            logger.warning("not listening, looking only: %(error)s", error=str(error))
        finally:
            following = turn.following()
            following.listener = kept
            state.turn = following
            state.call_another(waiter)
            if kept is None and listener is not None:
                listener.close()
        return kept is not None

    def _leave(self, state: _State, waiter: _Waiter) -> None:
        """Close the listening connection if no other thread waits; else call one to listen."""
        if state.waiters:
            state.call_another(waiter)
            return
        turn = state.turn
        if turn.listener is not None and turn.take(waiter) is waiter:
            state.turn = turn.following()
            turn.listener.close()


@attrs.define(eq=False)
class _Waiter:
    """One call that waits. ``told``: look at the job now. ``left``: it waits no more."""

    job_id: int
    told: bool = False
    left: bool = False
    bell: SimpleQueue[None] = attrs.field(factory=SimpleQueue)


class _Turn:
    """The right to listen. Its first taker has it, and passes it on by making the following one."""

    listener: SyncListener | None = None

    def take(self, waiter: _Waiter) -> _Waiter:
        """Return who has it: ``waiter``, unless another was first."""
        holder: _Waiter = self.__dict__.setdefault("holder", waiter)
        return holder

    def following(self) -> _Turn:
        """Return the turn after this one, the same one to all who ask."""
        following: _Turn = self.__dict__.setdefault("next", _Turn())
        return following


@attrs.define(eq=False)
class _State:
    """What one process has."""

    waiters: dict[_Waiter, None] = attrs.field(factory=dict)
    turn: _Turn = attrs.field(factory=_Turn)

    def tell(self, ended: set[str] | None) -> None:
        """Let the waiters of these jobs look, or all of them."""
        for waiter in list(self.waiters):
            if ended is None or str(waiter.job_id) in ended:
                waiter.told = True
                waiter.bell.put(None)

    def call_another(self, leaving: _Waiter) -> None:
        """Wake one waiter, which goes on listening."""
        for waiter in list(self.waiters):
            if waiter is not leaving and not waiter.told:
                waiter.bell.put(None)
                return
