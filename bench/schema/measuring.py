"""Build a variant's table, drain it with some clients, and compare the rounds of several."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import TypeAlias

import attrs
import psycopg
from bench.schema.texts import PICK_LAZY, SETTLE_PLAIN, TABLE, claim
from psycopg import pq


@attrs.frozen
class Variant:
    """One way to build the table and to run a cycle."""

    name: str
    claim: str = claim(PICK_LAZY)
    settle: str = SETTLE_PLAIN
    ddl: str = ""
    """Run after TABLE."""
    edit: tuple[tuple[str, str], ...] = ()
    """Replacements in TABLE and, for predicates, in every statement."""
    result: str | None = None
    fill: str = ""
    """Run after the due jobs are in."""

    def text(self, sql: str) -> str:
        """Return `sql` for this variant's schema."""
        for old, new in self.edit:
            sql = sql.replace(old, new)
        return sql.replace("roost.", f"bench_{self.name}.")


FILL = """
insert into roost.jobs (queue, task, args, priority, scheduled_at)
select 'default', 'mail.send', '{"to": "somebody@example.org", "template": 17}', @priority,
    now() - interval '1 hour' + i * interval '1 millisecond'
from generate_series(1, @jobs) i;
"""


Ends: TypeAlias = "mp.Queue[tuple[int, float]]"
"""Where the clients put how many jobs they did and the CPU seconds of their server process."""


@attrs.frozen
class Round:
    """Jobs per second; the server's CPU microseconds and WAL bytes per job."""

    rate: float
    cpu: float
    wal: float


@attrs.frozen
class Load:
    """What a round does: `jobs` due jobs at `priority`, `batch` per claim, `clients` processes."""

    jobs: int
    batch: int
    clients: int
    queues: str = "{default}"
    priority: int = 0


def build(conn: psycopg.Connection, variant: Variant) -> None:
    """Make the variant's schema afresh."""
    conn.execute(f"drop schema if exists bench_{variant.name} cascade".encode())
    conn.execute(f"create schema bench_{variant.name}".encode())
    conn.execute(variant.text(TABLE + variant.ddl).encode())


def fill(conn: psycopg.Connection, variant: Variant, load: Load) -> None:
    """Empty the table, put the jobs of `load` in, and vacuum."""
    text = FILL.replace("@jobs", str(load.jobs)).replace("@priority", str(load.priority))
    conn.execute(variant.text("truncate roost.jobs, roost.dependencies").encode())
    conn.execute(variant.text(text + variant.fill).encode())
    conn.execute(variant.text("vacuum analyze roost.jobs").encode())
    conn.execute(variant.text("vacuum analyze roost.dependencies").encode())


def ok(result: pq.abc.PGresult) -> pq.abc.PGresult:
    """Return the result, or raise what the server said."""
    if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
        raise RuntimeError(result.error_message.decode())
    return result


def claim_once(raw: pq.abc.PGconn, load: Load, worker: int) -> tuple[list[bytes], list[bytes]]:
    """Return the ids and lease numbers of one claim."""
    params = [load.queues.encode(), str(load.batch).encode(), str(worker).encode()]
    got = ok(raw.exec_prepared(b"claim", params))
    at = next(i for i in range(got.nfields) if got.fname(i) == b"id")
    pairs = [(got.get_value(row, at), got.get_value(row, at + 1)) for row in range(got.ntuples)]
    return [id_ for id_, _ in pairs if id_], [lease for _, lease in pairs if lease]


def cycle(dsn: str, cycled: tuple[Variant, Load], worker: int, gate: Barrier, out: Ends) -> None:
    """Claim and settle until nothing is left, at libpq's level so that Python costs little."""
    variant, load = cycled
    value = b"null"
    if variant.result is not None:
        value = b'"' + variant.result.replace('"', '\\"').encode() + b'"'
    with psycopg.connect(dsn, autocommit=True) as conn:
        raw = conn.pgconn
        ok(raw.prepare(b"claim", variant.text(variant.claim).encode()))
        ok(raw.prepare(b"settle", variant.text(variant.settle).encode()))
        done = 0
        gate.wait()
        started = cpu_seconds(conn.info.backend_pid)
        while True:
            ids, leases = claim_once(raw, load, worker)
            if not ids:
                break
            lists = [b"{" + b",".join(x) + b"}" for x in (ids, leases, [value] * len(ids))]
            settled = ok(raw.exec_prepared(b"settle", [str(worker).encode(), *lists]))
            if settled.ntuples != len(ids):
                raise RuntimeError("a settle missed a row")
            done += len(ids)
        out.put((done, cpu_seconds(conn.info.backend_pid) - started))


def measure(conn: psycopg.Connection, dsn: str, variant: Variant, load: Load) -> Round:
    """Return what one round came to."""
    fill(conn, variant, load)
    gate = mp.Barrier(load.clients + 1)
    out: Ends = mp.Queue()
    lanes = [
        mp.Process(target=cycle, args=(dsn, (variant, load), i + 1, gate, out), daemon=True)
        for i in range(load.clients)
    ]
    for lane in lanes:
        lane.start()
    before = wal(conn)
    gate.wait(timeout=30)
    started = time.perf_counter()
    ends = [out.get(timeout=120) for _ in lanes]
    total = sum(done for done, _ in ends)
    seconds = time.perf_counter() - started
    written = wal(conn) - before
    for lane in lanes:
        lane.join()
    if total != load.jobs:
        raise RuntimeError(f"{variant.name}: {total} of {load.jobs} jobs were done")
    cpu = sum(used for _, used in ends)
    return Round(rate=total / seconds, cpu=cpu / total * 1e6, wal=written / total)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a server process: steadier than the clock on a shared machine."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def wal(conn: psycopg.Connection) -> int:
    """Return the position in the WAL, in bytes."""
    row = conn.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return int(row[0])


def compare(dsn: str, title: str, variants: Sequence[Variant], load: Load, rounds: int) -> None:
    """Run `rounds` alternating rounds of each variant and print the ratios."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for variant in variants:
            build(conn, variant)
            runs: dict[str, list[Round]] = {v.name: [] for v in variants}
        for turn in range(rounds):
            for variant in variants if turn % 2 == 0 else reversed(variants):
                runs[variant.name].append(measure(conn, dsn, variant, load))
    print(
        f"\n{title}: batch {load.batch}, {load.clients} clients, {load.jobs} jobs, {rounds} rounds"
    )
    base = runs[variants[0].name]
    for name, got in runs.items():
        rate, cpu = median(r.rate for r in got), median(r.cpu for r in got)
        print(
            f"  {name:<16} rate x{rate / median(r.rate for r in base):4.2f} {rate:8,.0f} jobs/s"
            f" (best {max(r.rate for r in got):,.0f})"
            f"  cpu x{cpu / median(r.cpu for r in base):4.2f} {cpu:5.1f} us/job"
            f"  {median(r.wal for r in got):6,.0f} WAL bytes/job",
            flush=True,
        )
