"""Read what the doctor judges: small statements on catalogs, statistics and short tables.

Each part is bounded by a timeout and read by itself, so that a missing right, or a lock, leaves out
one part only. None reads all jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

from roost._model.doctor.facts import (
    ConnectionFacts,
    ConnectionLimits,
    ExpectedObjects,
    Orphans,
    PreparedTransaction,
    Relation,
    RightsFacts,
    RoleRights,
    SchemaFacts,
    SchemaObjects,
    ServerFacts,
    Slot,
    Transaction,
    Transactions,
    UnknownTaskFacts,
    WorkerFacts,
)
from roost._model.doctor.server import HURTFUL
from roost._ops import schema
from roost._ops.query import Op, Query, T
from roost._ops.unknown_tasks import find_unknown_tasks
from roost._sql import statements
from roost._sql.expected import expected_schema
from roost._sql.roles import Right, documented_roles
from roost.exceptions import DatabaseError, SchemaError

_SQL = statements("doctor")

STATEMENT_TIMEOUT = 5_000
"""Milliseconds that one statement may take."""
LOCK_WAIT = 500
"""Milliseconds that one statement waits for a lock."""
CHANNEL = "roost_doctor"
PROBES = 5
"""Round trips that are timed."""
OPEN_SINCE = 60.0
"""Seconds; transactions that are open for less are left out."""
EVERY_WORKER = 0
"""In place of a worker's id: no worker is older, so all queues are checked."""


def bounded(operation: Op[T]) -> Op[T]:
    """Run an operation, in a transaction, whose statements end after `STATEMENT_TIMEOUT`."""
    yield Query(_SQL["bound"], (str(STATEMENT_TIMEOUT), str(LOCK_WAIT)))
    return (yield from operation)


def read_connection(client_pid: int | None, clock: Callable[[], float]) -> Op[ConnectionFacts]:
    """Time a few round trips, and compare the clocks. Not in a transaction.

    :param client_pid: the server process that the driver was told of when it connected.
    :param clock: seconds since 1970 by this machine's clock.
    """
    trips = []
    pids = []
    for _ in range(PROBES):
        sent = clock()
        [(pid, now)] = yield Query(_SQL["probe"])
        received = clock()
        pids.append(pid)
        trips.append((abs(received - sent), now, (sent + received) / 2))
    seconds, now, here = min(trips)
    return ConnectionFacts(
        client_pid=client_pid,
        server_pids=pids,
        round_trip=seconds,
        now=datetime.fromtimestamp(trips[-1][1], UTC),
        clock_ahead=now - here,
        clock_error=seconds / 2,
    )


def notify(token: str) -> Op[None]:
    """Send a notification to the doctor's own listening connection."""
    yield Query(_SQL["notify"], (token,))


def read_server() -> Op[ServerFacts]:
    """Read what kind of server it is."""
    [(role, database, version, in_recovery, encoding, usage)] = yield Query(_SQL["server"])
    return ServerFacts(
        role=role,
        database=database,
        version=version,
        in_recovery=in_recovery,
        encoding=encoding,
        notify_queue_usage=usage,
    )


def read_settings() -> Op[Mapping[str, str]]:
    """Read the settings that can hurt; those that the server does not have are left out."""
    rows = yield Query(_SQL["settings"], (list(HURTFUL),))
    return {name: value for name, value in rows if value is not None}


def read_limits() -> Op[ConnectionLimits]:
    """Read how many connections are open, and how many may be."""
    [(server, server_limit, database, database_limit, role, role_limit)] = yield Query(
        _SQL["connections"]
    )
    return ConnectionLimits(
        server=server or 0,
        server_limit=server_limit,
        database=database or 0,
        database_limit=database_limit,
        role=role,
        role_limit=role_limit,
    )


def read_schema() -> Op[SchemaFacts]:
    """Read the version of the schema, and whether this code can work with it."""
    error = None
    try:
        yield from schema.check()
    except SchemaError as refused:
        error = str(refused)
    applied = [step.version for step in (yield from schema.status()) if step.applied]
    return SchemaFacts(version=max(applied, default=None), newest=schema.newest(), error=error)


