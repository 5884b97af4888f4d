"""A real Postgres server for development and tests, without installing one.

>>> with roost.embedded.server() as pg:
...     client = RoostClient(pg.dsn)
"""

from roost.embedded.binaries import find_binaries
from roost.embedded.errors import (
    BinariesNotFoundError,
    DataVersionError,
    EmbeddedPostgresError,
)
from roost.embedded.server import Server, remove, server

__all__ = [
    "BinariesNotFoundError",
    "DataVersionError",
    "EmbeddedPostgresError",
    "Server",
    "find_binaries",
    "remove",
    "server",
]
