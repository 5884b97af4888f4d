"""Whether a worker has missed heartbeats."""

from datetime import timedelta

MISSED = 3.0
"""Heartbeats that a living worker does not miss, unless it or the database is overloaded."""


def is_silent(silence: timedelta, lease: timedelta, heartbeat_interval: float | None) -> bool:
    """Return whether a worker that is not dead yet should have sent a heartbeat long ago.

    :param silence: the time since its last heartbeat.
    :param lease: the time from a heartbeat until it is considered dead.
    :param heartbeat_interval: seconds between two heartbeats; ``None``: not known.
    """
    # A worker sends at least two heartbeats in the time after which it is considered dead.
    allowed = lease.total_seconds() / 2
    if heartbeat_interval is not None:
        allowed = min(allowed, MISSED * heartbeat_interval)
    return silence.total_seconds() > allowed
