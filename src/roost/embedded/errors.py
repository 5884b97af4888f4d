"""Errors of the embedded Postgres. Their messages say what to do."""

from __future__ import annotations

from typing import ClassVar

from roost.exceptions import RoostError


class EmbeddedPostgresError(RoostError):
    """The embedded Postgres can't be started, used or stopped; the message says why."""

    code: ClassVar[str] = "roost.embedded"


class BinariesNotFoundError(EmbeddedPostgresError):
    """No Postgres server programs were found; the message lists the folders that were searched."""

    code: ClassVar[str] = "roost.embedded-binaries"


class DataVersionError(EmbeddedPostgresError):
    """The data folder was created by another major version of Postgres than the programs have.

    Nothing was changed. Use programs of that version, upgrade the data, or choose another folder.
    """

    code: ClassVar[str] = "roost.embedded-data-version"
