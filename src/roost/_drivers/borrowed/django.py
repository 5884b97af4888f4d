"""The caller's Django connection: ``django.db.connection`` or ``connections[alias]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roost._drivers.borrowed.common import Borrowed, sqlstate_of, to_percent_placeholders
from roost._drivers.sqlstate import error_for
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class BorrowedDjango(Borrowed):
    """Runs queries with Django's own cursor, which refuses in a broken atomic block.

    :raises NotInTransactionError: it is in autocommit mode and in no atomic block.
    :raises TypeError: its database is not Postgres.
    """

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        if raw.vendor != "postgresql":
            raise TypeError(f"conn must be a Django connection to Postgres, not to {raw.vendor}")
        if transactional and raw.get_autocommit() and not raw.in_atomic_block:
            raise NotInTransactionError(
                "conn is in autocommit mode and in no atomic block: this call would be committed "
                "at once, even if your work fails later; use `with transaction.atomic():`, or "
                "transactional=False for an enqueue"
            )
        super().__init__(raw)

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, an empty list if it returns none."""
        text, parameters = query.statement.text, query.params
        if parameters and not query.statement.script:
            text, parameters = to_percent_placeholders(text, parameters)
        try:
            with self.raw.cursor() as cursor:
                cursor.execute(text, parameters or None)
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        except Exception as error:
            sqlstate = sqlstate_of(error.__cause__)
            if sqlstate is None:
                raise
            raise error_for(sqlstate, f"{error} (in {query.statement.name})") from error
