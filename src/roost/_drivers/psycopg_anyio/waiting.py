"""Wait for psycopg's generators with anyio.

A generator of psycopg's yields what it waits for (1 readable, 2 writable, 3 either) and is sent
what is ready. That protocol has been stable since psycopg 3.0.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import anyio.lowlevel
import psycopg

from roost._drivers.polling import EITHER, READ, WRITE, ready_now


class PendingQuery:
    """A query in flight: psycopg's generator, what it waits for, and on which descriptor.

    A cancel of ``finish`` loses nothing: the next ``finish`` continues.
    """

    def __init__(self, generator: Generator[int, Any, Any], wanted: int, fd: int) -> None:
        self._generator = generator
        self._wanted = wanted
        self._fd = fd

    async def finish(self) -> None:
        """Run the generator to its end, and ignore whether that is a result or an error."""
        try:
            while True:
                ready = await until_ready(self._fd, self._wanted)
                self._wanted = self._generator.send(ready)
        except (StopIteration, psycopg.Error):
            return


async def until_ready(fd: int, wanted: int) -> int:
    """Wait until ``fd`` is readable or writable, as wanted; return which of the two it is.

    :raises psycopg.OperationalError: the descriptor was closed meanwhile.
    """
    try:
        if wanted == READ:
            await anyio.wait_readable(fd)
            return READ
        if wanted == WRITE:
            await anyio.wait_writable(fd)
            return WRITE
    except anyio.ClosedResourceError:
        raise psycopg.OperationalError("the connection is closed") from None
    if ready := ready_now(fd, EITHER):
        await anyio.lowlevel.checkpoint()
        return ready
    return await _until_either(fd)


async def _until_either(fd: int) -> int:
    ready = 0
    closed = False

    async def wait(until: Callable[[int], Awaitable[None]], event: int) -> None:
        nonlocal ready, closed
        try:
            await until(fd)
        except anyio.ClosedResourceError:
            closed = True
        else:
            ready |= event
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait, anyio.wait_readable, READ)
        group.start_soon(wait, anyio.wait_writable, WRITE)
    if closed:
        raise psycopg.OperationalError("the connection is closed")
    return ready
