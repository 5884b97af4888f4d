-- name: bound_waits
-- $1 milliseconds that later statements of the transaction wait for a lock, $2 milliseconds that each may
-- take; null: as before. Each is planned for its own parameters. Returns the settings as they were.
select
    before.lock_timeout, before.statement_timeout, before.plan_cache_mode,
    set_config('lock_timeout', $1::text, true),
    set_config('statement_timeout', coalesce($2::text, before.statement_timeout), true),
    set_config('plan_cache_mode', 'force_custom_plan', true)
from (
    select
        current_setting('lock_timeout') as lock_timeout,
        current_setting('statement_timeout') as statement_timeout,
        current_setting('plan_cache_mode') as plan_cache_mode
    offset 0
) as before;

-- name: restore_waits
-- $1 to $3 what bound_waits returned. The transaction is the caller's and goes on.
select
    set_config('lock_timeout', $1::text, true),
    set_config('statement_timeout', $2::text, true),
    set_config('plan_cache_mode', $3::text, true);

-- name: begin_change
savepoint roost_change;

-- name: undo_change
rollback to savepoint roost_change;

-- name: end_change
release savepoint roost_change;

-- name: find_jobs
-- The ids of jobs that fit a filter, in their order: $1 to $12 the filter, $13 only ids above this, $14
-- the most, $15 to $18 whether waiting, executing, ended and archived jobs may fit.
--
-- One branch for each index that holds a part of the table, so that a filter of waiting jobs never walks
-- the ended ones. The fences (offset 0) keep the planner from walking the primary key instead: it
-- expects matches everywhere in the table, but waiting jobs are at its end.
select found.id, found.archived
from (
    select waiting.id, false as archived
    from (
        select job.id
        from roost.jobs as job
        where $15::boolean
            and {{claimable}}
            and job.id > $13::bigint
            and {{matches}}
        offset 0
    ) as waiting
    union all
    select waiting.id, false
    from (
        select job.id
        from roost.jobs as job
        where $15::boolean
            and {{claimable_limited}}
            and job.id > $13::bigint
            and {{matches}}
        offset 0
    ) as waiting
    union all
    select blocked.id, false
    from (
        select job.id
        from roost.jobs as job
        where $15::boolean
            and job.state = 'available'
            and job.pending_parents > 0
            and job.id > $13::bigint
            and {{matches}}
        offset 0
    ) as blocked
    union all
    select running.id, false
    from (
        select job.id
        from roost.jobs as job
        where $16::boolean
            and job.state = 'executing'
            and job.id > $13::bigint
            and {{matches}}
        offset 0
    ) as running
    union all
    (
        select job.id, false
        from roost.jobs as job
        where $17::boolean
            and job.state in ('completed', 'discarded', 'cancelled')
            and job.id > $13::bigint
            and {{matches}}
        order by job.id
        limit $14::integer
    )
    union all
    (
        select job.id, true
        from roost.jobs_archive as job
        where $18::boolean
            and job.id > $13::bigint
            and {{matches}}
        order by job.id
        limit $14::integer
    )
) as found
order by found.id
limit $14::integer;

-- name: lock_free_jobs
-- $1 to $12 a filter, $13 ids. Lock those that still fit it, except rows that are locked.
select job.id, job.unique_key
from roost.jobs as job
where job.id = any ($13::bigint[])
    and {{matches}}
order by job.id
for update of job skip locked;

-- name: lock_jobs
-- The same, but wait for locked rows.
select job.id, job.unique_key
from roost.jobs as job
where job.id = any ($13::bigint[])
    and {{matches}}
order by job.id
for update of job;

-- name: run_jobs_now
-- $1 ids. Make waiting jobs due now that are due later. A claim at the same moment is waited for, and
-- then seen.
with target as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any ($1::bigint[])
        and job.state in ('available', 'retryable')
        and job.pending_parents = 0
        and job.scheduled_at > statement_timestamp()
    order by job.id
    for update of job
),
changed as (
    update roost.jobs as job
    set scheduled_at = statement_timestamp()
    from target
    where job.id = target.id
    returning job.id, job.queue, job.task, job.limit_key
),
notified as (
    select roost.announce(queue)
    from changed
    group by queue
    union all
    select roost.wake_key(task, limit_key, queue)
    from changed
    where limit_key is not null
    group by task, limit_key, queue
)
select id
from changed
where (select count(*) from notified) >= 0
order by id;

-- name: blocking_parents
-- $1 id. The parents that a blocked job waits for.
select distinct link.parent_id
from roost.jobs as job
cross join lateral pg_catalog.unnest(job.depends_on) as wanted (id)
join roost.dependencies as link
    on link.parent_id = wanted.id
    and link.child_id = job.id
where job.id = $1::bigint
    and job.state = 'available'
    and job.pending_parents > 0
order by link.parent_id;

-- name: reschedule_jobs
-- $1 ids, $2 when they are due; null: $3 seconds from now.
with target as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any ($1::bigint[])
        and job.state in ('available', 'retryable')
    order by job.id
    for update of job
),
changed as (
    update roost.jobs as job
    set scheduled_at = coalesce(
            $2::timestamptz, statement_timestamp() + make_interval(secs => $3::double precision)
        )
    from target
    where job.id = target.id
    returning
        job.id, job.queue, job.scheduled_at, job.pending_parents, job.task, job.limit_key
),
notified as (
    select roost.announce(queue)
    from changed
    where pending_parents = 0
        and scheduled_at <= statement_timestamp() + interval '1 minute'
    group by queue
    union all
    select roost.wake_key(task, limit_key, queue, min(scheduled_at))
    from changed
    where pending_parents = 0
        and limit_key is not null
    group by task, limit_key, queue
)
select id
from changed
where (select count(*) from notified) >= 0
order by id;

