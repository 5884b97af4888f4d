"""Django's connections, ``django.db.connection`` and ``connections[alias]``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from roost._drivers.placeholders import to_format
from roost._drivers.sqlstate import error_for
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class AdoptedDjango:
    """Runs queries by Django's own cursor, which refuses in an atomic block that is broken.

    :raises NotInTransactionError: it is in autocommit mode and in no atomic block.
    :raises TypeError: its database is not Postgres.
    """

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        if raw.vendor != "postgresql":
            raise TypeError(f"conn must be a Django connection to Postgres, not to {raw.vendor}")
        if transactional and raw.get_autocommit() and not raw.in_atomic_block:
            raise NotInTransactionError(
                "conn is in autocommit mode and in no atomic block: the job would be there at "
                "once, whatever happens next; use `with transaction.atomic():` or "
                "transactional=False"
            )
        self.raw = raw

    def set_deadline(self, timeout: float) -> None:
        """Do nothing: how long a statement may take is for the caller's own settings to say."""

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows, empty where it returns none."""
        text, parameters = query.statement.text, query.params
        if parameters and not query.statement.script:
            text, parameters = to_format(text, parameters)
        try:
            with self.raw.cursor() as cursor:
                cursor.execute(text, parameters or None)
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        except Exception as error:
            cause = error.__cause__
            sqlstate = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
            if sqlstate is None:
                raise
            raise error_for(sqlstate, f"{error} (in {query.statement.name})") from error

    def transaction(self) -> AbstractContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: the connection is the caller's."""
