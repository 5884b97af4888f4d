"""Compare schemas, indexes, settings and statements for claim and settle, on a real Postgres.

Every variant gets a schema of its own. A round fills its table, lets some clients claim and settle
until it is empty, and counts jobs per second and WAL bytes per job. Rounds of all variants
alternate, so that a noisy neighbour hits all of them; the table shows ratios of medians against the
first variant. Only ratios of one run may be compared. It drops and creates schemas `bench_*`.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from statistics import median
from typing import TypeAlias

import attrs
import psycopg
from psycopg import pq

TABLE = """
create table roost.jobs (
    id bigint generated always as identity primary key,
    scheduled_at timestamptz not null default now(),
    inserted_at timestamptz not null default now(),
    worker_id bigint,
    priority int not null default 0,
    attempt int not null default 0,
    max_attempts int not null default 20,
    lease_no int not null default 0,
    pending_parents int not null default 0,
    timeout_seconds int,
    cancel_requested bool not null default false,
    state text not null default 'available' check (state in
        ('available', 'executing', 'retryable', 'completed', 'discarded', 'cancelled')),
    queue text not null,
    task text not null,
    args jsonb not null,
    attempted_at timestamptz,
    completed_at timestamptz,
    cancelled_at timestamptz,
    discarded_at timestamptz,
    unique_key text,
    result jsonb,
    errors jsonb not null default '[]',
    tags text[] not null default '{}',
    depends_on bigint[] not null default '{}',
    metadata jsonb not null default '{}'
) with (fillfactor = 100, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0);
create index jobs_claim on roost.jobs (queue, priority, scheduled_at, id)
    where state in ('available', 'retryable') and pending_parents = 0;
create unique index jobs_unique on roost.jobs (unique_key)
    where unique_key is not null and state in ('available', 'executing', 'retryable');
create index jobs_executing on roost.jobs (worker_id) where state = 'executing';
create table roost.dependencies (parent_id bigint, child_id bigint,
    primary key (parent_id, child_id));
create table roost.workers (id bigint primary key, expires_at timestamptz not null);
insert into roost.workers select i, now() + interval '1 day' from generate_series(1, 64) i;
"""

WAITING = "state in ('available', 'retryable') and pending_parents = 0"

HEAD = f"""
head(queue, priority) as (
    select q.queue, first.priority
    from unnest($1::text[]) as q(queue)
    cross join lateral (
        select jobs.priority from roost.jobs
        where jobs.queue = q.queue and {WAITING}
        order by jobs.priority limit 1
    ) as first
    union all
    select head.queue, next.priority
    from head
    cross join lateral (
        select jobs.priority from roost.jobs
        where jobs.queue = head.queue and jobs.priority > head.priority and {WAITING}
        order by jobs.priority limit 1
    ) as next
)"""

DUE = f"""jobs.queue = head.queue and jobs.priority = head.priority
            and {WAITING} and jobs.scheduled_at <= now()"""

# The first $2 due rows over all heads: exact, but blind to locks.
FIRST = f"""
    select head.queue, head.priority, due.scheduled_at, due.id
    from head
    cross join lateral (
        select jobs.scheduled_at, jobs.id from roost.jobs
        where {DUE}
        order by jobs.scheduled_at, jobs.id limit $2::int
    ) as due
    where @gate
    order by head.priority, due.scheduled_at, due.id limit $2::int"""

PICK_SIMPLE = f"""
with picked as materialized (
    select @key from roost.jobs
    where queue = ($1::text[])[1] and {WAITING} and scheduled_at <= now()
    order by priority, scheduled_at, id limit $2::int
    for update skip locked
)"""

PICK_QUOTA = f"""
with recursive {HEAD},
share(queue, priority, n) as materialized (
    select queue, priority, count(*)::int from ({FIRST}) as first group by queue, priority
),
picked as materialized (
    select due.@key
    from share as head
    cross join lateral (
        select jobs.@key from roost.jobs
        where {DUE}
        order by jobs.scheduled_at, jobs.id limit head.n
        for update skip locked
    ) as due
)"""

# "lazy": the heads in order, pulled lazily: the limit stops the walk and with it the locking. Only
# if two queues share a priority, `share` marks how far each head may go first.
PICK_LAZY = f"""
with recursive {HEAD},
share as materialized (
    select distinct on (queue, priority) queue, priority, scheduled_at, id
    from ({FIRST}) as first
    order by queue, priority, scheduled_at desc, id desc
),
picked as materialized (
    select @key from (
        select due.@key
        from (select * from share order by priority) as head
        cross join lateral (
            select jobs.@key from roost.jobs
            where {DUE} and (jobs.scheduled_at, jobs.id) <= (head.scheduled_at, head.id)
            order by jobs.scheduled_at, jobs.id
            for update skip locked
        ) as due
        union all
        select due.@key
        from (
            select queue, priority, coalesce(share.scheduled_at, '-infinity') as after_at,
                coalesce(share.id, 0) as after_id
            from head left join share using (queue, priority) order by priority
        ) as head
        cross join lateral (
            select jobs.@key from roost.jobs
            where {DUE} and (jobs.scheduled_at, jobs.id) > (head.after_at, head.after_id)
            order by jobs.scheduled_at, jobs.id
            for update skip locked
        ) as due
    ) as pulled
    limit $2::int
)""".replace("@gate", "exists (select from head group by priority having count(*) > 1)")

# "flat": "lazy" with estimates that keep the cached plan, and keep it cheap. `(select $n)` hides a
# parameter, so that a plan for known values never looks better; arrays hold the heads, since the
# planner takes the recursion for 1,010 rows; `limit 1000`, the largest batch, bounds the cost of a
# head. Without these the claim is planned every time, or compiled by the JIT (100-260 ms).
HEADS = (
    HEAD.replace("unnest($1::text[])", "unnest((select $1::text[]))")
    + """,
