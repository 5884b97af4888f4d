"""Choose the class that makes a caller's connection usable by operations.

Each kind is recognized by the names of its classes. So no library is imported that the caller does
not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn, TypeAlias, cast

from roost._drivers.base import AsyncConnection, Connection
from roost._drivers.borrowed.custom import (
    BorrowedAsyncCustom,
    BorrowedCustom,
    registered_function,
)

Kinds: TypeAlias = Mapping[str, tuple[str, str]]
"""For each ``library.Class``: the module of this package, and the class in it that wraps it."""

_ASYNC: Kinds = {
    "psycopg.AsyncConnection": ("psycopg", "BorrowedAsyncPsycopg"),
    "asyncpg.Connection": ("asyncpg", "BorrowedAsyncpg"),
    "asyncpg.PoolConnectionProxy": ("asyncpg", "BorrowedAsyncpg"),
    "sqlalchemy.AsyncConnection": ("sqlalchemy", "BorrowedAsyncSqlalchemy"),
    "sqlalchemy.AsyncSession": ("sqlalchemy", "BorrowedAsyncSqlalchemy"),
    "sqlalchemy.async_scoped_session": ("sqlalchemy", "BorrowedAsyncSqlalchemy"),
}
_BLOCKING: Kinds = {
    "psycopg.Connection": ("psycopg", "BorrowedPsycopg"),
    "sqlalchemy.Connection": ("sqlalchemy", "BorrowedSqlalchemy"),
    "sqlalchemy.Session": ("sqlalchemy", "BorrowedSqlalchemy"),
    "sqlalchemy.scoped_session": ("sqlalchemy", "BorrowedSqlalchemy"),
    "django.DatabaseWrapper": ("django", "BorrowedDjango"),
    "django.ConnectionProxy": ("django", "BorrowedDjango"),
}


def borrow(conn: Any, *, transactional: bool = True) -> AsyncConnection:
    """Return ``conn`` as an `AsyncConnection`.

    :param transactional: refuse a connection that commits each statement by itself.
    :raises TypeError: connections of this kind are not accepted.
    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """
    execute = registered_function(conn, is_async=True)
    if execute is not None:
        return BorrowedAsyncCustom(conn, execute)
    wrap = _wrapper(conn, _ASYNC)
    if wrap is None:
        _refuse(conn, "AsyncRoost", accepted=_ASYNC, other=_BLOCKING, reason="blocks")
    return cast(AsyncConnection, wrap(conn, transactional=transactional))


def borrow_sync(conn: Any, *, transactional: bool = True) -> Connection:
    """Return ``conn`` as a `Connection`. Parameters and errors are those of `borrow`."""
    execute = registered_function(conn, is_async=False)
    if execute is not None:
        return BorrowedCustom(conn, execute)
    wrap = _wrapper(conn, _BLOCKING)
    if wrap is None:
        _refuse(conn, "Roost", accepted=_BLOCKING, other=_ASYNC, reason="has to be awaited")
    return cast(Connection, wrap(conn, transactional=transactional))


def _wrapper(conn: object, kinds: Kinds) -> Callable[..., Any] | None:
    for name in _class_names(conn):
        if name in kinds:
            module, wrapper = kinds[name]
            found: Callable[..., Any] = getattr(import_module(f"{__package__}.{module}"), wrapper)
            return found
    return None


def _class_names(conn: object) -> list[str]:
    """Return ``library.Class`` for the class of ``conn`` and its base classes, in this order."""
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(conn).__mro__]


def _refuse(conn: object, client: str, *, accepted: Kinds, other: Kinds, reason: str) -> NoReturn:
    given = f"{type(conn).__module__}.{type(conn).__qualname__}"
    is_other = bool(set(_class_names(conn)) & set(other))
    why = f"a {given} {reason}" if is_other else f"{given} is not known"
    raise TypeError(
        f"{client} can't use this conn: {why}. Accepted are {', '.join(accepted)}, their "
        "subclasses, and classes given to register_connection_adapter"
    )
