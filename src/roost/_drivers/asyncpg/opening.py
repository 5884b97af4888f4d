"""Open an asyncpg connection: on asyncio only, to the first usable host."""

from __future__ import annotations

import asyncio

import asyncpg

from roost._drivers.asyncpg.errors import ERRORS, translate
from roost._drivers.asyncpg.parameters import Parameters
from roost._drivers.asyncpg.sockets import set_options
from roost._drivers.hosts import order_hosts, record_attempt
from roost._drivers.prepared import PreparedStatements
from roost.exceptions import DatabaseUnavailableError, InvalidSettingError


async def connect(
    parameters: Parameters, *, application_name: str, prepared: PreparedStatements
) -> asyncpg.Connection:
    """Connect to the first usable host.

    :param application_name: used unless the DSN sets one.
    :raises DatabaseUnavailableError: no host can be reached.
    :raises DatabaseError: a host refuses, for instance the password.
    :raises InvalidSettingError: the DSN can't be read.
    """
    if len(parameters.dsns) == 1:
        return await _connect_to(parameters.dsns[0], parameters, application_name, prepared)
    failures: list[DatabaseUnavailableError] = []
    for dsn in order_hosts(parameters.dsns, key=str):
        try:
            with record_attempt(dsn):
                return await _connect_to(dsn, parameters, application_name, prepared)
        except DatabaseUnavailableError as error:
            failures.append(error)
    raise DatabaseUnavailableError(
        "no host can be used: " + "; ".join(map(str, failures)),
        sqlstate=failures[-1].sqlstate,
    ) from failures[-1].__cause__


async def _connect_to(
    dsn: str, parameters: Parameters, application_name: str, prepared: PreparedStatements
) -> asyncpg.Connection:
    try:
        raw = await asyncpg.connect(
            dsn,
            timeout=parameters.timeout,
            statement_cache_size=parameters.statement_cache_size if prepared.allowed else 0,
            server_settings={"application_name": parameters.application_name or application_name},
        )
    except asyncpg.ClientConfigurationError as error:
        raise InvalidSettingError(f"the DSN can't be used: {error}") from None
    except ERRORS as error:
        raise translate(error, connecting=True) from error
    except ValueError:  # its message quotes parts of the DSN, which may be the password
        raise InvalidSettingError("the DSN can't be read: it is malformed") from None
    set_options(raw, parameters.socket_options)
    return raw


async def is_behind_pooler(raw: asyncpg.Connection) -> bool:
    """Say whether a pooler stands before the server.

    A pooler invents the process id that a cancel request names. The server answers with an error
    and not with a row, because asyncpg reads rows only from prepared statements.
    """
    try:
        await raw.execute(f"select 1 / (pg_backend_pid() = {int(raw.get_server_pid())})::integer")
    except asyncpg.DivisionByZeroError:
        return True
    except ERRORS as error:
        raise translate(error, connecting=True) from error
    return False


def check_loop() -> None:
    """Refuse to run on another loop than asyncio.

    :raises InvalidSettingError: the caller is not an asyncio task.
    """
    try:
        # Ask for the task: in trio's guest mode there is a running asyncio loop too.
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is None:
        raise InvalidSettingError(
            "the asyncpg driver runs on asyncio only; under trio use driver='psycopg'"
        )
