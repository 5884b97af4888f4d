"""Make a connection that the caller owns usable by operations: ``conn=``.

Each kind is told by the names of its classes, so that no library is imported that the caller
doesn't use. The transaction stays the caller's: nothing here begins, commits or rolls back.
"""

from __future__ import annotations

from typing import Any

from roost._drivers.base import AsyncConnection, Connection

ASYNC_KINDS = "psycopg AsyncConnection (such as `async with roost.transaction() as conn` yields)"
SYNC_KINDS = "psycopg Connection"


def adopt(conn: Any, *, transactional: bool = True) -> AsyncConnection:
    """Return ``conn`` as an `AsyncConnection`.

    :param transactional: refuse a connection that would commit by itself.
    :raises TypeError: it is of a kind that is not accepted.
    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """
    kinds = _kinds(conn)
    if "psycopg.AsyncConnection" in kinds:
        from roost._drivers.psycopg_anyio.adopted import AdoptedConnection

        return AdoptedConnection(conn, transactional=transactional)
    if "psycopg.Connection" in kinds:
        raise TypeError(
            f"AsyncRoost can't wait for a blocking connection; conn must be a {ASYNC_KINDS}"
        )
    raise TypeError(f"conn can't be a {_name(conn)}; it must be a {ASYNC_KINDS}")


def adopt_sync(conn: Any, *, transactional: bool = True) -> Connection:
    """Return ``conn`` as a `Connection`; the rest as for `adopt`."""
    kinds = _kinds(conn)
    if "psycopg.Connection" in kinds:
        from roost._drivers.psycopg_sync_adopted import AdoptedSyncConnection

        return AdoptedSyncConnection(conn, transactional=transactional)
    if "psycopg.AsyncConnection" in kinds:
        raise TypeError(f"Roost can't await a connection; conn must be a {SYNC_KINDS}")
    raise TypeError(f"conn can't be a {_name(conn)}; it must be a {SYNC_KINDS}")


def _kinds(conn: object) -> set[str]:
    """Return ``library.Class`` for each class of ``conn``."""
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(conn).__mro__}


def _name(conn: object) -> str:
    return f"{type(conn).__module__}.{type(conn).__qualname__}"
