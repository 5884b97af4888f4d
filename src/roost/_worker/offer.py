"""A worker's offer to be given a job by whoever enqueues one, so that it needn't claim it.

One offer is out at a time, and each has a number. A job that is handed over is accepted by the
number: once. Whatever else is heard is not accepted but puts the worker in doubt whether it holds a
job that it doesn't know of, and then it asks the database. So it does when it listens again after
it could not, and when a claim sees that the offer was taken.
"""

from __future__ import annotations

import attrs


@attrs.define
class Offer:
    """The offer that is out, if there is one.

    :param channel: where jobs are handed to this worker; ``None``: it does not listen. Each
        listening connection has its own: an offer is void when the connection ends.
    :param number: of the offer that is out, or may be: the database did not answer.
    :param in_doubt: whether a job may have been handed over that this worker has not heard of.
    """

    channel: str | None = None
    number: int | None = None
    in_doubt: bool = False
    _made: int = 0

    def listens(self, channel: str) -> None:
        """Note a new listening connection; what came through the one before may be lost."""
        self.channel = channel
        self.in_doubt = self._made > 0

    def make(self) -> int:
        """Return the number of the next offer, which is out from now on."""
        self._made += 1
        self.number = self._made
        return self.number

    def accept(self, number: int) -> bool:
        """Say whether what is handed over under this number is this worker's to run."""
        accepted = number == self.number
        if accepted:
            self.number = None
        else:
            self.in_doubt = True
        return accepted

    def was_seen(self, number: int | None, *, offered: int | None) -> None:
        """Compare what a claim saw in the worker's row with what was out when it began.

        :param number: 0 where none was out; ``None``: the claim did not look.
        """
        taken = offered is not None and number is not None and number != offered
        if taken and self.number == offered:
            self.in_doubt = True
