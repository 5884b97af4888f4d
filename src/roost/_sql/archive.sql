-- name: archive_jobs
-- $1 a terminal state, $2 seconds since the job ended, $3 the most, $4 the end to begin with; null: the
-- oldest. Returns how many were moved, and the latest of their ends: the next batch begins there, so
-- that it doesn't walk over dead index entries.
with old as materialized (
    select job.id
    from roost.jobs as job
    -- The list of literals makes the planner use the partial index.
    where job.state in ('completed', 'discarded', 'cancelled')
        and job.state = $1::text
        and {{ended_at}} < now() - make_interval(secs => $2::double precision)
        and {{ended_at}} >= coalesce($4::timestamptz, '-infinity')
    order by {{ended_at}}
    limit $3::integer
    for update of job skip locked
),
moved as (
    delete from roost.jobs as job
    using old
    where job.id = old.id
    returning job.*
),
archived as (
    insert into roost.jobs_archive as job (
        {{kept_columns}},
        pending_parents, cancel_requested, has_children
    )
    select
        {{kept_columns}},
        pending_parents, cancel_requested, has_children
    from moved
    returning {{ended_at}} as ended_at
)
select count(*), max(ended_at)
from archived;

-- name: delete_jobs
-- As archive_jobs, but the jobs are deleted for good. One that a client waits for is kept for a minute,
-- so that the client can read how it ended. An ended job has no row in roost.dependencies.
with old as materialized (
    select job.id
    from roost.jobs as job
    where job.state in ('completed', 'discarded', 'cancelled')
        and job.state = $1::text
        and {{ended_at}} < now() - make_interval(secs => $2::double precision)
        and {{ended_at}} >= coalesce($4::timestamptz, '-infinity')
        and (not job.awaited or {{ended_at}} < now() - interval '1 minute')
    order by {{ended_at}}
    limit $3::integer
    for update of job skip locked
),
deleted as (
    delete from roost.jobs as job
    using old
    where job.id = old.id
    returning {{ended_at}} as ended_at
)
select count(*), max(ended_at)
from deleted;

-- name: delete_archived_jobs
-- The same in the archive.
with old as materialized (
    select job.id
    from roost.jobs_archive as job
    where job.state = $1::text
        and {{ended_at}} < now() - make_interval(secs => $2::double precision)
        and {{ended_at}} >= coalesce($4::timestamptz, '-infinity')
    order by {{ended_at}}
    limit $3::integer
    for update of job skip locked
),
deleted as (
    delete from roost.jobs_archive as job
    using old
    where job.id = old.id
    returning {{ended_at}} as ended_at
)
select count(*), max(ended_at)
from deleted;

-- name: forget_unique_holds
-- $1 the most. Remove expired rows, which keep no job out.
delete from roost.unique_holds
where unique_key = any (array(
    select old.unique_key
    from roost.unique_holds as old
    where old.expires_at < now()
    order by old.expires_at
    limit $1::integer
    for update skip locked
))
returning unique_key;

-- name: forget_results
-- $1 seconds since the job completed, $2 the most.
with old as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'completed'
        and job.result is not null
        and job.completed_at < now() - make_interval(secs => $1::double precision)
    order by job.completed_at
    limit $2::integer
    for update of job skip locked
)
update roost.jobs as job
set result = null
from old
where job.id = old.id
returning job.id;

-- name: forget_archived_results
-- The same in the archive.
with old as materialized (
    select job.id
    from roost.jobs_archive as job
    where job.result is not null
        and job.completed_at < now() - make_interval(secs => $1::double precision)
    limit $2::integer
    for update of job skip locked
)
update roost.jobs_archive as job
set result = null
from old
where job.id = old.id
returning job.id;