heads as materialized (
    select array_agg(queue order by priority, queue) as queues,
        array_agg(priority order by priority, queue) as priorities
    from head
)"""
)
UNNEST = "heads cross join lateral unnest(heads.queues, heads.priorities) as head(queue, priority)"
PICK_FLAT = f"""
with recursive {HEADS},
share as materialized (
    select distinct on (due.queue, due.priority)
        due.queue, due.priority, due.scheduled_at as last_at, due.id as last_id
    from (
        select head.queue, head.priority, due.scheduled_at, due.id
        from {UNNEST}
        cross join lateral (
            select jobs.scheduled_at, jobs.id from roost.jobs
            where {DUE}
            order by jobs.scheduled_at, jobs.id limit 1000
        ) as due
        where (select count(*) > count(distinct priority) from head)
        order by head.priority, due.scheduled_at, due.id limit (select $2::int)
    ) as due
    order by due.queue, due.priority, due.scheduled_at desc, due.id desc
),
plan as materialized (
    select array_agg(queue order by priority, queue) as queues,
        array_agg(priority order by priority, queue) as priorities,
        array_agg(last_at order by priority, queue) as last_ats,
        array_agg(last_id order by priority, queue) as last_ids
    from head left join share using (queue, priority)
),
picked as materialized (
    select @key from (
        select due.@key
        from plan
        cross join lateral unnest(plan.queues, plan.priorities, plan.last_ats, plan.last_ids)
            as head(queue, priority, last_at, last_id)
        cross join lateral (
            select jobs.@key from roost.jobs
            where {DUE} and (jobs.scheduled_at, jobs.id) <= (head.last_at, head.last_id)
            order by jobs.scheduled_at, jobs.id limit 1000
            for update skip locked
        ) as due
        union all
        select due.@key
        from plan
        cross join lateral unnest(plan.queues, plan.priorities, plan.last_ats, plan.last_ids)
            as head(queue, priority, last_at, last_id)
        cross join lateral (
            select jobs.@key from roost.jobs
            where {DUE} and (jobs.scheduled_at, jobs.id)
                > (coalesce(head.last_at, '-infinity'), coalesce(head.last_id, 0))
            order by jobs.scheduled_at, jobs.id limit 1000
            for update skip locked
        ) as due
    ) as pulled
    limit (select $2::int)
)"""

FEW = """jobs.id, jobs.lease_no, jobs.queue, jobs.task, jobs.args::text as args, jobs.attempt,
        jobs.max_attempts, jobs.timeout_seconds, jobs.priority, jobs.scheduled_at"""
ALL = f"""{FEW}, jobs.inserted_at, jobs.attempted_at, jobs.errors::text, jobs.unique_key, jobs.tags,
        jobs.depends_on, jobs.metadata::text, jobs.state, jobs.cancel_requested"""

TAKE = """,
taken as (
    update roost.jobs
    set state = 'executing', attempt = attempt + 1, lease_no = lease_no + 1,
        worker_id = $3::bigint, attempted_at = now()
    @match@guard
    returning @columns
)
select * from taken order by priority, scheduled_at, id"""

BY_ID_JOIN = "from picked where jobs.id = picked.id"
BY_ID_ANY = "where jobs.id = any (array(select id from picked))"
BY_CTID_ANY = "where jobs.ctid = any (array(select ctid from picked))"
GUARD = """
        and exists (select from roost.workers where id = $3::bigint and expires_at > now()@lock)"""
NEXT_DUE = (
    TAKE.rsplit("\nselect", 1)[0]
    + f"""
