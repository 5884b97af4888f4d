"""When a worker last did what its health depends on: recorded by the lanes, read by `Session`.

Times are by ``time.monotonic``. Nothing here costs a call of the database.
"""

from __future__ import annotations

import math

import attrs


@attrs.define(eq=False, kw_only=True)
class Vitals:
    """What a worker's lanes have last done.

    :param started: whether all lanes have started.
    :param heartbeat_tried_at: when the last try to write a heartbeat began.
    :param heartbeat_at: when the last one that was written began.
    :param claim_began_at: when the claim in flight began; infinity: none is in flight.
    :param claimed_at: when a claim was last answered.
    :param claim_failed: whether the last claim failed.
    :param listened_at: when a notification or the answer to a check last arrived.
    :param polls_only: whether the server can be reached and delivers no notifications.
    """

    started: bool = False
    heartbeat_tried_at: float = -math.inf
    heartbeat_at: float = -math.inf
    claim_began_at: float = math.inf
    claimed_at: float = -math.inf
    claim_failed: bool = False
    listened_at: float = -math.inf
    polls_only: bool = False

    def claim_begins(self, *, now: float) -> None:
        """Record that a claim is sent."""
        self.claim_began_at = now

    def claim_answered(self, *, now: float) -> None:
        """Record the answer to a claim."""
        self.claim_began_at = math.inf
        self.claimed_at = now
        self.claim_failed = False

    def claim_has_failed(self) -> None:
        """Record that a claim failed, or that its answer is not known."""
        self.claim_began_at = math.inf
        self.claim_failed = True

    def listens(self, *, now: float) -> None:
        """Record that the listening connection works."""
        self.listened_at = now
        self.polls_only = False
