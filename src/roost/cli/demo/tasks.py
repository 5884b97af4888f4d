"""The demo's tasks, written as an application writes them. Its workers import this module."""

from __future__ import annotations

import os

import anyio

from roost import AsyncRoost, HandlerRegistry, current_job, job

PAUSE = 0.05
"""Seconds that a job waits, as one does that calls a service."""

registry = HandlerRegistry()
client = AsyncRoost(os.environ["ROOST_DSN"], registry=registry)


@job("count", registry=registry)
async def count(path: str) -> None:
    """Count a file's lines. Store them, and complete the job, in one transaction."""
    text = await anyio.Path(path).read_text(encoding="utf-8")
    await anyio.sleep(PAUSE)
    lines = text.count("\n")
    async with client.transaction() as conn:
        job = current_job()
        await conn.execute(f'insert into "{job.queue}" values (%s, %s)', (job.id, lines))  # noqa: S608
        await client.complete_current_job(conn, result=lines)


@job("total", registry=registry)
async def total() -> int:
    """Add up what the other jobs stored; runs when all of them are completed."""
    async with client.transaction() as conn:
        query = f'select coalesce(sum(lines), 0)::int from "{current_job().queue}"'  # noqa: S608
        [[lines]] = await (await conn.execute(query)).fetchall()
    return int(lines)