select extract(epoch from ahead.due - now()), taken.*
from (select case when (select count(*) from picked) < (select $2::int) then (
    select min(due.scheduled_at) from head cross join lateral (
        select jobs.scheduled_at from roost.jobs
        where {DUE.replace("<= now()", "> now()")}
        order by jobs.scheduled_at limit 1) as due) end) as ahead(due)
left join taken on true
order by priority, scheduled_at, id"""
)


def claim(
    pick: str, match: str = BY_ID_ANY, *, guard: str = "", columns: str = FEW, take: str = TAKE
) -> str:
    """Put a claim together; `$1` queues, `$2` how many, `$3` the worker."""
    text = (pick + take).replace("@match", match).replace("@guard", guard)
    key = "ctid" if "ctid" in match else "id"
    return text.replace("@columns", columns).replace("@key", key).replace("@gate", "true")


FENCE = "jobs.worker_id = $1::bigint and jobs.lease_no = done.lease_no and jobs.state = 'executing'"
DONE = """
with done as materialized (
    select * from unnest($2::bigint[], $3::int[], $4::text[]) as d(id, lease_no, result)
)"""
SETTLE_PLAIN = f"""{DONE}, settled as (
    update roost.jobs set state = 'completed', completed_at = now(), result = done.result::jsonb
    from done where jobs.id = done.id and {FENCE}
    returning jobs.id
) select id from settled"""
SETTLE_LOCKED = f"""{DONE}, locked as materialized (
    select jobs.id, done.result from done join roost.jobs on jobs.id = done.id and {FENCE}
    order by jobs.id for update of jobs
), settled as (
    update roost.jobs set state = 'completed', completed_at = now(), result = locked.result::jsonb
    from locked where jobs.id = locked.id
    returning jobs.id
) select id from settled"""
WAKE = """, freed as (
    select d.child_id, count(*)::int as n from settled join roost.dependencies d
    on d.parent_id = settled.id group by d.child_id
), woken as (
    update roost.jobs set pending_parents = pending_parents - freed.n
    from freed where jobs.id = freed.child_id returning jobs.id
) select id from settled"""
SETTLE_WAKE = SETTLE_LOCKED.replace(" select id from settled", WAKE)


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


BASE = claim(PICK_FLAT)
FUTURE = """
insert into roost.jobs (queue, task, args, scheduled_at)
select 'default', 't', '{}', now() + interval '1 day' + i * interval '1 s'
from generate_series(1, 100000) i;"""
BUSY = """
insert into roost.jobs (queue, task, args, state, worker_id, scheduled_at)
select 'default', 't', '{}', 'executing', 99, now() - interval '2 hours'
from generate_series(1, 2000);"""
CHILDREN = (
    "insert into roost.dependencies select 10000000 + i, i from generate_series(1, 100000) i;"
)
# No index changes at a claim, so that the update can be HOT; who is executing has no index.
HOT = (
    (f"where {WAITING};", "where completed_at is null and pending_parents = 0;"),
    (WAITING, f"{WAITING} and completed_at is null"),
    ("state in ('available', 'executing', 'retryable');", "completed_at is null;"),
    ("create index jobs_executing on roost.jobs (worker_id) where state = 'executing';", ""),
)
NULLS = tuple(
    (f"{column} not null default '{empty}'", column)
    for column, empty in (
        ("errors jsonb", "[]"),
        ("tags text[]", "{}"),
        ("depends_on bigint[]", "{}"),
        ("metadata jsonb", "{}"),
    )
)
FINISHED = """
create index jobs_finished on roost.jobs (greatest(completed_at, cancelled_at, discarded_at))
    where state in ('completed', 'discarded', 'cancelled');"""
LOOSE = "alter table roost.jobs set (fillfactor = 70);"
BIG, SMALL = Load(20000, 50, 4), Load(5000, 10, 1)

COMPARISONS: dict[str, tuple[list[Variant], list[Load]]] = {
    "claims": (
        [
            Variant("simple", claim(PICK_SIMPLE)),
            Variant("quota_join", claim(PICK_QUOTA, BY_ID_JOIN)),
            Variant("quota", claim(PICK_QUOTA)),
            Variant("quota_ctid", claim(PICK_QUOTA, BY_CTID_ANY)),
            Variant("lazy", claim(PICK_LAZY)),
            Variant("flat", BASE),
            Variant("flat_ctid", claim(PICK_FLAT, BY_CTID_ANY)),
        ],
        [BIG, SMALL, Load(20000, 128, 4)],
    ),
    "future": (
        [
            Variant("flat", BASE),
            Variant("flat_future", BASE, fill=FUTURE),
            Variant("simple_future", claim(PICK_SIMPLE), fill=FUTURE),
        ],
        [Load(4000, 50, 1, priority=5)],
    ),
    "parts": (
        [
            Variant("base", BASE),
            Variant("no_executing", BASE, ddl="drop index roost.jobs_executing;"),
            Variant("no_unique", BASE, ddl="drop index roost.jobs_unique;"),
            Variant("finished_index", BASE, ddl=FINISHED),
            Variant("guard", claim(PICK_FLAT, guard=GUARD.replace("@lock", ""))),
            Variant("guard_lock", claim(PICK_FLAT, guard=GUARD.replace("@lock", " for key share"))),
            Variant("all_columns", claim(PICK_FLAT, columns=ALL)),
            Variant("next_due", claim(PICK_FLAT, take=NEXT_DUE)),
        ],
        [BIG, SMALL],
    ),
    "hot": (
        [
            Variant("base", BASE),
            Variant("loose", BASE, ddl=LOOSE),
            Variant("hot_full", BASE, edit=HOT),
            Variant("hot_loose", BASE, edit=HOT, ddl=LOOSE),
            Variant("busy", BASE, fill=BUSY),
            Variant("hot_loose_busy", BASE, edit=HOT, fill=BUSY, ddl=LOOSE),
        ],
        [BIG, SMALL],
    ),
    "settle": (
        [
            Variant("plain", BASE),
            Variant("locked", BASE, SETTLE_LOCKED),
            Variant("wake_empty", BASE, SETTLE_WAKE),
            Variant("wake_100k", BASE, SETTLE_WAKE, fill=CHILDREN),
            Variant("result_json", BASE, result='{"sent": true, "message_id": "0c9a7f2e"}'),
        ],
        [BIG, SMALL],
    ),
    "columns": ([Variant("base", BASE), Variant("nullable", BASE, edit=NULLS)], [BIG, SMALL]),
}

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
        beside = take(second)
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
        f" {len(beside)} of 100 beside another claim,"
        f" {len(set(expected) - {*free, *alone, *beside})} rows locked in vain,"
        f" {len({*alone} & {*beside})} twice, {len(expected) - len({*alone, *beside, *rest})} lost",
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
    print(f"  {variant.name:<12} {claims} claims beside updates: {in_vain} rows locked in vain")


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
        # What the first minute is like, before autovacuum has come by.
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


def main() -> None:
    """Run the comparisons that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMPARISONS)}, check")
    parser.add_argument("--dsn", required=True, help="a scratch database on this machine")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each variant")
    args = parser.parse_args()
    for name in args.names or ["check", *COMPARISONS]:
        if name == "check":
            for variant in COMPARISONS["claims"][0][1:]:
                check(args.dsn, variant)
            for variant in COMPARISONS["claims"][0][-2:]:
                check_race(args.dsn, variant)
            check_cold(args.dsn, Variant("flat", BASE))
            continue
        variants, loads = COMPARISONS[name]
        for load in loads:
            compare(args.dsn, name, variants, load, args.rounds)


if __name__ == "__main__":
    main()
