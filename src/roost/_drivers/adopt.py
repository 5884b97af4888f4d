"""Make a connection that the caller owns usable by operations: ``conn=``.

Each kind is told by the names of its classes, so that no library is imported that the caller
doesn't use. The transaction stays the caller's: nothing here begins, commits or rolls back.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn, cast

from roost._drivers.adopted_by import AdoptedBy, AsyncAdoptedBy, registered
from roost._drivers.base import AsyncConnection, Connection

# library.Class: the module and class here that adopt it
_AWAITED = {
    "psycopg.AsyncConnection": ("psycopg_anyio.adopted", "AdoptedConnection"),
    "asyncpg.Connection": ("asyncpg.adopted", "AdoptedAsyncpg"),
    "asyncpg.PoolConnectionProxy": ("asyncpg.adopted", "AdoptedAsyncpg"),
    "sqlalchemy.AsyncConnection": ("adopted_sqlalchemy", "AdoptedAsyncSqlalchemy"),
    "sqlalchemy.AsyncSession": ("adopted_sqlalchemy", "AdoptedAsyncSqlalchemy"),
    "sqlalchemy.async_scoped_session": ("adopted_sqlalchemy", "AdoptedAsyncSqlalchemy"),
}
_BLOCKING = {
    "psycopg.Connection": ("psycopg_sync_adopted", "AdoptedSyncConnection"),
    "sqlalchemy.Connection": ("adopted_sqlalchemy", "AdoptedSqlalchemy"),
    "sqlalchemy.Session": ("adopted_sqlalchemy", "AdoptedSqlalchemy"),
    "sqlalchemy.scoped_session": ("adopted_sqlalchemy", "AdoptedSqlalchemy"),
    "django.DatabaseWrapper": ("adopted_django", "AdoptedDjango"),
    "django.ConnectionProxy": ("adopted_django", "AdoptedDjango"),
}


def adopt(conn: Any, *, transactional: bool = True) -> AsyncConnection:
    """Return ``conn`` as an `AsyncConnection`.

    :param transactional: refuse a connection that would commit by itself.
    :raises TypeError: it is of a kind that is not accepted.
    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """
    execute = registered(conn, awaited=True)
    if execute is not None:
        return AsyncAdoptedBy(conn, execute)
    adopter = _adopter(conn, _AWAITED)
    if adopter is None:
        _refuse(conn, "AsyncRoost", accepted=_AWAITED, other=_BLOCKING, colour="blocks")
    return cast(AsyncConnection, adopter(conn, transactional=transactional))


def adopt_sync(conn: Any, *, transactional: bool = True) -> Connection:
    """Return ``conn`` as a `Connection`; the rest as for `adopt`."""
    execute = registered(conn, awaited=False)
    if execute is not None:
        return AdoptedBy(conn, execute)
    adopter = _adopter(conn, _BLOCKING)
    if adopter is None:
        _refuse(conn, "Roost", accepted=_BLOCKING, other=_AWAITED, colour="has to be awaited")
    return cast(Connection, adopter(conn, transactional=transactional))


def _adopter(conn: object, kinds: dict[str, tuple[str, str]]) -> Callable[..., Any] | None:
    for kind in _kinds(conn):
        if kind in kinds:
            module, name = kinds[kind]
            adopter: Callable[..., Any] = getattr(import_module(f"roost._drivers.{module}"), name)
            return adopter
    return None


def _kinds(conn: object) -> list[str]:
    """Return ``library.Class`` for each class of ``conn``, the nearest first."""
    return [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(conn).__mro__]


def _refuse(
    conn: object,
    client: str,
    *,
    accepted: dict[str, tuple[str, str]],
    other: dict[str, tuple[str, str]],
    colour: str,
) -> NoReturn:
    given = f"{type(conn).__module__}.{type(conn).__qualname__}"
    why = f"a {given} {colour}" if set(_kinds(conn)) & set(other) else f"{given} is not known"
    raise TypeError(
        f"{client} can't use this conn: {why}. Accepted are {', '.join(accepted)}, their "
        "subclasses, and what register_connection_adapter was told"
    )
