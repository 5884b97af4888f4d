"""Tests that every driver must pass, as pytest classes to subclass.

A driver's test file gives them a DSN of an empty database, as a superuser, and the driver::

    class TestMyDriver(AsyncDriverConformance):
        @pytest.fixture
        def dsn(self, empty_dsn: str) -> str:
            return empty_dsn

        def make_driver(self, dsn: str) -> AsyncDriver:
            return MyDriver(dsn)

and the same for a blocking one, with `DriverConformance` and ``make_connection``. The tests run on
each ``anyio_backend`` that the test run provides.
"""

from tests.support.conformance.blocking import DriverConformance as DriverConformance
from tests.support.conformance.cancelling import CancelConformance
from tests.support.conformance.listening import ListenConformance
from tests.support.conformance.pooling import PoolConformance
from tests.support.conformance.statements import StatementConformance


class AsyncDriverConformance(
    StatementConformance, CancelConformance, PoolConformance, ListenConformance
):
    """All tests of an ``AsyncDriver``."""
