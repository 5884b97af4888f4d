"""The worker's record of its credit for direct dispatch; see `roost._worker.dispatch`."""

from __future__ import annotations

import math
from time import monotonic

import attrs

WATCH_DELAY = 0.15
"""Seconds that another worker has to accept a job before this one takes over unaccepted jobs."""


@attrs.define
class Credit:
    """Credit of one job for direct dispatch.

    While `number` is outstanding, a producer may insert a job that is leased to this worker.

    :param channel: where this worker is notified; ``None``: it does not listen. Each listening
        connection has a channel of its own: the credit is void when the connection ends.
    :param number: of the outstanding credit, also while it is not known whether it was granted.
    :param needs_reconcile: whether to read the row: a job may have been dispatched.
    :param watch_at: by ``time.monotonic``, when to take over jobs that other workers have not
        accepted; infinity: no such job is known.
    """

    channel: str | None = None
    number: int | None = None
    needs_reconcile: bool = False
    watch_at: float = math.inf
    _granted: int = 0

    def listen_on(self, channel: str) -> None:
        """Use the channel of a new connection. A notification on the last one may be lost."""
        self.channel = channel
        self.needs_reconcile = self._granted > 0

    def grant(self) -> int:
        """Make a credit with a new number outstanding, and return the number."""
        self._granted += 1
        self.number = self._granted
        return self._granted

    def revoke(self) -> None:
        """Forget the outstanding credit. A job that was dispatched with it is not accepted."""
        self.number = None
        self.needs_reconcile = False

    def notified(self) -> None:
        """Record a notification: an outstanding credit may have been consumed."""
        self.needs_reconcile = self.needs_reconcile or self.number is not None

    def watch(self) -> None:
        """Record that a job was dispatched to another worker: see whether that accepts it."""
        self.watch_at = min(self.watch_at, monotonic() + WATCH_DELAY)

    def compare(self, seen: int | None, *, outstanding: int | None) -> None:
        """Compare the credit that a claim read in the worker's row with the outstanding one.

        :param seen: the credit's number in the row, 0 for none; ``None``: the claim did not
            read it.
        :param outstanding: the number when the claim began.
        """
        consumed = outstanding is not None and seen is not None and seen != outstanding
        if consumed and self.number == outstanding:
            self.needs_reconcile = True
