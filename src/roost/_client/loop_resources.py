"""Gives a client its own connections in each event loop that uses it.

A connection belongs to the event loop that opened it, and to its process. A client may be used in
several loops: one after the other, as with repeated ``asyncio.run``, or at once, in threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from weakref import WeakSet

import anyio.lowlevel
import attrs

from roost._client.events import AsyncEvents
from roost._client.waiting import Waiting
from roost._drivers.base import AsyncDriver, AsyncPool
from roost._drivers.process import Process, current_process
from roost.exceptions import ClosedError


@attrs.define(eq=False)
class LoopResources:
    """A client's connection pool, waiting calls and event listeners in one event loop of a process.

    :ivar guard: an async generator that the loop finishes when it ends, which closes the pool.
    """

    pool: AsyncPool
    waiting: Waiting
    events: WeakSet[AsyncEvents] = attrs.field(factory=WeakSet)
    process: Process = attrs.field(factory=current_process)
    guard: AsyncGenerator[None] | None = None


class ResourcesByLoop:
    """Gives each event loop its own `LoopResources`, created on first use.

    A loop's connections are closed when it ends: asyncio and trio then finish the loop's open async
    generators, and each `LoopResources` has one. If a loop was closed without that, the next loop
    that uses the client, or `aclose`, drops its resources.

    :param max_size: most connections of each loop.
    """

    def __init__(self, driver: AsyncDriver, *, max_size: int) -> None:
        self._driver = driver
        self._max_size = max_size
        self._by_loop: dict[object, LoopResources] = {}
        self._inherited: list[LoopResources] = []
        self._closed = False

    async def current(self) -> LoopResources:
        """Return the resources of the running loop.

        :raises ClosedError: the client was closed.
        """
        if self._closed:
            raise ClosedError("this client was closed")
        loop = anyio.lowlevel.current_token().native_token
        found = self._by_loop.get(loop)
        if found is not None and found.process == current_process():
            return found
        return await self._open(loop)

    async def register(self, events: AsyncEvents) -> None:
        """Have `aclose` end the events of a listener of the running loop.

        :raises ClosedError: the client was closed.
        """
        (await self.current()).events.add(events)

    async def aclose(self) -> None:
        """Refuse further use, and close the running loop's connections.

        Connections of other loops are closed when they return to their pool, or when their loop
        ends.
        """
        self._closed = True
        self._drop_ended()
        here = self._by_loop.get(anyio.lowlevel.current_token().native_token)
        for found in list(self._by_loop.values()):
            if found.process != current_process():
                continue
            if found is not here:
                found.pool.mark_closed()
                continue
            for events in list(found.events):
                events.end()
            await found.pool.aclose()
            if found.guard is not None:
                await found.guard.aclose()

    async def _open(self, loop: object) -> LoopResources:
        self._drop_ended()
        if (inherited := self._by_loop.get(loop)) is not None:
            self._inherited.append(inherited)
        pool = self._driver.pool(max_size=self._max_size, application_name="roost")
        found = self._by_loop[loop] = LoopResources(pool, Waiting(self._driver))
        found.guard = self._guard(loop, found)
        await anext(found.guard)
        return found

    async def _guard(self, loop: object, found: LoopResources) -> AsyncGenerator[None]:
        """Close the loop's connections when the loop ends."""
        try:
            yield
        finally:
            if found.process == current_process():
                if self._by_loop.get(loop) is found:
                    del self._by_loop[loop]
                found.pool.terminate_idle()

    def _drop_ended(self) -> None:
        """Drop the resources of loops that were closed without finishing their generators."""
        for loop, found in list(self._by_loop.items()):
            is_closed = getattr(loop, "is_closed", None)
            if is_closed is None or not is_closed():
                continue
            self._by_loop.pop(loop, None)
            if found.process == current_process():
                found.pool.abandon_idle()
            else:
                # Keep them: their deletion could close connections that the parent process uses.
                self._inherited.append(found)
