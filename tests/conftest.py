"""Fixtures of all tests that look at jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from roost import HandlerRegistry
from roost.testing.job_table import JobTable


@pytest.fixture
def table(dsn: str) -> Iterator[JobTable]:
    """Yield a hand on the jobs of the test's database."""
    with JobTable(dsn) as table:
        yield table


@pytest.fixture
def registry() -> HandlerRegistry:
    """Return an empty registry of the test's own."""
    return HandlerRegistry()
