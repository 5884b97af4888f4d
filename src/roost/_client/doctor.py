"""Examine a database: read the facts part by part on one connection, then judge them.

Both clients and the command ``roost doctor`` do it here.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import anyio
import attrs

from roost._client import reading_calls
from roost._client.calls import DatabaseCall
from roost._client.steps import Steps, run_steps, run_steps_sync
from roost._drivers.base import (
    AsyncConnection,
    AsyncDriver,
    AsyncPool,
    Connection,
    SyncDriver,
    SyncPool,
    backend_pid,
    run,
    run_sync,
)
from roost._model.doctor.diagnose import diagnose
from roost._model.doctor.facts import ExpectedObjects, Facts, SchemaFacts, Seen, Unseen
from roost._model.doctor.finding import Finding
from roost._ops import doctor, read
from roost._ops.query import Op
from roost.exceptions import DatabaseError

T = TypeVar("T")

NOTIFY_TIMEOUT = 2.0
"""Seconds to wait for a notification."""
CONNECT_TIMEOUT = 5.0
"""Seconds to open the listening connection."""
PART_TIMEOUT = 10.0
"""Seconds for one part, in case the server does not end it by itself."""

APPLICATION = "roost doctor"
"""The ``application_name`` of the listening connection."""

NO_SCHEMA = Unseen("there is no schema", needless=True)
OTHER_VERSION = Unseen("the schema has another version than this code", needless=True)
NOT_TRIED = Unseen("not tried")
NOT_CONNECTED = Unseen(f"no listening connection within {CONNECT_TIMEOUT:g} s")


def read_parts(client_pid: int | None) -> Steps[Facts]:
    """Read all parts but the notification; a part that fails becomes `Unseen`.

    :raises DatabaseError: the database answers nothing.
    """
    connection = yield DatabaseCall(
        doctor.read_connection(client_pid, time.time), timeout=PART_TIMEOUT
    )
    server = yield from _part(doctor.read_server())
    schema = yield from _part(doctor.read_schema())
    there = isinstance(schema, Unseen) or schema.version is not None
    found: dict[str, Any] = {
        "settings": (yield from _part(doctor.read_settings())),
        "limits": (yield from _part(doctor.read_limits())),
        "transactions": (yield from _part(doctor.read_transactions())),
        "slots": (yield from _part(doctor.read_slots())),
        "prepared": (yield from _part(doctor.read_prepared())),
    }
    of_schema: dict[str, Op[Any]] = {
        "objects": doctor.read_objects(),
        "rights": doctor.read_rights(),
        "workers": doctor.read_workers(),
        "orphans": doctor.read_orphans(),
        "queues": read.list_queues(),
        "cron": reading_calls.list_cron().operation,
    }
    for name, operation in of_schema.items():
        found[name] = (yield from _part(operation)) if there else NO_SCHEMA
    found["expected"] = _expected(schema)
    queues, workers = found["queues"], found["workers"]
    found["unknown_tasks"] = workers if isinstance(workers, Unseen) else queues
    if not isinstance(found["unknown_tasks"], Unseen):
        served = {name for worker in workers if worker.living for name in worker.queues}
        due = [queue.name for queue in queues if queue.oldest_due_seconds is not None]
        names = [name for name in due if name in served]
        found["unknown_tasks"] = yield from _part(doctor.read_unknown_tasks(names))
    return Facts(connection=connection, notify=NOT_TRIED, server=server, schema=schema, **found)


def _expected(schema: Seen[SchemaFacts]) -> Seen[ExpectedObjects]:
    """Return the objects that there should be. Of another version this code does not know them."""
    if isinstance(schema, Unseen) or schema.version == schema.newest:
        return doctor.expected_objects()
    return OTHER_VERSION


def _part(operation: Op[T]) -> Steps[Seen[T]]:
    """Read one part in a transaction of its own."""
    call = DatabaseCall(doctor.bounded(operation), in_transaction=True, timeout=PART_TIMEOUT)
    try:
        seen: T = yield call
    except DatabaseError as error:
        return Unseen(doctor.why_not(error))
    return seen


async def examine(driver: AsyncDriver, pool: AsyncPool) -> list[Finding]:
    """Examine the database on a connection of ``pool``, and one that listens.

    :raises DatabaseError: the database can't be reached, or answers nothing.
    """
    async with pool.acquire() as connection:
        steps = read_parts(backend_pid(connection))
        facts = await run_steps(steps, partial(_perform, connection))
        try:
            notified = await _time_notification(driver, connection)
        except DatabaseError as error:
            notified = Unseen(doctor.why_not(error))
    return diagnose(attrs.evolve(facts, notify=notified))


async def _perform(connection: AsyncConnection, call: DatabaseCall[Any]) -> Any:
    if not call.in_transaction:
        return await run(connection, call.operation, timeout=call.timeout)
    async with connection.transaction():
        return await run(connection, call.operation, timeout=call.timeout)


async def _time_notification(
    driver: AsyncDriver, connection: AsyncConnection
) -> Seen[float | None]:
    token = secrets.token_hex(8)
    with anyio.move_on_after(CONNECT_TIMEOUT):
        async with driver.listener([doctor.CHANNEL], application_name=APPLICATION) as listener:
            began = anyio.current_time()
            with anyio.move_on_after(NOTIFY_TIMEOUT):
                await run(connection, doctor.notify(token))
                while True:
                    if any(each.payload == token for each in await listener.receive()):
                        return anyio.current_time() - began
            return None
    return NOT_CONNECTED


def examine_sync(driver: SyncDriver, pool: SyncPool) -> list[Finding]:
    """Do what `examine` does, blocking."""
    with pool.acquire() as connection:
        steps = read_parts(backend_pid(connection))
        facts = run_steps_sync(steps, partial(_perform_sync, connection))
        try:
            notified = _time_notification_sync(driver, connection)
        except DatabaseError as error:
            notified = Unseen(doctor.why_not(error))
    return diagnose(attrs.evolve(facts, notify=notified))


def _perform_sync(connection: Connection, call: DatabaseCall[Any]) -> Any:
    if not call.in_transaction:
        return run_sync(connection, call.operation, timeout=call.timeout)
    with connection.transaction():
        return run_sync(connection, call.operation, timeout=call.timeout)


def _time_notification_sync(driver: SyncDriver, connection: Connection) -> Seen[float | None]:
    token = secrets.token_hex(8)
    listener = driver.listener(
        [doctor.CHANNEL], application_name=APPLICATION, timeout=CONNECT_TIMEOUT
    )
    try:
        began = monotonic()
        run_sync(connection, doctor.notify(token))
        while (left := began + NOTIFY_TIMEOUT - monotonic()) > 0:
            if any(each.payload == token for each in listener.receive(timeout=left)):
                return monotonic() - began
        return None
    finally:
        listener.close()