def read_objects() -> Op[SchemaObjects]:
    """Read the tables, indexes and functions that there are."""
    relations = yield Query(_SQL["relations"])
    functions = yield Query(_SQL["functions"])
    return SchemaObjects(
        relations=[
            Relation(
                name=name,
                kind=kind,
                valid=valid,
                bytes=size,
                rows=rows,
                pages=pages,
                live=live,
                dead=dead,
                vacuumed_seconds_ago=vacuumed,
                autovacuum_off=off,
            )
            for name, kind, valid, size, rows, pages, live, dead, vacuumed, off in relations
        ],
        functions=dict(functions),
    )


def expected_objects() -> ExpectedObjects:
    """Return what a database has whose schema is as new as this code. Reads nothing."""
    expected = expected_schema()
    return ExpectedObjects(
        tables=expected.tables, indexes=expected.indexes, functions=expected.functions
    )


def read_rights() -> Op[RightsFacts]:
    """Read what this role may do with each object of the schema."""
    rows = yield Query(_SQL["rights"])
    tables = [name for kind, name, _, _ in rows if kind == "table"]
    objects = {name for _, name, _, _ in rows}
    return RightsFacts(
        owns_schema=any(owns for *_, owns in rows),
        held=frozenset((verb, name) for _, name, verbs, _ in rows for verb in verbs),
        roles=[
            RoleRights(
                name=role.name,
                required=_pairs(role.required, tables, objects),
                optional=_pairs(role.optional, tables, objects),
            )
            for role in documented_roles()
        ],
    )


def _pairs(
    rights: frozenset[Right], tables: Sequence[str], objects: Collection[str]
) -> frozenset[tuple[str, str]]:
    """Return the rights as pairs; a right on all tables as one on each.

    Without those on objects that are missing, or that a newer schema has dropped: other checks say
    so, and they can't be granted.
    """
    return frozenset(
        (right.verb, name)
        for right in rights
        for name in (tables if right.object == "*" else [right.object])
        if name in objects
    )


def read_transactions() -> Op[Transactions]:
    """Read the transactions of this database that are open for long."""
    rows = yield Query(_SQL["transactions"], (OPEN_SINCE,))
    [(hidden,)] = yield Query(_SQL["hidden_sessions"])
    return Transactions(
        long=[
            Transaction(pid=pid, role=role, application=application, state=state, seconds=seconds)
            for pid, role, application, state, seconds in rows
        ],
        hidden=hidden,
    )


def read_slots() -> Op[Sequence[Slot]]:
    """Read the replication slots of the server."""
    rows = yield Query(_SQL["slots"])
    return [
        Slot(name=name, active=active, kept_transactions=transactions, kept_bytes=log)
        for name, active, transactions, log in rows
    ]


def read_prepared() -> Op[Sequence[PreparedTransaction]]:
    """Read the transactions of this database that are prepared for long."""
    rows = yield Query(_SQL["prepared"], (OPEN_SINCE,))
    return [PreparedTransaction(gid=gid, role=role, seconds=seconds) for gid, role, seconds in rows]


def read_workers() -> Op[Sequence[WorkerFacts]]:
    """Read the rows of the workers, and how many jobs each runs."""
    rows = yield Query(_SQL["workers"])
    return [
        WorkerFacts(
            id=worker_id,
            name=name,
            queues=queues,
            tasks=tasks,
            paused=paused,
            fires_cron=fires_cron,
            version=version,
            loop_lag=loop_lag,
            heartbeat_seconds=heartbeat,
            expired_seconds=expired,
            executing=executing,
        )
        for (
            worker_id,
            name,
            queues,
            tasks,
            paused,
            fires_cron,
            version,
            loop_lag,
            heartbeat,
            expired,
            executing,
        ) in rows
    ]


def read_orphans() -> Op[Orphans]:
    """Count the running jobs whose worker is gone."""
    [(jobs, seconds)] = yield Query(_SQL["orphans"])
    return Orphans(jobs=jobs, oldest_seconds=seconds)


def read_unknown_tasks(queues: Sequence[str]) -> Op[Sequence[UnknownTaskFacts]]:
    """Find due jobs of these queues whose task no living worker of the queue knows."""
    found = yield from find_unknown_tasks(EVERY_WORKER, queues=queues)
    return [
        UnknownTaskFacts(
            queue=each.queue,
            task=each.task,
            jobs=each.jobs,
            oldest_seconds=each.oldest_seconds,
        )
        for each in found
    ]


def why_not(error: DatabaseError) -> str:
    """Return the reason for which a part could not be read."""
    return str(error).splitlines()[0]
