"""Workers and clients on the test's database, with the test's registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.support.spans import Spans

from roost import AsyncRoost, HandlerRegistry, Worker
from roost.contrib import otel


@pytest.fixture
def make_worker(dsn: str, registry: HandlerRegistry) -> Callable[..., Worker]:
    """Return a function that makes a worker with the given options."""

    def make(**options: Any) -> Worker:
        return Worker(dsn, registry=registry, **options)

    return make


@pytest.fixture
async def client(dsn: str, registry: HandlerRegistry) -> AsyncIterator[AsyncRoost]:
    """Yield a client that knows the test's tasks."""
    async with AsyncRoost(dsn, registry=registry) as client:
        yield client


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Yield the spans that are recorded during the test."""
    spans = Spans()
    otel.instrument(tracer_provider=spans.provider)
    yield spans
    otel.uninstrument()
