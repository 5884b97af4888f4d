"""The names of notification channels, the same for every driver."""

from __future__ import annotations

from roost.exceptions import InvalidSettingError


def check_channel(channel: str) -> None:
    """Refuse a name that Postgres would change.

    :raises InvalidSettingError: it has no byte, more than 63 of them, or a NUL.
    """
    if not channel or "\0" in channel or len(channel.encode()) > 63:
        raise InvalidSettingError(f"a channel's name has 1 to 63 bytes and no NUL, not {channel!r}")