-- name: update_jobs
-- $1 ids, $2 a JSON object of new values by column, $3 columns that become null. Columns of which neither
-- says anything stay. New args have a new limit key; `limit_keys` are those that functions give, by task.
with target as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any ($1::bigint[])
        and job.state in ('available', 'retryable')
    order by job.id
    for update of job
),
changed as (
    update roost.jobs as job
    set queue = coalesce(new.queue, job.queue),
        priority = coalesce(new.priority, job.priority),
        args = coalesce(new.args, job.args),
        -- At least one more attempt.
        max_attempts = greatest(
            coalesce(new.max_attempts, job.max_attempts), least(job.attempt, 2147483646) + 1
        ),
        tags = case when 'tags' = any ($3::text[]) then null else coalesce(new.tags, job.tags) end,
        timeout_seconds = case
            when 'timeout_seconds' = any ($3::text[]) then null
            else coalesce(new.timeout_seconds, job.timeout_seconds)
        end,
        metadata = case
            when 'metadata' = any ($3::text[]) then null
            else coalesce(new.metadata, job.metadata)
        end,
        limit_key = case
            when new.args is null then job.limit_key
            else coalesce(
                (
                    select roost.limit_key(
                        limits.limit_by,
                        new.args,
                        coalesce(new.limit_keys ->> job.task::text, job.limit_key)
                    )
                    from roost.limits
                    where limits.task = job.task
                ),
                new.limit_keys ->> job.task::text,
                job.limit_key
            )
        end,
        scheduled_at = coalesce(
            new.scheduled_at,
            statement_timestamp() + make_interval(secs => new.schedule_in),
            job.scheduled_at
        )
    from target
    cross join jsonb_to_record($2::text::jsonb) as new (
        queue text,
        priority integer,
        args jsonb,
        limit_keys jsonb,
        max_attempts integer,
        tags text[],
        timeout_seconds integer,
        metadata jsonb,
        scheduled_at timestamptz,
        schedule_in double precision
    )
    where job.id = target.id
    returning
        job.id, job.queue, job.scheduled_at, job.pending_parents, job.task, job.limit_key
),
notified as (
    select roost.announce(queue)
    from changed
    where pending_parents = 0
        and scheduled_at <= statement_timestamp() + interval '1 minute'
    group by queue
    union all
    select roost.wake_key(task, limit_key, queue, min(scheduled_at))
    from changed
    where pending_parents = 0
        and limit_key is not null
    group by task, limit_key, queue
)
select id
from changed
where (select count(*) from notified) >= 0
order by id;

-- name: task_of
-- $1 id of a live job.
select task
from roost.jobs
where id = $1::bigint;

-- name: lock_holds
-- $1 ids. Lock the rows of the unique_for keys that these jobs hold: before the jobs, and in the order of
-- the keys, as an enqueue does.
select hold.unique_key
from roost.unique_holds as hold
where hold.unique_key = any (array(
        select job.unique_key
        from roost.jobs as job
        where job.id = any ($1::bigint[])
        union all
        select job.unique_key
        from roost.jobs_archive as job
        where job.id = any ($1::bigint[])
    ))
    and hold.holder_id = any ($1::bigint[])
order by hold.unique_key
for update of hold;

-- name: lock_to_delete
-- $1 ids. Lock the jobs that do not run.
select job.id
from roost.jobs as job
where job.id = any ($1::bigint[])
    and job.state <> 'executing'
order by job.id
for update of job;

-- name: delete_links
-- $1 ids of jobs that this transaction has locked. Delete what they wait for. A locked row belongs to a
-- parent that ends at this moment, and goes with it; to wait for it could be a deadlock.
with link as materialized (
    select link.parent_id, link.child_id
    from roost.jobs as job
    cross join lateral pg_catalog.unnest(job.depends_on) as wanted (id)
    join roost.dependencies as link
        on link.parent_id = wanted.id
        and link.child_id = job.id
    where job.id = any ($1::bigint[])
    for update of link skip locked
)
delete from roost.dependencies as waiting
using link
where waiting.parent_id = link.parent_id
    and waiting.child_id = link.child_id
returning waiting.child_id;

-- name: delete_jobs
-- $1 ids of jobs that this transaction has locked. Their unique keys are free.
with deleted as (
    delete from roost.jobs
    where id = any ($1::bigint[])
    returning id, awaited, unique_key
),
freed as (
    delete from roost.unique_holds as hold
    using deleted
    where hold.unique_key = deleted.unique_key
        and hold.holder_id = deleted.id
),
notified as (
    select pg_notify('roost_finished', id::text)
    from deleted
    where awaited
)
select id
from deleted
where (select count(*) from notified) >= 0;

-- name: delete_archived_jobs
-- $1 ids.
with deleted as (
    delete from roost.jobs_archive
    where id = any ($1::bigint[])
    returning id, unique_key
),
freed as (
    delete from roost.unique_holds as hold
    using deleted
    where hold.unique_key = deleted.unique_key
        and hold.holder_id = deleted.id
)
select id
from deleted;
