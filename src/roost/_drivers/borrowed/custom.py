"""Borrowed connections of other libraries, used through a function that the user registers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias

from roost._drivers.borrowed.common import Borrowed, BorrowedAsync
from roost._model import functions
from roost._ops.query import Query, Row

Execute: TypeAlias = Callable[[Any, str, tuple[object, ...]], Iterable[Sequence[Any]]]
AsyncExecute: TypeAlias = Callable[
    [Any, str, tuple[object, ...]], Awaitable[Iterable[Sequence[Any]]]
]

_blocking: dict[type, Execute] = {}
_async: dict[type, AsyncExecute] = {}


def register_connection_adapter(kind: type, execute: Execute | AsyncExecute) -> None:
    """Let ``conn=`` accept connections of a class that Roost doesn't know.

    ``execute(conn, sql, parameters)`` runs one statement in the connection's open transaction. It
    returns the rows of the answer, or an empty list for a statement that returns none. The SQL has
    ``$1`` placeholders. Register an ``async def`` for `AsyncRoost`, a plain function for `Roost`.

    Connections of subclasses are accepted too. A second call for the same class replaces the first.
    Roost does not check that such a connection is in a transaction.

    :raises TypeError: ``kind`` is not a class.
    """
    if not isinstance(kind, type):
        raise TypeError(f"kind must be a class, not {kind!r}")
    table: dict[type, Any] = _async if functions.is_async(execute) else _blocking
    table[kind] = execute


def registered_function(conn: object, *, is_async: bool) -> Any | None:
    """Return the function that was registered for the class of ``conn`` or a base class of it."""
    table: dict[type, Any] = _async if is_async else _blocking
    for kind in type(conn).__mro__:
        if kind in table:
            return table[kind]
    return None


class BorrowedCustom(Borrowed):
    """A blocking connection, used through a registered function."""

    def __init__(self, raw: Any, execute: Execute) -> None:
        super().__init__(raw)
        self._execute = execute

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows."""
        rows = self._execute(self.raw, query.statement.text, query.params)
        return [tuple(row) for row in rows]


class BorrowedAsyncCustom(BorrowedAsync):
    """An async connection, used through a registered function."""

    def __init__(self, raw: Any, execute: AsyncExecute) -> None:
        super().__init__(raw)
        self._execute = execute

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows."""
        rows = await self._execute(self.raw, query.statement.text, query.params)
        return [tuple(row) for row in rows]
