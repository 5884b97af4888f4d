"""Ask the operating system which events of a socket are there, by blocking or at once."""

from __future__ import annotations

import math
import select

READ = 1
WRITE = 2
EITHER = 3
"""Bits that psycopg's generators yield for what they wait for, and are sent for what is ready."""


def ready_now(fd: int, wanted: int) -> int:
    """Return which of the wanted events are there already, 0 for none. It does not wait.

    An error or a hang-up counts as all wanted events.
    """
    return _poll(fd, wanted, 0)


def ready_within(fd: int, wanted: int, seconds: float) -> int:
    """Block until ``fd`` is readable or writable as wanted, for ``seconds`` at most.

    :param seconds: may be infinite; less than zero counts as zero.
    :returns: which of the wanted events are there, 0 if the time is over. An error or a hang-up
        counts as all wanted events.
    """
    # Rounded up: rounded down, the last millisecond would be a busy loop. poll takes a C int.
    limited = None if seconds == math.inf else min(math.ceil(max(seconds, 0.0) * 1000), 2**31 - 1)
    return _poll(fd, wanted, limited)


def _poll(fd: int, wanted: int, milliseconds: int | None) -> int:
    if not hasattr(select, "poll"):  # Windows
        seconds = None if milliseconds is None else milliseconds / 1000
        readable = [fd] if wanted & READ else []
        writable = [fd] if wanted & WRITE else []
        reads, writes, _ = select.select(readable, writable, [], seconds)
        return (READ if reads else 0) | (WRITE if writes else 0)
    poll = select.poll()
    poll.register(
        fd, (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0)
    )
    ready = 0
    for _, events in poll.poll(milliseconds):
        if events & ~(select.POLLIN | select.POLLOUT):
            return wanted
        ready |= (READ if events & select.POLLIN else 0) | (WRITE if events & select.POLLOUT else 0)
    return ready
