"""The undocumented names of psycopg that the drivers use, and a check that they exist.

psycopg may change them in any release, so pyproject.toml pins the minor version that was checked.
``connect`` is built from ``PGconn`` and not from ``_connect_gen``, because the signature of the
latter changed in a patch release (3.3.5 to 3.3.6).
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import psycopg
import psycopg.conninfo

from roost.exceptions import RoostError

CONNECTION_ATTRIBUTES = ("lock", "_adapters", "_pipeline")
"""Set by psycopg's constructor; ``lock`` is replaced, ``_adapters`` set, ``_pipeline`` read."""

CONNECTION_METHODS = ("wait", "_should_cancel")
"""``wait`` is overridden, ``_should_cancel`` called."""

CURSOR_METHODS = ("_execute_gen",)
"""Of a blocking cursor; called, to give a statement on a borrowed connection a deadline."""

WAIT_PARAMETERS = ("self", "gen", "interval", "timeout")
"""The parameters that psycopg may pass to ``wait``."""

FUNCTIONS = ("conninfo_attempts", "timeout_from_conninfo")
"""Of ``psycopg.conninfo``; called."""

ERRORS = ("_WaitTimeout",)
"""Of ``psycopg.errors``; raised by ``wait`` and caught by ``notifies``."""


@cache
def check() -> None:
    """Check that psycopg's modules and classes have the names.

    :raises RoostError: a name is missing. The message has it and psycopg's version.
    """
    missing = [name for name in CONNECTION_METHODS if not hasattr(psycopg.AsyncConnection, name)]
    missing += [name for name in CURSOR_METHODS if not hasattr(psycopg.RawCursor, name)]
    missing += [name for name in FUNCTIONS if not hasattr(psycopg.conninfo, name)]
    missing += [name for name in ERRORS if not hasattr(psycopg.errors, name)]
    if "wait" not in missing:
        parameters = inspect.signature(psycopg.AsyncConnection.wait).parameters
        missing += [f"wait({name})" for name in parameters if name not in WAIT_PARAMETERS]
    _refuse(missing)


def check_connection(connection: psycopg.AsyncConnection[Any]) -> None:
    """Check the attributes that psycopg's constructor gives a connection; else as `check`."""
    _refuse([name for name in CONNECTION_ATTRIBUTES if not hasattr(connection, name)])


def _refuse(changed: list[str]) -> None:
    if changed:
        raise RoostError(
            f"this version of Roost does not fit psycopg {psycopg.__version__} "
            f"(changed: {', '.join(changed)}); install psycopg>=3.3.6,<3.4"
        )
