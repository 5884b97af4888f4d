"""The texts that are compared: the table, ways to pick and take jobs, ways to settle them."""

from __future__ import annotations

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
