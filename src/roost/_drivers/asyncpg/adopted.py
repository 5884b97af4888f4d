"""An asyncpg connection that belongs to the caller, or a pool's proxy of one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from roost._drivers.asyncpg.errors import ERRORS, translate
from roost._ops.query import Query, Row
from roost.exceptions import NotInTransactionError


class AdoptedAsyncpg:
    """Runs queries in the caller's transaction. What codecs the caller set does not matter: an
    enqueue sends one text and is answered with numbers.

    :raises NotInTransactionError: it is in no transaction.
    """

    def __init__(self, raw: Any, *, transactional: bool = True) -> None:
        if transactional and not raw.is_in_transaction():
            raise NotInTransactionError(
                "conn is in no transaction: the job would be there at once, whatever happens next; "
                "use `async with conn.transaction():` or transactional=False"
            )
        self.raw = raw

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows; what a cancel leaves is asyncpg's own way."""
        statement = query.statement
        try:
            if statement.script:
                await self.raw.execute(statement.text)
                return []
            return [tuple(record) for record in await self.raw.fetch(statement.text, *query.params)]
        except ERRORS as error:
            raise translate(error, statement=statement.name) from error

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()
