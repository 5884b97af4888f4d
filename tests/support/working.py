"""A worker in the background of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from roost._worker.worker import Worker


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """Run ``workers`` inside the block: ready when it is entered, stopped in order when it ends.

    A worker that crashes ends the block with its error.
    """
    async with anyio.create_task_group() as group:
        for worker in workers:
            await group.start(worker.run)
        yield
        for worker in workers:
            worker.request_stop()
