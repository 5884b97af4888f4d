"""Whether a worker is notified of new jobs, or polls every few milliseconds.

One transaction that notifies is cheap and many are expensive: they commit one after the other,
because Postgres keeps notifications in order with one lock. So when many arrive, the worker writes
into its row that it polls. Producers don't notify it any more (``roost.announce``). When its polls
find little, it writes that it wants to be notified again. This is the interrupt mitigation of
network drivers: Mogul and Ramakrishnan, "Eliminating Receive Livelock in an Interrupt-Driven
Kernel", 1997; Linux calls it NAPI.

No job may be overlooked when a worker wants notifications again. A transaction may have read the
worker's row just before that, then it does not notify this worker, and commits later. But it wrote
its jobs before it read the row, so it has a transaction number. The worker takes a number
(`xid_horizon`) after it has written its row, and polls at growing intervals until every transaction
with a smaller number has ended.
"""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from roost._ops.workers import next_transaction, oldest_transaction, set_wants_notify

if TYPE_CHECKING:
    from roost._worker.database import Database

WINDOW = 0.25
"""Seconds over which notifications and jobs are counted."""
MANY = 75
"""Notifications in a window from which on the worker polls: 300 a second."""
FEW = 25
"""Jobs found in a window below which the window is quiet."""
QUIET_WINDOWS = 2
"""Quiet windows in a row after which a polling worker wants notifications again. The number doubles
each time that they are too many at once, for instance of jobs that other workers take."""
MAX_QUIET_WINDOWS = 64
SHORT_NOTIFIED = 2.0
"""Seconds of being notified below which it was too many at once."""
POLL_INTERVAL = 0.005
"""Seconds between two polls of a polling worker that has room."""
MAX_POLL_INTERVAL = 0.02
"""The same after polls that found nothing."""


@attrs.define
class NotifyMode:
    """Counts notifications and found jobs. ``now`` is by ``time.monotonic``, in seconds.

    :param wants_notify: whether its row asks producers to notify it.
    :param xid_horizon: each transaction that may not have seen this in the row has a smaller
        number; ``None``: not asked for yet.
    """

    wants_notify: bool = True
    xid_horizon: int | None = None
    _too_many: bool = False
    _notifications: int = 0
    _counted_from: float = -math.inf
    _found: int = 0
    _found_from: float = -math.inf
    _quiet: int = 0
    _quiet_needed: int = QUIET_WINDOWS
    _notified_since: float = -math.inf
    _interval: float = POLL_INTERVAL

    @property
    def should_change(self) -> bool:
        """Whether it gets too many notifications, or polls and finds too little."""
        return self._too_many if self.wants_notify else self._quiet >= self._quiet_needed

    @property
    def awaiting_older_transactions(self) -> bool:
        """Whether transactions may still run that don't know that it wants notifications."""
        return self.wants_notify and self._interval < math.inf

    @property
    def poll_interval(self) -> float:
        """Seconds until the next poll; infinity: until it is notified."""
        return self._interval if self.wants_notify else min(self._interval, MAX_POLL_INTERVAL)

    def record_notifications(self, count: int, *, now: float) -> None:
        """Record that ``count`` notifications of jobs arrived."""
        if now > self._counted_from + WINDOW:
            self._counted_from, self._notifications = now, 0
        self._notifications += count
        self._too_many = self._too_many or self._notifications >= MANY

    def record_poll(self, found: int, *, more: bool, last: bool, now: float) -> None:
        """Record one poll.

        :param found: jobs claimed.
        :param more: whether the claim was full.
        :param last: no transaction older than `xid_horizon` is left.
        """
        if last:
            self._interval = math.inf
        elif found and not self.wants_notify:
            self._interval = POLL_INTERVAL
        else:
            self._interval *= 2
        self._found += found
        if more:
            self._quiet = 0
        elif now > self._found_from + WINDOW:
            self._quiet = self._quiet + 1 if self._found < FEW else 0
            self._found_from, self._found = now, 0

    def start_polling(self, *, now: float) -> None:
        """Poll from now on. Call it before the row says so."""
        self.wants_notify = False
        self._quiet = 0
        self._interval = POLL_INTERVAL
        if now < self._notified_since + SHORT_NOTIFIED:
            self._quiet_needed = min(2 * self._quiet_needed, MAX_QUIET_WINDOWS)
        else:
            self._quiet_needed = QUIET_WINDOWS

    def start_being_notified(self, *, now: float) -> None:
        """Rely on notifications again, though older transactions may send none.

        Call it after the row says so.
        """
        self.wants_notify = True
        self._notified_since = now
        self.xid_horizon = None
        self._too_many = False
        self._interval = POLL_INTERVAL


async def change_mode(mode: NotifyMode, worker_id: int, database: Database) -> bool:
    """Change the mode, in the worker's row too; ``True``: it wants notifications again.

    :raises DatabaseUnavailableError: the row is not written, or that is not known. A worker that
        wanted to be notified polls then in any case.
    """
    if mode.wants_notify:
        mode.start_polling(now=monotonic())
        await database.call(set_wants_notify(worker_id, wants_notify=False))
        return False
    await database.call(set_wants_notify(worker_id, wants_notify=True))
    mode.start_being_notified(now=monotonic())
    return True


async def check_older_transactions(mode: NotifyMode, database: Database) -> tuple[int, bool]:
    """Return the `NotifyMode.xid_horizon`, and whether every older transaction has ended."""
    horizon = mode.xid_horizon
    if horizon is None:
        horizon = mode.xid_horizon = await database.call(next_transaction())
    return horizon, await database.call(oldest_transaction()) >= horizon
