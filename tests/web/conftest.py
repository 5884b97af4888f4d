"""Requests to a worker's HTTP server, on the test's event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from roost import HandlerRegistry, Worker
from roost.web import Address

Get = Callable[[Address, str], Awaitable[httpx.Response]]


@pytest.fixture
def make_worker(dsn: str, registry: HandlerRegistry) -> Callable[..., Worker]:
    """Return a function that makes a worker with the given options."""

    def make(**options: Any) -> Worker:
        return Worker(options.pop("dsn", dsn), registry=registry, **options)

    return make


@pytest.fixture
async def get() -> AsyncIterator[Get]:
    """Return a function that sends one request and returns the response."""
    async with httpx.AsyncClient(trust_env=False, timeout=20.0) as client:

        async def get(address: Address, path: str) -> httpx.Response:
            return await client.get(f"http://{address}{path}")

        yield get
