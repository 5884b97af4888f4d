"""Run a Postgres server for development and tests, without an installation.

>>> with roost.embedded.server() as pg:
...     roost = Roost(pg.dsn)
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
