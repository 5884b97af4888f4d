"""Decide whether the connections of one DSN prepare statements.

A pooler in transaction mode gives one server connection to many clients in turn. If it does not
know prepared statements (PgBouncer before 1.21), a client finds the prepared statements of others
on its connection, and not its own.
"""

from __future__ import annotations

from roost._drivers.sqlstate import DUPLICATE_STATEMENT, UNKNOWN_STATEMENT
from roost._model.logs import StructuredLogger

logger = StructuredLogger("roost.database")

PREPARED_STATEMENT_ERRORS = frozenset({UNKNOWN_STATEMENT, DUPLICATE_STATEMENT})
"""What the server answers behind such a pooler. The statement was not executed."""


class PreparedStatements:
    """Whether statements may be prepared; all connections of a driver or pool share one of these.

    :param allowed: whether statements may be prepared at first.
    """

    def __init__(self, *, allowed: bool = True) -> None:
        self.allowed = allowed

    def disable(self, reason: str) -> None:
        """Prepare no statement from now on, and log the reason once."""
        if self.allowed:
            self.allowed = False
            logger.warning(
                "prepared statements are off, because of a pooler in transaction mode: %(reason)s; "
                "statement_cache_size=0 in the DSN turns them off from the start",
                reason=reason,
            )
