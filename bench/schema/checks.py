"""Check that a claim keeps the order, fills its batch, and locks only what it returns."""

from __future__ import annotations

import multiprocessing as mp
import time
from multiprocessing.synchronize import Event
from statistics import median

import psycopg
from bench.schema.measuring import FILL, Load, Variant, build, claim_once, fill, ok
from bench.schema.texts import WAITING
from psycopg import pq

SEED = """
truncate roost.jobs;
insert into roost.jobs (queue, task, args, priority, scheduled_at, state, pending_parents)
select (array['a', 'b', 'c'])[1 + floor(random() * 3)], 't', '{}',
    (array[0, 1, 5])[1 + floor(random() * 3)],
    now() + floor(random() * 2000 - 1500) * interval '1 minute',
    (array['available', 'retryable', 'completed'])[1 + floor(random() * 3)], (random() < 0.1)::int
from generate_series(1, 3000);
analyze roost.jobs"""
DUE_IDS = f"""
select id from roost.jobs where {WAITING} and scheduled_at <= now()
order by priority, scheduled_at, id"""


def check(dsn: str, variant: Variant) -> None:
    """Print whether a claim keeps the order, fills its batch past locks, and locks no more."""
    with (
        psycopg.connect(dsn, autocommit=True) as conn,
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn) as second,
    ):

        def ids(extra: str = "") -> list[int]:
            return [row[0] for row in conn.execute(variant.text(DUE_IDS + extra).encode())]

        def take(claimer: psycopg.Connection, batch: int = 100) -> list[int]:
            load = Load(0, batch, 1, queues="{a,b,c}")
            return [int(id_) for id_ in claim_once(claimer.pgconn, load, 1)[0]]

        build(conn, variant)
        conn.execute(variant.text(SEED).encode())
        for claimer in (first, second):
            ok(claimer.pgconn.prepare(b"claim", variant.text(variant.claim).encode()))
            claimer.execute("select 1")
        expected = ids()
        # Nearly all of the first priority: what is left of it is less than a share.
        alone = take(first, 400)
        others = take(second)
        free = ids(" for update skip locked")
        rest: list[int] = []
        first.commit()
        second.commit()
        while got := take(first):
            rest += got
        first.commit()
    in_order = alone == expected[:400] and rest == sorted(rest, key=expected.index)
    print(
        f"  {variant.name:<12} order {'kept' if in_order else 'LOST'},"
        f" {len(others)} of 100 during another claim,"
        f" {len(set(expected) - {*free, *alone, *others})} rows locked in vain,"
        f" {len({*alone} & {*others})} twice, {len(expected) - len({*alone, *others, *rest})} lost",
        flush=True,
    )


def check_race(dsn: str, variant: Variant) -> None:
    """Print how many rows a claim locked and didn't return while another client updates them."""
    load = Load(0, 300, 1)
    with (
        psycopg.connect(dsn, autocommit=True) as conn,
        psycopg.connect(dsn, autocommit=True) as claimer,
    ):
        build(conn, variant)
        fill(conn, variant, Load(400, 300, 1))
        ok(claimer.pgconn.prepare(b"claim", variant.text(variant.claim).encode()))
        ended = mp.Event()
        writer = mp.Process(target=touch, args=(dsn, variant, ended), daemon=True)
        writer.start()
        in_vain = claims = 0
        until = time.monotonic() + 6
        while time.monotonic() < until:
            claimer.execute("begin")
            got = len(claim_once(claimer.pgconn, load, 1)[0])
            claims += 1
            if got < load.batch:
                lock = variant.text(f"{DUE_IDS} for update skip locked").encode()
                in_vain += 400 - got - len(conn.execute(lock).fetchall())
            claimer.execute("rollback")
        ended.set()
        writer.join()
    print(f"  {variant.name:<12} {claims} claims during updates: {in_vain} rows locked in vain")


def touch(dsn: str, variant: Variant, ended: Event) -> None:
    """Update waiting rows, one a transaction, as a caller who edits metadata would."""
    sql = "update roost.jobs set metadata = '{}' where id = $1::bigint and state = 'available'"
    with psycopg.connect(dsn, autocommit=True) as conn:
        low = conn.execute(variant.text("select min(id) from roost.jobs").encode()).fetchone()
        ok(conn.pgconn.prepare(b"touch", variant.text(sql).encode()))
        at = 0
        while low and not ended.is_set():
            at = (at + 37) % 400
            ok(conn.pgconn.exec_prepared(b"touch", [str(low[0] + at).encode()]))


def check_cold(dsn: str, variant: Variant) -> None:
    """Print what plans cached on an empty, vacuumed table cost when jobs arrive."""
    load = Load(100_000, 50, 1)
    with psycopg.connect(dsn, autocommit=True) as conn:
        build(conn, variant)
        # As in the first minute, before autovacuum has run.
        conn.execute(variant.text("alter table roost.jobs set (autovacuum_enabled = off)").encode())
        conn.execute(variant.text("vacuum analyze roost.jobs").encode())
        raw = conn.pgconn
        ok(raw.prepare(b"claim", variant.text(variant.claim).encode()))
        ok(raw.prepare(b"settle", variant.text(variant.settle).encode()))
        for _ in range(12):
            claim_and_settle(raw, load)
        text = FILL.replace("@jobs", str(load.jobs)).replace("@priority", "0")
        conn.execute(variant.text(text).encode())
        for what in ("cached on an empty table", "after discard plans"):
            times = [claim_and_settle(raw, load) for _ in range(5)]
            claiming, settling = (median(t[i] for t in times) * 1e3 for i in (0, 1))
            print(
                f"  {variant.name:<12} {what}: claim {claiming:,.1f} ms, settle {settling:,.1f} ms"
            )
            conn.execute("discard plans")


def claim_and_settle(raw: pq.abc.PGconn, load: Load) -> tuple[float, float]:
    """Return the seconds that a claim and its settle took."""
    start = time.perf_counter()
    ids, leases = claim_once(raw, load, 1)
    between = time.perf_counter()
    lists = [b"{" + b",".join(x) + b"}" for x in (ids, leases, [b"null"] * len(ids))]
    ok(raw.exec_prepared(b"settle", [b"1", *lists]))
    return between - start, time.perf_counter() - between
