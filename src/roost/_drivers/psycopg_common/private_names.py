"""What the driver uses of psycopg beyond its documentation, and a check that it is all there.

psycopg may change these in any release, so pyproject.toml pins the minor version for which they
were checked. ``connect`` is built from ``PGconn`` and not from ``_connect_gen``, whose signature
changed within a patch release (3.3.5 to 3.3.6).
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
"""Of a blocking cursor; called, to end a statement on a connection of the caller's in time."""

WAIT_PARAMETERS = ("self", "gen", "interval", "timeout")
"""What psycopg may pass to ``wait``."""

FUNCTIONS = ("conninfo_attempts", "timeout_from_conninfo")
"""Of ``psycopg.conninfo``; called."""

ERRORS = ("_WaitTimeout",)
"""Of ``psycopg.errors``; raised by ``wait`` and caught by ``notifies``."""


@cache
def check() -> None:
    """Make sure that psycopg's module and classes have what is used of them.

    :raises RoostError: something is missing; the message names it and psycopg's version.
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
    """Do the same for a connection that psycopg's constructor has just filled."""
    _refuse([name for name in CONNECTION_ATTRIBUTES if not hasattr(connection, name)])


def _refuse(changed: list[str]) -> None:
    if changed:
        raise RoostError(
            f"this version of Roost does not fit psycopg {psycopg.__version__} "
            f"(changed: {', '.join(changed)}); install psycopg>=3.3.6,<3.4"
        )
