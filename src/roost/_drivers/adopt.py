"""Make a connection that the caller owns usable by operations: ``conn=``.

Told by the class's module, so that no driver is imported that the caller doesn't use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roost._drivers.base import AsyncConnection

ACCEPTED = "a psycopg AsyncConnection, such as `async with roost.transaction() as conn` yields"


def adopt(conn: Any) -> AsyncConnection:
    """Return ``conn`` as an `AsyncConnection`. Its transaction stays the caller's.

    :raises TypeError: it is of a kind that is not accepted.
    :raises NotInTransactionError: it is in autocommit mode and in no transaction.
    """
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(conn).__mro__}
    if "psycopg.AsyncConnection" in kinds:
        from roost._drivers.psycopg_anyio.adopted import AdoptedConnection

        return AdoptedConnection(conn)
    given = f"{type(conn).__module__}.{type(conn).__qualname__}"
    if "psycopg.Connection" in kinds:
        raise TypeError(f"AsyncRoost can't wait for a blocking connection; conn must be {ACCEPTED}")
    raise TypeError(f"conn can't be a {given}; it must be {ACCEPTED}")
