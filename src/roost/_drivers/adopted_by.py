"""Connections of kinds that Roost doesn't know, adopted with a function that users register."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from roost._model.functions import is_async
from roost._ops.query import Query, Row

Execute: TypeAlias = Callable[[Any, str, tuple[object, ...]], Iterable[Sequence[Any]]]
AsyncExecute: TypeAlias = Callable[
    [Any, str, tuple[object, ...]], Awaitable[Iterable[Sequence[Any]]]
]

_blocking: dict[type, Execute] = {}
_awaited: dict[type, AsyncExecute] = {}


def register_connection_adapter(kind: type, execute: Execute | AsyncExecute) -> None:
    """Let ``conn=`` accept connections of a class that Roost doesn't know.

    ``execute(conn, sql, parameters)`` runs one statement in the connection's open transaction and
    returns its rows, none where there are none. The SQL has ``$1`` placeholders. An ``async def``
    is for `AsyncRoost`, a plain function for `Roost`. Subclasses are accepted too; the last one
    that was registered for a class counts. Whether it is in a transaction is not checked.

    :raises TypeError: ``kind`` is not a class.
    """
    if not isinstance(kind, type):
        raise TypeError(f"kind must be a class, not {kind!r}")
    table: dict[type, Any] = _awaited if is_async(execute) else _blocking
    table[kind] = execute


def registered(conn: object, *, awaited: bool) -> Any | None:
    """Return the function for this connection, if there is one."""
    table: dict[type, Any] = _awaited if awaited else _blocking
    for kind in type(conn).__mro__:
        if kind in table:
            return table[kind]
    return None


class AdoptedBy:
    """A blocking connection, used by a registered function."""

    def __init__(self, raw: Any, execute: Execute) -> None:
        self.raw = raw
        self._execute = execute

    def set_deadline(self, timeout: float) -> None:
        """Do nothing: how long a statement may take is for the caller's own settings to say."""

    def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows."""
        rows = self._execute(self.raw, query.statement.text, query.params)
        return [tuple(row) for row in rows]

    def transaction(self) -> AbstractContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: the connection is the caller's."""


class AsyncAdoptedBy:
    """An awaited connection, used by a registered function."""

    def __init__(self, raw: Any, execute: AsyncExecute) -> None:
        self.raw = raw
        self._execute = execute

    async def fetch(self, query: Query) -> Sequence[Row]:
        """Run one query and return its rows."""
        rows = await self._execute(self.raw, query.statement.text, query.params)
        return [tuple(row) for row in rows]

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Do nothing: all is in the caller's transaction already."""
        return nullcontext()
