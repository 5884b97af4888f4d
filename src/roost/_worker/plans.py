"""When to doubt the plans that a connection has cached."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from roost._drivers.base import AsyncConnection

SLOW_CALL = 0.01
"""Seconds after which a call is slow enough to doubt its plan. Measured in November 2026: 1 to 5 ms
with a good plan, 85 to 3,900 ms with one that was cached on an empty table; see decision 0003."""
TRUST = 1.0
"""Seconds for which new plans are trusted. On a slow machine good plans take longer than
`SLOW_CALL` too: a drain of 20,000 jobs in 1.5 s discarded plans 113 times at 2 ms each, and now
does so 5 times (November 2026)."""


class Plans:
    """Remembers until when each connection's plans are trusted."""

    def __init__(self) -> None:
        self._trusted_until: WeakKeyDictionary[AsyncConnection, float] = WeakKeyDictionary()

    def doubtful(self, connection: AsyncConnection, *, began: float, now: float) -> bool:
        """Say whether to discard the plans after a call; ``True`` once in `TRUST` seconds at most.

        Both times are by ``time.monotonic``.
        """
        if now - began <= SLOW_CALL or now < self._trusted_until.get(connection, now):
            return False
        self._trusted_until[connection] = now + TRUST
        return True
