"""Whether a worker sleeps until it is notified, or stays awake and looks by itself.

A notification is cheap for one transaction and dear for many: all that notify commit one after the
other, for Postgres keeps them in order with one lock. So when many arrive the worker says that it
is awake, nobody notifies it any more (``roost.announce``), and it looks every few milliseconds.
When little is found it says that it sleeps. This is the interrupt mitigation of network drivers:
Mogul and Ramakrishnan, "Eliminating Receive Livelock in an Interrupt-Driven Kernel", 1997; Linux
calls it NAPI.

No job may be overlooked on the way to sleep. A transaction that asked who sleeps a moment too early
notifies nobody, and commits some time later. It had written its jobs before it asked, so it had its
number: the worker takes a number after it has said that it sleeps, and looks again, at growing
gaps, until every transaction with a smaller one has ended.
"""

from __future__ import annotations

import math

import attrs

WINDOW = 0.25
"""Seconds over which is counted."""
MANY = 75
"""Notifications in a window that wake the worker for good: 300 a second."""
FEW = 25
"""Jobs found in a window below which it is quiet."""
QUIET_WINDOWS = 2
"""Quiet windows in a row after which an awake worker falls asleep; twice as many each time that it
is woken again at once, for instance by notifications of jobs that others take."""
MOST_QUIET_WINDOWS = 64
SHORT_SLEEP = 2.0
"""Seconds: who is woken earlier was woken at once."""
LOOK_GAP = 0.005
"""Seconds between two looks of a worker that is awake and has room."""
MAX_LOOK_GAP = 0.02
"""The same after looks that found nothing."""


@attrs.define
class Alertness:
    """Counts what is heard and found; ``now`` is the loop's clock, in seconds.

    :param asleep: whether it is notified: what its row says.
    :param horizon: every transaction that may not have seen that it sleeps has a smaller number;
        ``None``: not asked for yet.
    """

    asleep: bool = True
    horizon: int | None = None
    _should_wake: bool = False
    _heard: int = 0
    _heard_from: float = -math.inf
    _found: int = 0
    _found_from: float = -math.inf
    _quiet: int = 0
    _quiet_until_sleep: int = QUIET_WINDOWS
    _asleep_since: float = -math.inf
    _gap: float = LOOK_GAP

    @property
    def should_turn(self) -> bool:
        """Whether it sleeps and hears too much, or is awake and finds too little."""
        return self._should_wake if self.asleep else self._quiet >= self._quiet_until_sleep

    @property
    def settling_down(self) -> bool:
        """Whether it sleeps, and transactions may run that have not seen it."""
        return self.asleep and self._gap < math.inf

    @property
    def gap(self) -> float:
        """Seconds until the next look; infinity: until it is notified."""
        return self._gap if self.asleep else min(self._gap, MAX_LOOK_GAP)

    def heard(self, count: int, *, now: float) -> None:
        """Note notifications."""
        if now > self._heard_from + WINDOW:
            self._heard_from, self._heard = now, 0
        self._heard += count
        self._should_wake = self._should_wake or self._heard >= MANY

    def looked(self, found: int, *, more: bool, last: bool, now: float) -> None:
        """Note a look: what it found, whether more waits, whether it ended the settling down."""
        if last:
            self._gap = math.inf
        elif found and not self.asleep:
            self._gap = LOOK_GAP
        else:
            self._gap *= 2
        self._found += found
        if more:
            self._quiet = 0
        elif now > self._found_from + WINDOW:
            self._quiet = self._quiet + 1 if self._found < FEW else 0
            self._found_from, self._found = now, 0

    def wake(self, *, now: float) -> None:
        """From now on it looks by itself; to be noted before its row says so."""
        self.asleep = False
        self._quiet = 0
        self._gap = LOOK_GAP
        if now < self._asleep_since + SHORT_SLEEP:
            self._quiet_until_sleep = min(2 * self._quiet_until_sleep, MOST_QUIET_WINDOWS)
        else:
            self._quiet_until_sleep = QUIET_WINDOWS

    def sleep(self, *, now: float) -> None:
        """It is notified again, but maybe not by everybody; to be noted after its row says so."""
        self.asleep = True
        self._asleep_since = now
        self.horizon = None
        self._should_wake = False
        self._gap = LOOK_GAP
