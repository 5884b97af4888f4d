"""What can go wrong with the embedded Postgres, in words that say what to do."""

from __future__ import annotations

from typing import ClassVar

from roost.exceptions import RoostError


class EmbeddedPostgresError(RoostError):
    """The embedded Postgres can't be started, used or stopped; the message says why."""

    code: ClassVar[str] = "roost.embedded"


class BinariesNotFoundError(EmbeddedPostgresError):
    """No Postgres server binaries were found; the message lists the places that were looked at."""

    code: ClassVar[str] = "roost.embedded-binaries"


class DataVersionError(EmbeddedPostgresError):
    """The data folder was made by another major version of Postgres than the binaries.

    Nothing was changed. Use binaries of that version, upgrade the data, or choose another folder.
    """

    code: ClassVar[str] = "roost.embedded-data-version"
