"""asyncpg does what every driver must, and what is its own."""

from __future__ import annotations

import pytest

from roost._drivers.asyncpg import AsyncpgDriver
from roost._drivers.base import AsyncDriver
from roost.testing.conformance import AsyncDriverConformance

pytestmark = pytest.mark.anyio


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
        pytest.param(("trio", {}), id="trio", marks=pytest.mark.skip("asyncpg is asyncio's only")),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run each test on the loops of asyncio."""
    backend: tuple[str, dict[str, object]] = request.param
    return backend


class TestAsyncpg(AsyncDriverConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_driver(self, dsn: str) -> AsyncDriver:
        return AsyncpgDriver(dsn)
