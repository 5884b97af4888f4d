"""Workers on the test's database, with the test's registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roost import HandlerRegistry, Worker


@pytest.fixture
def make_worker(dsn: str, registry: HandlerRegistry) -> Callable[..., Worker]:
    """Return a function that makes a worker of the given options."""

    def make(**options: Any) -> Worker:
        return Worker(dsn, registry=registry, **options)

    return make
