"""What the listeners of all drivers share: their queries and the check of channel names."""

from __future__ import annotations

from roost._ops.query import Query
from roost._sql import Statement
from roost.exceptions import InvalidSettingError

PROBE = Query(Statement("listener.probe", "select 1"))
LOCK = Statement("listener.lock", "select pg_advisory_lock(hashtextextended($1::text, 0::bigint))")

LOCK_SHARED = Statement(
    "listener.lock_shared",
    "select pg_advisory_lock_shared(hashtextextended($1::text, 0::bigint))",
)


def lock_query(name: str) -> Query:
    """Return the query that waits for the session's advisory lock of this name."""
    return Query(LOCK, (name,))


def lock_shared_query(name: str) -> Query:
    """Return the query that waits for the same lock, shared with other sessions."""
    return Query(LOCK_SHARED, (name,))


def check_channel(channel: str) -> None:
    """Refuse a channel name that Postgres would change.

    :raises InvalidSettingError: it has no byte, more than 63 of them, or a NUL.
    """
    if not channel or "\0" in channel or len(channel.encode()) > 63:
        raise InvalidSettingError(f"a channel's name has 1 to 63 bytes and no NUL, not {channel!r}")
