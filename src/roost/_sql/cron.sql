-- name: now
select statement_timestamp();

-- name: declare
-- $1 a JSON array of entries, each with the first tick it would fire; $2 the worker; $3 seconds after
-- which a declaration counts as gone.
select declared_name, declared_as
from roost.declare_cron($1::text::jsonb, $2::text, $3::double precision);

-- name: renew_declared
-- $1 the worker, $2 names, $3 fingerprints. Returns the names that must be declared again: the
-- declaration is gone, or the entry shows another one.
with renewed as (
    update roost.cron_declarations as mine
    set declared_at = now()
    where mine.worker = $1::text
        and mine.name = any ($2::text[])
    returning mine.name
)
select own.name
from unnest($2::text[], $3::text[]) as own (name, fingerprint)
left join renewed on renewed.name = own.name
left join roost.cron as entry on entry.name = own.name and entry.fingerprint = own.fingerprint
where renewed.name is null
    or entry.name is null
order by own.name;

-- name: not_in_force
-- $1 names, $2 fingerprints. Returns the names of entries that show another declaration, or are gone.
select own.name
from unnest($1::text[], $2::text[]) as own (name, fingerprint)
left join roost.cron as entry on entry.name = own.name and entry.fingerprint = own.fingerprint
where entry.name is null
order by own.name;

-- name: withdraw
-- $1 the worker, $2 names. Other workers may have the next newest declaration.
with gone as (
    delete from roost.cron_declarations
    where worker = $1::text
        and name = any ($2::text[])
    returning name
)
select pg_notify('roost_cron', '')
where (select count(*) from gone) > 0;

-- name: due
-- $1 names and $2 fingerprints of the worker's declarations, $3 the tasks that it knows, $4 names that
-- are left out. The due entries, with the fields that decide their ticks. Locks nothing: `fire` checks
-- that the entries have not changed.
select
    entry.name, entry.expression, entry.timezone, entry.misfire, entry.overlap, entry.jitter,
    entry.next_tick_at, entry.start_at, entry.args_from_code, now(),
    entry.overlap = 'skip' and exists (
        select
        from roost.jobs as job
        where job.id = entry.last_job_id
            and job.state in ('available', 'executing', 'retryable')
    )
from (
    (
        select entry.*
        from unnest($1::text[], $2::text[]) as own (name, fingerprint)
        join roost.cron as entry on entry.name = own.name
        where entry.source = 'code'
            and entry.paused_at is null
            and (entry.next_tick_at <= now() or entry.start_at is not null)
            -- Other code may make other args.
            and (not entry.args_from_code or entry.fingerprint = own.fingerprint)
            and entry.name <> all ($4::text[])
    )
    union all
    (
        select entry.*
        from unnest($3::text[]) as known (task)
        cross join lateral (
            select entry.*
            from roost.cron as entry
            where entry.source = 'database'
                and entry.paused_at is null
                and entry.task = known.task
                and entry.next_tick_at <= now()
                and entry.name <> all ($4::text[])
            order by entry.next_tick_at
            limit 100
        ) as entry
    )
) as entry
order by entry.next_tick_at, entry.name
limit 100;

