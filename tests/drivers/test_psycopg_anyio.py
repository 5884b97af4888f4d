"""psycopg on anyio does what every driver must, and what is its own."""

from __future__ import annotations

import pytest

from roost._drivers.base import AsyncDriver
from roost._drivers.psycopg_anyio import PsycopgDriver
from roost.testing.conformance import AsyncDriverConformance


class TestPsycopgAnyio(AsyncDriverConformance):
    @pytest.fixture
    def dsn(self, empty_dsn: str) -> str:
        return empty_dsn

    def make_driver(self, dsn: str) -> AsyncDriver:
        return PsycopgDriver(dsn)
