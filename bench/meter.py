"""Measure what work costs the server: its log, transactions, rows and CPU time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Self

import attrs
import psycopg
from bench.schema.measuring import cpu_seconds, wal

GONE = 10.0
"""Seconds to wait for the sessions of a process that has ended: they report at their end."""


@attrs.frozen(kw_only=True)
class Cost:
    """The work of the server between two readings.

    :param wal: bytes of write-ahead log, of which ``pages`` are images of whole pages: the first
        change of a page after a checkpoint writes one.
    :param dead: row versions that an update or delete left behind.
    :param hot: updates that touched no index.
    :param cpu: seconds of all the server's processes; ``None``: it runs on another machine.
    """

    wal: float
    records: float
    pages: float
    commits: float
    updates: float
    hot: float
    dead: float
    cpu: float | None

    def __sub__(self, other: Self) -> Cost:
        less, rest = attrs.asdict(other), {}
        for name, value in attrs.asdict(self).items():
            rest[name] = None if value is None else value - less[name]
        return _cost(rest)

    def per(self, jobs: int) -> Cost:
        """Return the cost for each of ``jobs`` jobs."""
        shares = {}
        for name, value in attrs.asdict(self).items():
            shares[name] = None if value is None else value / jobs
        return _cost(shares)


def _cost(values: dict[str, Any]) -> Cost:
    return Cost(**values)


@attrs.frozen
class Meter:
    """Read the statistics of one database from another one, so that reading is not counted.

    :param conn: a connection to another database of the same server.
    """

    conn: psycopg.Connection
    database: str

    def read(self) -> Cost:
        """Wait until the database has no session, and return the sums so far."""
        until = time.monotonic() + GONE
        while self.sessions() and time.monotonic() < until:
            time.sleep(0.01)
        self.conn.execute("select pg_stat_clear_snapshot()")
        row = self.conn.execute(
            "select (select wal_records from pg_stat_wal), (select wal_fpi from pg_stat_wal),"
            " xact_commit from pg_stat_database where datname = %s",
            (self.database,),
        ).fetchone()
        assert row is not None
        return Cost(
            wal=wal(self.conn),
            records=row[0],
            pages=row[1],
            commits=row[2],
            updates=0,
            hot=0,
            dead=0,
            cpu=server_cpu(self.conn),
        )

    def sessions(self) -> int:
        """Return how many clients are connected to the database."""
        row = self.conn.execute(
            "select count(*) from pg_stat_activity"
            " where datname = %s and backend_type = 'client backend'",
            (self.database,),
        ).fetchone()
        assert row is not None
        return int(row[0])


def with_rows(cost: Cost, dsn: str) -> Cost:
    """Return the same with the sums over all tables, which only a session inside can see."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(
            "select sum(n_tup_upd), sum(n_tup_hot_upd), sum(n_tup_upd + n_tup_del)"
            " from pg_stat_user_tables"
        ).fetchone()
    assert row is not None
    updates, hot, dead = (float(value or 0) for value in row)
    return attrs.evolve(cost, updates=updates, hot=hot, dead=dead)


def server_cpu(conn: psycopg.Connection) -> float | None:
    """Return the CPU seconds of the server: its processes', and of those that have ended."""
    try:
        postmaster = _parent(conn.info.backend_pid)
        ended = Path(f"/proc/{postmaster}/stat").read_text().rpartition(")")[2].split()[13:15]
    except OSError:
        return None
    used = cpu_seconds(postmaster) + sum(int(ticks) for ticks in ended) / 100
    for stat in Path("/proc").glob("[0-9]*/stat"):
        pid = int(stat.parent.name)
        try:
            if _parent(pid) == postmaster:
                used += cpu_seconds(pid)
        except OSError:
            continue  # ended just now
    return used


def _parent(pid: int) -> int:
    # After the name, which may hold anything: state, parent, …
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
