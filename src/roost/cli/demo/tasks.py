"""The demo's tasks: ordinary handlers, as an application would write them."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from typing import Any

import anyio
import anyio.to_thread

from roost import AsyncRoost, HandlerRegistry, job

ATTEMPTS = 3
"""How often a file is tried before its job is discarded."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

TOTALS = """
select
    count(*) filter (where task = 'index'),
    coalesce(sum((result->>'lines')::bigint), 0)::bigint,
    coalesce(sum((result->>'words')::bigint), 0)::bigint,
    coalesce(sum((result->>'definitions')::bigint), 0)::bigint,
    coalesce(sum((result->>'bytes')::bigint), 0)::bigint
from roost.jobs
where queue = %s and state = 'completed' and task in ('index', 'fingerprint')
"""


def register_tasks(registry: HandlerRegistry, client: AsyncRoost, calls: Counter[str]) -> None:
    """Register the tasks; each call of a handler is counted in ``calls``.

    :param client: what the summary reads the results of the others with.
    """

    @job("index", max_attempts=ATTEMPTS, registry=registry)
    async def index(path: str) -> dict[str, int]:
        calls["index"] += 1
        data = await anyio.Path(path).read_bytes()
        # In a thread, since a large file takes long to parse and other jobs go on meanwhile.
        return await anyio.to_thread.run_sync(count, path, data)

    @job("fingerprint", max_attempts=ATTEMPTS, registry=registry)
    def fingerprint(paths: list[str]) -> dict[str, Any]:
        calls["fingerprint"] += 1
        digest = hashlib.sha256()
        size = 0
        for path in paths:
            with open(path, "rb") as file:  # noqa: PTH123
                while chunk := file.read(2**16):
                    digest.update(chunk)
                    size += len(chunk)
        return {"bytes": size, "sha256": digest.hexdigest()}

    @job("summary", registry=registry)
    async def summary(queue: str) -> dict[str, int]:
        calls["summary"] += 1
        async with client.transaction() as connection:
            cursor = await connection.execute(TOTALS, (queue,))
            [row] = await cursor.fetchall()
        names = ("files", "lines", "words", "definitions", "bytes")
        return dict(zip(names, row, strict=True))


def count(path: str, data: bytes) -> dict[str, int]:
    """Count what is in a file.

    :raises UnicodeDecodeError: it is not UTF-8.
    :raises SyntaxError: it is called ``.py`` and isn't Python.
    """
    text = data.decode()
    ended = text.replace("\r\n", "\n").replace("\r", "\n")
    definitions = 0
    if path.endswith(".py"):
        definitions = sum(isinstance(node, DEFINITIONS) for node in ast.walk(ast.parse(data, path)))
    return {
        "lines": ended.count("\n") + (not ended.endswith("\n") and bool(ended)),
        "words": len(text.split()),
        "definitions": definitions,
    }
