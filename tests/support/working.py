"""Run workers in the background of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from roost._worker.worker import Worker


@asynccontextmanager
async def working(*workers: Worker) -> AsyncIterator[None]:
    """Run workers during a block. They are ready at its start, and are stopped at its end.

    If a worker crashes, the block ends with its error.
    """
    async with anyio.create_task_group() as group:
        for worker in workers:
            await group.start(worker.run)
        yield
        for worker in workers:
            worker.request_stop()
