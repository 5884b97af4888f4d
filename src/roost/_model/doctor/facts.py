"""What the doctor reads of a database, before it judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, TypeVar

import attrs

from roost._model.cron import CronInfo
from roost._model.info import QueueInfo

T = TypeVar("T")


@attrs.frozen
class Unseen:
    """A part that could not be read.

    :param needless: whether another finding says why, so that this one is left out.
    """

    reason: str
    needless: bool = False


Seen: TypeAlias = T | Unseen


@attrs.frozen(kw_only=True)
class ConnectionFacts:
    """A few round trips.

    :param client_pid: the server process that the driver was told of when it connected.
    :param server_pids: those that answered.
    :param round_trip: seconds of the fastest.
    :param now: the database's clock.
    :param clock_ahead: seconds that the database's clock is ahead of this machine's.
    :param clock_error: seconds by which that may be wrong.
    """

    client_pid: int | None
    server_pids: Sequence[int]
    round_trip: float
    now: datetime
    clock_ahead: float
    clock_error: float


@attrs.frozen(kw_only=True)
class ServerFacts:
    """The server, and who asks."""

    role: str
    database: str
    version: str
    in_recovery: bool
    encoding: str
    notify_queue_usage: float


@attrs.frozen(kw_only=True)
class ConnectionLimits:
    """Open connections and the most that are allowed; -1: no limit."""

    server: int
    server_limit: int
    database: int
    database_limit: int
    role: int
    role_limit: int


@attrs.frozen(kw_only=True)
class SchemaFacts:
    """The versions of the schema; ``error`` says why this code can't work with it."""

    version: int | None
    newest: int
    error: str | None


@attrs.frozen(kw_only=True)
class Relation:
    """A table (``r``) or index (``i``) as the catalog and the statistics describe it."""

    name: str
    kind: str
    valid: bool
    bytes: int
    rows: float
    pages: int
    live: int
    dead: int
    vacuumed_seconds_ago: float | None
    autovacuum_off: bool


@attrs.frozen(kw_only=True)
class SchemaObjects:
    """The objects of this database; of the functions the md5 of each body."""

    relations: Sequence[Relation]
    functions: Mapping[str, str]


@attrs.frozen(kw_only=True)
class ExpectedObjects:
    """The objects of a database whose schema has the version that this code brings.

    :param indexes: by name, the statement that creates each; ``""``: its table creates it.
    :param functions: by name, the md5 of its body.
    """

    tables: frozenset[str]
    indexes: Mapping[str, str]
    functions: Mapping[str, str]


@attrs.frozen(kw_only=True)
class RoleRights:
    """The rights of a documented role as pairs of verb and object."""

    name: str
    required: frozenset[tuple[str, str]]
    optional: frozenset[tuple[str, str]]


@attrs.frozen(kw_only=True)
class RightsFacts:
    """What the connected role may do, and what the documented roles may."""

    owns_schema: bool
    held: frozenset[tuple[str, str]]
    roles: Sequence[RoleRights]


@attrs.frozen(kw_only=True)
class Transaction:
    """An open transaction that vacuum waits for."""

    pid: int
    role: str | None
    application: str | None
    state: str | None
    seconds: float


@attrs.frozen(kw_only=True)
class Transactions:
    """The long ones, and how many sessions this role may not look at."""

    long: Sequence[Transaction]
    hidden: int


@attrs.frozen(kw_only=True)
class Slot:
    """A replication slot. ``kept_transactions``: how far back it keeps dead rows."""

    name: str
    active: bool
    kept_transactions: int | None
    kept_bytes: int | None


@attrs.frozen(kw_only=True)
class PreparedTransaction:
    """A transaction that was prepared for two-phase commit and not ended."""

    gid: str
    role: str
    seconds: float


@attrs.frozen(kw_only=True)
class WorkerFacts:
    """A worker's row. ``expired_seconds`` is negative while the worker counts as alive."""

    id: int
    name: str
    queues: Sequence[str]
    tasks: Sequence[str]
    paused: Sequence[str]
    fires_cron: bool
    version: str | None
    loop_lag: float
    heartbeat_seconds: float
    expired_seconds: float
    executing: int

    @property
    def living(self) -> bool:
        """Whether its heartbeat has not expired."""
        return self.expired_seconds < 0


@attrs.frozen(kw_only=True)
class Orphans:
    """Running jobs of workers that are gone."""

    jobs: int
    oldest_seconds: float | None


@attrs.frozen(kw_only=True)
class UnknownTaskFacts:
    """Due jobs of a served queue whose task no living worker of the queue knows."""

    queue: str
    task: str
    jobs: int
    oldest_seconds: float


@attrs.frozen(kw_only=True)
class Facts:
    """All that was read; each part may be `Unseen`.

    :param notify: seconds that a notification took; ``None``: it did not arrive.
    :param expected: unseen if the schema has another version than this code brings.
    """

    connection: ConnectionFacts
    notify: Seen[float | None]
    server: Seen[ServerFacts]
    settings: Seen[Mapping[str, str]]
    limits: Seen[ConnectionLimits]
    schema: Seen[SchemaFacts]
    objects: Seen[SchemaObjects]
    expected: Seen[ExpectedObjects]
    rights: Seen[RightsFacts]
    transactions: Seen[Transactions]
    slots: Seen[Sequence[Slot]]
    prepared: Seen[Sequence[PreparedTransaction]]
    workers: Seen[Sequence[WorkerFacts]]
    orphans: Seen[Orphans]
    queues: Seen[Sequence[QueueInfo]]
    unknown_tasks: Seen[Sequence[UnknownTaskFacts]]
    cron: Seen[Sequence[CronInfo]]
