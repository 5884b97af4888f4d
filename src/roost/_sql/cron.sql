-- name: now
select now();

-- name: known
-- $1 names. What decides when an entry fires next.
select name, expression, timezone
from roost.cron
where name = any ($1::text[]);

-- name: declare
-- $1 a JSON array of entries with the tick that each would fire first. What is new or has another
-- time table starts from there; what is known keeps its place. The last worker to start wins.
insert into roost.cron as known (
    name, expression, timezone, task, queue, args, priority, max_attempts, tags, timeout_seconds,
    misfire, overlap, jitter, next_tick_at
)
select
    name, expression, timezone, task, queue, args, priority, max_attempts, tags, timeout_seconds,
    misfire, overlap, jitter, next_tick_at
from jsonb_to_recordset($1::text::jsonb) as entry (
    name text,
    expression text,
    timezone text,
    task text,
    queue text,
    args jsonb,
    priority integer,
    max_attempts integer,
    tags text[],
    timeout_seconds integer,
    misfire text,
    overlap text,
    jitter double precision,
    next_tick_at timestamptz
)
order by name
on conflict (name) do update
set expression = excluded.expression,
    timezone = excluded.timezone,
    task = excluded.task,
    queue = excluded.queue,
    args = excluded.args,
    priority = excluded.priority,
    max_attempts = excluded.max_attempts,
    tags = excluded.tags,
    timeout_seconds = excluded.timeout_seconds,
    misfire = excluded.misfire,
    overlap = excluded.overlap,
    jitter = excluded.jitter,
    declared_at = now(),
    next_tick_at = case
        when (known.expression, known.timezone) is distinct from
            (excluded.expression, excluded.timezone)
            then excluded.next_tick_at
        else known.next_tick_at
    end;

-- name: renew_declared
-- $1 names.
update roost.cron
set declared_at = now()
where name = any ($1::text[]);

-- name: take_due
-- $1 names. Whoever locks a due entry fires it; the others pass over it. Until this transaction has
-- moved the entry on, it is nobody else's.
select
    name, expression, timezone, misfire, jitter, next_tick_at, now(),
    overlap = 'skip' and exists (
        select
        from roost.jobs as job
        where job.id = entry.last_job_id
            and job.state in ('available', 'executing', 'retryable')
    )
from roost.cron as entry
where name = any ($1::text[])
    and paused_at is null
    and next_tick_at <= now()
order by next_tick_at
limit 100
for update of entry skip locked;

-- name: fire
-- $1 name, $2 ticks, $3 seconds after each at which its job is due, $4 the next tick. Also without
-- ticks: then the entry only moves on.
with entry as materialized (
    select *
    from roost.cron
    where name = $1::text
),
inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, tags, timeout_seconds, scheduled_at,
        inserted_at, metadata, limited
    )
    select
        entry.queue, entry.task, entry.args, entry.priority, entry.max_attempts, entry.tags,
        entry.timeout_seconds, tick.at + make_interval(secs => tick.delay), statement_timestamp(),
        jsonb_build_object('cron', entry.name, 'tick', tick.at),
        exists (select from roost.limits where limits.task = entry.task)
    from entry
    cross join unnest($2::timestamptz[], $3::double precision[]) as tick (at, delay)
    order by tick.at
    returning id, queue
),
notified as (
    select pg_notify('roost_jobs', queue)
    from inserted
    group by queue
),
moved as (
    update roost.cron as known
    set next_tick_at = $4::timestamptz,
        last_tick_at = coalesce(
            (select max(tick.at) from unnest($2::timestamptz[]) as tick (at)), known.last_tick_at
        ),
        last_job_id = coalesce((select max(inserted.id) from inserted), known.last_job_id)
    where known.name = $1::text
)
select id
from inserted
where (select count(*) from notified) >= 0
order by id;

-- name: next_in
-- $1 names. Seconds until the first of them is due.
select extract(epoch from min(next_tick_at) - clock_timestamp())::double precision
from roost.cron
where name = any ($1::text[])
    and paused_at is null;

-- name: list_entries
-- $1 seconds without a declaration after which an entry is stale.
select
    name, expression, timezone, task, queue, args::text, priority, max_attempts, misfire, overlap,
    jitter, next_tick_at, last_tick_at, last_job_id, paused_at,
    declared_at < now() - make_interval(secs => $1::double precision)
from roost.cron
order by name;

-- name: pause
with paused as (
    update roost.cron
    set paused_at = coalesce(paused_at, now())
    where name = $1::text
    returning name
)
select name
from paused;

-- name: schedule_of
-- Locks the entry for `resume`.
select expression, timezone, paused_at, now()
from roost.cron
where name = $1::text
for update;

-- name: resume
-- $1 name, $2 the next tick: what was due during the pause is not made up for.
with resumed as (
    update roost.cron
    set paused_at = null,
        next_tick_at = $2::timestamptz
    where name = $1::text
    returning name
)
select pg_notify('roost_cron', name)
from resumed;

-- name: run_now
-- $1 name. A job outside the time table, also of a paused entry.
with inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, tags, timeout_seconds, scheduled_at, inserted_at,
        metadata, limited
    )
    select
        entry.queue, entry.task, entry.args, entry.priority, entry.max_attempts, entry.tags,
        entry.timeout_seconds, statement_timestamp(), statement_timestamp(),
        jsonb_build_object('cron', entry.name),
        exists (select from roost.limits where limits.task = entry.task)
    from roost.cron as entry
    where entry.name = $1::text
    returning id, queue
),
notified as (
    select pg_notify('roost_jobs', queue)
    from inserted
)
select id
from inserted
where (select count(*) from notified) >= 0;
