"""What a worker knows about its offer to be given a job by an enqueue, without a claim.

The worker's row says what became of the offer: it is out, or a job was handed over under it. A
notification says that something may have changed, and so do a new listening connection and a claim
that sees another number. They only make the worker read its row: anybody may send a notification.
"""

from __future__ import annotations

import math

import attrs


@attrs.define
class Offer:
    """The offer that is out, if there is one.

    :param channel: where this worker is told to read its row; ``None``: it does not listen. Each
        listening connection has its own: an offer is void when the connection ends.
    :param number: of the offer that is out, or may be: the database did not answer.
    :param in_doubt: whether to read the row: a job may have been handed over.
    :param watch_at: by ``time.monotonic``, when to look for jobs that were handed to other workers
        and not accepted; infinity: none is known of.
    """

    channel: str | None = None
    number: int | None = None
    in_doubt: bool = False
    watch_at: float = math.inf
    _made: int = 0

    def listens(self, channel: str) -> None:
        """Note a new listening connection; what came through the one before may be lost."""
        self.channel = channel
        self.in_doubt = self._made > 0

    def next_number(self) -> int:
        """Return a number that no offer had."""
        self._made += 1
        return self._made

    def told(self) -> None:
        """Note a notification: if an offer is out, it may have been taken."""
        self.in_doubt = self.in_doubt or self.number is not None

    def was_seen(self, number: int | None, *, offered: int | None) -> None:
        """Compare what a claim saw in the worker's row with what was out when it began.

        :param number: 0 where none was out; ``None``: the claim did not look.
        """
        taken = offered is not None and number is not None and number != offered
        if taken and self.number == offered:
            self.in_doubt = True
