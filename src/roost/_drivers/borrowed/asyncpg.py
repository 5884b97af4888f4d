"""The caller's asyncpg connection, or the proxy of one that an asyncpg pool returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roost._drivers.asyncpg.errors import ERRORS, translate
from roost._drivers.borrowed.common import BorrowedAsync
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class BorrowedAsyncpg(BorrowedAsync):
    """Runs queries in the caller's transaction.

    The caller's codecs make no difference: an enqueue sends one text and receives numbers.

    :raises NotInTransactionError: it is in no transaction.
    """

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        if transactional and not raw.is_in_transaction():
            raise NotInTransactionError(
                "conn is in no transaction: this call would be committed at once, even if your "
                "work fails later; use `async with conn.transaction():`, or transactional=False "
                "for an enqueue"
            )
        super().__init__(raw)

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows. A cancel leaves the connection as asyncpg does."""
        statement = query.statement
        try:
            if statement.script:
                await self.raw.execute(statement.text)
                return []
            return [tuple(record) for record in await self.raw.fetch(statement.text, *query.params)]
        except ERRORS as error:
            raise translate(error, statement=statement.name) from error