-- name: fire
-- $1 names, $2 expressions, $3 time zones, $4 next ticks, $5 starts, $6 fingerprints: the entries as
-- they were read, the last only of those whose args code makes. $7 the next tick of each. $8 names,
-- $9 ticks, $10 seconds after the tick at which its job is due, $11 args (null: the entry's); an entry
-- without ticks only moves on. Returns the entries that moved on, with their new jobs.
--
-- One statement, so that no lock is held between two round trips, and a worker that dies leaves nothing
-- half done. An entry that was fired, paused or changed since it was read is left alone. An entry that
-- another worker is firing is skipped, so that workers don't wait for each other or deadlock.
with due as materialized (
    select entry.*, seen.upcoming_at
    from unnest(
        $1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[],
        $7::timestamptz[]
    ) as seen (name, expression, timezone, due_at, start_at, fingerprint, upcoming_at)
    join roost.cron as entry on entry.name = seen.name
    where entry.next_tick_at = seen.due_at
        and entry.start_at is not distinct from seen.start_at
        and entry.expression = seen.expression
        and entry.timezone is not distinct from seen.timezone
        and case when entry.args_from_code then entry.fingerprint end
            is not distinct from seen.fingerprint
        and entry.paused_at is null
    for update of entry skip locked
),
inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, tags, timeout_seconds, scheduled_at,
        inserted_at, metadata, limited, limit_key
    )
    select
        due.queue, due.task, coalesce(tick.args::jsonb, due.args), due.priority, due.max_attempts,
        due.tags, due.timeout_seconds, tick.at + make_interval(secs => tick.delay),
        statement_timestamp(), pg_catalog.jsonb_build_object('cron', due.name, 'tick', tick.at),
        exists (select from roost.limits where limits.task = due.task),
        (
            select roost.limit_key(
                limits.limit_by, coalesce(tick.args::jsonb, due.args), null
            )
            from roost.limits
            where limits.task = due.task
        )
    from due
    join unnest($8::text[], $9::timestamptz[], $10::double precision[], $11::text[])
        as tick (name, at, delay, args) on tick.name = due.name
    order by tick.at, due.name
    returning
        id, task, queue, scheduled_at, limited, limit_key, metadata ->> 'cron'::text as entry
),
notified as (
    select roost.announce(queue)
    from inserted
    group by queue
    union all
    {{wake_inserted}}
),
moved as (
    update roost.cron as entry
    set next_tick_at = due.upcoming_at,
        start_at = null,
        last_tick_at = coalesce(
            (
                select max(tick.at)
                from unnest($8::text[], $9::timestamptz[]) as tick (name, at)
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
select due.name, inserted.id
from due
left join inserted on inserted.entry = due.name
where (select count(*) from notified) >= 0
order by inserted.id;

-- name: next_in
-- $1 to $4 as of `due`. Seconds until the first entry is due.
select extract(epoch from min(next.at) - clock_timestamp())::double precision
from (
    (
        select least(entry.next_tick_at, entry.start_at) as at
        from unnest($1::text[], $2::text[]) as own (name, fingerprint)
        join roost.cron as entry on entry.name = own.name
        where entry.source = 'code'
            and entry.paused_at is null
            and (not entry.args_from_code or entry.fingerprint = own.fingerprint)
            and entry.name <> all ($4::text[])
    )
    union all
    (
        select first.next_tick_at
        from unnest($3::text[]) as known (task)
        cross join lateral (
            select entry.next_tick_at
            from roost.cron as entry
            where entry.source = 'database'
                and entry.paused_at is null
                and entry.task = known.task
                and entry.name <> all ($4::text[])
            order by entry.next_tick_at
            limit 1
        ) as first
    )
) as next;

-- name: list_entries
-- $1 seconds after which a declaration counts as gone.
select
    entry.name, entry.source, entry.expression, entry.timezone, entry.task, entry.queue,
    entry.args::text, entry.priority, entry.max_attempts, entry.misfire, entry.overlap, entry.jitter,
    entry.run_on_start, entry.args_from_code, entry.next_tick_at, entry.last_tick_at,
    entry.last_job_id, entry.paused_at,
    case entry.source
        when 'code' then not exists (
            select
            from roost.cron_declarations as living
            where living.name = entry.name
                and living.declared_at >= now() - make_interval(secs => $1::double precision)
        )
        else entry.task not in (
            select known.task
            from roost.workers as worker
            cross join lateral pg_catalog.unnest(worker.known_tasks) as known (task)
            where worker.expires_at > now()
                and worker.fires_cron
        )
    end
from roost.cron as entry
order by entry.name;

-- name: add
-- $1 the entry as JSON, with its next tick.
select roost.add_cron($1::text::jsonb);

-- name: remove
-- $1 name, $2 seconds after which a declaration counts as gone.
select roost.remove_cron($1::text, $2::double precision);

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
        start_at = null,
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
-- $1 name, $2 args (null: the entry's), $3 more metadata, a JSON object. Enqueue a job outside the
-- schedule, also of a paused entry. Nothing is enqueued if code makes the args and $2 is null.
with inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, tags, timeout_seconds, scheduled_at, inserted_at,
        metadata, limited, limit_key
    )
    select
        entry.queue, entry.task,
        case when entry.args_from_code then $2::text::jsonb else entry.args end, entry.priority,
        entry.max_attempts, entry.tags, entry.timeout_seconds, statement_timestamp(),
        statement_timestamp(),
        $3::text::jsonb || pg_catalog.jsonb_build_object('cron', entry.name),
        exists (select from roost.limits where limits.task = entry.task),
        (
            select roost.limit_key(
                limits.limit_by,
                case when entry.args_from_code then $2::text::jsonb else entry.args end,
                null
            )
            from roost.limits
            where limits.task = entry.task
        )
    from roost.cron as entry
    where entry.name = $1::text
        and (not entry.args_from_code or $2::text is not null)
    returning id, task, queue, scheduled_at, limited, limit_key
),
notified as (
    select roost.announce(queue)
    from inserted
    union all
    {{wake_inserted}}
)
select id
from inserted
where (select count(*) from notified) >= 0;
