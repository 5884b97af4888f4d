-- name: insert_job
-- $1: a JSON array of one record, as for insert_jobs, but written for one row: it takes the server
-- half of the time. The job is announced by itself, since there is nothing to group.
insert into roost.jobs as job (
    queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
    unique_key, tags, timeout_seconds, metadata, limited
)
select
    queue, task, args, priority, max_attempts,
    coalesce(scheduled_at, statement_timestamp()), statement_timestamp(),
    unique_key, tags, timeout_seconds, metadata,
    exists (select from roost.limits where limits.task = record.task)
from jsonb_to_record($1::text::jsonb -> 0) as record (
    queue text,
    task text,
    args jsonb,
    priority integer,
    max_attempts integer,
    scheduled_at timestamptz,
    unique_key text,
    tags text[],
    timeout_seconds integer,
    metadata jsonb
)
on conflict (unique_key)
    where unique_key is not null and state in ('available', 'executing', 'retryable')
    do nothing
returning
    job.id,
    case
        when job.scheduled_at <= statement_timestamp() + interval '1 minute'
            then roost.announce(job.queue)
    end;

-- name: insert_or_hand_over
-- As insert_job, for a transaction of its own: a worker that has offered to be given a job gets this
-- one, leased and by notification, without a claim. Null: an active job has the unique key.
select roost.insert_or_hand_over($1::text);

-- name: insert_jobs
-- $1: a JSON array of records, as one text: it survives whatever codec the caller's connection has.
with record as (
    select r.*
    from jsonb_to_recordset($1::text::jsonb) as r (
        queue text,
        task text,
        args jsonb,
        priority integer,
        max_attempts integer,
        scheduled_at timestamptz,
        unique_key text,
        tags text[],
        timeout_seconds integer,
        metadata jsonb
    )
),
inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
        unique_key, tags, timeout_seconds, metadata, limited
    )
    select
        queue, task, args, priority, max_attempts,
        -- Not now(): that is when the caller's transaction began, maybe long ago.
        coalesce(scheduled_at, statement_timestamp()), statement_timestamp(),
        unique_key, tags, timeout_seconds, metadata,
        exists (select from roost.limits where limits.task = record.task)
    from record
    on conflict (unique_key)
        where unique_key is not null and state in ('available', 'executing', 'retryable')
        do nothing
    returning id, queue, scheduled_at
),
-- One notification a queue, only for what can start now or within a minute: who hears of it looks,
-- and learns when to look again. Polling finds the rest in time. Sent when the transaction commits.
notified as (
    select roost.announce(queue)
    from inserted
    where scheduled_at <= statement_timestamp() + interval '1 minute'
    group by queue
)
select id
from inserted
-- Names the CTE, or Postgres would not run it.
where (select count(*) from notified) >= 0
order by id;

-- name: insert_alike
-- The same for jobs that differ only in args and unique keys. $1: a JSON object of "common", a record
-- without these, "args" and, if there are any, "keys", arrays of one entry a job. The order of the ids
-- is that of the jobs; of several with one key the first is kept.
select new_ids, new_keys
from roost.insert_alike($1::text);

-- name: find_active_by_unique_key
select id
from roost.jobs
where unique_key = $1::text
    and state in ('available', 'executing', 'retryable');

-- name: flag_parents
-- $1 ids. From now on these are settled together with their children.
with parent as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any ($1::bigint[])
        and job.state in ('available', 'executing', 'retryable')
        and not job.has_children
    order by job.id
    for no key update of job
)
update roost.jobs as job
set has_children = true
from parent
where job.id = parent.id;

-- name: lock_parents
-- $1 ids. Until the transaction ends they can't be settled, only read and given more children.
select job.id
from roost.jobs as job
where job.id = any ($1::bigint[])
order by job.id
for share of job;

-- name: archived_parents
select id
from roost.jobs_archive
where id = any ($1::bigint[]);

-- name: begin_probe
savepoint roost_probe;

-- name: probe_parents
-- $1 ids that can't be seen. Another transaction may have inserted them and not committed yet: the
-- primary key makes this wait for its end. Whatever is inserted here is rolled back.
insert into roost.jobs (id, task) overriding system value
select missing.id, 'roost.probe'
from unnest($1::bigint[]) as missing (id)
order by missing.id
on conflict (id) do nothing;

-- name: end_probe
rollback to savepoint roost_probe;

-- name: release_probe
release savepoint roost_probe;

-- name: insert_children
-- Like insert_jobs, for records with depends_on, whose parents are locked; also for who wants to know
-- which id is whose: one row a record, in order, null for one that was left out.
with record as materialized (
    select
        nextval(pg_get_serial_sequence('roost.jobs', 'id')) as id,
        r.*
    from jsonb_to_recordset($1::text::jsonb) as r (
        queue text,
        task text,
        args jsonb,
        priority integer,
        max_attempts integer,
        scheduled_at timestamptz,
        unique_key text,
        tags text[],
        timeout_seconds integer,
        metadata jsonb,
        depends_on bigint[]
    )
),
parent as materialized (
    select distinct record.id as child_id, live.id, live.state
    from record
    cross join lateral unnest(record.depends_on) as wanted (id)
    join lateral (
        select job.id, job.state
        from roost.jobs as job
        where job.id = wanted.id
        union all
        select job.id, job.state
        from roost.jobs_archive as job
        where job.id = wanted.id
    ) as live on true
    where live.state <> 'completed'
),
family as (
    select
        child_id,
        count(*) as pending,
        min(id) filter (where state in ('discarded', 'cancelled')) as failed_id,
        (array_agg(state order by id) filter (where state in ('discarded', 'cancelled')))[1] as failed
    from parent
    group by child_id
),
inserted as (
    insert into roost.jobs (
        id, queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
        unique_key, tags, timeout_seconds, metadata, limited, depends_on,
        state, cancelled_at, pending_parents, errors
    ) overriding system value
    select
        record.id, queue, task, args, priority, max_attempts,
        coalesce(scheduled_at, statement_timestamp()), statement_timestamp(),
        unique_key, tags, timeout_seconds, metadata,
        exists (select from roost.limits where limits.task = record.task),
        depends_on,
        -- A parent that has failed already has the same consequence as one that fails later.
        case when family.failed is null then 'available' else 'cancelled' end,
        case when family.failed is not null then statement_timestamp() end,
        case when family.failed is null then coalesce(family.pending, 0) else 0 end,
        case when family.failed is not null then jsonb_build_array(jsonb_build_object(
            'attempt', 0,
            'at', statement_timestamp(),
            'error', 'ParentFailed: job ' || family.failed_id || ' was ' || family.failed,
            'trace', ''
        )) end
    from record
    left join family on family.child_id = record.id
    -- Of two jobs with one unique key the first is kept.
    order by record.id
    on conflict (unique_key)
        where unique_key is not null and state in ('available', 'executing', 'retryable')
        do nothing
    returning id, queue, state, scheduled_at, pending_parents
),
depending as (
    insert into roost.dependencies (parent_id, child_id)
    select parent.id, inserted.id
    from inserted
    join parent on parent.child_id = inserted.id
    where inserted.pending_parents > 0
),
notified as (
    select roost.announce(queue)
    from inserted
    where state = 'available'
        and pending_parents = 0
        and scheduled_at <= statement_timestamp() + interval '1 minute'
    group by queue
)
select inserted.id
from record
left join inserted on inserted.id = record.id
where (select count(*) from notified) >= 0
order by record.id;
