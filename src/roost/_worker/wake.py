"""A wake: "look again", for one waiter."""

from __future__ import annotations

import anyio


class Wake:
    """Set by any number of callers, waited for by one.

    What is set before or during a wait is never lost: the waiter looks once more after it. Several
    settings before it looks are one.
    """

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._is_set = False

    def set(self) -> None:
        """Make the waiter look again."""
        # Each job sets two, which mostly are set already: a flag is cheaper to ask than an event.
        if not self._is_set:
            self._is_set = True
            self._event.set()

    async def wait(self) -> None:
        """Return when set since the last return; a cancel leaves it set."""
        await self._event.wait()
        # No await between the wait and this line: nothing can be set into the old event unseen.
        self._event = anyio.Event()
        self._is_set = False
