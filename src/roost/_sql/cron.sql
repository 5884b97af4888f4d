-- name: now
select now();

-- name: declare
-- $1 a JSON array of entries, each with the first tick it would fire. A new entry, or one whose schedule
-- has changed, starts from that tick; others keep their next tick. The worker that starts last wins.
with declared as (
    insert into roost.cron as known (
        name, expression, timezone, task, queue, args, priority, max_attempts, tags,
        timeout_seconds, misfire, overlap, jitter, next_tick_at, declared_at, inserted_at
    )
    select
        name, expression, timezone, task, queue, args, priority, max_attempts, tags,
        timeout_seconds, misfire, overlap, jitter, next_tick_at, now(), now()
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
        end
    returning name
)
-- Other workers may wait for a tick that is now later than the first one.
select pg_notify('roost_cron', '')
where (select count(*) from declared) > 0;

-- name: renew_declared
-- $1 names. Locked entries are skipped, so that two workers can't deadlock. They are renewed next time,
-- before they are stale.
update roost.cron
set declared_at = now()
where name = any (array(
    select entry.name
    from roost.cron as entry
    where entry.name = any ($1::text[])
    for no key update skip locked
));

-- name: due
-- $1 names. The due entries, with the fields that decide their ticks. Locks nothing: `fire` checks that
-- the entries have not changed.
select
    name, expression, timezone, misfire, overlap, jitter, next_tick_at, now(),
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
order by next_tick_at, name
limit 100;

-- name: fire
-- $1 names, $2 expressions, $3 time zones, $4 due ticks: the entries as they were read. $5 the next tick
-- of each. $6 names, $7 ticks, $8 seconds after the tick at which its job is due; an entry without
-- ticks only moves on.
--
-- One statement, so that no lock is held between two round trips, and a worker that dies leaves nothing
-- half done. An entry that was fired, paused or changed since it was read is left alone. An entry that
-- another worker is firing is skipped, so that workers don't wait for each other or deadlock.
with due as materialized (
    select entry.*, seen.upcoming_at
    from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[])
        as seen (name, expression, timezone, due_at, upcoming_at)
    join roost.cron as entry on entry.name = seen.name
    where entry.next_tick_at = seen.due_at
        and entry.expression = seen.expression
        and entry.timezone is not distinct from seen.timezone
        and entry.paused_at is null
    for update of entry skip locked
),
inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, tags, timeout_seconds, scheduled_at,
        inserted_at, metadata, limited
    )
    select
        due.queue, due.task, due.args, due.priority, due.max_attempts, due.tags,
        due.timeout_seconds, tick.at + make_interval(secs => tick.delay), statement_timestamp(),
        pg_catalog.jsonb_build_object('cron', due.name, 'tick', tick.at),
        exists (select from roost.limits where limits.task = due.task)
    from due
    join unnest($6::text[], $7::timestamptz[], $8::double precision[])
        as tick (name, at, delay) on tick.name = due.name
    order by tick.at, due.name
    returning id, queue, metadata ->> 'cron'::text as entry
),
notified as (
    select roost.announce(queue)
    from inserted
    group by queue
),
moved as (
    update roost.cron as entry
    set next_tick_at = due.upcoming_at,
        last_tick_at = coalesce(
            (
                select max(tick.at)
                from unnest($6::text[], $7::timestamptz[]) as tick (name, at)
                where tick.name = due.name
            ),
            entry.last_tick_at
        ),
        last_job_id = coalesce(
            (select max(inserted.id) from inserted where inserted.entry = due.name),
            entry.last_job_id
        )
    from due
    where entry.name = due.name
)
select id
from inserted
where (select count(*) from notified) >= 0
order by id;

-- name: next_in
-- $1 names. Seconds until the first entry is due.
select extract(epoch from min(next_tick_at) - clock_timestamp())::double precision
from roost.cron
where name = any ($1::text[])
    and paused_at is null;

-- name: list_entries
-- $1 seconds without a declaration after which an entry counts as stale.
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
select expression, timezone, paused_at, now()
from roost.cron
where name = $1::text;

-- name: resume
-- $1 name, $2 expression, $3 time zone, as they were read; $4 the next tick that follows from them:
-- ticks during the pause are not made up. Returns nothing if the entry has changed since.
with resumed as (
    update roost.cron
    set paused_at = null,
        next_tick_at = $4::timestamptz
    where name = $1::text
        and expression = $2::text
        and timezone is not distinct from $3::text
        and paused_at is not null
    returning name
)
select pg_notify('roost_cron', name)
from resumed;

-- name: run_now
-- $1 name. Enqueue a job outside the schedule, also of a paused entry.
with inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, tags, timeout_seconds, scheduled_at, inserted_at,
        metadata, limited
    )
    select
        entry.queue, entry.task, entry.args, entry.priority, entry.max_attempts, entry.tags,
        entry.timeout_seconds, statement_timestamp(), statement_timestamp(),
        pg_catalog.jsonb_build_object('cron', entry.name),
        exists (select from roost.limits where limits.task = entry.task)
    from roost.cron as entry
    where entry.name = $1::text
    returning id, queue
),
notified as (
    select roost.announce(queue)
    from inserted
)
select id
from inserted
where (select count(*) from notified) >= 0;
