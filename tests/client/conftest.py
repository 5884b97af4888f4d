"""A client on the test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from roost import AsyncRoost, HandlerRegistry


@pytest.fixture
async def client(
    anyio_backend: object, dsn: str, registry: HandlerRegistry
) -> AsyncIterator[AsyncRoost]:
    """Yield a client of the test's registry, closed afterwards."""
    async with AsyncRoost(dsn, registry=registry) as client:
        yield client
