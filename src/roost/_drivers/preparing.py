"""Whether the connections of one DSN prepare statements, and how they learn that they must not.

A pooler in transaction mode gives one server connection to many clients in turn. If it does not
know prepared statements (PgBouncer before 1.21), a client finds those of others, and not its own.
"""

from __future__ import annotations

from roost._drivers.sqlstate import NO_STATEMENT, TWICE_PREPARED
from roost._model.logs import StructuredLogger

logger = StructuredLogger("roost.database")

LOST = frozenset({NO_STATEMENT, TWICE_PREPARED})
"""What the server answers then. The statement was not executed."""


class Preparing:
    """What is known so far; shared by all connections of a driver or pool.

    :param allowed: whether statements may be prepared.
    """

    def __init__(self, *, allowed: bool = True) -> None:
        self.allowed = allowed

    def give_up(self, reason: str) -> None:
        """Prepare nothing from now on, and say so once."""
        if self.allowed:
            self.allowed = False
            logger.warning(
                "going on without prepared statements, behind a pooler in transaction mode: "
                "%(reason)s; statement_cache_size=0 in the DSN says so from the start",
                reason=reason,
            )
